"""The figures of the paper: what they show is what was measured, and they can be read."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from scipy import stats

import paper_figures
from paper_figures import appendix, figure2, figure3, figure4, figure5, figure6
from paper_figures.shared.drawing import new_figure
from repro.protocol import DIGITS, datasets_at
from repro.report import sections
from repro.verify.outcomes import COLUMNS, Evidence
from tests.simulated_evidence import simulate


@pytest.fixture(scope="module")
def measured():
    """{scale: (protocols, evidence)}; CIFAR-10 with fewer sizes and steps, which is quicker to draw."""
    few = {"sizes": (1024, 2048, 3200), "barrier_sizes": (1024, 3200), "onset_steps": (800,)}
    scales = {"demo": datasets_at("demo"), "paper": [replace(datasets_at("paper")[0], **few)]}
    return {scale: (protocols, simulate(protocols)) for scale, protocols in scales.items()}


@pytest.fixture(scope="module")
def drawn(measured):
    """(name, scale) -> the figure and its table, drawn once."""
    return cache(lambda name, scale: paper_figures.figure(name).draw(measured[scale][1], measured[scale][0]))


DEMO = datasets_at("demo")[0]
LINE = {
    "all_tstar": ("#0173b2", "s", "--"),
    "all_tstar_half": ("#de8f05", "D", "--"),
    "all_t0": ("#c9b400", "v", "--"),
    "random": ("#029e73", "o", "-"),
    "easy": ("#d55e00", "^", "-"),
    "hard": ("#cc78bc", "X", "-"),
}


def runs(*rows):
    """Runs of the demo from (condition, size, t, noise, level, accuracies of the replicates)."""
    found = [
        (DEMO.dataset, c, size, t, noise, r, level, acc, 0.8**level, False)
        for c, size, t, noise, level, accs in rows
        for r, acc in enumerate(accs)
    ]
    return pd.DataFrame(found, columns=list(COLUMNS["runs"]))


def looks(panel):
    """(colour, marker, line) of every line with a marker."""
    return [(li.get_color(), li.get_marker(), li.get_linestyle()) for li in panel.lines if li.get_marker() != "None"]


def texts(figure):
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text()]


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("figure1", "demo"),
        ("figure3", "paper"),
        ("figure2", "paper"),
        ("figure5", "paper"),
        ("figure6", "paper"),
        pytest.param("appendix", "demo", marks=pytest.mark.heavy),
    ],
)
def test_nothing_overlaps_or_leaves_the_figure(name, scale, drawn):
    figure, table = drawn(name, scale)
    figure.draw_without_rendering()
    assert len(table) and not table.isin([np.inf]).any(axis=None)
    width, height = figure.bbox.size
    panels = [a for a in figure.findobj(Axes)]
    legends = figure.findobj(Legend)
    titles = [a.title for a in panels if a.get_title()]
    for thing in [*titles, *legends]:
        box = thing.get_window_extent()
        assert box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2, thing
    for things in (titles, legends):
        boxes = [t.get_window_extent() for t in things]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for legend in legends:
        extents = [box for a in panels for box in (a.get_window_extent(), a.xaxis.get_tightbbox()) if box]
        assert not any(legend.get_window_extent().overlaps(box) for box in extents)
    for panel in panels:
        shown = [t.get_window_extent() for t in panel.get_xticklabels() if t.get_text() and t.get_rotation() == 0]
        assert not any(a.overlaps(b) for a, b in pairwise(shown))
    assert any(f"at {scale} scale" in t for t in texts(figure))
    assert any("because rewinding helped there" in t for t in texts(figure)) == (scale == "demo")


@pytest.mark.parametrize("name", paper_figures.NAMES)
def test_without_runs_a_figure_says_so(name):
    figure, table = paper_figures.figure(name).draw(Evidence(), datasets_at("paper")[1:])  # without noise or warm-up
    assert len(table) == 0
    assert any("no runs" in t for t in texts(figure))


def test_the_table_of_figure2_holds_means_and_stds_of_its_own_runs():
    half, size, top = DEMO.t_star // 2, DEMO.subset_size, DEMO.t_star
    evidence = Evidence(
        runs=runs(
            ("easy", size, half, 0.0, 0, (0.95, 0.97)),
            ("easy", size, half, 0.0, 1, (0.90, 0.94, 0.92, 0.92)),
            ("easy", 2 * size, half, 0.0, 1, (0.1, 0.1)),
            ("easy", size, top, 0.0, 1, (0.1, 0.1)),
            ("easy", size, half, 0.5, 1, (0.1, 0.1)),
            ("all_tstar", 0, top, 0.0, 0, (0.96, 0.98)),
            ("all_tstar", 0, top, 0.5, 0, (0.1, 0.1)),
            ("all_t", 0, 2 * top, 0.0, 0, (0.1, 0.1)),
        )
    )
    figure, table = figure2.draw(evidence, [DEMO])
    found = table.set_index(["condition", "level"])[["mean_acc", "std_acc", "n", "weights_left_pct"]]
    assert list(found.index) == [("all_tstar", 0), ("easy", 0), ("easy", 1)]
    np.testing.assert_allclose(found.to_numpy(float), [(0.97, 0.01, 2, 100), (0.96, 0.01, 2, 100), (0.92, 0.02, 2, 80)])
    panel = figure.axes[0]
    assert looks(panel) == [LINE["all_tstar"], LINE["easy"]]
    np.testing.assert_allclose(panel.lines[0].get_ydata(), 97)  # dense
    np.testing.assert_allclose(panel.lines[2].get_ydata(), [96, 92])
    assert any("n = 2" in t and "ddof 0" in t for t in texts(figure))


def fewer(evidence, lacking):
    """The same where replicates 2 and more of some rows were not made: lacking(table) says which."""
    tables = {name: getattr(evidence, name) for name in ("runs", "barriers", "histograms", "paths")}
    return replace(evidence, **{name: t[~(lacking(t) & (t.replicate >= 2))] for name, t in tables.items()})


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("figure1", lambda t: (t.condition == "easy") & (t["size"] == DEMO.subset_size)),
        ("figure2", lambda t: t.condition == "hard"),
        ("figure3", lambda t: (t.condition == "random") & (t["size"] == 512)),
        ("figure4", lambda t: t.condition == "all_tstar_half"),
        ("figure5", lambda t: t.condition == "lmc"),
        ("figure5", lambda t: t.condition == "all_tstar"),
        ("appendix", lambda t: t.condition.isin(("all_t", "lmc", "random_like_easy")) | (t["size"] == 128)),
    ],
)
def test_all_arms_of_a_panel_are_of_the_same_replicates(name, lacking, measured):
    """Means are those of a figure in which nobody had more; the table says n = 2 and the report plots the same."""
    protocols, evidence = measured["demo"]
    found = paper_figures.figure(name).draw(fewer(evidence, lacking), protocols)[1]
    everybody = paper_figures.figure(name).draw(fewer(evidence, lambda t: t.replicate >= 0), protocols)[1]
    shown = found[found.panel != "gradients"] if "panel" in found else found
    whole = everybody.loc[shown.index]
    touched = shown["n"] == 2
    if name != "figure4":  # the panel of the histograms is another than that of the points
        panels = shown[touched].panel.unique() if "panel" in shown else [None]
        assert len(panels)
        for panel in panels:
            assert (shown.loc[shown.panel == panel, "n"] == 2).all() if panel else touched.all()
    pd.testing.assert_frame_equal(shown[touched], whole[touched])
    pairs = sections.charts(name, fewer(evidence, lacking), protocols, None, {})
    assert {point.n for pair in pairs for point in pair.own.points} <= {*found["n"].dropna(), 1}


def test_a_diverged_run_is_named():
    table = runs(("all_tstar", 0, DEMO.t_star, 0.0, 0, (0.9, 0.1)))
    table.loc[1, "diverged"] = True
    figure, found = figure2.draw(Evidence(runs=table), [DEMO])
    assert found["diverged"].tolist() == [1] and any("1 diverged" in t for t in texts(figure))


@pytest.mark.parametrize("control", [None, "permute-scores", "shuffle-mask"])
def test_controls_are_marked(control, measured):
    protocols, evidence = measured["demo"]
    table = evidence.runs
    shuffled = table[table.condition == "all_tstar"].assign(condition="shuffled")
    figure, found = figure2.draw(Evidence(runs=pd.concat([table, shuffled])), protocols, control=control)
    assert ("shuffled" in set(found.condition)) == (control == "shuffle-mask")
    assert len(looks(figure.axes[0])) == 6 + (control == "shuffle-mask")
    assert (
        any("has to fail" in t and control in t for t in texts(figure))
        if control
        else "has to fail" not in texts(figure)
    )


def test_the_line_above_a_figure_has_a_scale_of_the_papers():
    said = [
        new_figure((2, 2), "Mine", [replace(DIGITS, scale=scale)], control).get_suptitle()
        for scale, control in (("own", None), ("own", "shuffle-mask"), ("cpu", None))
    ]
    assert said == ["Mine", "Mine, control shuffle-mask (has to fail)", "Mine at cpu scale"]


def test_figure2_shows_the_published_curves_at_paper_scale_alone(drawn):
    panel = drawn("figure2", "paper")[0].axes[0]
    assert panel.get_ylim() == (84, 92)
    thin = [li for li in panel.lines if li.get_linewidth() == 0.7]
    assert [li.get_color() for li in thin] == [
        LINE[c][0] for c in ("all_t0", "all_tstar_half", "all_tstar", "random", "easy", "hard")
    ]
    assert thin[2].get_ydata()[10] == pytest.approx(90.50, abs=0.01)  # all@t* at level 10, claims.md's table
    assert not [li for li in drawn("figure2", "demo")[0].axes[0].lines if li.get_linewidth() == 0.7]


def test_means_below_the_published_axis_are_counted(drawn):
    figure, table = drawn("figure2", "paper")
    below = int((table.mean_acc < 0.84).sum())
    assert below > 0
    assert any(f"means outside the axis: {below} below" in t for t in texts(figure))


def test_figure3_draws_sizes_between_baselines(measured):
    protocols, evidence = measured["demo"]
    figure, table = figure3.draw(evidence, protocols)
    own = evidence.runs
    chosen = own[(own.condition == "easy") & (own["size"] == 128) & (own.level == 12) & (own.noise == 0)]
    row = table[(table.condition == "easy") & (table["size"] == 128) & (table.level == 12)].iloc[0]
    assert (row.mean_acc, row.std_acc) == pytest.approx((chosen.acc.mean(), np.std(chosen.acc.to_numpy(float))))
    assert table.groupby("panel").size().to_dict() == {"baselines": 9, "dense": 1, "sizes": 27}
    assert len(figure.axes) == 3
    for panel in figure.axes:
        assert looks(panel) == [LINE["random"], LINE["easy"], LINE["hard"]]
        flat = [li for li in panel.lines if len(set(li.get_ydata())) == 1 and li.get_marker() == "None"]
        assert [li.get_color() for li in flat] == [
            "#7f7f7f",
            *(LINE[c][0] for c in ("all_tstar", "all_tstar_half", "all_t0")),
        ]
        assert [t.get_text() for t in panel.get_xticklabels()] == ["128", "256", "512"]


def test_figure4_has_a_panel_per_noise_with_the_clean_start_in_each(measured):
    protocols, evidence = measured["demo"]
    figure, table = figure4.draw(evidence, protocols)
    assert [a.get_title().rpartition(", ")[2] for a in figure.axes] == [
        "10 % of labels randomised",
        "50 % of labels randomised",
    ]
    for panel, noise in zip(figure.axes, DEMO.noise):
        assert looks(panel) == [LINE[c] for c in ("all_t0", "all_tstar_half", "all_tstar", "random", "easy")]
        rows = table[table.panel == f"{100 * noise:.3g} % noise"]
        assert {c: set(r.noise) for c, r in rows.groupby("condition")} == {
            "all_t0": {0.0},
            "all_tstar_half": {noise},
            "all_tstar": {noise},
            "random": {noise},
            "easy": {noise},
        }


def barrier(condition, size, t, replicate, train_ce, **other):
    row = dict.fromkeys(COLUMNS["barriers"], 0.0) | {
        "dataset": DEMO.dataset,
        "condition": condition,
        "size": size,
        "t": t,
        "replicate": replicate,
        "level": 0,
        "batch_norm": "averaged",
        "train_ce": train_ce,
        "pretrain_acc": 0.5 + 0.1 * replicate,
        "diverged": False,
    }
    return row | other


def test_figure5_relates_means_over_parents():
    half, size, k = DEMO.t_star // 2, DEMO.subset_size, DEMO.barrier_level
    pairs = [barrier("easy", size, half, r, ce) for r in (0, 1) for ce in (0.2 + r, 0.4 + r)]
    pairs += [
        barrier("easy", size, half, 0, 99.0, batch_norm="recalibrated"),
        barrier("all_t0", 0, 0, 0, 9.0),
        barrier("easy", size, half, 0, np.nan, diverged=True),
        barrier("easy", size, half, 0, 99.0, level=3),
        barrier("all_tstar", 0, 2 * half, 0, 0.1),
        barrier("all_t", 0, 8 * half, 0, 0.05),
    ]
    # only one of the two has a third parent
    pairs += [barrier("all_tstar", 0, 2 * half, 1, 0.2), barrier("easy", size, half, 2, 50.0)]
    bins = pd.DataFrame(
        {
            "dataset": DEMO.dataset,
            "condition": "easy",
            "size": size,
            "t": half,
            "batch_norm": "averaged",
            "replicate": [0, 0, 1, 1],
            "bin_lo": [0.0, 0.5] * 2,
            "count": [25, 5, 5, 5],
        }
    )
    evidence = Evidence(
        barriers=pd.DataFrame(pairs),
        histograms=bins,
        runs=runs(
            ("easy", size, half, 0.0, k, (0.90, 0.94, 0.2)),
            ("easy", size, half, 0.0, k - 1, (0.1, 0.1)),
            ("all_tstar", 0, 2 * half, 0.0, k, (0.97, 0.97)),
            ("all_t0", 0, 0, 0.0, k, (0.9,)),
        ),
    )
    _, table = figure5.draw(evidence, [DEMO])
    points = table[table.panel == "condition"].set_index("kind")
    assert sorted(points.index) == ["all", "easy"]  # t = 0 left out, and what was not pruned to the level
    assert tuple(points.loc["easy", ["barrier", "pretrain_acc", "final_acc", "n"]]) == pytest.approx(
        (0.8, 0.55, 0.92, 2)
    )
    assert sorted(table[table.panel == "parent"].barrier) == pytest.approx([0.1, 0.2, 0.3, 1.3])
    bars = table[table.panel == "histogram"]
    assert bars.share_pct.tolist() == [75, 25]
    assert bars["mean"].tolist() == pytest.approx([0.8, 0.8])


def test_rank_correlation_is_spearmans():
    x, y = np.random.default_rng(1).normal(size=(2, 14))
    y = y + x
    rho, low, high = figure5.rank_correlation(x, y)
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic)
    resampled = [stats.spearmanr(x[i], y[i]).statistic for i in np.random.default_rng(5).integers(0, 14, (600, 14))]
    np.testing.assert_allclose((low, high), np.quantile(resampled, (0.025, 0.975)), atol=0.08)
    assert np.isnan(figure5.rank_correlation(np.ones(3), y[:3])).all()


def test_figure6_counts_diverged_runs_and_leaves_them_out():
    rows = [(DEMO.dataset, "easy", 256, w, r, 0.9 + 0.02 * r, False) for w in (10, 20) for r in range(2)]
    rows += [(DEMO.dataset, "easy", 256, 20, 2, 0.1, True), (DEMO.dataset, "all", 0, 10, 0, 0.95, False)]
    warmup = pd.DataFrame(rows, columns=list(COLUMNS["warmup"]))
    figure, table = figure6.draw(Evidence(warmup=warmup), [DEMO])
    row = table[(table["size"] == 256) & (table.w == 20)].iloc[0]
    assert (row.mean_acc, row.std_acc, row.n, row.diverged) == pytest.approx((0.91, 0.01, 2, 1))
    easy, random, hard = figure.axes
    assert easy.get_ylim()[0] > 85
    assert [t.get_text() for t in easy.texts] == ["× 1 of 6 runs diverged (left out)"]
    assert [(li.get_color(), li.get_marker()) for li in easy.lines] == [
        ("#f4865e", "o"),
        ("#0173b2", "s"),
        ("#f4865e", "x"),
    ]
    assert [li.get_color() for li in hard.lines] == ["#0173b2"] == [li.get_color() for li in random.lines]
    assert easy.get_xscale() == "log"


def test_figure1_quotes_this_run(measured, drawn):
    evidence = measured["demo"][1]
    figure, table = drawn("figure1", "demo")
    said = texts(figure)
    own = evidence.runs[(evidence.runs.condition == "all_tstar") & (evidence.runs.noise == 0)]
    for level in (0, 14):
        acc = 100 * own[own.level == level].acc.to_numpy(float)
        assert f"{acc.mean():.1f} ± {acc.std():.1f} %" in said
    path = table[(table.panel == "path") & (table.condition == "easy")].set_index("alpha").train_loss
    height = path[0.5] - (path[0.0] + path[1.0]) / 2
    assert any(f"barrier {height:.2g} nats" in t for t in said)
    assert any("6,300 steps in all" in t for t in said)  # levels 0 to 14, of 440 - 20 steps each


def test_the_appendix_averages_parents_and_finds_the_onset():
    pairs = [
        barrier("all_t", 0, t, r, 0.0, train_error_max=e + r * 0.01, test_error_max=0.03)
        for t, e in ((10, 0.05), (20, 0.014), (40, 0.001))
        for r in (0, 1)
    ]
    figure, table = appendix.draw(Evidence(barriers=pd.DataFrame(pairs)), [DEMO])
    steps = table[table.panel == "barrier by t"]
    np.testing.assert_allclose(
        steps[["t", "train_error_max", "train_error_max_std", "n"]].to_numpy(float),
        [(10, 0.055, 0.005, 2), (20, 0.019, 0.005, 2), (40, 0.006, 0.005, 2)],
    )
    assert any("onset train: t = 20, test: after the last step" in t for t in texts(figure))
    assert sum("no runs" in t for t in texts(figure)) == 5  # three topics, and the two panels of the path


def test_the_appendix_shows_every_size_and_score(measured, drawn):
    evidence = measured["demo"][1]
    figure, table = drawn("appendix", "demo")
    assert set(table.panel) == {
        "sizes",
        "other scores",
        "composition",
        "half-ensemble correlation",
        "path",
        "barrier by t",
        "gradients",
    }
    for panel in figure.axes[:3]:
        assert len(looks(panel)) == 3 + 3
        assert len({color for color, *_ in looks(panel)}) == len({m for c, m, _ in looks(panel)[3:]}) + 3 == 6
    rows = table[(table.panel == "gradients") & (table.trained_on == "all") & (table.step == 20)].iloc[0]
    own = evidence.gradients[(evidence.gradients.trained_on == "all") & (evidence.gradients.step == 20)].cosine
    assert (rows.mean_cosine, rows.std_cosine) == pytest.approx((own.mean(), own.std(ddof=0)))
