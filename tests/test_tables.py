"""Tables for a repository: what is read back is what was measured, and it is judged to the same words."""

import json
import shutil

import pandas as pd
import pytest

from repro import store
from repro.archive import tables
from repro.study.collect import collect
from repro.study.study import Study
from repro.verify.outcomes import COLUMNS
from tests.command_line import complaint, repro
from tests.simulated_artifacts import make


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    study = Study("figure4", "demo", replicates=2, results=tmp_path_factory.mktemp("results"))
    make(study)
    return study


@pytest.fixture
def folder(study, tmp_path):
    tables.write(study, tmp_path / "tables")
    return tmp_path / "tables"


def test_the_same_numbers_come_back(study, folder):
    there, found, lacking = tables.read([folder])
    wanted = collect(study.items(), study.results)
    assert (there.asked, lacking) == (study.asked, [])
    for name in COLUMNS:
        one, two = getattr(wanted, name), getattr(found, name)
        if "artifact" in one:
            assert set(two["artifact"]) <= {path.stem for path in study.results.rglob("*.h5")}
        assert len(one) == len(two)
        same = [column for column in one if column != "artifact"] if len(one) else []
        pd.testing.assert_frame_equal(one[same], two[same], check_dtype=False, check_exact=True)


def test_they_are_judged_to_the_same_words(study, folder):
    judgement, lacking = tables.judged([folder])
    assert (judgement.json, judgement.terminal, lacking) == (study.judge().json, study.judge().terminal, [])
    said = repro("verify", "--tables", folder)
    assert said.stdout == f"{judgement.terminal}\n"


def test_two_goes_are_one_study(study, folder, tmp_path):
    """The first had less of the runs; what both have counts once."""
    first = tmp_path / "first"
    shutil.copytree(folder, first)
    runs = pd.read_csv(first / "runs.csv")
    runs[runs["condition"] != "easy"].to_csv(first / "runs.csv", index=False)
    recipe = json.loads((first / "recipe.json").read_text(encoding="utf-8"))
    recipe["artifacts"] = {name: each for name, each in recipe["artifacts"].items() if "imp-easy" not in name}
    (first / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    said = repro("verify", "--tables", first, code=3).stdout
    assert "artifacts are missing or incomplete, the first digits/imp-easy" in said
    assert tables.judged([first, folder])[0].json == tables.judged([folder])[0].json


def test_numbers_that_contradict_each_other_are_refused(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    runs = pd.read_csv(other / "runs.csv")
    runs.loc[3, "acc"] += 1e-9
    runs.to_csv(other / "runs.csv", index=False)
    said = complaint("verify", "--tables", folder, "--tables", other)
    assert said.startswith("runs.csv has two different rows for dataset digits, ") and "level 3" in said


def test_a_table_that_was_altered_into_text_is_refused(folder):
    runs = pd.read_csv(folder / "runs.csv", dtype=str)
    runs.loc[3, "acc"] = "70 %"
    runs.to_csv(folder / "runs.csv", index=False)
    said = complaint("verify", "--tables", folder)
    assert said == (
        f"{folder}/runs.csv has acc = '70 %' in line 5, which is no number: write it anew with repro tables"
    )
    (folder / "runs.csv").write_bytes(b"acc\n\xff\n")
    assert complaint("verify", "--tables", folder).startswith(f"{folder}/runs.csv is no table (")


def test_true_and_false_beside_nothing_are_no_text(tmp_path):
    """pandas reads such a column as objects, as it reads text."""
    (tmp_path / "runs.csv").write_text("acc,diverged\n0.5,True\n0.25,\n", encoding="utf-8")
    found = tables._table(tmp_path / "runs.csv", ("acc", "diverged"))
    assert found.diverged[0] is True and found.diverged.isna().tolist() == [False, True]


def test_what_are_no_tables_is_said(study, folder, tmp_path):
    assert "holds no tables of this program (no recipe.json)" in complaint("verify", "--tables", tmp_path)
    assert "--tables says itself" in complaint("verify", "figure2", "--tables", folder)
    make(other := Study("figure2", "demo", replicates=2, results=tmp_path / "results"))
    tables.write(other, tmp_path / "figure2")
    said = complaint("verify", "--tables", folder, "--tables", tmp_path / "figure2")
    assert said.endswith("figure2 is of name figure2 and " + f"{folder} of figure4: give tables of one study")
    nothing = ("tables", "figure2", "--results", tmp_path / "nothing", "--out", tmp_path / "x")
    assert "has no run of figure2: make them with" in complaint(*nothing)
    assert not (tmp_path / "x").exists()


def test_the_command_writes_them(study, tmp_path):
    said = repro("tables", "figure4", "--replicates", 2, "--results", study.results, "--out", tmp_path / "out").stdout
    assert sorted(said.split()) == sorted(map(str, (tmp_path / "out").iterdir()))


def test_a_run_has_the_accuracy_of_its_rewind_point(tmp_path):
    """Of real runs: the table has it in every row of a replicate, as the pretrain artifact has."""
    study = Study("figure2", "demo", replicates=2, levels=1, results=tmp_path / "results")
    make(study)
    target = study.results / "digits" / "pretrain-all-t20.h5"
    target.unlink()
    network = ("--network", "cifar_resnet8_w4", "--steps", 4, "--milestones", "", "--batch-size", 64)
    repro("pretrain", "--scale", "demo", "--dataset", "digits", "-t", 2, *network, "--replicates", 2, "--out", target)
    runs = pd.DataFrame({"artifact": [str(target.with_name("imp-all-t20.h5"))] * 3, "replicate": [0, 1, 0]})
    found = tables._with_rewind_points(runs, {target})["pretrain_acc"].tolist()
    acc = store.read(target).table().set_index("replicate")["acc"]
    assert found == [acc[0], acc[1], acc[0]] and len(set(found)) == 2
    assert "pretrain_acc" not in tables._with_rewind_points(runs, set())


def test_a_control_is_judged_beside_the_figure_without_it(tmp_path):
    """Which shows no effect here, so that there is nothing that a control could destroy."""
    results = tmp_path / "results"
    plain, spoiled = (
        Study("figure2", "demo", replicates=3, control=c, results=results) for c in (None, "permute-scores")
    )
    make(plain)
    make(spoiled)
    said = spoiled.judge().json
    tables.write(spoiled, tmp_path / "tables")
    assert tables.judged([tmp_path / "tables"])[0].json == said
    shutil.rmtree(tmp_path / "tables" / tables.PLAIN)
    assert "no effect that a control could destroy" in said
    assert "no effect that a control could destroy" not in tables.judged([tmp_path / "tables"])[0].json
