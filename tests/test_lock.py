"""The locks: requirements.in (direct pins), requirements.txt (everything, hashed), what is installed, what is imported.
requirements-extras.in and .txt are what only some need. pyproject.toml has the ranges that the pins are taken from.

Each check is a function that returns what is wrong, one sentence each; planted disagreements show that it can fail.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
DIRECT = "-r requirements"  # .in, or -extras.in
LOCKS = ("requirements", "requirements-extras")
FOLDERS = ("repro", "paper_figures", "benchmarks", "docs", "tests")  # our code, and the names it is imported by
# What make runs, and nothing imports.
TOOLS = {"check-jsonschema": "/check-jsonschema ", "mypy": "-m mypy", "pytest-xdist": "pytest -n ", "ruff": "-m ruff "}


@dataclass
class Entry:
    """One pin: name and version, for which platforms, hashes, and the names that asked for it."""

    name: str
    version: str
    applies: bool
    hashes: list[str] = field(default_factory=list)
    via: list[str] = field(default_factory=list)


def pin(text: str) -> Entry:
    """'numpy==2.4.6 ; marker' -> an entry without hashes. Raises ValueError for anything but one exact version."""
    try:
        found = Requirement(text)
        (only,) = found.specifier
        Version(only.version)  # refuses ==2.*
    except (InvalidRequirement, ValueError):
        raise ValueError(f"not an exact pin: {text}") from None
    if only.operator != "==" or found.url:
        raise ValueError(f"not an exact pin: {text}")
    applies = found.marker is None or found.marker.evaluate()
    return Entry(canonicalize_name(found.name), only.version, applies)


def direct_pins(text: str) -> list[Entry]:
    """The pins of requirements.in. Raises ValueError as `pin`."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [pin(line) for line in lines if line]


@cache
def entries(text: str) -> list[Entry]:
    """The pins of requirements.txt. Raises ValueError for an option, an index, a URL, a path, or another hash."""
    found: list[Entry] = []
    for line in text.splitlines():
        bare = line.strip().removesuffix("\\").strip()
        if not line.startswith(" "):
            if bare and not bare.startswith("#"):
                found.append(pin(bare))
        elif re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", bare):
            found[-1].hashes.append(bare)
        elif bare.startswith("#"):
            via = bare.removeprefix("#").strip().removeprefix("via").strip()
            found[-1].via += [via] if via else []
        else:
            raise ValueError(f"neither a pin, nor a sha256, nor its origin: {bare}")
    return found


def direct_pin(entry: Entry) -> bool:
    return any(origin.startswith(DIRECT) for origin in entry.via)


def disagreements(direct: str, lock: str) -> list[str]:
    """Where requirements.in and requirements.txt differ."""
    wanted = {entry.name: entry.version for entry in direct_pins(direct)}
    marked = {(entry.name, entry.version) for entry in entries(lock) if direct_pin(entry)}
    locked = {(entry.name, entry.version) for entry in entries(lock) if entry.name in wanted}
    return [
        *(f"{name}=={version} is not locked as a direct pin" for name, version in wanted.items() - marked),
        *(
            f"{name}=={version} is locked, and requirements.in has no such pin"
            for name, version in (locked | marked) - wanted.items()
        ),
    ]


def unhashed(lock: str) -> list[str]:
    return [f"{entry.name} has no hash" for entry in entries(lock) if not entry.hashes]


def orphans(lock: str) -> list[str]:
    """Entries that no direct pin leads to, by the lock's own account."""
    known = entries(lock)
    reached = {entry.name for entry in known if direct_pin(entry)}
    while new := {e.name for e in known if reached & set(map(canonicalize_name, e.via))} - reached:
        reached |= new
    return [f"{entry.name} comes from no direct pin" for entry in known if entry.name not in reached]


def open_ends(direct: str, lock: str, requires: Callable[[str], Iterable[str]]) -> list[str]:
    """Requirements, here, of what the direct pins lead to, that the lock does not hold or not in a fitting version."""
    locked = {entry.name: entry.version for entry in entries(lock) if entry.applies}
    problems, todo = [], [(entry.name, "") for entry in direct_pins(direct) if entry.applies]
    seen = set(todo)
    while todo:
        name, extra = todo.pop()
        for needed in map(_parsed, requires(name)):
            if needed.marker and not needed.marker.evaluate({"extra": extra}):
                continue
            child = canonicalize_name(needed.name)
            if child not in locked:
                problems.append(f"{name} needs {needed}, which is not locked")
                continue
            if not needed.specifier.contains(locked[child], prereleases=True):
                problems.append(f"{name} needs {needed}, and {locked[child]} is locked")
            new = {(child, extra) for extra in ("", *needed.extras)} - seen
            seen |= new
            todo += new
    return list(dict.fromkeys(problems))


_parsed = cache(Requirement)  # a distribution is met once per extra


def not_installed(lock: str, version_of: Callable[[str], str | None]) -> list[str]:
    found = ((entry, version_of(entry.name)) for entry in entries(lock) if entry.applies)
    return [
        f"{e.name}: {e.version} is locked, {there} installed"
        for e, there in found
        if there is None or Version(there) != Version(e.version)
    ]


@cache
def imports(code: str) -> set[str]:
    """Top-level names of all imports of a module, those inside functions too, less the standard library and ours.

    pytest.importorskip("name") is one as well, and so is importlib.util.find_spec("name")."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("importorskip", "find_spec"):
            found |= {name.value for name in node.args if isinstance(name, ast.Constant)}
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - set(FOLDERS)


def unpinned(direct: str, sources: Mapping[str, str], owners: Mapping[str, list[str]]) -> list[str]:
    """Imports whose distribution is no direct pin: it comes by another's grace, in any version."""
    pins = {entry.name for entry in direct_pins(direct)}
    return [
        f"{path} imports {name}, which has no direct pin"
        for path, code in sources.items()
        for name in sorted(imports(code))
        if not pins & set(map(canonicalize_name, owners.get(name, ())))
    ]


def unused(direct: str, sources: Mapping[str, str], owners: Mapping[str, list[str]]) -> list[str]:
    """Direct pins that no file imports."""
    names = set().union(*map(imports, sources.values()))
    used = {canonicalize_name(owner) for name in names for owner in owners.get(name, ())}
    pins = {entry.name for entry in direct_pins(direct)}
    return [f"{name} is pinned, and no file imports it" for name in sorted(pins - used)]


def out_of_range(ranges: Iterable[str], pins: list[Entry]) -> list[str]:
    """Ranges of pyproject.toml that no pin is in."""
    versions = {entry.name: entry.version for entry in pins}
    return [
        f"{needed} is no range of a direct pin"
        for needed in map(Requirement, ranges)
        if not (found := versions.get(canonicalize_name(needed.name))) or not needed.specifier.contains(found)
    ]


# The tree as it is


def installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def installed_requires(name: str) -> list[str]:
    return metadata.requires(name) or []


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def code() -> dict[str, str]:
    files = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}


def rival() -> str:
    """What `make bench` compares with: no lock can have it, because its build lacks a requirement."""
    (found,) = re.findall(r"sparseprop==[\d.]+", text("Makefile"))
    return found


@cache
def owners() -> dict[str, list[str]]:
    """Import name -> distributions; an extra or a rival that is not installed is taken to be imported by its name."""
    extras = {pin.name: [pin.name] for pin in direct_pins(f"{text('requirements-extras.in')}\n{rival()}")}
    return extras | metadata.packages_distributions()


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_is_that_of_the_pins(name):
    assert disagreements(text(f"{name}.in"), text(f"{name}.txt")) == [], "run `make lock`"


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_is_hashed_and_has_no_orphans(name):
    assert len(entries(text(f"{name}.txt"))) > len(direct_pins(text(f"{name}.in")))
    assert unhashed(text(f"{name}.txt")) + orphans(text(f"{name}.txt")) == []


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_is_closed_and_installed(name):
    pins, lock = text(f"{name}.in"), text(f"{name}.txt")
    if name != "requirements" and not any(installed_version(entry.name) for entry in direct_pins(pins)):
        pytest.skip("the extras are not installed: make .venv/.extras")
    assert not_installed(lock, installed_version) == []
    assert open_ends(pins, lock, installed_requires) == []


def test_the_locks_hold_one_version_of_what_they_share():
    core, extras = ({(e.name, e.version) for e in entries(text(f"{name}.txt"))} for name in LOCKS)
    names = {name for name, _ in core}
    assert {pin for pin in extras if pin[0] in names} <= core


def test_imports_and_direct_pins_are_the_same():
    assert len(code()) > 100 and set(imports(code()["tests/test_lock.py"])) == {"packaging", "pytest"}
    direct = "\n".join(text(f"{name}.in") for name in LOCKS)
    assert unpinned(f"{direct}\n{rival()}", code(), owners()) == []
    assert unused(direct, code(), owners()) == [f"{name} is pinned, and no file imports it" for name in sorted(TOOLS)]
    assert all(called in text("Makefile") for called in TOOLS.values())


def test_the_ranges_are_of_what_the_package_imports():
    """A wheel brings what it needs, and nothing that only the tests need; the lock is within the ranges."""
    project = tomllib.loads(text("pyproject.toml"))["project"]
    ranges = project["dependencies"] + project["optional-dependencies"]["extras"]
    package = {path: source for path, source in code().items() if path.startswith(("repro/", "paper_figures/"))}
    pins = "\n".join(text(f"{name}.in") for name in LOCKS)
    assert out_of_range(ranges, direct_pins(f"{pins}\n{rival()}")) == []
    needed = {canonicalize_name(Requirement(each).name) for each in ranges} | {pin(rival()).name}
    unneeded = {line.partition(" ")[0] for line in unused(pins, package, owners())}
    assert needed - {"tensorboard"} == {entry.name for entry in direct_pins(f"{pins}\n{rival()}")} - unneeded
    assert out_of_range(["numpy>=3", "torch>=2", "absent"], [pin("numpy==2.4.6"), pin("torch==2.13.0")]) == [
        "numpy>=3 is no range of a direct pin",
        "absent is no range of a direct pin",
    ]


# A small lock that is right, and what is said of each thing that may go wrong with it

HASH = f"    --hash=sha256:{'0' * 64}"
PINS = "# direct\nScikit_Learn==1.9.1\nh5py==3.16.0  # files\n"
LOCK = "\n".join(
    (
        "# made by make lock",
        "h5py==3.16.0 \\",
        HASH,
        f"    # via {DIRECT}.in",
        "joblib==1.6.0 ; python_version < '3' \\",
        HASH,
        "    # via scikit-learn",
        "joblib==1.7.0 ; python_version >= '3' \\",
        HASH + " \\",
        HASH,
        "    # via",
        "    #   scikit-learn",
        "    #   pools",
        "pools==1.0 \\",
        HASH,
        "    # via scikit-learn",
        "scikit-learn==1.9.1 \\",
        HASH,
        f"    # via {DIRECT}.in",
    )
)
REQUIRES = {
    "scikit-learn": ["joblib[fast]>=1.6", "absent; python_version < '3'", "pytest; extra == 'tests'"],
    "joblib": ["pools==1.*; extra == 'fast'"],
}
VERSIONS = {"h5py": "3.16.0", "joblib": "1.7.0", "pools": "1.0.0", "scikit-learn": "1.9.1"}
SOURCES = {"a.py": "import os, h5py\nimport repro.store\nfrom . import b\ndef f():\n    from sklearn.svm import SVC\n"}
OWNERS = {"sklearn": ["scikit-learn"], "h5py": ["h5py"], "joblib": ["joblib"]}


def problems(pins=PINS, lock=LOCK, requires=REQUIRES, versions=VERSIONS, sources=SOURCES) -> list[str]:
    return [
        *disagreements(pins, lock),
        *unhashed(lock),
        *orphans(lock),
        *not_installed(lock, versions.get),
        *open_ends(pins, lock, lambda name: requires.get(name, [])),
        *unpinned(pins, sources, OWNERS),
        *unused(pins, sources, OWNERS),
    ]


def test_nothing_is_wrong_with_the_small_lock():
    assert problems() == []
    assert [(e.name, e.version, e.applies, len(e.hashes), e.via) for e in entries(LOCK)][1:3] == [
        ("joblib", "1.6.0", False, 1, ["scikit-learn"]),
        ("joblib", "1.7.0", True, 2, ["scikit-learn", "pools"]),
    ]


def replaced(old: str, new: str, where: str = LOCK) -> str:
    assert old in where
    return where.replace(old, new)


@pytest.mark.parametrize(
    "planted, found",
    [
        (
            {"pins": replaced("3.16.0", "3.17.0", PINS)},
            [
                "h5py==3.17.0 is not locked as a direct pin",
                "h5py==3.16.0 is locked, and requirements.in has no such pin",
            ],
        ),
        (
            {"pins": replaced("h5py==3.16.0", "", PINS)},
            [
                "h5py==3.16.0 is locked, and requirements.in has no such pin",
                "a.py imports h5py, which has no direct pin",
            ],
        ),
        (
            {"pins": PINS + "pools==1.0\n"},
            ["pools==1.0 is not locked as a direct pin", "pools is pinned, and no file imports it"],
        ),
        (
            {"lock": replaced("#   pools", f"#   {DIRECT}.in")},
            ["joblib==1.7.0 is locked, and requirements.in has no such pin"],
        ),
        ({"lock": replaced(f"pools==1.0 \\\n{HASH}", "pools==1.0")}, ["pools has no hash"]),
        (
            {
                "lock": LOCK + f"\nstray==1.0 \\\n{HASH}\n    # via other\nother==1.0 \\\n{HASH}\n    # via stray",
                "versions": VERSIONS | {"stray": "1.0", "other": "1.0"},
            },
            ["stray comes from no direct pin", "other comes from no direct pin"],
        ),
        ({"versions": VERSIONS | {"joblib": "1.6.0"}}, ["joblib: 1.7.0 is locked, 1.6.0 installed"]),
        ({"versions": VERSIONS | {"pools": None}}, ["pools: 1.0 is locked, None installed"]),
        ({"versions": VERSIONS | {"h5py": "3.16.0+local"}}, ["h5py: 3.16.0 is locked, 3.16.0+local installed"]),
        ({"requires": REQUIRES | {"h5py": ["numpy>=2"]}}, ["h5py needs numpy>=2, which is not locked"]),
        (
            {"requires": REQUIRES | {"joblib": ["pools>=2; extra == 'fast'"]}},
            ['joblib needs pools>=2; extra == "fast", and 1.0 is locked'],
        ),
        (
            {"sources": SOURCES | {"b.py": "def f():\n    import joblib\n"}},
            ["b.py imports joblib, which has no direct pin"],
        ),
        (
            {"sources": SOURCES | {"b.py": "from nowhere.at import all\n"}},
            ["b.py imports nowhere, which has no direct pin"],
        ),
        ({"sources": {"a.py": "import h5py"}}, ["scikit-learn is pinned, and no file imports it"]),
    ],
)
def test_a_planted_disagreement_is_found(planted, found):
    assert sorted(problems(**planted)) == sorted(found)


@pytest.mark.parametrize(
    "line",
    [
        "h5py",
        "h5py>=3.16",
        "h5py==3.*",
        "h5py==3.16,!=3.17",
        "h5py===3.16.0",
        "h5py @ https://example.org/h5py.whl",
        "./h5py",
        "-e .",
        "--index-url https://example.org",
        "--find-links wheels",
        "-r other.txt",
    ],
)
def test_only_exact_pins_are_let_through(line):
    for read in (direct_pins, entries):
        with pytest.raises(ValueError, match="not an exact pin"):
            read(line)


@pytest.mark.parametrize("line", [f"    --hash=md5:{'0' * 32}", "    --hash=sha256:00", "    --index-url x"])
def test_a_lock_holds_sha256_and_origins_only(line):
    with pytest.raises(ValueError, match="neither a pin"):
        entries(LOCK + "\n" + line)
