"""The page of `repro report`, read as text: its numbers are those of the figures' CSV and of the verdicts' JSON."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import paper_figures
from repro.protocol import datasets_at
from repro.report import sections
from repro.report.charts import CONTRAST, DARK, MARKERS, contrast, numbers, readable
from repro.report.page import bold, bundle, deviations
from repro.report.tables import number
from repro.study.study import Study
from repro.verify.outcomes import Evidence
from tests.command_line import complaint, repro
from tests.html_tables import Tables
from tests.simulated_artifacts import make
from tests.simulated_evidence import simulate

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(results folder, HTML) of Figure 2 with 3 replicates, drawn and judged."""
    folder = tmp_path_factory.mktemp("results")
    study = Study("figure2", "demo", replicates=3, results=folder)
    make(study)
    given = ("figure2", "--scale", "demo", "--replicates", 3, "--results", folder)
    repro("figure", *given)
    repro("verify", *given)
    shown = repro("report", *given)
    page = folder / "report.html"
    assert shown.stdout == f"{page}: {page.stat().st_size:,} bytes\n"
    return folder, page.read_text(encoding="utf-8")


def test_every_number_of_the_csv_stands_in_the_page(made):
    folder, html = made
    heads, rows = next(t for name, t in Tables(html).tables.items() if name.endswith("the numbers of the chart"))
    column = {name: i for i, name in enumerate(heads)}
    own = [row for row in rows if row[column["whose"]][0] == "this run" and row[column["series"]][0] != "dense"]
    plotted = pd.read_csv(folder / "figure2.csv")
    assert len(own) == len(plotted) > 60
    words = {
        "all_tstar": "all data, t = 20 (t*)",
        "all_tstar_half": "all data, t = 10 (t*/2)",
        "all_t0": "all data, t = 0",
        "random": "random 256, t = 10",
        "easy": "easiest 256, t = 10",
        "hard": "hardest 256, t = 10",
    }
    shown = {(row[column["series"]][0], round(float(row[2][1]))): row for row in own}
    for line in plotted.itertuples():
        row = shown[words[line.condition], line.level]
        assert float(row[3][1]) == pytest.approx(100 * line.mean_acc, rel=2e-6)
        assert row[3][0] == f"{float(row[3][1]):.4f} %"
        assert float(row[4][1]) == pytest.approx(100 * line.std_acc, rel=1e-5)
        assert row[5][0] == str(line.n) == "3"
        stem = {"all_tstar": "all-t20", "all_tstar_half": "all-t10", "all_t0": "all-t0"}.get(
            line.condition, f"{line.condition}256-t10"
        )
        assert row[6][0] == f"digits/imp-{stem}.h5"


def test_the_papers_numbers_are_those_of_the_reference(made):
    reference = pd.read_csv(ROOT / "paper_figures/reference/paper_curves.csv")
    wanted = reference[
        (reference.figure == "2/AppE") & (reference.dataset == "cifar10") & (reference.condition == "all_tstar")
    ]
    _, rows = next(t for name, t in Tables(made[1]).tables.items() if name.endswith("the numbers of the chart"))
    shown = {round(float(row[2][1])): float(row[3][1]) for row in rows if row[1][0] == "all data, t = 400 (t*)"}
    assert shown == pytest.approx({r.level: 100 * r.mean_test_acc for r in wanted.itertuples() if r.level <= 16})
    assert "Another data set: CIFAR-10 + ResNet-20 beside digits" in Tables(made[1]).text


def test_verdicts_are_those_of_the_json(made):
    folder, html = made
    page = Tables(html)
    heads, rows = page.tables["Verdicts on digits, demo scale, judged over levels 10 to 14"]
    found = json.loads((folder / "figure2-verdicts.json").read_text(encoding="utf-8"))["verdicts"]
    assert len(rows) == len(found) > 8 and heads[3:5] == ["effect [95 %]", "n"]
    for row, verdict in zip(rows, found):
        assert row[1][0].startswith(f"{verdict['claim']}. {verdict['title']}")
        if verdict["verdict"] != "missing":
            assert row[7][0].startswith(verdict["verdict"]) and row[4][0] == str(verdict["n"] or "")
            assert float(row[3][1]) == pytest.approx(verdict["effect"])
            assert row[3][0].startswith(f"{verdict['effect']:+.2f}".replace("-", "−"))
        assert f"claim-{verdict['claim']}-digits" in page.ids
        assert " ".join(verdict["statement"].split()) in page.text
        if verdict["low"] is not None:
            assert f"[{verdict['low']:+.2f}, {verdict['high']:+.2f}]".replace("-", "−") in row[3][0]


def test_cost_and_provenance_are_the_artifacts_own(made):
    folder, html = made
    tables = Tables(html).tables
    artifacts = sorted(folder.rglob("*.h5"))
    _, rows = tables["Cost by figure"]
    row = dict(zip(tables["Cost by figure"][0], rows[0]))
    assert row["artifacts"][0] == str(len(artifacts)) == "16"
    assert float(row["wall, h"][1]) == pytest.approx(0.01 * len(artifacts))
    assert float(row["CPU, h"][1]) == pytest.approx(0.02 * len(artifacts))  # two threads each
    # 5 folds at most, 3 replicates: 40 networks each; pre-training of 5 cells (t = 0 trains none); 6 cells of 15 levels
    assert (
        float(row["trainings"][1]) == 3 * 40 + 5 * 3 + 6 * 3 * 15
    )  # scoring networks of three folds, pre-training, levels
    heads, rows = tables["Artifacts: what each is, its checksums, and what made it last"]
    import h5py

    with h5py.File(folder / "digits/imp-all-t20.h5") as file:
        identity, content = file.attrs["identity"], file.attrs["content_sha256"]
    (row,) = [dict(zip(heads, row)) for row in rows if row[0][0] == "digits/imp-all-t20.h5"]
    assert row["identity"][0] == identity and row["content sha256"][0] == content
    assert row["device"][0] == "cpu, sparse" and "repro" not in row["command"][0].split()[0]
    assert tables["Checksums of the data"][1][0][1][0] == "ab" * 32


def test_nothing_is_fetched(made):
    page = Tables(made[1])
    assert all(url.startswith(("#", "data:")) for url in page.urls)
    assert "default-src 'none'" in made[1] and "connect-src" not in made[1]
    assert len(made[1]) < 3_000_000
    assert len(page.ids) == len(set(page.ids))
    assert "University of Washington Interactive Data Lab" in made[1].split("<script>")[0]


def test_incomplete_and_empty_results_say_so(tmp_path, made):
    nothing = repro("report", "figure2", "--scale", "demo", "--results", tmp_path / "none")
    text = Tables((tmp_path / "none" / "report.html").read_text(encoding="utf-8"))
    assert "Nothing is made yet. make figure2 SCALE=demo RESULTS=" in text.text and nothing.exit_code == 0
    assert "Nothing of its 6 artifacts is there yet." in text.text and "No claim can be judged yet." in text.text
    make(Study("figure2", "demo", replicates=2, results=tmp_path))
    (tmp_path / "digits" / "imp-hard256-t10.h5").unlink()
    repro(
        "report", "figure2", "--scale", "demo", "--replicates", 2, "--results", tmp_path, "--out", tmp_path / "a.html"
    )
    page = Tables((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert "1 of its 6 artifacts are missing" in page.text
    _, rows = page.tables["Missing artifacts"]
    assert [row[0][0] for row in rows] == ["digits/imp-hard256-t10.h5"] and "repro imp " in rows[0][3][0]
    (tmp_path / "digits" / "imp-easy256-t10.h5").write_bytes(b"no artifact")
    repro(
        "report", "figure2", "--scale", "demo", "--replicates", 2, "--results", tmp_path, "--out", tmp_path / "b.html"
    )
    broken = Tables((tmp_path / "b.html").read_text(encoding="utf-8")).text
    assert "It cannot be drawn" in broken and "imp-easy256-t10.h5" in broken


def test_names_of_files_are_escaped(tmp_path):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    repro("report", "figure6", "--scale", "demo", "--results", folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "<img" not in html and "&lt;img src=x" in html
    assert bold("**a** <b> **c**") == "<strong>a</strong> &lt;b&gt; <strong>c</strong>"


def test_bad_output(tmp_path):
    said = complaint("report", "figure6", "--scale", "demo", "--results", tmp_path, "--out", tmp_path)
    assert said.startswith(f"--out {tmp_path} is a folder")
    assert "unknown figure 'figure9'" in complaint("report", "figure9", "--results", tmp_path)


def test_deviations_are_those_of_their_page():
    section = (
        (ROOT / "docs/deviations.md").read_text("utf-8").split("## Deviations and unknowns\n")[1].split("\n## ")[0]
    )
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    told = [[cell.strip().replace("\\*", "*").replace("`", "") for cell in line] for line in lines]
    with open(ROOT / "paper_figures/reference/deviations.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [told[0], *told[2:]]
    assert [[cell.text for cell in row] for row in deviations().rows] == told[2:]


def test_numbers_have_a_real_minus_sign():
    assert number(-1.25, "+.2f", "pp").text == "−1.25 pp" and number(-1.25).value == -1.25
    assert number(float("nan")).text == "" and number(None).value is None


def test_colours_are_seen_in_dark_mode():
    assert contrast("#ffffff", "#000000") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(
        4.48, abs=0.01
    )
    assert readable("#de8f05") == "#de8f05"  # seen as it is
    assert contrast("#601f52", DARK) < CONTRAST <= contrast(readable("#601f52"), DARK)


def test_every_marker_of_the_figures_has_a_path():
    from paper_figures import figure6
    from paper_figures.shared import panels

    used = {*panels.MARKERS, *figure6.MARKERS, *(look.marker for look in panels.LOOKS.values() if look.marker)}
    assert used <= MARKERS.keys()


def test_text_meets_wcag_aa_in_both_modes():
    css = (ROOT / "repro/report/templates/report.css").read_text(encoding="utf-8")
    modes = [
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.S)[:2]
    ]
    assert modes[1]["back"] == DARK
    for colors in modes:
        for ink in ("ink", "soft", "link", "good", "bad", "open"):
            for ground in ("back", "panel"):
                assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)


def test_the_bundle_cannot_end_its_script():
    assert "</script" not in bundle() and len(bundle()) > 500_000


# --- the charts of every figure --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    """(protocol, simulated evidence) of the demo and of a small CIFAR-10 at paper scale."""
    few = {"sizes": (2048, 3200), "barrier_sizes": (3200,), "onset_steps": (800,)}
    protocols = {"demo": datasets_at("demo")[0], "paper": replace(datasets_at("paper")[0], **few)}
    return {scale: (p, simulate([p])) for scale, p in protocols.items()}


def charts(measured, name, scale):
    p, evidence = measured[scale]
    return sections.charts(name, evidence, [p], None, {})


@pytest.mark.parametrize("scale", ["demo", "paper"])
@pytest.mark.parametrize("name", ["figure1", "figure2", "figure3", "figure4", "figure5", "figure6", "appendix"])
def test_charts_show_what_the_figure_plots(name, scale, measured):
    p, evidence = measured[scale]
    _, table = paper_figures.figure(name).draw(evidence, [p])
    plotted = table.select_dtypes("number").to_numpy(float)
    plotted = np.unique(np.concatenate([plotted[np.isfinite(plotted)]] * 2 + [100 * plotted[np.isfinite(plotted)]]))
    pairs = charts(measured, name, scale)
    assert pairs and all(pair.own.points for pair in pairs)
    for pair in pairs:
        # Figure 1's dense line is level 0 of all@t*, which it quotes as well
        shown = np.array([point.y for point in pair.own.everything])
        place = np.searchsorted(plotted, shown).clip(1, len(plotted) - 1)
        nearest = np.minimum(abs(plotted[place] - shown), abs(plotted[place - 1] - shown))
        assert (nearest < 1e-9).all(), pair.title
        assert len(numbers(pair).rows) == sum(len(panel.everything) for panel in pair.panels)


def test_own_and_published_share_an_axis_on_the_same_data_only(measured):
    (paper,), (demo,) = (charts(measured, "figure2", scale) for scale in ("paper", "demo"))
    assert paper.own.y.domain == paper.paper.y.domain is not None and paper.note == ""
    assert demo.own.y.domain is None and demo.note.startswith("Another data set: CIFAR-10")
    barriers = charts(measured, "figure5", "paper")[0]
    assert barriers.note.startswith("Another data set: CINIC-10") and barriers.paper.title.endswith(
        "read off a picture"
    )
    assert charts(measured, "figure1", "paper")[1].note == "The paper has published no numbers for this panel."


def test_a_figure_without_charts_is_shown_as_it_is_drawn(made, monkeypatch):
    monkeypatch.setattr(sections, "charts", lambda *given: None)
    section = sections.of_figure(Study("figure2", "demo", replicates=3, results=made[0]), "figure2", {})
    assert section.pairs == [] and section.picture.startswith("<svg") and "test accuracy (%)" in section.picture
    plotted = pd.read_csv(made[0] / "figure2.csv")
    assert section.numbers.columns == tuple(plotted.columns) and len(section.numbers.rows) == len(plotted)
    shown = [cell.value for cell in (row[plotted.columns.get_loc("mean_acc")] for row in section.numbers.rows)]
    assert shown == pytest.approx(list(plotted["mean_acc"]), rel=1e-5)
    ids = re.findall(r'\bid="([^"]+)"', section.picture)
    assert ids and all(each.startswith("figure2-") for each in ids)


@pytest.mark.parametrize("stem", ["<img src=x onerror=alert(1)>", r"a\2", r"\g<9>", "$x$", "$", "a b", '"><b>'])
def test_names_of_own_figures_are_text(stem, tmp_path):
    path = tmp_path / f"{stem}.py"
    path.write_text('from repro.protocol import own\nPROTOCOL = own("digits", replicates=1, levels=1)\n')
    results = tmp_path / "results"
    make(Study(str(path), results=results))
    repro("report", path, "--results", results)
    html = (results / "report.html").read_text(encoding="utf-8")
    assert html.count("<svg aria-hidden") == 1 and "<img src=x" not in html and '"><b>' not in html
    assert f"{stem}: what the drawing plots" in Tables(html).tables
    repro("figure", path, "--results", results)


@pytest.mark.parametrize("dataset", ["$x$", r"$\bad{$", "$"])
def test_names_of_data_sets_are_text(dataset):
    protocol = replace(datasets_at("demo")[0], dataset=f"folder:{dataset}")
    drawing, _ = paper_figures.draw("figure2", Evidence(), [protocol])
    assert f"folder:{dataset}" in sections.svg(drawing, "mine")


def test_a_figure_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text('from repro.protocol import own\nPROTOCOL = own("digits", replicates=2, levels=1)\n')
    results = tmp_path / "results"
    repro("report", path, "--results", results)
    assert "Nothing is made yet. repro plan " in Tables((results / "report.html").read_text(encoding="utf-8")).text
    make(Study(str(path), results=results))
    repro("report", path, "--results", results)
    html = (results / "report.html").read_text(encoding="utf-8")
    assert "A figure of one's own" in Tables(html).text
    assert html.count("<svg aria-hidden") == 1 and len(Tables(html).tables["mine: what the drawing plots"][1]) == 12
    path.write_text(path.read_text() + "def draw(evidence, protocols):\n    return evidence.nothing\n")
    repro("report", path, "--results", results)
    assert "It cannot be drawn: draw() of " in Tables((results / "report.html").read_text(encoding="utf-8")).text
