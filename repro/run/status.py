"""What is done, running, waiting and failed of a plan, and how long the rest will take. It only reads.

Artifacts say what is done, locks who is at work, work folders where that command is, and logs how the last attempt
ended. Files may change while they are read: one that vanishes counts as absent.
"""

import fcntl
import json
from dataclasses import dataclass, replace
from pathlib import Path

from repro import store
from repro.errors import UsageError
from repro.plan.jobs import Job, as_jobs, schedule
from repro.plan.steps import Look, Step, unfinished
from repro.recipes.artifacts import number
from repro.run import job_log
from repro.store import hdf5
from repro.store.work import Running, folder_of, older_folder_of

RECENT = 5  # finished artifacts of a command, the newest, that give its speed


@dataclass(frozen=True)
class State:
    """One artifact of the plan.

    Arguments:
        word: 'done', 'running', 'waiting' or 'failed'.
        made: how far it is: 'level 4 of 10', '12 of 48'.
        note: running: the process and where it is; waiting: for what; failed: why, and its log.
        running: where the command at work is, if it has said so.
        seconds: of work left; None where no speed is known.
    """

    step: Step
    word: str
    made: str
    note: str = ""
    running: Running | None = None
    seconds: float | None = 0.0


@dataclass(frozen=True)
class Status:
    """All artifacts in the order of the plan, and the time that is left.

    Arguments:
        at_once: jobs that are running, at least one.
        clock: seconds until all are done, with as many at once; None where no speed is known.
    """

    states: tuple[State, ...]
    at_once: int
    clock: float | None

    @property
    def counts(self) -> str:
        """'12 done, 2 running, 1 failed, 20 waiting; about 14 min left with 2 at once'."""
        words = [state.word for state in self.states]
        said = ", ".join(
            f"{words.count(word)} {word}" for word in ("done", "running", "failed", "waiting") if word in words
        )
        if all(word == "done" for word in words):
            return said
        left = "time left not known yet" if self.clock is None else f"about {spoken(self.clock)} left"
        return f"{said}; {left} with {self.at_once} at once"

    def lines(self, failed: bool = False) -> list[tuple[str, str]]:
        """(word, line) of each artifact, or of those that failed."""
        chosen = [state for state in self.states if state.word == "failed" or not failed]
        several = len({state.step.target.parent for state in self.states}) > 1
        names = [f"{s.step.target.parent.name}/{s.step.target.stem}" if several else s.step.target.stem for s in chosen]
        wide, made = max(map(len, names), default=0), max((len(state.made) for state in chosen), default=0)
        found = []
        for name, state in zip(names, chosen, strict=True):
            left = "" if state.word == "done" else "?" if state.seconds is None else spoken(state.seconds)
            line = f"{state.word:<7}  {name:<{wide}}  {state.made:<{made}}  {left:>6}  {state.note}"
            found.append((state.word, line.rstrip()))
        return found


def spoken(seconds: float) -> str:
    """'50 s', '4 min', '3.5 h' or '12 days'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.0f} days"


def status(steps: list[Step]) -> Status:
    """How far the steps of a plan are."""
    with store.Index() as look:
        return _status(steps, look)


def _status(steps: list[Step], look: Look) -> Status:
    todo = unfinished(steps, look)
    jobs = as_jobs(todo)
    states = {}
    for job in jobs:
        states |= _of_job(job, look)
    for target, state in states.items():
        if state.word == "waiting":
            waits = next((path for path in state.step.needs if path in states), None)
            note = f"for {waits.stem}" if waits else "for its turn"
            states[target] = replace(
                state, note=f"{note}, which failed" if waits and states[waits].word == "failed" else note
            )
    speed = _Speed([step for step in steps if step.target not in states], list(states.values()), look)
    for target, state in states.items():
        states[target] = replace(state, seconds=speed.left(state))
    running = [job for job in jobs if any(states[step.target].word == "running" for step in job.steps)]
    at_once = max(1, len(running))
    known = [state.seconds for state in states.values() if state.seconds is not None]
    clock = _clock([*running, *(job for job in jobs if job not in running)], states, at_once)
    done = {step.target: State(step, "done", _made(step, step.wanted)) for step in steps if step.target not in states}
    return Status(
        tuple((done | states)[step.target] for step in steps), at_once, clock if len(known) == len(states) else None
    )


def _of_job(job: Job, look: Look) -> dict[Path, State]:
    """The states of a job's steps. The last attempt in its log is at, or ended at, the first unfinished step."""
    attempt, found = job_log.last_attempt(job.log), {}
    owners = {step.target: _owner(step.target) for step in job.steps}
    held = [step for step in job.steps if owners[step.target]]
    first = held[0] if held else job.steps[0]
    for step in job.steps:
        kept = step.wanted - step.missing(look)
        there = kept | _working(step)
        made, word, note, running = _made(step, there), "waiting", "", None
        begun = step is first and attempt and attempt.state == "running"
        if owner := attempt.owner if begun else owners[step.target]:
            word, running = "running", Running.read(step.target, owner)
            note = f"{owner}: {running or 'starting'}" if running or begun else owner
        elif step is first and attempt and attempt.state in ("failed", "stopped"):
            word, note = "failed", f"{attempt.sentence or 'no reason given'} ({job.log})"
            if attempt.state == "stopped":
                note = f"stopped, takes up from {made}: {note}"
        elif damage := _damage(step, look):
            word, note = "failed", damage
        # a step costs what its pieces that are not kept cost
        rest = len(step.wanted - there) / max(1, len(step.wanted - kept))
        cost = {name: round(getattr(step, name) * min(1.0, rest)) for name in ("images", "evaluated")}
        found[step.target] = State(replace(step, **cost), word, made, note, running)
    return found


def _owner(target: Path) -> str:
    """'process 123 on HOST' where a process holds the writer's lock, else ''. Our shared lock ends at once."""
    try:
        with open(target.with_name(f"{target.name}.lock"), encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError:
        pass
    return ""


def _damage(step: Step, look: Look) -> str:
    """Why the artifact that is there cannot be read, which stops its job; '' where it can, or there is none."""
    try:
        if step.target.exists():
            look(step.target)
    except (OSError, UsageError) as error:
        return str(error)
    return ""


def _working(step: Step) -> frozenset[str]:
    """The wanted pieces in the work folder."""
    found: set[str] = set()
    folder = folder_of(step.target)
    folder = folder if folder.exists() else older_folder_of(step.target)
    try:
        if step.differing(json.loads((folder / "lineage.json").read_text(encoding="utf-8"))["recipe"]):
            return frozenset()
        for path in folder.glob("pieces-*.h5"):
            with hdf5.open_sealed(path, verify=False) as file:
                found |= {row["piece"] for row in json.loads(json.loads(file.attrs["attrs"])["rows"])}
    except (AttributeError, OSError, KeyError, RuntimeError, TypeError, ValueError):  # vanished, or being replaced
        pass
    return step.wanted & found


def _made(step: Step, there: frozenset[str]) -> str:
    """How far a step is: its next level where it has levels, else the number of its pieces."""
    levels = sorted({level for piece in step.wanted if (level := number("level", piece)) is not None})
    if not levels:
        return f"{len(there)} of {len(step.wanted)}"
    missing = [number("level", piece) for piece in step.wanted - there]
    return f"level {min(missing, default=levels[-1])} of {levels[-1]}"


class _Speed:
    """Work a second of each command, from finished artifacts, or else from running commands.

    The unit is an image trained on, or three images measured. Where the plan has several networks, it is their FLOPs.
    """

    def __init__(self, done: list[Step], states: list[State], look: Look):
        todo = [state.step for state in states]
        networks = {(step.network, step.protocol.dataset) for step in [*done, *todo] if step.images}
        self.unit = _flops if len(networks) > 1 else lambda step: 1
        self.rates: dict[str, float] = {}
        measured: dict[str, list[tuple[str, float, float]]] = {}
        if any(step.images for step in todo):  # else nothing is left to predict
            for step in done:
                if step.images and (run := _measured(step, look)):
                    measured.setdefault(step.verb, []).append((run[0], run[1] * self._work(step), run[2]))
        recent = {verb: sorted(runs)[-RECENT:] for verb, runs in measured.items()}
        for verb, runs in recent.items():
            self.rates[verb] = sum(run[1] for run in runs) / sum(run[2] for run in runs)
        every = [run for runs in recent.values() for run in runs]
        self.any = sum(run[1] for run in every) / sum(run[2] for run in every) if every else None
        if not every:
            told = [(state.running.images, state.step) for state in states if state.running]
            rates = [images * self.unit(step) for images, step in told if images]
            self.any = sum(rates) / len(rates) if rates else None

    def _work(self, step: Step) -> float:
        return (step.images + step.evaluated / 3) * self.unit(step)

    def left(self, state: State) -> float | None:
        """Seconds left: what a running command says, else by the rate of its kind; None where none is known."""
        if state.running and state.running.left is not None:
            return state.running.left
        rate, work = self.rates.get(state.step.verb, self.any), self._work(state.step)
        return 0.0 if not work else None if not rate else work / rate


def _flops(step: Step) -> float:
    from repro.plan.measure import flops_per_image  # imports PyTorch, which a plan of one network does not need

    return flops_per_image(step.network, step.protocol)


def _measured(step: Step, look: Look) -> tuple[str, float, float] | None:
    """(when it ended, pieces made as a share of those wanted, seconds) of the runs of a finished artifact.

    A run that took up a stopped one counts that one's pieces but not its seconds. The seconds of training that are kept
    with each piece are then more, and are taken instead.
    """
    try:
        found = look(step.target)
        runs, table = found.provenance["runs"], found.table
        seconds = sum(float(run["wall_seconds"]) for run in runs)
        if "seconds" in table:
            seconds = max(seconds, float(sum(table["seconds"][1])))
        share = sum(int(run["pieces"]) for run in runs) / len(step.wanted)
        return (runs[-1]["finished"], share, seconds) if seconds > 0 else None
    except (OSError, KeyError, IndexError, TypeError, ValueError, UsageError):
        return None


def _clock(jobs: list[Job], states: dict[Path, State], places: int) -> float:
    """Seconds until the jobs are done, the running ones first."""
    from repro.plan.measure import START

    def seconds(job: Job) -> float:
        mine = [states[step.target] for step in job.steps]
        begun = any(state.word == "running" for state in mine)
        return sum(state.seconds or 0.0 for state in mine) + START * (not begun)

    return schedule(jobs, [seconds(job) for job in jobs], places).clock
