"""barrier between any two PyTorch checkpoints of one architecture."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from repro.nets import create
from repro.protocol import protocol
from repro.stages.artifact_writer import Growing
from repro.stages.barriers.measure import Family, measured, measuring, modes_of
from repro.stages.common import Machine, Result, open_data
from repro.stages.progress import ticker
from repro.stages.state_dicts import load_checkpoint
from repro.stages.trainer import Trainer
from repro.train.interpolate import grid
from repro.usercode import pinned


def between_checkpoints(
    out: str | Path | None,
    a: str | Path,
    b: str | Path,
    *,
    network: str,
    dataset: str,
    alphas=(0.0, 0.5, 1.0),
    batch_norm: str = "averaged",
    normalization: str | None = None,
    machine: Machine = Machine(),
) -> Result:
    """Loss and error along the line from checkpoint ``a`` (alpha 0) to ``b`` (alpha 1), on fold 0 of a data set.

    Arguments:
        out: artifact to write, one piece ``replicate_0/pair_0_1/<mode>`` per mode; None prints alone.
        network: name for `repro.nets.create`, whose names the files have to have (`repro.stages.state_dicts`).
        normalization: of the images; the data set's protocol when None.
    """
    modes, alphas = modes_of(batch_norm), grid(alphas)
    p = protocol(dataset)
    normalization = normalization or p.normalization
    data = open_data(dataset, normalization, machine)
    trainer = Trainer(data, network, replace(p.training, augment=False), machine)
    plain = create(network, num_classes=data.num_classes, in_chans=data.in_chans)
    networks = {j: load_checkpoint(path, trainer.layout, network, plain) for j, path in enumerate((a, b))}
    row = {"point": f"{Path(a).stem}-{Path(b).stem}", "t": 0, "replicate": 0, "level": 0, "fresh": False}
    split = tuple(index.numpy() for index in data.splits[0])
    family = Family(f"{a} and {b}", split, networks, {}, {"replicate_0/pair_0_1": (0, 1)}, row)
    if out is None:
        pieces = {}
        with ticker(f"barrier {family.row['point']}") as tick:
            tick.expect(measuring(family.split, family.lines, alphas, modes, set(), start=False))
            for new in measured(trainer, [family], alphas, modes, set(), tick) if not machine.dry_run else ():
                pieces |= new
        lines = [line for name, (arrays, _) in pieces.items() for line in path_table(arrays, alphas, name)]
        lines = lines or ["dry run: would measure one line, and train nothing"]
        return Result(Path(a), "", lines=tuple(lines))
    fields = {
        "dataset": data.name,
        "data_sha256": data.checksum,
        "normalization": normalization,
        "network": pinned(network),
        "form": "checkpoints",
        "a_sha256": _sha256(networks[0]),
        "b_sha256": _sha256(networks[1]),
        "alphas": list(alphas),
        "precision": trainer.training.precision,
    }
    with Growing(out, "barrier", fields, {}, machine) as cell:
        wanted = [f"replicate_0/pair_0_1/{mode}" for mode in modes]
        if machine.dry_run:
            return cell.preview(wanted)
        cell.ticker.expect(measuring(family.split, family.lines, alphas, modes, set(cell.rows), start=False))
        for new in measured(trainer, [family], alphas, modes, set(cell.rows), cell.ticker):
            cell.add(new)
        lines = [line for name in wanted for line in path_table(_arrays(cell, name), alphas, name)]
        return cell.finish(
            order=["batch_norm"],
            extra={"alphas": np.array(alphas)},
            lines=tuple(lines),
            **trainer.provenance,
            seed=p.seed,
        )


def path_table(arrays: dict[str, np.ndarray], alphas: tuple[float, ...], piece: str) -> list[str]:
    """Mean loss and error at each alpha, as lines of text."""
    lines = [f"{piece.rpartition('/')[2]} batch norm", "alpha   train loss  train error  test loss  test error"]
    for j, alpha in enumerate(alphas):
        values = []
        for part in ("train", "test"):
            loss, bits = arrays[f"{part}_loss"][j], arrays[f"{part}_wrong"][j]
            values += [loss.mean(dtype=np.float64), 100 * np.unpackbits(bits, count=len(loss)).mean()]
        lines.append("{:<6.4g}  {:10.4f}  {:9.2f} %  {:9.4f}  {:8.2f} %".format(alpha, *values))
    return lines


def _arrays(cell: Growing, piece: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{piece}/"): a for key, a in cell.arrays.items() if key.startswith(f"{piece}/")}


def _sha256(network: Tensor) -> str:
    return hashlib.sha256(network.numpy().astype("<f4")).hexdigest()
