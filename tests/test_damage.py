"""Artifacts that were damaged, or that another program handled, and files that are none."""

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from repro import store
from repro.errors import UsageError
from repro.store import changed, hdf5
from repro.store.artifact import reseal
from tests.test_store import ARRAYS, CELL, TABLE, write

ROOT = Path(__file__).parents[1]


@pytest.fixture
def artifact(tmp_path) -> Path:
    write(tmp_path / "x.h5")
    return tmp_path / "x.h5"


def noticed(capsys, read, path) -> str:
    """'refused' or 'said' in a line; anything else fails."""
    capsys.readouterr()
    try:
        read(path)
    except UsageError as error:
        assert re.search("delete it and run its command again|give an artifact|newer program|close it", str(error))
        return "refused"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("note: ") and "repro reseal" in lines[0], lines
    return "said"


def flip(path: Path, whole: bytes, offset: int) -> None:
    path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1 << offset % 8]) + whole[offset + 1 :])


FORKING = """
import os, sys
from pathlib import Path
from repro.store import changed
for line in sys.stdin:
    child = os.fork()
    if not child:
        changed.limit_cpu(1)
        os._exit(0 if changed.examine(Path(line.strip())) else 1)
    print(os.waitpid(child, 0)[1] == 0, flush=True)
"""


@pytest.mark.heavy
def test_altered_bytes_are_noticed(artifact, capsys, monkeypatch):
    """At 960 places. Each is refused or told of; what is read in spite of it is what was written.

    Each is looked at by a fork of one process, because starting a new one takes a fifth of a second.
    """
    helper = subprocess.Popen(
        [sys.executable, "-c", FORKING], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def holds(path):
        print(path, file=helper.stdin, flush=True)
        return helper.stdout.readline() == "True\n"

    monkeypatch.setattr(changed, "holds", holds)
    whole, found = artifact.read_bytes(), []

    def read(path):
        back = store.read(path)
        assert back.provenance == {"device": "cpu"} and back.recipe == CELL["recipe"]
        assert {key: back[key].tolist() for key in back.keys()} == {key: a.tolist() for key, a in ARRAYS.items()}

    for offset in np.linspace(0, len(whole) - 1, 960).astype(int).tolist():
        flip(artifact, whole, offset)
        found.append(noticed(capsys, read, artifact))
    helper.communicate()
    assert found.count("refused") > len(found) / 3
    artifact.write_bytes(whole)
    assert store.read(artifact).keys() == sorted(ARRAYS) and not capsys.readouterr().err


def test_altered_bytes_are_looked_at_by_a_process_of_their_own(artifact, capsys):
    whole, found = artifact.read_bytes(), []
    for offset in range(7, len(whole), len(whole) // 12):
        flip(artifact, whole, offset)
        found.append(noticed(capsys, store.read, artifact))
    assert len(found) >= 12 and "refused" in found


@pytest.mark.parametrize("end", ["os.abort()", "while True: pass"])
def test_a_file_that_brings_hdf5_down_is_refused(end, artifact, tmp_path, monkeypatch):
    """Simulated by a module that the process of the reader imports first."""
    artifact.write_bytes(artifact.read_bytes() + b"\0")
    head = "import os\nfrom repro.store import changed\nchanged.CPU_SECONDS = 2\n"
    body = f"{head}def examine(path):\n    {end}\nchanged.examine = examine"
    (tmp_path / "sitecustomize.py").write_text(body, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with pytest.raises(UsageError, match="x.h5 was altered after it was written"):
        store.read(artifact)


def test_arrays_are_checked_without_reading_the_whole_file(artifact):
    whole, noticed = artifact.read_bytes(), 0
    for offset in range(hdf5.SEAL_BYTES, len(whole), 29):
        artifact.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0xFF]) + whole[offset + 1 :])
        try:
            opened = store.read_header(artifact)
            for key, values in ARRAYS.items():
                assert np.array_equal(opened[key], values)
            assert opened.table().equals(pd.DataFrame(TABLE))
        except UsageError:
            noticed += 1
    assert noticed > 30


@pytest.mark.parametrize("verify", [True, False])
def test_every_truncation_is_noticed(artifact, verify):
    for length in range(artifact.stat().st_size - 1, -1, -5):
        os.truncate(artifact, length)
        ours = "x.h5 is truncated .*: delete it and run its command again"
        with pytest.raises(
            UsageError, match=ours if length >= 8 else "x.h5 is (a text|an empty) file: give an artifact"
        ):
            store.read(artifact, verify=verify)


def test_edited_files_are_refused(artifact):
    whole = artifact.read_bytes()
    for edit in (
        lambda file: file.attrs.__setitem__("recipe", "{}"),
        lambda file: file.attrs.__setitem__("provenance", "{}"),
        lambda file: file["table/acc"].__setitem__(0, 0.9),
        lambda file: file.__delitem__("table/acc"),
        lambda file: file.create_dataset("mine", data=1),
    ):
        artifact.write_bytes(whole)
        with h5py.File(artifact, "r+") as file:
            edit(file)
        for act in (store.read, reseal):
            with pytest.raises(
                UsageError, match="x.h5 (was altered|is truncated|is no artifact of repro, or was altered)"
            ):
                act(artifact)
    assert artifact.stat().st_size >= len(whole)


def open_and_close(path):
    h5py.File(path, "r+").close()


def leave_open(path):
    """As a program does that is killed: the flag that it is open for writing stays."""
    with h5py.File(path, "r+") as file:
        file.flush()
        during = path.read_bytes()
    path.write_bytes(during)


def add_an_attribute(path):
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = "x"


def append(path):
    path.write_bytes(path.read_bytes() + b"\0")


HANDLED = [open_and_close, leave_open, add_an_attribute, append]


@pytest.mark.parametrize("handle", HANDLED)
@pytest.mark.parametrize("read", [store.read, store.read_header])
def test_what_another_program_handled_is_read_with_a_line_and_can_be_sealed(artifact, handle, read, capsys):
    before = artifact.read_bytes()
    handle(artifact)
    assert artifact.read_bytes() != before
    back = read(artifact)
    assert {key: back[key].tolist() for key in back.keys()} == {key: a.tolist() for key, a in ARRAYS.items()}
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("note: ")
        and str(artifact) in line
        and line.endswith(f"`repro reseal {artifact}` ends this note")
    )
    read(artifact)
    assert not capsys.readouterr().err  # said once
    assert reseal(artifact) and not reseal(artifact)
    assert store.read(artifact).identity == store.identity(**CELL) and not capsys.readouterr().err
    if handle in (open_and_close, leave_open):
        assert artifact.read_bytes() == before
    assert [path.name for path in artifact.parent.iterdir()] == ["x.h5"]


def test_an_artifact_that_this_process_has_open_for_writing(artifact, capsys):
    with h5py.File(artifact, "r+"):
        assert store.read(artifact)["replicate_0/level_0/mask"].tolist() == ARRAYS["replicate_0/level_0/mask"].tolist()
        assert "had" in capsys.readouterr().err
    with h5py.File(artifact, "r+") as file:
        file.attrs["recipe"] = "{}"
        file.flush()
        with pytest.raises(UsageError, match="x.h5 was altered by a program that has it open.*: close it there first"):
            store.read(artifact)


def test_what_another_program_is_writing_is_not_sealed(artifact):
    """It has written more than its superblock tells of yet."""
    leave_open(artifact)
    append(artifact)
    with pytest.raises(UsageError, match="x.h5 is open for writing in another program: close it there first"):
        reseal(artifact)


def test_older_artifacts_have_no_checksum_of_their_attributes(artifact, monkeypatch):
    monkeypatch.setattr(hdf5, "ATTRIBUTES_SHA256", "unknown")
    write(artifact)
    monkeypatch.undo()
    add_an_attribute(artifact)
    assert store.read(artifact).keys() == sorted(ARRAYS) and reseal(artifact)


def test_what_has_lost_its_seal_can_be_sealed(artifact):
    """As h5repack writes it: without the user block."""
    content = artifact.read_bytes()
    artifact.write_bytes(content[hdf5.SEAL_BYTES :])
    with pytest.raises(UsageError, match="x.h5 is an HDF5 file of another program: give an artifact that repro made"):
        store.read(artifact)
    assert reseal(artifact) and artifact.read_bytes() == content


def test_lookup3(tmp_path):
    """The value that its author gives in lookup3.c, and the checksums of superblocks that HDF5 wrote to a disk."""
    assert hdf5.lookup3(b"Four score and seven years ago") == 0x17770551
    for libver in ("v110", "v112"):
        h5py.File(tmp_path / "x.h5", "w", libver=(libver, libver)).close()
        image = (tmp_path / "x.h5").read_bytes()
        assert hdf5.lookup3(image[:44]) == int.from_bytes(image[44:48], "little")


def test_an_image_whose_superblock_has_an_old_checksum_is_mended():
    """HDF5 1.14 gives such an image of a file that is open, and then refuses to read it."""
    _, image = hdf5.pack({"a": np.arange(3)}, {}, compression=None)
    stale = image[:44] + bytes(4) + image[48:]
    with pytest.raises((OSError, ValueError)):
        h5py.h5f.open_file_image(stale)
    assert hdf5.checksummed(stale) == image == hdf5.checksummed(image)
    assert h5py.File(h5py.h5f.open_file_image(image))["a"][()].tolist() == [0, 1, 2]


FOREIGN = {
    "README.md": (b"# Readme\n" * 80, "a text file"),
    "net.pt": (b"PK\x03\x04" + bytes(900), "a zip file, as torch.save writes"),
    "old.pt": (b"\x80\x02\x8a\nl\xfc" + bytes(900), "a pickle"),
    "mask.safetensors": ((60).to_bytes(8, "little") + b'{"a":{}}' + bytes(900), "a safetensors file"),
    "mask.npy": (b"\x93NUMPY\x01\0" + bytes(900), "a NumPy array"),
    "empty.h5": (b"", "an empty file"),
    "zeros.h5": (bytes(2000), "a file of another program"),
    "umlaut.txt": ("ä".encode() * 700, "a text file"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_ours_is_named_and_never_to_be_deleted(name, tmp_path):
    content, kind = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    for act in (store.read, store.read_header, reseal):
        with pytest.raises(UsageError) as told:
            act(tmp_path / name)
        assert str(told.value) == f"{tmp_path / name} is {kind}: give an artifact that repro made"
    assert (tmp_path / name).read_bytes() == content


def test_devices_and_pipes_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UsageError, match="is a device or a pipe: give an ordinary file"):
            store.read(path)


def test_what_is_no_artifact(tmp_path, monkeypatch):
    def refuses(name, match, **options):
        with pytest.raises(UsageError, match=match):
            store.read(tmp_path / name, **options)

    refuses("none.h5", "none.h5 does not exist: check the path")
    refuses(".", "is not a file")
    (tmp_path / "text.h5").write_text("acc,level\n" * 100, encoding="utf-8")
    refuses("text.h5", "text.h5 is a text file: give an artifact that repro made")
    h5py.File(tmp_path / "other.h5", "w").close()
    refuses("other.h5", "other.h5 is an HDF5 file of another program")
    (tmp_path / "work.h5").write_bytes(b"".join(hdf5.pack({}, {"recipe": "{}"}, compression=None)))
    refuses("work.h5", "work.h5 is a file of this program, but no artifact: give an artifact")
    write(tmp_path / "x.h5")
    refuses("x.h5", "x.h5 is an imp artifact where a score artifact is needed: give", kind="score")
    with h5py.File(tmp_path / "x.h5") as file:
        attributes = {**file.attrs, "recipe": "{}"}
    (tmp_path / "x.h5").write_bytes(b"".join(hdf5.pack({}, attributes, compression=None)))
    refuses("x.h5", "x.h5 has another identity than its recipe and inputs")
    monkeypatch.setattr(hdf5, "FORMAT_VERSION", 2)
    write(tmp_path / "x.h5")
    monkeypatch.undo()
    refuses("x.h5", "x.h5 has format 2 and this program reads 1: use a newer program")
