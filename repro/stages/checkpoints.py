"""barrier between any two PyTorch checkpoints of one architecture."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro.errors import UsageError
from repro.nets import Layout
from repro.protocol import protocol
from repro.stages.common import Machine, Result, open_data, training_fields
from repro.stages.growing import Growing
from repro.stages.lines import Family, measured, measuring, modes_of
from repro.stages.progress import ticker
from repro.stages.trainer import Trainer
from repro.train.interpolate import grid
from repro.usercode import pinned

WRAPPERS = ("state_dict", "model")  # keys under which training programs keep the weights among other things
PREFIX = "module."  # DataParallel's


def load_checkpoint(path: str | Path, layout: Layout, network: str) -> Tensor:
    """The float32 vector [layout.size] of a file that ``torch.save`` wrote; nothing in it is executed.

    A state dict, or a dict that holds one under 'state_dict' or 'model'; a prefix 'module.' is dropped. Counters and
    other integers are left out. Raises UsageError, naming the first tensor that is missing, too much, of another shape
    or not finite.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: check the path") from None
    except Exception as error:  # zip, pickle and torch fail each in their own way on what is no checkpoint
        reason = " ".join(str(error).split("\n")[0].split()).rstrip(".")[:120]
        raise UsageError(f"{path} cannot be loaded as a checkpoint ({type(error).__name__}: {reason}): write it with "
                         "torch.save(model.state_dict(), PATH)") from None  # fmt: skip
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UsageError(f"{path} holds no state dict (a dict of tensors): write torch.save(model.state_dict(), PATH)")
    tensors = {str(name).removeprefix(PREFIX): value for name, value in content.items()}
    known = {entry.name for entry in layout.entries}
    for entry in layout.entries:
        if entry.name not in tensors:
            raise UsageError(f"{path} has no tensor {entry.name} of {network}: give the --network it was made with")
        shape = tuple(tensors[entry.name].shape)
        if shape != entry.shape:
            raise UsageError(f"{path} has {entry.name} of shape {shape}, {network} on this data set of shape "
                             f"{entry.shape}: give the --network and --dataset it was made with")  # fmt: skip
        if not tensors[entry.name].isfinite().all():
            raise UsageError(f"{path} holds NaN or infinity in {entry.name}: give a checkpoint that did not diverge")
    for name, value in tensors.items():
        if name not in known and value.is_floating_point():
            raise UsageError(f"{path} has a tensor {name} that {network} has not: give the --network it was made with")
    return torch.cat([tensors[entry.name].reshape(-1).float() for entry in layout.entries])


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
        network: name for `repro.nets.create`, whose key scheme the files have to follow (`load_checkpoint`).
        normalization: of the images; the data set's protocol when None.
    """
    modes, alphas = modes_of(batch_norm), grid(alphas)
    p = protocol(dataset)
    normalization = normalization or p.normalization
    data = open_data(dataset, normalization, machine)
    trainer = Trainer(data, network, replace(p.training, augment=False), machine)
    networks = {j: load_checkpoint(path, trainer.layout, network) for j, path in enumerate((a, b))}
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
        "dataset": data.name, "data_sha256": data.checksum, "normalization": normalization, "network": pinned(network),
        "form": "checkpoints", "a_sha256": _sha256(networks[0]), "b_sha256": _sha256(networks[1]), "alphas": list(alphas),
        "precision": training_fields(trainer.training)["precision"],
    }  # fmt: skip
    with Growing(out, "barrier", fields, {}, machine) as cell:
        wanted = [f"replicate_0/pair_0_1/{mode}" for mode in modes]
        if machine.dry_run:
            return cell.preview(wanted)
        cell.ticker.expect(measuring(family.split, family.lines, alphas, modes, set(cell.rows), start=False))
        for new in measured(trainer, [family], alphas, modes, set(cell.rows), cell.ticker):
            cell.add(new)
        lines = [line for name in wanted for line in path_table(_arrays(cell, name), alphas, name)]
        return cell.finish(order=["batch_norm"], extra={"alphas": np.array(alphas)}, lines=tuple(lines),
                           **trainer.provenance, seed=p.seed)  # fmt: skip


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
