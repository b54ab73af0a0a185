"""What a plan costs: trainings, images, FLOPs, bytes, and time, on this machine or on many devices.

A step takes time for its training images, dense or sparse, for the images it measures networks on, and to start its
process. The speed of one network of the plan is measured or assumed, and the others are taken to do as many FLOPs a
second. Jobs wait for each other as make lets them (`repro.plan.jobs.schedule`).
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.errors import UsageError
from repro.plan.jobs import as_jobs, longest_chain, schedule
from repro.plan.measure import SPARSE, Speed, assumed, calibrate, flops_per_image, numbers_of, total_flops
from repro.plan.steps import Step
from repro.protocol import Protocol
from repro.recipes.artifacts import array_bytes

SENSIBLE_HOURS = 12.0
WORTH_MEASURING = 2e13  # FLOPs; a plan of fewer takes minutes anywhere
CHECKPOINT_SECONDS = 60  # the default of --checkpoint-seconds
PROCESS = 580 * 2**20  # bytes of a process that has imported PyTorch and this program (docs/performance.md)
TOLD = 0.02  # a step of the longest chain is named if it takes this share of it


@dataclass(frozen=True)
class Prediction:
    """What a plan is predicted to cost.

    Arguments:
        network, speed: the network that was measured or assumed, and its speed.
        work: seconds of all processes together; clock: seconds until the end, with ``jobs`` processes at once.
        longest: seconds of the longest chain of jobs that wait for each other. More than work / longest processes at
            once cannot all be busy.
        chain: the steps that take most of that chain, as (name, seconds).
        stored: bytes of artifacts before compression.
        written, read: bytes of artifacts, work folders and checkpoints, all processes together.
    """

    network: str
    speed: Speed
    work: float
    clock: float
    jobs: int
    longest: float
    chain: tuple[tuple[str, float], ...]
    stored: int
    written: float
    read: float

    @property
    def efficiency(self) -> float:
        """Mean share of the time for which a process is busy."""
        return self.work / (self.jobs * self.clock)

    @property
    def rates(self) -> str:
        """What was measured or assumed, in words."""
        others = "other networks are taken to run at the same rate of FLOPs"
        if not self.speed.measured:
            return (
                f"at {self.speed.dense:,.0f} images/s of {self.network}, as --speed says (pruned networks as dense "
                f"ones, {self.speed.start:.0f} s to start a process), and {others}"
            )
        rates = f"trains {self.speed.dense:,.0f} images/s dense"
        if abs(self.speed.sparse / self.speed.dense - 1) > 0.1:
            rates += f", {self.speed.sparse:,.0f} with {SPARSE:.0%} of the weights"
        how = self.speed.how and f"{self.speed.how}: "
        return (
            f"on one {self.speed.device}: {self.network} was just measured ({how}{rates}, and measures "
            f"{self.speed.forward:,.0f} images/s; a process starts in {self.speed.start:.1f} s), and {others}"
        )

    def __str__(self) -> str:
        at_once = f"{self.jobs} processes at once, taken not to slow each other" if self.jobs > 1 else "one process"
        here = "here " if self.speed.measured else ""
        return f"about {_spoken(self.clock)} {here}with {at_once}, {self.rates}"


def _spoken(seconds: float) -> str:
    if seconds < 2 * 3600:
        return f"{max(1, round(seconds / 60))} minutes"
    return f"{seconds / 3600:,.{int(seconds < 36_000)}f} hours"


def predict(
    todo: list[Step],
    *,
    jobs: int,
    device: str = "auto",
    network: str | None = None,
    measure: Callable[[str, Protocol, str, int], Speed] | None = None,
) -> Prediction:
    """The time the steps would take, at the speed of one network.

    Arguments:
        network: the network whose speed it is; None is the one with most of the FLOPs.
        measure: (network, protocol, device, size of the cohorts) -> its speed; None is `calibrate`.

    Raises UsageError for a network that no step trains.
    """
    shares: dict[tuple[str, Protocol], int] = {}
    for step in todo:
        key = step.network, step.protocol
        if network in (None, step.network) and step.images:
            shares[key] = shares.get(key, 0) + total_flops([step])
    if not shares:
        names = ", ".join(dict.fromkeys(step.network for step in todo if step.images))
        raise UsageError(f"the plan trains no {network}: give the speed of one of {names}")
    network, protocol = max(shares, key=shares.get)
    alike = (step for step in todo if (step.network, step.protocol) == (network, protocol))
    together = together_in(max(alike, key=lambda step: step.images))
    speed = (measure or calibrate)(network, protocol, device, together)
    unit = flops_per_image(network, protocol)

    def takes(step: Step) -> float:
        return speed.seconds(step) * flops_per_image(step.network, step.protocol) / unit

    found = as_jobs(todo)
    seconds = [speed.start + sum(map(takes, job.steps)) for job in found]
    chain = longest_chain(found, seconds)
    longest = sum(seconds[k] for k in chain)
    told = [(step, takes(step)) for k in chain for step in found[k].steps]
    stored = {step.target: stored_bytes(step) for step in todo}
    moved = [moved_bytes(step, takes(step), stored) for step in todo]
    return Prediction(
        network,
        speed,
        sum(seconds),
        schedule(found, seconds, jobs).clock,
        jobs,
        longest,
        tuple((f"{step.target.parent.name}/{step.target.stem}", time) for step, time in told if time > TOLD * longest),
        sum(stored.values()),
        sum(written for written, _ in moved),
        sum(read for _, read in moved),
    )


def predict_each(todo: list[Step], places: Sequence[int], **options) -> list[Prediction]:
    """`predict` for several numbers of processes, with one measurement."""
    first = predict(todo, jobs=places[0], **options)
    again = options | {"network": first.network, "measure": lambda *_: first.speed}
    return [first, *(predict(todo, jobs=count, **again) for count in places[1:])]


def speed_of(text: str) -> tuple[str | None, Callable[..., Speed]]:
    """(network or None, function that gives its speed) of '250000' or 'cifar_resnet20=250000'. Raises UsageError."""
    network, _, rate = text.rpartition("=")
    try:
        value = float(rate)
        if not 0 < value < float("inf"):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"speed (={text!r}) must be images a second above 0, like 250000 or cifar_resnet20=250000"
        ) from None
    return network or None, lambda *_: assumed(value)


def report(name: str, steps: list[Step], todo: list[Step], *predictions: Prediction) -> str:
    """One line per missing step, the totals, and the predicted time: of one prediction as a sentence, of several (with
    other numbers of processes) as a table."""
    if not todo:
        return f"{name}: all {len(steps)} artifacts are complete, nothing to do"
    lines = [f"{name}: {len(steps) - len(todo)} of {len(steps)} artifacts are complete; to make:"]
    width = max(len(str(step.target)) for step in todo)
    lines += [f"  {each.target!s:{width}}  {each.networks:5,} trainings  {each.images:15,} images" for each in todo]
    networks, images, flops = sum(step.networks for step in todo), sum(step.images for step in todo), total_flops(todo)
    lines.append(f"in all {networks:,} trainings, {images:,} images, {flops:.2g} FLOPs")
    if predictions and max(each.clock for each in predictions) > 2 * 3600:
        hours = flops / 1e13 / 3600
        hours = f"{hours:,.0f}" if hours > 10 else f"{hours:.2g}"
        lines.append(f"{hours} GPU-hours at 10 TFLOP/s sustained (arithmetic, not measured)")
    lines += [str(predictions[0])] if len(predictions) == 1 else _table(predictions)
    return "\n".join(lines)


def _table(predictions: Sequence[Prediction]) -> list[str]:
    if not predictions:
        return []
    first = predictions[0]
    lines = ["", "devices  hours on the clock  device-hours  efficiency   written a device"]
    for each in predictions:
        traffic = each.written / each.work * each.efficiency / 1e6
        lines.append(
            f"{each.jobs:7,}  {each.clock / 3600:18,.2f}  {each.work / 3600:12,.2f}  {each.efficiency:10.0%}"
            f"  {traffic:12.2g} MB/s"
        )
    chain = ", ".join(f"{name} {_spoken(time)}" for name, time in first.chain)
    lines += [
        f"one process on each, {first.rates}",
        f"the longest chain of jobs that wait for each other takes {_spoken(first.longest)}, whatever the number: more "
        f"than {first.work / first.longest:,.0f} devices have ever less to do; most of it: {chain}",
        f"artifacts: {spoken(first.stored)} before compression; written with work folders and checkpoints "
        f"{spoken(first.written)}, read again {spoken(first.read)}, and the images once by each process",
    ]
    return lines


def worth_measuring(todo: list[Step]) -> bool:
    """Whether the steps take so long that a prediction is worth 20 s."""
    return total_flops(todo) > WORTH_MEASURING


def require_sensible(prediction: Prediction | None, *, yes: bool) -> None:
    """Raises UsageError when the steps would take longer than `SENSIBLE_HOURS` and ``yes`` was not given."""
    if prediction and not yes and prediction.clock > SENSIBLE_HOURS * 3600:
        hours = f"{prediction.clock / 3600:,.0f} hours"
        raise UsageError(f"this would take about {hours} here: add YES=1 (or --yes) to do it all the same")


def stored_bytes(step: Step) -> int:
    """Bytes of the arrays of a complete artifact before compression; see `array_bytes`."""
    sizes = numbers_of(step.network, step.protocol)
    return array_bytes(step.verb, step.wanted, step.recipe, step.protocol, *sizes)


def moved_bytes(step: Step, seconds: float, stored: dict) -> tuple[float, float]:
    """Bytes (written, read) while a step that takes so many seconds is made, without the images.

    Every piece is written twice, to the work folder and into the artifact. A checkpoint has the weights and momentum of
    the cohort. The inputs are read once. stored: target -> bytes of its artifact, for all steps.
    """
    checkpoint = 8 * numbers_of(step.network, step.protocol)[1] * together_in(step)
    written = 2 * stored[step.target] + seconds / CHECKPOINT_SECONDS * checkpoint * bool(step.images)
    return written, sum(stored.get(path, 0) for path in step.needs)


def together_in(step: Step) -> int:
    """How many networks a step trains in a cohort, as `Trainer.chunks` divides them: those of a level, or all."""
    replicates = len({piece.split("/")[0] for piece in step.wanted})
    count = replicates if step.verb in ("imp", "branch", "pretrain", "gradients") else max(1, step.networks)
    return -(-count // -(-count // 16))


def spoken(count: float) -> str:
    """Bytes in MB, GB or TB."""
    if count >= 1e12:
        return f"{count / 1e12:,.3g} TB"
    return f"{count / 1e9:,.3g} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def disk_bytes(todo: Sequence[Step], processes: int) -> int:
    """The artifacts before compression, and for each process a second copy of one of the largest in its work folder."""
    sizes = sorted((stored_bytes(step) for step in todo), reverse=True)
    return sum(sizes) + sum(sizes[:processes])


def memory_bytes(todo: Sequence[Step], processes: int) -> int:
    """At least: in each process the program, the images, and weights and momentum of a cohort and of its copy."""
    each = []
    for step in todo:
        p = step.protocol
        pixels = p.all_images * p.image_size**2 * p.in_chans
        each.append(PROCESS + pixels + 16 * numbers_of(step.network, p)[1] * min(16, p.replicates))
    return sum(sorted(each, reverse=True)[:processes])


def require_room(todo: Sequence[Step], results: Path, processes: int, *, yes: bool) -> None:
    """Raises UsageError where the steps would fill the disk or the memory of this machine, unless ``yes``."""
    if yes or not todo:
        return
    there = next(folder for folder in (results, *results.absolute().parents) if folder.exists())
    needed, free = disk_bytes(todo, processes), shutil.disk_usage(there).free
    if needed > free:
        raise UsageError(
            f"the runs need up to {spoken(needed)} of disk in {results}, and {spoken(free)} are free there: free some "
            "space, name another folder with RESULTS= (or --results), or add YES=1 (or --yes) to try it all the same"
        )
    needed, free = memory_bytes(todo, processes), _available()
    if free is not None and needed > free:
        raise UsageError(
            f"{processes} processes at once need {spoken(needed)} of memory at least, and {spoken(free)} are "
            "available: run fewer with JOBS= (or --jobs), or add YES=1 (or --yes) to try it all the same"
        )


def _available() -> int | None:
    """Bytes of memory that are available without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
