"""What the artifacts cost, what made them and which are missing, from their own records."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from repro import plan, store
from repro.errors import UsageError
from repro.plan.steps import Step
from repro.report.tables import Cell, Table, number, table
from repro.study.study import Study

KINDS = {
    "score": "scoring",
    "select": "subsets",
    "pretrain": "pre-training",
    "imp": "pruning",
    "branch": "other masks",
    "barrier": "barriers",
    "warmup": "warm-up",
    "gradients": "gradients",
}


@dataclass(frozen=True)
class Made:
    """An artifact of the plan that exists. share: the part of what the plan wants in it that is there, 0 to 1."""

    step: Step
    artifact: store.Glance
    share: float

    @property
    def runs(self) -> list[dict]:
        """Every run of a command that wrote it, oldest first."""
        return self.artifact.provenance.get("runs", [])

    @property
    def wall(self) -> float:
        """Seconds."""
        return sum(run.get("wall_seconds", 0.0) for run in self.runs)

    @property
    def cpu(self) -> float:
        """Seconds of threads."""
        return sum(run.get("wall_seconds", 0.0) * run.get("threads", 1) for run in self.runs)

    def cost(self) -> tuple[int, int, float, float]:
        """Trainings, images passed through forward and backward, wall seconds, seconds of threads."""
        return round(self.share * self.step.networks), round(self.share * self.step.images), self.wall, self.cpu


def made(study: Study) -> tuple[list[Made], list[str]]:
    """The artifacts of the plan that can be read, and for each that cannot, what is wrong with it."""
    found, broken = [], []
    with store.Index() as look:
        for step in plan.steps(study.items(), study.results):
            if not step.target.exists():
                continue
            try:
                artifact = look(step.target)
            except UsageError as error:
                broken.append(str(error))
                continue
            pieces = step.wanted & artifact.pieces
            found.append(Made(step, artifact, len(pieces) / max(1, len(step.wanted))))
    return found, broken


def cost(study: Study, there: list[Made]) -> list[Table]:
    """A table by kind of work and one by figure. Each figure counts the artifacts that it shares; the total, once."""
    by_kind: dict[str, list[Made]] = {}
    for m in there:
        by_kind.setdefault(KINDS.get(m.step.verb, m.step.verb), []).append(m)
    heads = ("artifacts", "trainings", "images", "wall, h", "CPU, h", "images/s")
    kinds = [(kind, *_sums(group)) for kind, group in by_kind.items()]
    seen, figures = set(), []
    for figure in study.drawn:
        targets = {step.target for step in plan.steps(study.items(figure), study.results)}
        group = [m for m in there if m.step.target in targets]
        new = [m for m in group if m.step.target not in seen]
        seen |= targets
        figures.append((figure, *_sums(group), number(sum(m.wall for m in new) / 3600, ".3f")))
    total = [("all", *_sums(there))]
    return [
        table("Cost by kind of work", ("kind", *heads), kinds + total),
        table("Cost by figure", ("figure", *heads, "added to the rows above, h"), figures),
    ]


def _sums(group: Iterable[Made]) -> tuple[Cell, ...]:
    costs = [m.cost() for m in group]
    networks, images, wall, cpu = (sum(column) for column in zip(*costs)) if costs else (0, 0, 0.0, 0.0)
    speed = images / wall if wall and images else None
    hours = (number(seconds / 3600, ".3f") for seconds in (wall, cpu))
    return number(len(costs), "d"), number(networks, ",d"), number(images, ",d"), *hours, number(speed, ",.0f")


def machines(there: list[Made]) -> dict[str, dict]:
    """{'E1': record of its first run}: each machine with its software once, in order of first use."""
    found: dict[tuple, dict] = {}
    for run in sorted((run for m in there for run in m.runs), key=lambda run: run.get("started", "")):
        found.setdefault(_machine(run), run)
    return {f"E{i}": run for i, run in enumerate(found.values(), 1)}


def _machine(run: dict) -> tuple:
    names = ("cpu", "gpu", "driver", "platform", "threads", "python", "device")
    return (*(str(run.get(name)) for name in names), *sorted(map(str, (run.get("packages") or {}).items())))


def provenance(study: Study, there: list[Made]) -> list[Table]:
    """A table of artifacts, one of machines with their software, and one of the data's checksums."""
    known = machines(there)
    names = {_machine(run): name for name, run in known.items()}
    heads = ["artifact", "kind", "identity", "content sha256", "revision", "lock sha256", "image digest", "device"]
    heads += ["machine", "made", "wall, s", "command"]
    rows = []
    for m in there:
        run = m.runs[-1] if m.runs else {}
        revision = (run.get("git_revision") or "unknown") + (" (changed since)" if run.get("git_dirty") else "")
        used = ", ".join(dict.fromkeys(names[_machine(each)] for each in m.runs))
        device = ", ".join(filter(None, (run.get("device"), run.get("gpu"), run.get("engine"))))
        when = run.get("finished", "").replace("T", " ").replace("+00:00", " UTC")
        sums = (m.artifact.identity, m.artifact.content_sha256, revision, run.get("requirements_sha256") or "unknown")
        sums = [_hash(text) for text in (*sums, run.get("image_digest") or "none")]
        place = m.step.target.relative_to(study.results).as_posix()
        command = Cell(shlex.join(m.step.command), kind="command")
        rows.append((place, m.artifact.kind, *sums, device, used, when, number(m.wall, ",.1f"), command))
    sources = ("data set", "sha256 of the images", "sha256 of randomised labels")
    software = ("machine", "processor", "GPU", "system", "threads", "versions")
    return [
        table("Artifacts: what each is, its checksums, and what made it last", heads, rows),
        table("Machines and software", software, [_machine_row(name, run) for name, run in known.items()]),
        table("Checksums of the data", sources, _data(there)),
    ]


def _machine_row(name: str, run: dict) -> tuple:
    packages = [f"{package} {version}" for package, version in (run.get("packages") or {}).items() if version]
    versions = f"Python {run.get('python', '?')}, {', '.join(packages)}"
    gpu = " ".join(filter(None, (run.get("gpu"), run.get("driver")))) or "none"
    return name, run.get("cpu", ""), gpu, run.get("platform", ""), number(run.get("threads"), "d"), versions


def _data(there: list[Made]) -> list[tuple]:
    fields = ("dataset", "data_sha256", "labels_sha256")
    sums = {tuple(m.artifact.recipe.get(field, "") for field in fields) for m in there}
    return [(name, _hash(images), _hash(labels)) for name, images, labels in sorted(sums) if images]


def _hash(text: str) -> Cell:
    return Cell(text, kind="hash" if len(text) > 20 else "")


def missing(study: Study) -> Table | None:
    """What the plan still lacks, and the command that makes it; None when it is complete."""
    rows = []
    for step in plan.unfinished(plan.steps(study.items(), study.results)):
        state = f"{len(step.missing())} of {len(step.wanted)} parts" if step.target.exists() else "all of it"
        command = Cell(f"repro {shlex.join(step.command)}", kind="command")
        rows.append((step.target.relative_to(study.results).as_posix(), state, number(step.networks, ",d"), command))
    return table("Missing artifacts", ("artifact", "missing", "trainings", "command"), rows) if rows else None
