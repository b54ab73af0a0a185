"""What is measured of the program as it is, a stage each: whether it works, how fast it is, and where the time goes."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import limits, variants
from benchmarks.gpu.run import Run
from benchmarks.variants import Variant, noise, training_cohort
from repro.data import load
from repro.protocol import DIGITS
from repro.stages import Machine
from repro.stages.trainer import Trainer
from repro.train.evaluate import predict
from repro.train.job import Job
from repro.train.scores import Forgetting

# The most valuable first: engine, networks together, precision. Time may be short.
RATES = [
    ("graph", 4, "bf16"),
    ("graph", 16, "bf16"),
    ("graph", 1, "bf16"),
    ("serial", 4, "bf16"),
    ("graph", 4, "fp32"),
    ("graph", 8, "bf16"),
    ("graph", 16, "fp32"),
    ("graph", 1, "fp32"),
    ("serial", 4, "fp32"),
    ("graph", 2, "bf16"),
    ("serial", 1, "bf16"),
]


def environment(run: Run) -> None:
    """Versions, and what the device can do."""
    packages = {}
    for name in ("torch", "triton", "numpy", "pytest"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "not installed"
    run.save(python=platform.python_version(), cpus=os.cpu_count(), packages=packages)
    if run.device == "cpu":
        run.save(limits="not measured: no GPU")
        return
    said = torch.cuda.get_device_properties(0)
    run.save(gpu=said.name, memory=said.total_memory, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    with run.attempt("nvidia-smi"):
        query = "--query-gpu=driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,memory.used"
        shown = subprocess.run(["nvidia-smi", query, "--format=csv"], capture_output=True, text=True, timeout=10)
        run.save(smi=shown.stdout.splitlines())
    run.save(limits=limits.gpu_limits())


def tests(run: Run) -> None:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "--tb=short", "tests/test_graphs.py"]
    done = subprocess.run([*command, "tests/test_augment.py"], capture_output=True, text=True, timeout=run.left)
    print(done.stdout[-6000:], done.stderr[-2000:], flush=True)
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    run.save(status=done.returncode, last=lines[-1] if lines else done.stderr[-200:], failed=failed)


def agreement(run: Run) -> None:
    """Losses of each engine beside those of `serial` in float64 on a CPU; waits for the device; repetition."""
    steps = 3 if run.tiny else 30
    _, exact = _digits(run, "serial", "fp64", "cpu", steps)
    for engine, precision in (("serial", "fp32"), ("graph", "fp32"), ("graph", "bf16")):
        with run.attempt(f"{engine} {precision}"):
            trained, losses = _digits(run, engine, precision, run.device, steps)
            apart = (losses - exact).abs() / exact
            used = "/".join(sorted({*trained.engines}))
            run.row("losses", engine=used, precision=precision, first=apart[0].max().item(), all=apart.max().item())
    with run.attempt("repetition"):
        vectors = [_digits(run, "graph", "fp32", run.device, steps)[0].vectors for _ in range(2)]
        run.save(repeats_to_the_bit=torch.equal(*vectors))
    if run.device == "cuda":
        with run.attempt("waits"), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            _digits(run, "graph", "bf16", run.device, 60)
            torch.cuda.set_sync_debug_mode("default")
            places = [f"{Path(each.filename).name}:{each.lineno}" for each in said]
            run.save(waits_in_60_steps={place: places.count(place) for place in dict.fromkeys(places)})


def _digits(run: Run, engine: str, precision: str, device: str, steps: int):
    """(trained networks, losses [steps, R] on the CPU) of two networks on digits: augmented, one pruned, a warm-up."""
    recipe = replace(DIGITS.training, precision=precision, augment=True, steps=steps, milestones=(), lr=0.05)
    trainer = Trainer(load("digits"), DIGITS.network, recipe, Machine(device=device, engine=engine))
    mask = torch.arange(trainer.layout.num_prunable) % 3 > 0
    kept, index = {}, np.arange(1437)
    jobs = [
        Job(trainer.initial(0, r), index, 0, steps, 0, r, mask=mask if r else None, warmup=min(5, steps))
        for r in (0, 1)
    ]

    def watch(step: int, rows: list[int], losses: torch.Tensor) -> None:
        kept.update(zip(range(step, step + len(losses)), losses.double().cpu()))

    trained = trainer.run(jobs, watch=watch)
    return trained, torch.stack([kept[step] for step in range(steps)])


def rates(run: Run, chosen: list[tuple] = RATES, *, search: bool = False) -> None:
    """Images a second by engine, networks together and precision: with the host's work, and of the replay alone."""
    for engine, replicas, precision in chosen[:4:3] if run.tiny else chosen:
        if run.left < 8 and not run.tiny:
            run.save(left_out=f"from {engine} R = {replicas} {precision} on: no time was left")
            return
        variant = run.variant(engine, replicas, precision)
        with run.attempt(variant.what):
            run.row("rates", **_rate(run, variant, search))


def _rate(run: Run, variant: Variant, search: bool) -> dict:
    began, training = time.perf_counter(), replace(variant.protocol.training, precision=variant.precision)
    if run.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    data = noise(variant.protocol, min(variants.IMAGES, variant.protocol.train_images))
    cohort, go = training_cohort(variant, data, training, run.device)
    torch.backends.cudnn.benchmark = search  # before the first convolution: a choice once made is kept
    at_once = cohort.steps_at_once
    steps = 2 if run.tiny else max(1, variants.MOST_STEPS // at_once) * at_once
    go(steps)
    run.finish()
    first, images = time.perf_counter() - began, variant.per_step * steps
    took = run.time(lambda: go(steps), 1.2)
    row = dict(engine=cohort.engine, replicas=variant.replicas, precision=variant.precision, search=search)
    row |= dict(images_s=images / took, us_a_step=1e6 * took / steps, steps_at_once=at_once, first_s=first)
    graphs = [static.graph for static in getattr(cohort, "statics", {}).values() if static.graph is not None]
    if graphs:
        replay = run.time(graphs[0].replay) / at_once
        row |= dict(replay_images_s=variant.per_step / replay, host_share=1 - replay * steps / took)
        row |= dict(peak_mib=torch.cuda.max_memory_allocated() >> 20)
    return row


def search(run: Run) -> None:
    """`rates` with the algorithms that cuDNN finds by trying: in a process of its own."""
    rates(run, [each for each in RATES if each[0] == "graph"], search=True)


def connections(run: Run) -> None:
    """`rates` with 32 hardware queues for the streams, instead of 8."""
    run.save(CUDA_DEVICE_MAX_CONNECTIONS=os.environ["CUDA_DEVICE_MAX_CONNECTIONS"])
    rates(run, [("graph", 4, "bf16"), ("graph", 16, "bf16")])


def measuring(run: Run) -> None:
    """Images a second where networks are measured, which is not recorded."""
    count = 16 if run.tiny else 10_000
    for replicas in (4, 16):
        p = run.variant("graph", replicas, "bf16")
        with run.attempt(p.what):
            trainer = _trainer(run, p)
            cohort = trainer.cohort(p.replicas, "graph")
            cohort.load(torch.stack([trainer.initial(0, r) for r in range(p.replicas)]))
            index, rows = [np.arange(count)] * p.replicas, torch.arange(count).expand(p.replicas, -1)
            works: dict[str, Callable] = {
                "predict": lambda: predict(cohort, trainer.batcher, index),
                "recalibrate": lambda: cohort.recalibrate(trainer.batcher, rows),
            }
            for what, work in works.items():
                run.row("measuring", what=what, replicas=p.replicas, images_s=p.replicas * count / run.time(work))


def _trainer(run: Run, variant: Variant, images: int = 10_000) -> Trainer:
    p = replace(variant.protocol, train_images=images)
    training = replace(p.training, precision=variant.precision)
    return Trainer(noise(p, images), p.network, training, Machine(device=run.device, engine=variant.engine))


def scoring(run: Run) -> None:
    """ResNet-18 with and without counting forgetting events, through the training loop."""
    for replicas, watched in ((4, False), (4, True), (10, True)):
        variant = run.variant("graph", replicas, "bf16")
        network = variant.protocol.network if run.tiny else "lowres_resnet18"
        variant = replace(variant, protocol=replace(variant.protocol, network=network))
        with run.attempt(f"{variant.what}, watched: {watched}"):
            trainer = _trainer(run, variant, images=256 if run.tiny else 10_000)
            steps, index = 2 if run.tiny else 50, np.arange(len(trainer.data.images))
            jobs = [Job(trainer.initial(0, r), index, 0, steps, 0, r) for r in range(variant.replicas)]

            def go(trainer=trainer, jobs=jobs, watched=watched) -> None:
                trainer.run(jobs, observe=Forgetting(trainer.labels, len(jobs)) if watched else None)

            rate = steps * variant.per_step / run.time(go)
            run.row("scoring", network=network, replicas=variant.replicas, forgetting=watched, images_s=rate)


def commands(run: Run) -> None:
    """Commands of the demo with everything that they write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = ["-t", "2", "--steps", "4", "--replicates", "1"] if run.tiny else ["-t", "20", "--replicates", "8"]
        levels = ["--levels", "1" if run.tiny else "3"]
        for verb, *words in (
            ["pretrain", "--dataset", "digits", *few, "--out", folder / "w.h5"],
            ["imp", folder / "w.h5", *levels, "--out", folder / "imp.h5"],
            ["barrier", folder / "imp.h5", "--out", folder / "barrier.h5"],
        ):
            command = [sys.executable, "-m", "repro", verb, *map(str, words), "--device", run.device]
            began = time.perf_counter()
            with run.attempt(verb):
                done = subprocess.run(command, capture_output=True, text=True, timeout=max(1, run.left))
                said = (done.stderr or done.stdout).strip().splitlines()[-3:]
                run.row("commands", command=verb, status=done.returncode, s=time.perf_counter() - began, said=said)
