"""compare: masks by enumeration, networks by plain PyTorch, and what cannot be compared."""

import itertools
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from paper_figures.shared.two_runs import draw
from repro import report
from repro.data import Batcher, load
from repro.reading import networks
from repro.reading.compare import COLUMNS, EQUAL, OTHER, WHOLE, beginnings, compare, summary
from repro.reading.compare import _Comparison as Comparison
from repro.recipes.overlap import overlap
from repro.recipes.training import Training
from repro.report import overlaps, sections
from repro.stages import imp, pretrain, select
from repro.store import read, write
from repro.study.study import Study
from tests import plain_imp, simulated_artifacts
from tests.command_line import TINY, complaint, repro

SIZES, KEPT = (3, 4), ((1, 3), (2, 2))  # weights of two layers; kept by A and by B in each


def every_mask(kept: tuple[int, ...]) -> list[np.ndarray]:
    """All masks that keep so many weights of each layer."""
    layers = [list(itertools.combinations(range(size), count)) for size, count in zip(SIZES, kept)]
    found = []
    for chosen in itertools.product(*layers):
        mask = np.zeros(sum(SIZES), bool)
        for start, places in zip((0, SIZES[0]), chosen):
            mask[[start + place for place in places]] = True
        found.append(mask)
    return found


def test_chance_is_the_mean_over_all_pairs_of_masks():
    pairs = list(itertools.product(every_mask(KEPT[0]), every_mask(KEPT[1])))
    shared = [2 * np.sum(a & b) / (a.sum() + b.sum()) for a, b in pairs]
    for a, b in (pairs[0], pairs[-1]):
        found, chance, std = overlap(a, b, SIZES).whole
        assert found == pytest.approx(2 * np.sum(a & b) / 8)
        assert chance == pytest.approx(np.mean(shared)) and std == pytest.approx(np.std(shared))
    layer = [2 * np.sum(a[3:] & b[3:]) / 5 for a, b in pairs]
    found, chance, std = overlap(*pairs[5], SIZES).of(1).whole
    assert (found, chance, std) == pytest.approx((layer[5], np.mean(layer), np.std(layer)))


def test_overlap_of_masks_that_are_equal_apart_or_empty():
    a = np.array([1, 1, 0, 0, 0, 1, 1], bool)
    assert overlap(a, a, SIZES).whole[0] == 1 and overlap(a, ~a, SIZES).whole[0] == 0
    assert overlap(a | True, a | True, SIZES).whole == (1, 1, 0)
    assert np.isnan(overlap(a & False, a & False, SIZES).whole).all()


# float64, so that plain PyTorch gives every image the same class
RECIPE = Training(steps=6, batch_size=64, lr=0.5, milestones=(4,), augment=False, precision="fp64")
REPLICATES = 6  # of which the first and the last have the same test images


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("compare")
    select(folder / "r.h5", kind="random", size=80, dataset="digits", replicates=REPLICATES, seed=1)
    about = dict(replicates=REPLICATES, network="cifar_resnet8_w4", training=RECIPE, seed=1)
    pretrain(folder / "p0.h5", dataset="digits", t=1, **about)
    pretrain(folder / "p1.h5", subset=folder / "r.h5", t=1, **about)
    for k in (0, 1):
        imp(folder / f"imp{k}.h5", folder / f"p{k}.h5", levels=1)
    return folder / "imp0.h5", folder / "imp1.h5"


@pytest.fixture(scope="module")
def table(runs) -> pd.DataFrame:
    return compare(*runs)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def plain(state: dict, images, data):
    """Logits of a network that was written for the tests alone."""
    net = plain_imp.PlainResNet(8, 4, 1, 10).double()
    words = {"conv": "stem", "blocks": "layers", "shortcut": "project"}
    named = {".".join(words.get(word, word) for word in name.split(".")): w for name, w in state.items()}
    net.load_state_dict(named, strict=False)
    x = Batcher(data.images, data.mean, data.std, augment=False).normalise(data.images[images], torch.float64)
    with torch.no_grad():
        return net.eval()(x.permute(0, 3, 1, 2))


@pytest.mark.heavy
def test_pairs_are_of_equal_seeds_and_of_others_with_the_same_test_images(runs, table):
    whole = table[table.layer == WHOLE]
    pairs = {seeds: sorted(set(zip(rows.replicate_a, rows.replicate_b))) for seeds, rows in whole.groupby("seeds")}
    assert pairs[EQUAL] == [(r, r) for r in range(6)]
    assert pairs[OTHER] == [(0, 5), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]
    with_predictions = whole.dropna(subset=["agreement"])
    assert set(zip(with_predictions.replicate_a, with_predictions.replicate_b)) == {*pairs[EQUAL], (0, 5), (5, 0)}
    assert tuple(table.columns) == COLUMNS and len(whole) == 12 * 2 and table.layer.nunique() == 1 + 10

    alone = compare(runs[0], runs[0], levels=[1], replicates=1)
    assert set(zip(alone.seeds, alone.replicate_a, alone.replicate_b, alone.level)) == {(OTHER, 0, 5, 1)}
    alone = compare(runs[0], runs[0], levels=[0])
    assert set(zip(alone.replicate_a, alone.replicate_b)) == {(0, 5), (1, 2), (2, 3), (3, 4), (4, 5)}


@pytest.mark.heavy
@pytest.mark.parametrize("a, b, seeds", [(0, 0, EQUAL), (0, 5, OTHER)])
@pytest.mark.parametrize("level", [0, 1])
def test_numbers_are_those_of_plain_pytorch(runs, table, digits, a, b, seeds, level):
    rows = table[(table.seeds == seeds) & (table.replicate_a == a) & (table.replicate_b == b) & (table.level == level)]
    rows = rows.set_index("layer")
    about = dict(num_classes=10, in_chans=1)
    ends = [networks.state_dict(p, r, level, "trained", **about) for p, r in zip(runs, (a, b))]
    masks = [networks.state_dict(p, r, level, "mask", **about) for p, r in zip(runs, (a, b))]
    assert list(rows.index[1:]) == list(masks[0])
    kept = shared = chance = 0
    for name in masks[0]:
        one, other = (mask[name].flatten().tolist() for mask in masks)
        both = sum(x and y for x, y in zip(one, other))
        row = rows.loc[name]
        assert (row.weights, row.kept_a, row.kept_b) == (len(one), sum(one), sum(other))
        assert row.overlap == pytest.approx(2 * both / (sum(one) + sum(other)))
        assert row.distance == pytest.approx(float((ends[0][name] - ends[1][name]).double().pow(2).sum().sqrt()))
        kept, shared = kept + sum(one) + sum(other), shared + both
        chance += sum(one) * sum(other) / len(one)
    row = rows.loc[WHOLE]
    assert (row.overlap, row.chance) == pytest.approx((2 * shared / kept, 2 * chance / kept))
    assert (row.overlap < 1) == (level > 0)
    parameters = [n for n, _ in plain_names(runs[0])]
    lengths = [sum(float(end[n].double().pow(2).sum()) for n in parameters) ** 0.5 for end in ends]
    assert (row.norm_a, row.norm_b) == pytest.approx(lengths)

    train, test = digits.split(a)
    classes = [plain(end, test, digits).argmax(1) for end in ends]
    assert row.agreement == pytest.approx((classes[0] == classes[1]).double().mean().item())
    middle = {name: (ends[0][name] + ends[1][name]) / 2 for name in ends[0]}
    for images, name in ((train, "train"), (test, "test")):
        logits = [plain(state, images, digits) for state in (ends[0], middle, ends[1])]
        losses = [torch.nn.functional.cross_entropy(each, digits.labels[images]).item() for each in logits]
        errors = [(each.argmax(1) != digits.labels[images]).double().mean().item() for each in logits]
        for values, measure in ((losses, "loss"), (errors, "error")):
            expected = values[1] - (values[0] + values[2]) / 2
            assert row[f"{name}_{measure}_barrier"] == pytest.approx(expected, abs=1e-6)
    assert row.acc_b == pytest.approx((classes[1] == digits.labels[test]).double().mean().item())


def plain_names(path):
    """Names of the parameters of the network of an artifact, by PyTorch."""
    return networks.network_of(read(path)).named_parameters()


def test_how_networks_begin_is_said(runs, tmp_path):
    """From the paper's initialisation and from one file; the file's networks are alike whatever their seeds."""
    networks.export(runs[0].with_name("p0.h5"), tmp_path / "w.pt", replicate=0, level=None, part="rewind")
    about = dict(replicates=2, network="cifar_resnet8_w4", training=RECIPE, seed=1, dataset="digits", t=1)
    pretrain(tmp_path / "p.h5", init=tmp_path / "w.pt", **about)
    imp(tmp_path / "file.h5", tmp_path / "p.h5", levels=0)
    assert beginnings(*runs) == []
    assert "equal seeds share the order of the data alone" in beginnings(runs[0], tmp_path / "file.h5")[0]
    assert "other seeds share them, too" in beginnings(tmp_path / "file.h5", tmp_path / "file.h5")[0]
    for seed in (1, 2):  # each draws numbers of its own, in one way
        pretrain(tmp_path / f"p{seed}.h5", init="network", **about | {"seed": seed})
        imp(tmp_path / f"drawn{seed}.h5", tmp_path / f"p{seed}.h5", levels=0)
    assert beginnings(tmp_path / "drawn1.h5", tmp_path / "drawn2.h5") == []
    assert "equal seeds share the order" in beginnings(runs[0], tmp_path / "drawn1.h5")[0]


@pytest.mark.heavy
def test_the_command_writes_table_and_figure_and_refuses_in_one_sentence(runs, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = map(str, runs)
    said = repro("compare", one, other, "--levels", 1, "--replicates", 1, "--out", "c.csv").stdout.splitlines()
    assert [line.split()[:3] for line in said[1:3]] == [["1", EQUAL, "1"], ["1", OTHER, "1"]]
    assert said[-3:] == ["c.pdf", "c.png", "c.csv"] and all(Path(name).stat().st_size > 1000 for name in said[-3:])
    written, expected = pd.read_csv("c.csv"), table[(table.level == 1) & (table.replicate_a == 0)]
    assert written.overlap.tolist() == pytest.approx(expected.sort_index().overlap.tolist(), rel=1e-5)
    repro("compare", one, one, "--levels", 1, "--replicates", 1, "--out", "c.csv")  # over its own table

    Path("mine.csv").write_text("a,b\n1,2\n")
    Path("drawn.pdf").write_text("")
    repro("pretrain", "--dataset", "digits", *TINY, "-t", 1, "--seed", 1, "--out", "w4.h5")
    repro("imp", "w4.h5", "--levels", 0, "--replicates", 1, "--out", "dense.h5")
    mixed = compare(runs[0], "dense.h5", levels=[0], replicates=1)  # the second in float32
    assert set(mixed.seeds) == {EQUAL} and mixed.agreement.notna().sum() == 1
    repro("branch", one, "--mask", "shuffled", "--levels", 1, "--replicates", 1, "--out", "branch.h5")
    shuffled = compare(runs[0], "branch.h5").query("seeds == 'equal'").set_index("layer")
    assert list(shuffled.kept_a) == list(shuffled.kept_b) and shuffled.overlap[WHOLE] < 0.95

    repro("pretrain", "--dataset", "digits", *TINY, "--network", "cifar_resnet8_w2", "-t", 1, "--out", "w2.h5")
    repro("imp", "w2.h5", "--levels", 0, "--out", "narrow.h5")
    for words, sentence in {
        f"{one} {other} --out c.txt": r"--out c.txt must end in .csv",
        f"{one} {other} --out mine.csv": "--out mine.csv is there and is a text file, not a table of the same columns",
        f"{one} {other} --out drawn.csv": "drawn.pdf is there, and drawn.csv, beside which compare draws it, is not",
        f"{one} no.h5 --out d.csv": "no.h5 does not exist: check the path",
        f"{one} w4.h5 --out d.csv": "w4.h5 is a pretrain artifact where an imp or a branch artifact is needed",
        f"{one} narrow.h5 --out d.csv": r".*imp0.h5 is of network cifar_resnet8_w4, narrow.h5 of cifar_resnet8_w2:",
        f"{one} {other} --levels 1,7 --out d.csv": "level 7 is not in both runs, which share 0, 1: choose --levels",
        f"{one} {other} --levels x --out d.csv": r"levels \(='x'\) must be numbers with commas, like 8,10",
        f"{one} {other} --replicates 9 --out d.csv": "9 replicates, but .*imp0.h5 holds 6: give --replicates 6 here",
        "dense.h5 dense.h5 --out d.csv": "dense.h5 has one replicate, and none to compare it with: give two runs",
    }.items():
        assert re.match(sentence, told := complaint("compare", *words.split())), told
    assert not Path("d.csv").exists()


def test_a_pair_of_one_run_is_compared_once():
    run = SimpleNamespace(identity="a", recipe={"seed": 1}, kind="imp", path="a.h5")
    other = SimpleNamespace(identity="b", recipe={"seed": 1}, kind="imp", path="b.h5")
    data = SimpleNamespace(splits=[None] * 5)
    made = Comparison.__new__(Comparison)
    made.data = data
    expected = {2: [(0, 1)], 3: [(0, 1), (1, 2), (2, 0)], 6: [(0, 5), (1, 2), (2, 3), (3, 4), (4, 5)]}
    for held, pairs in expected.items():
        made.runs = run, run
        assert [(pair.a, pair.b) for pair in made._pairs([held, held], None)] == pairs
        made.runs = run, other
        assert sum(pair.seeds == OTHER for pair in made._pairs([held, held], None)) == held


def rows_of_two_layers() -> list[dict]:
    about = dict(weights=50, kept_a=10, kept_b=10, chance_std=0.01, norm_a=1.0, norm_b=1.0, acc_a=0.9, acc_b=0.9)
    barriers = {name: 0.5 for name in COLUMNS if name.endswith("barrier")}
    return [
        {**about, **barriers, "seeds": seeds, "replicate_a": r, "replicate_b": r, "level": level, "layer": layer}
        | {"overlap": 0.4 + r / 10 + level / 100, "chance": 0.25, "distance": 3.0 + r, "agreement": 0.5}
        for seeds in (EQUAL, OTHER)
        for r in (0, 1)
        for level in (0, 4)
        for layer in (WHOLE, "conv.weight", "fc.weight")
    ]


def test_what_was_not_compared_is_a_dash_and_said():
    table = pd.DataFrame(rows_of_two_layers())
    assert "–" not in summary(table) and len(summary(table).splitlines()) == 5
    unlike = table.seeds == OTHER
    table.loc[unlike, ["agreement", "train_loss_barrier", "test_error_barrier"]] = np.nan
    said = summary(table).splitlines()
    assert said[-1] == "other seeds have other test images here: no predictions compared" and len(said) == 6
    assert "nan" not in "".join(said) and [line.split()[-3:] for line in said[2:5:2]] == [["–"] * 3] * 2
    assert said[1].split()[-5:] == ["50.00", "%", "0.500", "50.00", "%"]


def test_the_figure_shows_what_the_table_has():
    rows = rows_of_two_layers()
    figure = draw(pd.DataFrame(rows), "a and b")
    by_title = {axes.get_title(): axes for axes in figure.axes}
    assert len(by_title) == 6
    lines = by_title["overlap of masks"].lines
    assert lines[0].get_xydata().tolist() == [[0, pytest.approx(0.45)], [4, pytest.approx(0.49)]]
    assert lines[2].get_ydata().tolist() == [0.25, 0.25] and lines[0].get_label() == "equal seeds (n=2)"
    layers = by_title["overlap of masks by layer, level 4"].lines[0]
    assert list(layers.get_xdata()) == ["conv", "fc"] and list(layers.get_ydata()) == pytest.approx([0.49, 0.49])
    assert by_title["error barrier"].lines[0].get_ydata().tolist() == [50, 50]
    unlike = pd.DataFrame(rows).assign(agreement=np.nan)
    figure = draw(unlike, "a and b")
    assert "no pairs with the same test images" in [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.heavy
def test_the_report_has_the_overlap_of_every_two_conditions(tmp_path, monkeypatch):
    study = Study("figure2", replicates=2, results=tmp_path)
    simulated_artifacts.make(study)
    level = study.protocols[0].judging_levels[-1]
    rng, masks = np.random.default_rng(0), {}
    for name in ("all-t0", "all-t20", "easy256-t10"):
        made = read(tmp_path / "digits" / f"imp-{name}.h5")
        replicates = [0] if name == "easy256-t10" else [0, 1]
        masks[name] = {r: rng.random(7) < 0.6 for r in replicates}
        arrays = {f"replicate_{r}/level_{level}/mask": np.packbits(mask) for r, mask in masks[name].items()}
        rest = dict(provenance=made.provenance, defaults=made.lineage.defaults, table=made.table())
        write(made.path, kind="imp", recipe=dict(made.recipe), inputs=made.inputs, arrays=arrays, **rest)
    monkeypatch.setattr(overlaps, "_sizes", lambda artifact: list(SIZES))
    section = sections.of_figure(study, "figure2", {})
    (found,) = section.overlaps
    assert f"digits: overlap of masks at level {level}" in found.caption
    rows = {(row[0].text, row[1].text): row for row in found.rows}
    assert set(rows) == {("all-t0", "all-t20"), ("all-t0", "easy256-t10"), ("all-t20", "easy256-t10")}
    for (a, b), row in rows.items():
        shared, by_chance = [], []
        for r in masks[a].keys() & masks[b].keys():
            one, other = masks[a][r], masks[b][r]
            kept = one.sum() + other.sum()
            shared.append(2 * (one & other).sum() / kept)
            halves = ((one[:3], other[:3]), (one[3:], other[3:]))
            by_chance.append(2 * sum(x.sum() * y.sum() / len(x) for x, y in halves) / kept)
        assert row[2].value == len(shared)
        assert row[4].value == pytest.approx(np.mean(shared)) and row[5].value == pytest.approx(np.mean(by_chance))
    page = report.build(study, when=datetime.now(UTC))
    assert "How far the masks of the conditions overlap (3 rows)" in page
