"""The runs reported in the repository: their verdicts follow from their tables, and nothing there is another run's."""

import json

import pytest

from repro.archive import tables
from tests.command_line import ROOT

REPORTED = sorted(path.parent for path in (ROOT / "results").glob("*-*/recipe.json"))
LIMIT = 10 * 2**20  # bytes of a folder


def test_there_are_reported_runs():
    assert ROOT / "results" / "demo-digits" in REPORTED


@pytest.mark.parametrize("folder", REPORTED, ids=lambda path: path.name)
def test_the_verdicts_follow_from_the_tables(folder):
    judgement, lacking = tables.judged([folder])
    (file,) = folder.glob("*-verdicts.json")
    assert json.loads(judgement.json) == json.loads(file.read_text(encoding="utf-8")) and lacking == []
    assert judgement.markdown == file.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", REPORTED, ids=lambda path: path.name)
def test_a_folder_is_small_and_names_no_machine(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT
    text = [path.read_text(encoding="utf-8") for path in files if path.suffix in (".csv", ".json", ".md")]
    assert not any(word in each for each in text for word in ("/home/", "/root/", "/tmp/", "/work/"))
