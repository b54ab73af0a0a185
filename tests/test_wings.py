"""The order of the wings: a module imports from its own wing and from those below it, and there is no circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.command_line import ROOT

WINGS = (
    "errors",
    "store",
    "usercode",
    "nets",
    "data",
    "recipes",
    "experiment",
    "protocol",
    "engines",
    "train",
    "stages",
    "reading",
    "plan",
    "verify",
    "paper_figures",
    "study",
    "report",
    "archive",
    "run",
    "cli",
    "__main__",
)
"""From below. A name is a folder or a file of `repro`; `paper_figures` stands beside it."""


def imports() -> dict[str, set[str]]:
    """Module -> the modules that it imports, at its head or inside its functions."""
    paths = [path for top in ("repro", "paper_figures") for path in (ROOT / top).rglob("*.py")]
    known = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    found = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        asked = [f"{n.module}.{a.name}" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
        asked += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        whose = (each if each in known else each.rpartition(".")[0] for each in asked)
        found[name] = {each for each in whose if each in known} - {name}
    return found


def wing(module: str) -> str:
    return module.split(".")[module.startswith("repro.")]


def test_every_module_stands_in_a_wing():
    assert {wing(module) for module in imports()} - {"repro"} == set(WINGS)


def test_no_import_points_upwards():
    rank = {name: place for place, name in enumerate(WINGS)}
    upwards = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if "repro" not in (wing(module), wing(other)) and rank[wing(other)] > rank[wing(module)]
    ]
    assert upwards == []


def test_there_is_no_circle():
    found = imports()
    assert set(TopologicalSorter(found).static_order()) == set(
        found
    )  # of modules in a circle there is no order: an error


@pytest.mark.parametrize(
    "line", ["import repro.cli", "from repro.cli import main", "def f():\n    from repro import cli"]
)
def test_an_upward_import_would_be_seen(line, tmp_path, monkeypatch):
    folder = tmp_path / "repro"
    for name in ("__init__", "cli", "store"):
        (folder / f"{name}.py").parent.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text("main = 0\n" if name != "store" else line + "\n", encoding="utf-8")
    monkeypatch.setattr("tests.test_wings.ROOT", Path(tmp_path))
    assert imports()["repro.store"] & {"repro.cli"}
