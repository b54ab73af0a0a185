"""What people give a program by mistake, or on purpose: files, places to write and values, for every command.

A case is a name and the words of a command. Words are relative to a folder that `furnish` fills: ``KIND.ending`` is a
file that is wrong in one way, ``scores.h5``, ``easy.h5``, ``rewind.h5`` and ``imp.h5`` are artifacts that are right.
"""

import io
import json
import os
import pickle
import shutil
import socket
import zipfile
from pathlib import Path

import h5py
import numpy as np

from repro import store
from repro.store import hdf5

ENDINGS = ("h5", "csv", "npy", "npz", "pt", "hdf5", "safetensors", "py", "zip", "log")
LONG = "x" * 300
TINY = ("--network", "cifar_resnet8_w4", "--steps", "2", "--batch-size", "64", "--milestones", "1", "--replicates", "1")
CHOOSE = ("select", "--kind", "random", "--dataset", "digits", "--size", "80", "--replicates", "1")
RANK = ("select", "--kind", "easy", "--size", "80", "--replicates", "1")
SCORE = ("score", "--dataset", "digits", *TINY, "--networks", "1")
PRETRAIN = ("pretrain", "--dataset", "digits", "-t", "1", *TINY)
FIGURE = ("figure2", "--replicates", "2")

# --- files ------------------------------------------------------------------------------------------------------------

FILES = {
    "missing": "missing.{}",
    "folder": "folder.{}",
    "empty": "empty.{}",
    "truncated artifact": "truncated.{}",
    "altered artifact": "altered.{}",
    "artifact of another kind": "whole.{}",
    "text": "text.{}",
    "noise": "noise.{}",
    "web page": "page.{}",
    "zip": "zip.{}",
    "pickle that runs code": "pickle.{}",
    "HDF5 of another program": "other.{}",
    "damaged HDF5": "damaged.{}",
    "odd recipe": "odd.{}",
    "link into another file": "external.{}",
    "endless device": "zero.{}",
    "empty device": "null.{}",
    "pipe": "pipe.{}",
    "socket": "socket.{}",
    "link to itself": "loop.{}",
    "links in a ring": "ring.{}",
    "link to nowhere": "nowhere.{}",
    "name that is not UTF-8": "caf\udce9.{}",
    "name of two lines": "two\nlines.{}",
    "long name": LONG + ".{}",
    "long path": "x/" * 2500 + "x.{}",
    "home of nobody": "~nosuchuser/x.{}",
    "below a file": "text.{0}/x.{0}",
    "no name": "",
    "closed file": "closed.{}",
    "in a closed folder": "closed/x.{}",
}
"""What is wrong -> its path, whose ending a command chooses."""

READS = {
    "imp": ("imp", "{h5}", "--levels", "0"),
    "branch": ("branch", "{h5}"),
    "branch --mask": ("branch", "imp.h5", "--mask", "{h5}"),
    "branch --mask .npy": ("branch", "imp.h5", "--mask", "{npy}"),
    "branch --mask .pt": ("branch", "imp.h5", "--mask", "{pt}"),
    "branch --mask .safetensors": ("branch", "imp.h5", "--mask", "{safetensors}"),
    "branch --weights": ("branch", "imp.h5", "--weights", "{h5}"),
    "barrier": ("barrier", "{h5}"),
    "barrier --successive": ("barrier", "{h5}", "--successive"),
    "barrier of checkpoints": ("barrier", "{pt}", "{pt}", "--network", "cifar_resnet8_w4", "--dataset", "digits"),
    "select --scores .h5": (*RANK, "--scores", "{h5}"),
    "select --scores .hdf5": (*RANK, "--dataset", "digits", "--scores", "{hdf5}"),
    "select --scores .csv": (*RANK, "--dataset", "digits", "--scores", "{csv}"),
    "select --scores .npy": (*RANK, "--dataset", "digits", "--scores", "{npy}"),
    "select --scores .npz": (*RANK, "--dataset", "digits", "--scores", "{npz}"),
    "select --scores .pt": (*RANK, "--dataset", "digits", "--scores", "{pt}"),
    "select --like": ("select", "--kind", "random", "--size", "80", "--replicates", "1", "--like", "{h5}"),
    "pretrain --subset": ("pretrain", "--subset", "{h5}", "-t", "1", *TINY),
    "pretrain --labels": (*PRETRAIN, "--labels", "{csv}"),
    "pretrain --network": ("pretrain", "--dataset", "digits", "-t", "1", *TINY[2:], "--network", "{py}:Net"),
    "pretrain --dataset": ("pretrain", "--dataset", "folder:{h5}", "-t", "1", *TINY),
    "score --data-dir": ("score", "--dataset", "cifar10", *TINY, "--data-dir", "{h5}"),
    "warmup --subset": ("warmup", "--subset", "{h5}", "--warmup-steps", "1", *TINY),
    "gradients --subset": ("gradients", "--subset", "{h5}", "-t", "1", "--every", "1", *TINY),
    "inspect": ("inspect", "{h5}"),
    "reseal": ("reseal", "{h5}"),
    "export": ("export", "{h5}", "--out", "out.csv"),
    "export of a network": ("export", "{h5}", "--part", "rewind", "--replicate", "0", "--out", "out.pt"),
    "verify --archive": ("verify", "--archive", "{zip}"),
    "plan": ("plan", "{py}"),
    "ls --results": ("ls", "--results", "{h5}"),
    **{
        f"{command} --results": (command, *FIGURE, "--results", "{h5}")
        for command in ("plan", "status", "figure", "verify", "report", "archive")
    },
}
"""Where a command reads a file -> its words."""

WRITES = {
    "select": (*CHOOSE, "--out", "{h5}"),
    "select --force": (*CHOOSE, "--force", "--out", "{h5}"),
    "pretrain": (*PRETRAIN, "--out", "{h5}"),
    "export": ("export", "easy.h5", "--out", "{csv}"),
    "export of a network": ("export", "rewind.h5", "--part", "rewind", "--replicate", "0", "--out", "{pt}"),
    "plan --make": ("plan", *FIGURE, "--results", "results", "--make", "{h5}"),
    "report": ("report", *FIGURE, "--results", "results", "--out", "{h5}"),
    "--log": ("--log", "{log}", "inspect", "easy.h5"),
}
"""Where a command writes a file -> its words."""

# --- values -----------------------------------------------------------------------------------------------------------

NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e39",
    "1e400",
    "9" * 40,
    "",
    " ",
    "it's",
    "caf\udce9",
    "0x10",
    "1" + "0" * 5000,
)
IMP = ("imp", "rewind.h5", "--levels", "0")
VALUES = {
    **{
        f"pretrain {option}": (*PRETRAIN, option)
        for option in (
            "--steps",
            "--batch-size",
            "--lr",
            "--weight-decay",
            "--milestones",
            "--border",
            "--label-noise",
            "-t",
            "--seed",
            "--replicates",
            "--image-size",
            "--threads",
            "--checkpoint-seconds",
            "--network",
            "--dataset",
            "--labels",
            "--scale",
        )
    },
    **{f"select {option}": (*CHOOSE, option) for option in ("--size", "--seed", "--score", "--scores", "--like")},
    "score --networks": (*SCORE, "--networks"),
    "imp --levels": ("imp", "rewind.h5", "--levels"),
    "imp --prune-fraction": (*IMP, "--prune-fraction"),
    "branch --levels": ("branch", "imp.h5", "--levels"),
    "branch --mask": ("branch", "imp.h5", "--levels", "1", "--mask"),
    "branch --weights": ("branch", "imp.h5", "--levels", "1", "--weights"),
    "barrier --alphas": ("barrier", "rewind.h5", "--replicates", "1", "--children", "1", "--alphas"),
    "barrier --network": ("barrier", "text.pt", "text.pt", "--network"),
    "warmup --warmup-steps": ("warmup", "--dataset", "digits", *TINY, "--warmup-steps"),
    "gradients --every": ("gradients", "--dataset", "digits", "-t", "1", *TINY, "--every"),
    "ls": ("ls", "--results", "artifacts"),
    "ls --columns": ("ls", "--results", "artifacts", "--columns"),
    "export --level": ("export", "imp.h5", "--part", "ticket", "--replicate", "0", "--out", "out.pt", "--level"),
    **{
        f"plan {option}": ("plan", *FIGURE, "--results", "results", option)
        for option in ("--seed", "--replicates", "--levels", "--jobs", "--speed", "--dataset", "--control")
    },
    "plan --options": ("plan", *FIGURE, "--results", "results", "--make", "out.mk", "--options"),
    "figure": ("figure",),
    "status --levels": ("status", *FIGURE, "--results", "results", "--levels"),
}
"""An option -> the words of a command that end with it."""

OUT = {"score", "select", "pretrain", "imp", "branch", "barrier", "warmup", "gradients"}


def _with_out(words: tuple[str, ...]) -> tuple[str, ...]:
    return (words[0], "--out", "out.h5", *words[1:]) if words[0] in OUT and "--out" not in words else words


def _filled(words: tuple[str, ...], path: str) -> tuple[str, ...]:
    return tuple(word.format(**{ending: path.format(ending) for ending in ENDINGS}) for word in words)


def cases() -> dict[str, dict[str, tuple[str, ...]]]:
    """Group -> name of a case -> its words."""
    return {
        "files to read": {
            f"{place}: {kind}": _with_out(_filled(words, path))
            for place, words in READS.items()
            for kind, path in FILES.items()
        },
        "places to write": {
            f"{place}: {kind}": _filled(words, path) for place, words in WRITES.items() for kind, path in FILES.items()
        },
        "values": {
            f"{place}: {value[:20]!r}": (*_with_out(words), value)
            for place, words in VALUES.items()
            for value in NUMBERS
        },
    }


# --- the folder they are in -------------------------------------------------------------------------------------------


def furnish(folder: Path, artifacts: dict[str, Path]) -> None:
    """Fills a folder with everything that the cases name.

    artifacts: scores, easy, rewind, imp, whole (trained to the end).
    """
    for name in ("results", "artifacts", "closed"):
        (folder / name).mkdir()
    for name in ("scores", "easy", "rewind", "imp"):
        shutil.copy(artifacts[name], folder / f"{name}.h5")
        shutil.copy(artifacts[name], folder / "artifacts" / f"{name}.h5")
    for ending in ENDINGS:
        for name, content in _contents(artifacts).items():
            (folder / f"{name}.{ending}").write_bytes(content)
        (folder / f"folder.{ending}").mkdir()
        for name, target in (
            ("zero", "/dev/zero"),
            ("null", "/dev/null"),
            ("loop", f"loop.{ending}"),
            ("ring", f"ring2.{ending}"),
            ("ring2", f"ring.{ending}"),
            ("nowhere", "no/where"),
        ):
            (folder / f"{name}.{ending}").symlink_to(target)
        os.mkfifo(folder / f"pipe.{ending}")
        with socket.socket(socket.AF_UNIX) as listening:
            here = os.getcwd()
            os.chdir(folder)  # the path of a socket is short
            listening.bind(f"socket.{ending}")
            os.chdir(here)
        shutil.copy(artifacts["easy"], folder / "closed" / f"x.{ending}")
        (folder / f"closed.{ending}").chmod(0)
    (folder / "closed").chmod(0)


class Runs:
    """A pickle that leaves a file where it is run."""

    def __reduce__(self):
        return os.mkdir, ("out.was-run",)


def _contents(artifacts: dict[str, Path]) -> dict[str, bytes]:
    easy = artifacts["easy"].read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("a.txt", "b")
    with h5py.File("image", "w", driver="core", backing_store=False) as file:
        for name in ("score", "index"):
            file.create_dataset(f"group/{name}", data=np.arange(1797), chunks=(100,), compression="gzip")
        file.flush()
        other = bytearray(file.id.get_file_image())
    damaged = other.copy()
    damaged[600 : len(other) // 2 : 3] = bytes(len(damaged[600 : len(other) // 2 : 3]))
    return {
        "empty": b"",
        "truncated": easy[:-100],
        "altered": easy[:2000] + bytes(b ^ 1 for b in easy[2000:]),
        "whole": artifacts["whole"].read_bytes(),
        "text": "Grüße,\nnone\n".encode() * 9,
        "noise": np.random.default_rng(0).bytes(3000),
        "page": b"<!DOCTYPE html><p>404</p>",
        "zip": packed.getvalue(),
        "pickle": pickle.dumps(Runs()),
        "other": bytes(other),
        "damaged": bytes(damaged),
        "odd": resealed(artifacts["easy"], **dict.fromkeys(store.read(artifacts["easy"]).recipe)),
        "external": linked(artifacts["easy"], "other.h5"),
        "caf\udce9": b"x",
        "two\nlines": b"x",
        "closed": easy,
    }


def resealed(path: Path, **recipe) -> bytes:
    """An artifact of somebody who writes what he likes into the recipe and corrects every checksum."""

    def edit(file: h5py.File) -> None:
        old = store.read(path)
        written = {**old.recipe, **recipe}
        lineage = store.Lineage(old.kind, written, old.inputs, old.lineage.defaults, old.name)
        file.attrs.update({"identity": lineage.identity, "recipe": json.dumps(written)})

    return edited(path, edit)


def linked(path: Path, target: str) -> bytes:
    """An artifact whose table has a column that is a link into another file, with every checksum corrected."""
    return edited(path, lambda file: file.__setitem__("table/far", h5py.ExternalLink(target, "/group/score")))


def edited(path: Path, edit) -> bytes:
    """An artifact after an edit of its HDF5, sealed anew."""
    image = io.BytesIO(path.read_bytes()[hdf5.SEAL_BYTES :])
    with h5py.File(image, "r+", libver=("v110", "v110")) as file:
        edit(file)
        file.attrs[hdf5.ATTRIBUTES_SHA256] = hdf5.attributes_sha256(file.attrs)
    return b"".join(hdf5.sealed(image.getvalue()))
