"""README and pages: links lead somewhere, the program takes the command lines, generated parts are up to date."""

import re
import runpy
import shlex
from types import CodeType

import click
import pytest

from repro.cli import main
from tests.command_line import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
PROGRAMS = ("repro", ".venv/bin/repro", "make")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
GENERATED = runpy.run_path(str(ROOT / "docs/generate.py"))

FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)(?:    .*\n+)+")
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def text(page) -> str:
    return page.read_text(encoding="utf-8")


def prose(page) -> str:
    """A page less its blocks of code."""
    return INDENTED.sub("", FENCED.sub("", text(page)))


def anchors(page) -> set[str]:
    """Those that GitHub gives a page's headings: in lower case, without punctuation, a hyphen for each space; a
    heading's further ones are numbered."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(FENCED.sub("", text(page))):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("\\", "")
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found[f"{name}-{found[name]}" if name in found else name] = 0
        found[name] += 1
    return set(found)


def links(page) -> list[str]:
    return [link for link in LINK.findall(SPAN.sub("", prose(page))) if not link.startswith("https://")]


def lines(page) -> list[str]:
    """Lines of a page's blocks of code, those that go on behind a backslash as one."""
    blocks = [block for _, language, block in FENCED.findall(text(page)) if language in ("", "sh")]
    blocks += INDENTED.findall(FENCED.sub("", text(page)))
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def is_command(line: str) -> bool:
    return line.split(maxsplit=1)[:1] in [[program] for program in PROGRAMS]


def spans(page) -> list[str]:
    """Commands within a page's sentences and tables, but those that leave something out."""
    found = [span.replace("\\|", "|") for span in SPAN.findall(prose(page))]
    return [span for span in found if is_command(span) and "…" not in span and span not in PROGRAMS]


def parse(command: str) -> None:
    """The program's own parser takes the words; nothing is run."""
    program, *words = shlex.split(command, comments=True)
    if program == "make":
        return parse_make(words)
    while "then" in words:
        parse_repro(words[: words.index("then")])
        words = words[words.index("then") + 1 :]
    parse_repro(words)


def parse_repro(words: list[str]) -> None:
    if words in (["--help"], ["--version"]):
        return
    with main.make_context("repro", list(words)) as context:
        name, command, rest = main.resolve_command(context, [*getattr(context, "_protected_args", ()), *context.args])
        if "--help" not in rest:
            command.make_context(name, list(rest), parent=context)


def parse_make(words: list[str]) -> None:
    """Targets are the Makefile's, and so are variables (or those of the scripts that it calls)."""
    if "-f" in words:
        return
    rules = MAKEFILE.replace("$(VENV)", ".venv").replace("$(FIGURES)", re.search("FIGURES := (.+)", MAKEFILE)[1])
    targets = {target for names in re.findall(r"^([\w./ -]+?):(?!=)", rules, re.MULTILINE) for target in names.split()}
    for word in words:
        variable, given, _ = word.partition("=")
        if given:
            assert f"({variable})" in MAKEFILE or re.search(rf"\b{variable}\b", text(ROOT / "container/check")), word
        elif not word.startswith("-"):
            assert word in targets, word


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def refusal(command: str, *, named: bool = False) -> str:
    """Why the program would not take a command; '' if it would. named: it may lack arguments and options' values."""
    try:
        parse(command)
    except click.MissingParameter as error:
        return "" if named else str(error)
    except click.BadOptionUsage as error:
        return "" if named and "requires an argument" in str(error) else str(error)
    except (click.UsageError, AssertionError, ValueError) as error:
        return str(error) or repr(error)
    return ""


def test_command_lines_are_those_of_the_program():
    found = {line for name in NAMES for line in filter(is_command, lines(ROOT / name)) if "[OPTIONS]" not in line}
    assert len(found) > 80 and {line: why for line in found if (why := refusal(line))} == {}


def test_commands_within_sentences_are_those_of_the_program():
    found = {span for name in NAMES for span in spans(ROOT / name)}
    assert len(found) > 50 and {span: why for span in found if (why := refusal(span, named=True))} == {}


def test_what_is_no_command_is_found():
    for wrong in ("repro imp", "repro imq a.h5 --out b.h5", "repro imp a.h5 --out b.h5 --depth 3", "repro --loud ls"):
        with pytest.raises(click.UsageError):
            parse(wrong)
    for wrong in ("make figure7", "make figure2 SIZE=3"):
        with pytest.raises(AssertionError):
            parse(wrong)


def test_anchors_are_githubs(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A & b: `c_d`, t\\*/2 (16×16)\n\n## Two-fold\n```sh\n# no heading\n```\n## Two-fold\n")
    assert anchors(page) == {"a--b-c_d-t2-1616", "two-fold", "two-fold-1"}


def test_the_readme_fits_on_a_page():
    readme = text(ROOT / "README.md")
    assert len(readme.splitlines()) <= 150 and len(readme.split()) <= 1200


def test_the_readme_leads_to_every_page():
    assert {*NAMES} - {"README.md"} <= {*links(ROOT / "README.md")}


@pytest.mark.parametrize("name", GENERATED["PAGES"])
def test_generated_parts_are_up_to_date(name):
    below = text(ROOT / "docs" / name).partition(GENERATED["MARK"])[2]
    assert below == "\n" + GENERATED["PAGES"][name](), "run make docs"


def test_blocks_of_python_can_be_compiled():
    blocks = [
        (page.name, block)
        for page in PAGES
        for _, language, block in FENCED.findall(text(page))
        if language == "python"
    ]
    assert blocks and all(isinstance(compile(block, name, "exec"), CodeType) for name, block in blocks)


def test_pages_name_no_place_of_one_machine():
    for page in PAGES:
        assert not re.search(r"/(?:root|home|work|Users)/", text(page)), page.name
