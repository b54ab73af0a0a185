"""The first minutes on a GPU: stages on a CPU, prototypes by Triton's interpreter, and what results decide."""

import itertools
import json
import os
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from benchmarks import gpu
from benchmarks.gpu import kernels, stages
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.conclusions import conclusions, markdown
from benchmarks.gpu.kernels import covered, kind_of
from benchmarks.gpu.run import Impossible, Run
from repro.errors import UsageError
from tests.command_line import ROOT


def module(*words, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True, env=os.environ | options
    )


@pytest.mark.slow
def test_on_a_cpu_every_stage_has_a_result_or_a_reason(tmp_path):
    done = module("benchmarks.gpu", "--device", "cpu", "--tiny", "--seconds", 3600, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["stages"]
    assert list(found) == [stage.name for stage in gpu.STAGES]
    assert (tmp_path / "gpu.md").read_text(encoding="utf-8") == done.stdout
    for stage in gpu.STAGES:
        result = found[stage.name]
        assert "failures" not in result, result
        if stage.gpu:
            assert result["ended"] == "left out: it needs a GPU"
        elif result["ended"] != "done":
            assert result["ended"] == "not here" and result["reason"] == "Triton is not installed"
        else:
            assert len(result) > 2
    for row in found["agreement"]["losses"]:
        assert row["all"] < (1e-5 if row["precision"] == "fp32" else 1e-2)
    assert (
        found["agreement"]["repeats_to_the_bit"] and [row["status"] for row in found["commands"]["commands"]] == [0] * 3
    )
    losses = [row["first_loss"] for row in found["prototypes"].get("prototypes", [])]
    assert losses == pytest.approx(losses[:1] * len(losses), rel=0.02)  # the same step, however it is made


@pytest.mark.heavy
def test_the_prototypes_are_pytorch_in_float64():
    """By Triton's interpreter, which has to be chosen before Triton is imported: in a process of its own."""
    pytest.importorskip("triton")
    done = module("benchmarks.gpu.checks", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 15 and all(0 < apart <= limit for apart, limit in found.values()), found


def test_results_are_kept_when_a_stage_is_stopped(tmp_path, monkeypatch):
    sleeping = "import sys, time; open(sys.argv[1], 'w').write('{\"rows\": [1]}'); time.sleep(60)"
    inner = subprocess.Popen

    def slow(command, **options):
        return inner([sys.executable, "-c", sleeping, command[command.index("--results") + 1]], **options)

    monkeypatch.setattr(gpu.subprocess, "Popen", slow)
    monkeypatch.setattr(gpu, "STAGES", (gpu.Stage("rates", -1.5, 1), gpu.Stage("checks", 5, 2)))
    began = time.monotonic()
    found = gpu.measure(tmp_path, device="cuda", seconds=gpu.LEAST + 0.2)
    assert time.monotonic() - began < 20
    assert found["stages"]["rates"]["ended"].startswith("stopped after")
    assert found["stages"]["checks"]["ended"] == "left out: no time was left"
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")) == found


def test_stages_are_functions_and_halves_take_their_time():
    for stage in gpu.STAGES:
        assert callable(getattr(stages, stage.name, None) or getattr(kernels, stage.name))
    assert [stage.half for stage in gpu.STAGES] == sorted(stage.half for stage in gpu.STAGES)
    with pytest.raises(UsageError, match="no stage 'three': choose from environment, tests, .*, one, two"):
        gpu.measure(ROOT, device="cpu", names=("three",))


@pytest.mark.parametrize(
    "words, status, said",
    [
        (("three", "--device", "cpu"), 2, "no stage 'three': choose from environment, "),
        ((), 2, "--device cuda, but PyTorch sees no CUDA device here: try --device cpu --tiny"),
        (("--device", "cpu", "--seconds", 0), 2, "0.0 is not in the range x>0"),
        (("--device", "cpu", "--out", ROOT / "pyproject.toml/x"), 1, "cannot write "),
    ],
)
def test_mistakes(words, status, said):
    shown = CliRunner().invoke(main, [*map(str, words)])
    assert shown.exit_code == status and said in shown.stderr.splitlines()[-1]


def test_a_failure_is_a_result_and_a_stage_goes_on(tmp_path):
    run = Run("cpu", True, time.monotonic() + 60, tmp_path / "r.json")
    with run.attempt("this"):
        raise ValueError("two\nlines")
    with run.attempt("that"):
        run.row("rates", images_s=1.0)
    with pytest.raises(Impossible), run.attempt("nothing"):
        raise Impossible("no GPU")
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert found == {"failures": [{"what": "this", "error": "ValueError: two lines"}], "rates": [{"images_s": 1.0}]}


def results(slow=100.0, fast=133.4, step=121.0, ours=10.0):
    rates = [dict(engine="graph", precision="bf16", replicas=r, images_s=s) for r, s in ((4, slow), (16, fast))]
    steps = [dict(what=what, replicas=4, images_s=s) for what, s in (("as it is", 100.0), ("shadow weights", step))]
    layers = [dict(replicas=r, ours_us=ours * r, cudnn_us=15.0 * r) for r in (4, 4, 1)]
    checks = [dict(what="batch norm", right=True), dict(what="update", right=False)]
    names = {"rates": rates, "prototypes": steps, "convolutions": layers, "checks": checks}
    return {name: {name: rows} for name, rows in names.items()}


def test_what_results_decide():
    assert [line.partition(": ")[2] for line in conclusions(results())] == [
        "1.33 times as fast, 1.33 are asked for: yes",
        "1.21 times as fast, 1.20 are asked for: yes",
        "not measured",
        "1.50 times as fast, 1.50 are asked for: yes",
        "update",
    ]
    less = conclusions(results(fast=133.3, step=119.0, ours=10.1))
    assert [line.rpartition(": ")[2] for line in less[:4]] == ["no", "no", "not measured", "no"]
    assert [line.partition(": ")[2] for line in conclusions({})] == ["not measured"] * 4 + ["not checked"]


def test_tables_have_a_cell_for_every_key():
    found = {"device": "cuda", "tiny": False, "stages": {"rates": {"ended": "done", "seconds": 1.0, "x": {"a": 0.5}}}}
    found["stages"]["rates"]["rows"] = [{"a": 1234.5, "b": "c|d"}, {"b": [1, 2.0], "e": {"k": [3, 0.25]}}]
    lines = markdown(found).splitlines()
    assert lines[0] == "# First minutes on a GPU (cuda)" and "x: a 0.5" in lines
    assert lines[-4:] == ["| a | b | e |", "| --- | --- | --- |", "| 1,234 | c/d |  |", "|  | 1 2 | k 3 0.25 |"]


def test_kernels_have_kinds_and_times_that_overlap_count_once():
    names = {
        "void cudnn::bn_fw_tr_1C11_kernel_NCHW": "batch norm",
        "sm90_xmma_wgrad_implicit_gemm_indexed": "gradient of weights",
        "nchwToNhwcKernel": "layout",
        "_masked_sgd": "update",
        "Memcpy DtoD": "copy or set",
        "mystery": "other",
    }
    assert {name: kind_of(name) for name in names} == names
    spans = sorted([(0, 2), (1, 3), (5, 6), (5.5, 5.7), (8, 9)])
    points = [k / 10 + 0.05 for k in range(100)]
    counted = sum(any(a <= t < b for a, b in spans) for t in points) / 10
    assert covered(spans) == pytest.approx(counted)
    assert all(covered([a, b]) <= sum(e - s for s, e in (a, b)) for a, b in itertools.pairwise(spans))
