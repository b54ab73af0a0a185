"""The page of `repro report` in a real browser: no error, request or overflow; hover, focus, sorting, dark, print."""

import os
import shutil

import pytest

from repro.protocol import protocol
from repro.study.study import Study
from tests.command_line import HANG, repro
from tests.simulated_artifacts import make

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: make .venv/.extras")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian, Ubuntu: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{name: path} of pages of one study each, from small results."""
    found = {}
    for name in ("figure2", "figure6"):
        folder = tmp_path_factory.mktemp(name)
        make(Study(name, "demo", replicates=2, results=folder))
        repro("report", name, "--scale", "demo", "--replicates", 2, "--results", folder)
        found[name] = folder / "report.html"
    return found


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, pages):
    """Opens a page. One that writes to the console, raises, or asks for anything fails its test."""
    contexts, said = [], []

    def open_page(name="figure2", width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, offline=False, **options)
        context.set_default_timeout(HANG * 1000)
        contexts.append(context)
        page = context.new_page()
        url = pages[name].as_uri()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url != url else None)
        page.route("**/*", lambda route: route.continue_() if route.request.url == url else route.abort())
        page.goto(url)
        if options.get("java_script_enabled", True):
            page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


VERDICTS = 'section[aria-labelledby=verdicts] div:has(> table > caption:text-matches("^Verdicts")) table'
POINT = '.chart path[role="graphics-symbol"][aria-label*="level 3"][aria-label^="easiest 256"]'


@pytest.mark.parametrize(("name", "width"), [("figure2", 360), ("figure2", 768), ("figure2", 1280), ("figure6", 360)])
def test_nothing_overflows(opened, name, width):
    page = opened(name, width)
    assert page.locator(".chart svg").count() == (2 if name == "figure2" else 6)
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    for chart in page.locator(".chart svg").all():
        assert chart.bounding_box()["width"] <= width


def told(page):
    return dict(zip(page.locator("#tip dt").all_text_contents(), page.locator("#tip dd").all_text_contents()))


def test_hover_tells_value_n_and_artifact(opened):
    import h5py
    import numpy as np

    page = opened()
    assert not page.locator("#tip").is_visible()
    page.locator(POINT).first.hover()
    found = told(page)
    own = os.path.dirname(page.url.removeprefix("file://"))
    with h5py.File(f"{own}/digits/imp-easy256-t10.h5") as file:
        table = {name: file[f"table/{name}"][()] for name in ("level", "acc")}
    acc = 100 * table["acc"][table["level"] == 3]
    assert found["value"] == f"{acc.mean():.2f} ± {np.std(acc):.2f} %"
    assert (found["n"], found["artifact"]) == ("2", "digits/imp-easy256-t10.h5")
    assert found["series"] == "easiest 256, t = 10" and found["at"].startswith("level 3, 51.2 %")
    page.mouse.move(2, 2)
    assert not page.locator("#tip").is_visible()


def test_the_keyboard_reaches_every_point(opened):
    page = opened()
    first = page.locator(".chart").first.locator('[role="graphics-symbol"][tabindex="0"]')
    assert first.count() == 1
    first.focus()
    before = told(page)
    page.keyboard.press("End")
    assert told(page)["artifact"] == "digits/imp-hard256-t10.h5" and told(page) != before
    page.keyboard.press("ArrowLeft")
    before_last = f"level {protocol('digits').levels - 1},"
    assert told(page)["at"].startswith(before_last)
    assert before_last in page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


def column(page, table, index):
    return [row.strip() for row in page.locator(f"{table} tbody tr > td:nth-child({index})").all_text_contents()]


def test_tables_sort_by_click_and_by_keyboard(opened):
    page = opened()
    table = VERDICTS
    head = page.locator(f"{table} th:nth-child(4)")
    effects = [text for text in column(page, table, 4) if text]
    value = lambda text: float(text.split()[0].replace("−", "-"))  # noqa: E731
    assert any(text.startswith("−") for text in effects) and any("passes" in text for text in effects)
    assert head.get_attribute("aria-sort") is None
    head.locator("button").click()
    after = column(page, table, 4)
    assert head.get_attribute("aria-sort") == "ascending"
    assert after[: len(effects)] == sorted(effects, key=value) and not any(after[len(effects) :])
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, table, 4)[: len(effects)] == sorted(effects, key=value, reverse=True)
    page.locator(f"{table} th:nth-child(2) button").click()
    assert head.get_attribute("aria-sort") is None
    claims = [int(text.partition(".")[0]) for text in column(page, table, 2)]
    assert claims == sorted(claims) and claims[-1] > 9  # as numbers: 9 before 10


def test_texts_with_signs_and_units_sort_as_numbers(opened):
    page = opened()
    page.evaluate("""() => {
        const table = document.querySelector('section[aria-labelledby=verdicts] table');
        const cells = table.querySelectorAll('tbody td:nth-child(1)');
        const texts = ['−2.5 pp', '10 %', '', '1,200', '−0.1', '9'];
        cells.forEach((cell, i) => { cell.textContent = texts[i] ?? ''; });
    }""")
    table = VERDICTS
    page.locator(f"{table} th:nth-child(1) button").click()
    assert column(page, table, 1)[:6] == ["−2.5 pp", "−0.1", "9", "10 %", "1,200", ""]


def colors(page):
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return ground, page.evaluate("getComputedStyle(document.querySelector('.chart text')).fill"), line(page)


def line(page):
    return page.evaluate("getComputedStyle(document.querySelector('.chart path[stroke^=var]')).stroke")


def test_dark_mode_changes_the_page_and_its_charts(opened):
    page = opened(color_scheme="light")
    light = colors(page)
    page.emulate_media(color_scheme="dark")
    dark = colors(page)
    assert light[:2] == ("rgb(255, 255, 255)", "rgb(27, 31, 36)") and dark[:2] == (
        "rgb(21, 24, 28)",
        "rgb(230, 237, 243)",
    )
    page.emulate_media(media="print")
    assert colors(page) == light


def test_print_opens_everything_and_hides_controls(opened):
    page = opened()
    folded = page.locator("details td").first
    assert not folded.is_visible() and page.locator("nav").is_visible()
    page.emulate_media(media="print")
    assert (
        folded.is_visible() and not page.locator("nav").is_visible() and not page.locator("summary").first.is_visible()
    )
    arrow = "getComputedStyle(document.querySelector('th button'), '::after').display"
    assert page.evaluate(arrow) == "none"
    page.set_viewport_size({"width": 690, "height": 1000})  # A4 less its margins
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_landmarks_headings_and_names(opened):
    page = opened()
    assert page.evaluate("document.documentElement.lang") == "en" and "figure2 at demo scale" in page.title()
    levels = [
        int(tag[1]) for tag in page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => h.tagName)")
    ]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:]))
    for landmark in ("header", "nav", "main", "footer"):
        assert page.locator(landmark).count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    named = page.locator('.chart [role="graphics-document"][aria-label], .chart[role="graphics-document"][aria-label]')
    assert named.count() == 2
    assert page.evaluate(
        "[...document.querySelectorAll('.scrolls')].every((r) => r.tabIndex === 0 && r.getAttribute('aria-label'))"
    )


def test_without_scripts_the_tables_are_there(opened):
    page = opened(java_script_enabled=False)
    assert page.locator(".chart >> text=needs JavaScript").first.is_visible()
    assert page.locator("details table tbody tr").count() > 100
