"""Archives: the validator of RO-Crates accepts them, everything in them is vouched for, and what follows from the
artifacts is computed again. The runs are simulated: only their tables matter here."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import warnings
import zipfile
from errno import ENOSPC
from pathlib import Path

import numpy as np
import pytest
import requests

from paper_figures.figure2 import needed as figure2
from repro import plan, store
from repro.archive import contents, zipped
from repro.errors import UsageError
from repro.protocol import DIGITS
from tests.command_line import complaint, repro

LINE_END = b"\n"
METADATA = "ro-crate-metadata.json"
STUDY = ("figure2", "--replicates", 2)
PROTOCOL = plan.resize(DIGITS, replicates=2)
ENTRIES = {
    "results/digits/imp-all-t0.h5",
    "results/figure2.csv",
    "results/figure2.png",
    "results/figure2-verdicts.md",
    "results/figure2-verdicts.json",
    "recipe.json",
    "ro-crate-metadata.json",
    "ro-crate-preview.html",
    "requirements.txt",
    "LICENSE",
}


def simulate(step: plan.Step, rng) -> None:
    """An artifact with what the step promises; accuracies are drawn."""
    pieces = sorted(step.wanted)
    kind = {"select": "subset"}.get(step.verb, step.verb)
    numbers = [[int(part.rpartition("_")[2]) for part in piece.split("/")] for piece in pieces]
    table, arrays = {"piece": pieces, "replicate": [n[0] for n in numbers]}, {}
    if kind == "imp":
        level = np.array([n[1] for n in numbers])
        table |= {"level": level, "acc": 0.97 + 0.01 * rng.normal(size=len(level)), "density": 0.8**level}
        table |= {"diverged": np.zeros(len(level), bool)}
    elif kind == "subset":
        table |= {"wrong_labels": np.zeros(len(pieces), int), "missing_classes": np.zeros(len(pieces), int)}
    elif kind == "score":
        table, arrays = {"piece": pieces}, {f"fold_{f}/half_correlation": np.float64(0.8) for f in range(2)}
    run = {
        "program": "lottery-data-diet 0.0.9",
        "git_revision": "ab" * 20,
        "git_dirty": False,
        "device": "cpu",
        "cpu": "abacus",
        "started": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T04:05:06+00:00",
    }
    inputs = {str(role): store.read(path) for role, path in enumerate(step.needs)}
    store.write(
        step.target,
        kind=kind,
        recipe={**step.recipe, "data_sha256": "12" * 32},
        inputs=inputs,
        arrays=arrays,
        table=table,
        provenance={"runs": [run]},
        defaults={},
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "results"
    rng = np.random.default_rng(0)
    for step in plan.steps(figure2(PROTOCOL), folder):
        simulate(step, rng)
    return folder


@pytest.fixture(scope="module")
def archive(results) -> Path:
    (results / "figure2.csv").write_text("of another day", encoding="utf-8")
    said = repro("archive", *STUDY, "--results", results).stdout
    assert said.startswith(f"{results / 'figure2.zip'}: ") and (results / "figure2.csv").read_text() == "of another day"
    return results / "figure2.zip"


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        file.extractall(folder)
    return folder


def rewritten(archive: Path, out: Path, changed: dict[str, bytes | None] | None = None, *more) -> Path:
    """The same zip with other contents (None: without the entry), and with more (name, bytes) at the end."""
    changed = changed or {}
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if (content := changed.get(name, old.read(name))) is not None:
                new.writestr(name, content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a name that is there twice
            for name, content in more:
                new.writestr(name, content)
    return out


def forged(archive: Path, out: Path, name: str, edit) -> Path:
    """One file edited by somebody who corrects every checksum too."""
    with zipfile.ZipFile(archive) as file:
        before = file.read(name)
    changed = edit(before)
    assert changed != before
    return forged_files(archive, out, {name: changed})


def forged_files(archive: Path, out: Path, files: dict[str, bytes]) -> Path:
    """Files exchanged, or added, by somebody who corrects every checksum too."""
    with zipfile.ZipFile(archive) as file:
        crate, held = json.loads(file.read(METADATA)), set(file.namelist())
        sums = dict(reversed(line.split("  ")) for line in file.read("SHA256SUMS").decode().splitlines())
    changed, graph = dict(files), {entity["@id"]: entity for entity in crate["@graph"]}
    if METADATA not in files:
        for name, content in files.items():
            digest = hashlib.sha256(content).hexdigest()
            about = {"@id": name, "@type": "File", "contentSize": str(len(content)), "sha256": digest}
            graph[name] = graph.get(name, {}) | about
        size = sum(67 + len(name) for name in {*sums, *files})  # 64 digits, 2 spaces, name and end of each line
        graph["SHA256SUMS"]["contentSize"] = str(size)
        changed[METADATA] = json.dumps({**crate, "@graph": [*graph.values()]}).encode()
    sums |= {path: hashlib.sha256(content).hexdigest() for path, content in changed.items()}
    changed["SHA256SUMS"] = "".join(f"{digest}  {path}\n" for path, digest in sums.items()).encode()
    return rewritten(archive, out, changed, *((name, changed[name]) for name in changed.keys() - held))


def test_it_holds_everything_and_sha256sum_agrees(archive, unpacked, results):
    found = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    artifacts = {f"results/digits/{path.name}" for path in (results / "digits").glob("*.h5")}
    assert len(artifacts) == 6 * 2 + 3 + 1  # imp and pretrain of each arm, three subsets, scores
    assert found == ENTRIES | artifacts | {"SHA256SUMS", "results/figure2.pdf"}
    for name in artifacts:
        assert (unpacked / name).read_bytes() == (results.parent / name).read_bytes()
    lines = [line.split("  ") for line in (unpacked / "SHA256SUMS").read_text(encoding="utf-8").splitlines()]
    assert {name: digest for digest, name in lines} == {
        name: hashlib.sha256((unpacked / name).read_bytes()).hexdigest() for name in found - {"SHA256SUMS"}
    }
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=unpacked, check=True)
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            assert entry.date_time == (2026, 1, 2, 4, 5, 6) and stat.S_IMODE(entry.external_attr >> 16) == 0o644
            assert entry.filename not in artifacts or entry.compress_type == zipfile.ZIP_STORED


def test_the_recipe_tells_how_it_was_made(unpacked, results):
    recipe = json.loads((unpacked / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["asked"] == {
        "name": "figure2",
        "scale": "demo",
        "datasets": [],
        "control": None,
        "seed": None,
        "replicates": 2,
        "levels": None,
    }
    assert [p["replicates"] for p in recipe["protocols"]] == [2] and recipe["data_sha256"] == {"digits": ["12" * 32]}
    record = recipe["artifacts"]["results/digits/imp-easy256-t10.h5"]
    artifact = store.read(results / "digits/imp-easy256-t10.h5")
    assert record["identity"] == artifact.identity and record["content_sha256"] == artifact.content_sha256
    assert record["recipe"]["lr"] == 1.0 and record["provenance"]["runs"][0]["git_revision"] == "ab" * 20
    source = store.read(results / "digits/pretrain-easy256-t10.h5")
    assert record["inputs"] == {"0": {"name": "pretrain-easy256-t10", "identity": source.identity}}


@pytest.mark.heavy
def test_the_same_artifacts_give_the_same_archive(archive, results, tmp_path):
    repro("archive", *STUDY, "--results", results, "--out", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


class Offline:
    """Instead of the validator's web: the RO-Crate context as the rocrate library ships it, and nothing else."""

    cache = None

    def get(self, url, **options):
        response = requests.Response()
        response.url, response.status_code = url, 504
        if url == "https://w3id.org/ro/crate/1.3/context":
            import rocrate

            response.status_code, response.headers["Content-Type"] = 200, "application/ld+json"
            response._content = (Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_bytes()
        return response

    head = get

    def close(self):
        pass


@pytest.fixture
def problems(monkeypatch, tmp_path):
    """A function: crate, severity -> {(severity, message)} of what the unmodified RO-Crate 1.3 profile finds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the validator's libraries warn of each other
        from rocrate_validator import models, services
        from rocrate_validator.utils.http import HttpRequester

    monkeypatch.setattr(HttpRequester, "__initialize_session__", lambda self, *_: setattr(self, "session", Offline()))

    def validate(crate: Path, severity: str) -> set[tuple[str, str]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = services.validate(
                models.ValidationSettings(
                    rocrate_uri=str(crate),
                    profile_identifier="ro-crate-1.3",
                    requirement_severity=severity,
                    offline=True,
                    cache_path=tmp_path / "cache",
                    disable_remote_crate_download=False,
                )
            )
        found = {(issue.severity.name, issue.message) for issue in result.get_issues(models.Severity.OPTIONAL)}
        assert result.passed() == (not found)
        return found

    yield validate
    HttpRequester.reset()


@pytest.mark.heavy
def test_the_validator_accepts_it(archive, problems):
    """What is left unsaid about people and institutions, the program does not know."""
    assert problems(archive, "RECOMMENDED") == {
        ("RECOMMENDED", "The Root Data Entity SHOULD have a `publisher` property (Organization or Person)"),
        ("RECOMMENDED", "The organization SHOULD have a URL."),
        (
            "RECOMMENDED",
            "An Organization entity SHOULD have a ROR identifier as its @id (e.g., https://ror.org/03f0f6041)",
        ),
        ("RECOMMENDED", "An Organization's contactPoint SHOULD reference a ContactPoint contextual entity"),
        ("RECOMMENDED", "At least one author or publisher Person/Organization SHOULD have a contactPoint property"),
    }


@pytest.mark.heavy
def test_the_validator_rejects_one_without_licence_and_without_a_file(archive, problems, tmp_path):
    """Less the artifacts: the validator takes its time for each file."""
    crate = json.loads(zipfile.ZipFile(archive).read(METADATA))
    crate["@graph"] = [entity for entity in crate["@graph"] if not entity["@id"].endswith(".h5")]
    graph = {entity["@id"]: entity for entity in crate["@graph"]}
    for entity, field in (("./", "hasPart"), ("#run", "result")):
        graph[entity][field] = [part for part in graph[entity][field] if part["@id"] in graph]
    del graph["./"]["license"]
    changed = {"ro-crate-metadata.json": json.dumps(crate).encode(), "results/figure2.csv": None}
    found = problems(rewritten(archive, tmp_path / "bad.zip", changed), "REQUIRED")
    assert {severity for severity, _ in found} == {"REQUIRED"}
    assert any("license" in message for _, message in found), found
    assert any("figure2.csv" in message for _, message in found), found


def test_the_crate_says_what_is_what(unpacked, results):
    graph = {e["@id"]: e for e in json.loads((unpacked / "ro-crate-metadata.json").read_text())["@graph"]}
    root, run = graph["./"], graph["#run"]
    assert root["license"] == {"@id": "https://spdx.org/licenses/MIT"} and root["datePublished"] == "2026-01-02"
    assert root["name"] == "Lottery Tickets on a Data Diet, reproduced: Figure 2 at demo scale, on digits"
    assert graph[root["citation"]["@id"]]["@type"] == "ScholarlyArticle"
    files = {e["@id"] for e in graph.values() if e["@type"] == "File"}
    assert (
        {part["@id"] for part in root["hasPart"]}
        == files
        == {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
        - {"ro-crate-metadata.json", "ro-crate-preview.html"}
    )
    for name in files:
        assert graph[name]["contentSize"] == str((unpacked / name).stat().st_size)
    assert graph[run["instrument"]["@id"]]["@type"] == "SoftwareApplication"
    assert "12" * 32 in graph[run["object"]["@id"]]["description"] and {"@id": "results/figure2.pdf"} in run["result"]
    assert (run["startTime"], run["endTime"]) == ("2026-01-02T03:04:05+00:00", "2026-01-02T04:05:06+00:00")
    assert "Figure 2 at demo scale" in (unpacked / "ro-crate-preview.html").read_text(encoding="utf-8")


@pytest.mark.heavy
def test_it_is_verified_where_there_is_nothing_else(archive, results, tmp_path, monkeypatch):
    alone = shutil.copy(archive, tmp_path / "alone.zip")
    monkeypatch.chdir(tmp_path)
    told = repro("verify", "--archive", alone).stdout
    assert told.startswith(f"{alone}: 27 files, 16 artifacts, every checksum matches\n")
    for name in ("figure2.csv", "figure2-verdicts.md", "figure2-verdicts.json"):
        assert f"{name}: identical to the byte\n" in told
    assert (
        "made by lottery-data-diet 0.0.9, revision abababababab, no image, on cpu abacus, 2026-01-02T03:04:05" in told
    )
    assert told.count("made by ") == 1 and sorted(os.listdir(tmp_path)) == ["alone.zip"]
    table = repro("verify", *STUDY, "--results", results).stdout.partition("\n\nevery number")[0]
    assert table in told and "Easy beats random" in table
    assert (results / "figure2-verdicts.json").read_bytes() == zipfile.ZipFile(archive).read(
        "results/figure2-verdicts.json"
    )


def other_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_an_altered_byte_is_found_and_its_file_named(name, archive, tmp_path):
    altered = rewritten(archive, tmp_path / "a.zip", {name: other_byte(zipfile.ZipFile(archive).read(name))})
    said = complaint("verify", "--archive", altered, code=1)
    assert said == f"{altered} was altered: {name} has another sha256 than SHA256SUMS says"


def test_an_altered_byte_of_the_zip_itself_is_found(archive, tmp_path):
    with zipfile.ZipFile(archive) as file:
        entry = next(e for e in file.infolist() if e.filename.endswith("imp-all-t0.h5"))
    content = bytearray(archive.read_bytes())
    content[entry.header_offset + 2000] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    said = complaint("verify", "--archive", tmp_path / "a.zip", code=1)
    assert said == f"{tmp_path / 'a.zip'} was altered: results/digits/imp-all-t0.h5 is damaged"


def test_a_list_of_checksums_that_was_altered(archive, tmp_path):
    sums = zipfile.ZipFile(archive).read("SHA256SUMS")
    digit = b"1" if sums[:1] == b"0" else b"0"
    said = complaint(
        "verify", "--archive", rewritten(archive, tmp_path / "a.zip", {"SHA256SUMS": digit + sums[1:]}), code=1
    )
    assert f"{sums[66:].partition(LINE_END)[0].decode()} has another sha256" in said
    broken = rewritten(archive, tmp_path / "b.zip", {"SHA256SUMS": b"nothing"})
    assert "SHA256SUMS is no list of checksums" in complaint("verify", "--archive", broken, code=1)


def test_what_is_missing_or_too_much(archive, tmp_path):
    less = rewritten(archive, tmp_path / "less.zip", {"results/digits/imp-all-t0.h5": None})
    assert "incomplete: results/digits/imp-all-t0.h5 is in SHA256SUMS and not" in complaint(
        "verify", "--archive", less, code=1
    )
    more = rewritten(archive, tmp_path / "more.zip", None, ("results/extra.txt", b"x"))
    assert "does not vouch for: results/extra.txt" in complaint("verify", "--archive", more, code=1)
    undescribed = forged(archive, tmp_path / "undescribed.zip", METADATA, lambda c: c.replace(b"LICENSE", b"License"))
    assert "LICENSE is not in ro-crate-metadata.json" in complaint("verify", "--archive", undescribed, code=1)


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "results/../../out.txt", "a\\..\\b", "C:/x", "a//b"])
def test_nothing_is_unpacked_elsewhere(name, archive, tmp_path):
    evil = rewritten(archive, tmp_path / "evil.zip", None, (name, b"x"))
    said = complaint("verify", "--archive", evil)
    assert said == f"{evil} is no archive of this program: {name!r} would be unpacked elsewhere"
    assert os.listdir(tmp_path) == ["evil.zip"]


def test_files_that_are_no_archives(archive, results, tmp_path):
    short = tmp_path / "short.zip"
    short.write_bytes(archive.read_bytes()[:-4000])
    text = tmp_path / "text.zip"
    text.write_text("no zip", encoding="utf-8")
    for path in (short, text, results / "digits/imp-all-t0.h5", tmp_path):
        assert complaint("verify", "--archive", path) == (
            f"{path} is no zip file or is truncated: give a file that repro archive wrote"
        )
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("a.txt", "x")
    assert "it has no recipe.json" in complaint("verify", "--archive", tmp_path / "other.zip")
    twice = rewritten(archive, tmp_path / "twice.zip", None, ("LICENSE", b"x"))
    assert complaint("verify", "--archive", twice).endswith("it holds LICENSE twice")
    assert "does not exist" in complaint("verify", "--archive", tmp_path / "none.zip")


def test_a_bomb_is_not_unpacked(archive, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "and 1,000 are free: set TMPDIR" in complaint("verify", "--archive", archive, code=1)


def test_what_unpacks_to_a_thousand_times_its_size(archive, tmp_path):
    """One entry grown, and one that nobody vouches for: the checksums are compared before anything is unpacked."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(20_000_000) if name == "LICENSE" else old.read(name))
    said = complaint("verify", "--archive", tmp_path / "bomb.zip", code=1)
    assert re.search(r"bomb.zip was altered: LICENSE would be unpacked from [\d,]+ to 20,000,000 bytes$", said)


def test_nothing_is_unpacked_before_the_names_are_known(archive, tmp_path, monkeypatch):
    unpacked = []
    extract = zipped._extract
    monkeypatch.setattr(zipped, "_extract", lambda *given: unpacked.append(given[2].filename) or extract(*given))
    more = rewritten(archive, tmp_path / "more.zip", None, ("results/extra.txt", b"x"))
    assert "does not vouch for: results/extra.txt" in complaint("verify", "--archive", more, code=1)
    assert unpacked == ["SHA256SUMS"]


def test_many_names_are_counted_once():
    names = ["recipe.json", "SHA256SUMS", METADATA, *(f"results/{k}.h5" for k in range(200_000))]
    zipped._require_ours(Path("a.zip"), names)
    with pytest.raises(UsageError, match="holds results/7.h5 twice"):
        zipped._require_ours(Path("a.zip"), [*names, "results/7.h5"])


def edited_verdict(content: bytes) -> bytes:
    return content.replace(b'"verdict": "inconclusive"', b'"verdict": "reproduced"', 1)


def edited_mean(content: bytes) -> bytes:
    lines = content.decode().splitlines()
    cells = lines[5].split(",")
    column = lines[0].split(",").index("mean_acc")
    cells[column] = f"{float(cells[column]) + 0.001:.6g}"
    return "\n".join([*lines[:5], ",".join(cells), *lines[6:], ""]).encode()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        ("results/figure2-verdicts.json", edited_verdict, "verdict of figure2-verdicts.json is 'reproduced' there and"),
        ("results/figure2.csv", edited_mean, "[5][7] of figure2.csv is"),
        (
            "results/figure2-verdicts.md",
            lambda c: c.replace(b"inconclusive", b"reproduced", 1),
            "figure2-verdicts.md is",
        ),
        ("recipe.json", lambda c: c.replace(b"abab", b"cdcd", 1), "is not the artifact that recipe.json tells of"),
        (
            "recipe.json",
            lambda c: c.replace(b'"lr": 1.0', b'"lr": 0.3', 1),
            "is of another protocol: digits training lr is 0.3 there",
        ),
        (
            "recipe.json",
            lambda c: c.replace(b'"replicates": 2', b'"replicates": 3', 1),
            "digits replicates is 2 there and 3 in",
        ),
        ("recipe.json", lambda c: c.replace(b'"datasets"', b'"panels"', 1), "asks what this program"),
    ],
)
def test_a_forger_who_corrects_the_checksums_is_caught(name, edit, said, archive, tmp_path):
    assert said in complaint("verify", "--archive", forged(archive, tmp_path / "f.zip", name, edit), code=1)


@pytest.mark.heavy
def test_last_digits_may_differ(archive, tmp_path):
    def other_digits(content: bytes, factor: float) -> bytes:
        report = json.loads(content)
        verdict = next(v for v in report["verdicts"] if v["effect"] and v["n"])
        verdict["effect"] *= factor
        return (json.dumps(report, indent=2) + "\n").encode()

    name = "results/figure2-verdicts.json"
    near = forged(archive, tmp_path / "near.zip", name, lambda c: other_digits(c, 1 + 1e-12))
    assert "figure2-verdicts.json: equal to 1e-09\n" in repro("verify", "--archive", near).stdout
    far = forged(archive, tmp_path / "far.zip", name, lambda c: other_digits(c, 1 + 1e-7))
    assert "effect of figure2-verdicts.json is" in complaint("verify", "--archive", far, code=1)


@pytest.mark.parametrize("lost", ["imp-hard256-t10", "pretrain-hard256-t10", "scores"])
def test_missing_runs_are_not_archived(lost, results, tmp_path):
    copy = shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns("*.zip"))
    (copy / "digits" / f"{lost}.h5").unlink()
    said = complaint("archive", *STUDY, "--results", copy, code=3)
    assert "artifacts are missing" in said and "make them with `make figure2 SCALE=demo " in said
    assert said.endswith(f" RESULTS={copy}`")
    assert not (copy / "figure2.zip").exists()


def test_artifacts_of_other_inputs_are_not_archived(results, tmp_path):
    """An ancestor that is not the one its descendants were made from."""
    copy = shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns("*.zip"))
    step = next(s for s in plan.steps(figure2(PROTOCOL), copy) if s.target.stem == "pretrain-all-t0")
    other = step.target.with_suffix(".tmp")
    store.write(
        other.with_name("pretrain-all-t0.h5"),
        kind="pretrain",
        recipe={**step.recipe, "data_sha256": "34" * 32},
        inputs={},
        arrays={},
        table={"piece": sorted(step.wanted)},
        provenance={},
        defaults={},
    )
    assert "imp-all-t0.h5: make them" in complaint("archive", *STUDY, "--results", copy, code=3)


@pytest.mark.parametrize(
    ("failure", "code"), [(OSError(ENOSPC, "No space left on device"), 1), (KeyboardInterrupt(), 130)]
)
def test_a_failed_write_leaves_the_older_archive(failure, code, archive, results, tmp_path, monkeypatch):
    def full(*given):
        yield b"PK"
        raise failure

    out = Path(shutil.copy(archive, tmp_path / "old.zip"))
    monkeypatch.setattr(contents, "_drawn", lambda *_: {})
    monkeypatch.setattr(contents, "pack", full)
    said = complaint("archive", *STUDY, "--results", results, "--out", out, code=code)
    assert code == 130 or said.startswith(f"no space left on device while writing {out}")
    assert out.read_bytes() == archive.read_bytes() and os.listdir(tmp_path) == ["old.zip"]


def test_a_file_that_changes_meanwhile(results, tmp_path, monkeypatch):
    before = contents.sha256
    monkeypatch.setattr(contents, "_drawn", lambda *_: {})
    monkeypatch.setattr(contents, "sha256", lambda path: "0" * 64 if path.name == "scores.h5" else before(path))
    said = complaint("archive", *STUDY, "--results", results, "--out", tmp_path / "a.zip", code=1)
    assert "scores.h5 was changed while it was archived" in said and not os.listdir(tmp_path)


@pytest.mark.heavy
def test_a_control_is_archived_with_what_it_is_compared_with(results, tmp_path):
    copy = shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns("*.zip"))
    control, rng = ("--control", "permute-scores"), np.random.default_rng(1)
    for step in plan.steps(figure2(PROTOCOL, "permute-scores"), copy):
        if not step.target.exists():
            simulate(step, rng)
    repro("archive", *STUDY, *control, "--results", copy)
    out = copy / "figure2-permute-scores.zip"
    held = set(zipfile.ZipFile(out).namelist())
    assert {f"results/digits/imp-easy256-{kind}t10.h5" for kind in ("", "permuted-")} <= held
    assert "control permute-scores on digits" in repro("verify", "--archive", out).stdout


def test_bad_options(archive, tmp_path):
    said = complaint("archive", *STUDY, "--results", archive.parent, "--out", tmp_path / "imp.h5")
    assert said.startswith(f"--out {tmp_path / 'imp.h5'} does not end in .zip")
    for extra in (["figure2"], ["--scale", "demo"], ["--reference"]):
        said = complaint("verify", *extra, "--archive", archive)
        assert said.startswith("--archive says itself which figure") and "out" in said
