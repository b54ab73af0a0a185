"""Everything in `tests.odd_inputs`: one sentence or what was asked for, no hang, and no file of the user changed."""

import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from repro.cli import main
from tests import odd_inputs
from tests.command_line import chain_of_artifacts, no_hang

HANG = 120  # seconds
CASES = {f"{group}: {name}": words for group, each in odd_inputs.cases().items() for name, words in each.items()}
NOBODY = 65534


@contextmanager
def anybody():
    """Rights as others have them: root may read and write everything."""
    root = os.geteuid() == 0
    if root:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)


def restore(folder: Path, before: dict[str, tuple], after: dict[str, tuple]) -> None:
    """Makes the folder what it was."""
    for path in sorted(after.keys() - before.keys(), reverse=True):
        place = folder / path
        place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
    for path in (path for path in before if after.get(path) != before[path]):
        (folder / path).unlink(missing_ok=True)
        mode, content = before[path]
        if stat.S_ISLNK(mode):
            (folder / path).symlink_to(content)
        else:
            (folder / path).write_bytes(content)
            (folder / path).chmod(stat.S_IMODE(mode))


def snapshot(folder: Path) -> dict[str, tuple]:
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            about = os.lstat(path)
            content = None
            if stat.S_ISLNK(about.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(about.st_mode):
                content = Path(path).read_bytes()
            found[os.path.relpath(path, folder)] = about.st_mode, content
    return found


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    """A folder that everybody may enter, unlike pytest's own."""
    artifacts = chain_of_artifacts(tmp_path_factory.mktemp("artifacts"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        folder.chmod(0o755)
        odd_inputs.furnish(folder, artifacts)
        yield folder, snapshot(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_odd_input(name, furnished, monkeypatch):
    folder, before = furnished
    monkeypatch.chdir(folder)
    with no_hang(HANG):
        if "closed" in name:
            with anybody():
                said = CliRunner().invoke(main, CASES[name])
        else:
            said = CliRunner().invoke(main, CASES[name])
    if said.exception and not isinstance(said.exception, SystemExit):
        raise said.exception
    assert said.exit_code in (0, 1, 2, 3) and "Traceback" not in said.output
    if said.exit_code:
        last = said.stderr.splitlines()[-1]
        assert last.startswith("Error: ") and len(last) < 2000, said.stderr
    after = snapshot(folder)
    restore(folder, before, after)
    changed = {path for path in before if after.get(path) != before[path]}
    replaced = {word for word in CASES[name] if "--force" in CASES[name] or word == "empty.log"}  # a log may be empty
    assert not changed or (said.exit_code == 0 and len(changed) == 1 and changed <= replaced)
    assert "out.was-run" not in after  # code of a file that was given
    assert said.exit_code == 0 or after.keys() == before.keys()
