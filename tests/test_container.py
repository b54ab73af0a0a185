"""How the image is built, with an engine that only notes what it is asked; `make image-check` builds it for real."""

import re
import shutil
import subprocess

import pytest

from tests.command_line import ROOT

ENGINE = """#!/bin/sh
echo "$(basename "$0") $*" >>"$ASKED"
[ "$1" = info ] && exit "${NO_DAEMON:-0}"
while [ $# -gt 0 ]; do
  case $1 in
    --iidfile) printf sha256:c0ffee >"$2" ;;
    -f) cat "$2" >>"$ASKED" ;;
  esac
  shift
done
"""
TOOLS = ("sh", "dirname", "basename", "mktemp", "rm", "cat")


@pytest.fixture
def build(tmp_path):
    """A function: engines that are installed, arguments -> (exit status, stderr, what the engines were asked)."""

    def run(engines, *arguments, **environment):
        programs = tmp_path / "bin"
        programs.mkdir()
        for tool in TOOLS:
            (programs / tool).symlink_to(shutil.which(tool))
        for engine in engines:
            (programs / engine).write_text(ENGINE, encoding="utf-8")
            (programs / engine).chmod(0o755)
        environment |= {"PATH": str(programs), "ASKED": str(tmp_path / "asked")}
        done = subprocess.run([ROOT / "container/build", *arguments], env=environment, capture_output=True, text=True)
        asked = tmp_path / "asked"
        return done.returncode, done.stderr, asked.read_text(encoding="utf-8") if asked.exists() else ""

    return run


@pytest.mark.parametrize(
    ("engines", "environment", "chosen"),
    [
        (("docker", "buildah", "podman"), {}, "docker build"),
        (("docker", "buildah", "podman"), {"NO_DAEMON": "1"}, "buildah build --layers --format docker"),
        (("podman",), {}, "podman build --format docker"),
        (("docker", "buildah"), {"ENGINE": "buildah build"}, "buildah build"),
    ],
)
def test_an_image_is_its_contents_and_their_digest(build, engines, environment, chosen):
    status, _, asked = build(engines, "mine", **environment)
    contents, image, *layer = [line for line in asked.splitlines() if not line.startswith("docker info")]
    assert status == 0 and contents.startswith(f"{chosen} --build-arg REVISION=")
    assert contents.endswith("-t mine:contents .") and "BASE_IMAGE" not in contents
    assert image.startswith(f"{chosen} -t mine -f ")
    assert layer == ["FROM mine:contents", "ENV REPRO_IMAGE_DIGEST=sha256:c0ffee"]


def test_another_base_is_not_called_by_the_pinned_digest(build):
    _, _, asked = build(("podman",), "mine", "localhost/base")
    assert "--build-arg BASE_IMAGE=localhost/base --build-arg BASE_DIGEST= " in asked


def test_without_an_engine_it_says_what_to_install(build):
    status, said, _ = build(())
    assert status == 2 and said.count("\n") == 1 and "docker (with its daemon running), podman or buildah" in said


def test_the_base_is_pinned_by_digest():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG BASE_DIGEST=sha256:[0-9a-f]{64}$", text, re.M)
    assert re.search(r"^ARG BASE_IMAGE=nvidia/cuda:[\w.-]+@\$\{BASE_DIGEST\}$", text, re.M)


def test_no_data_and_no_results_but_those_reported_get_into_the_image():
    left_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "data", "results/*"} <= set(left_out)
    reported = re.findall(r"^!/(results/[\w-]+)/$", (ROOT / ".gitignore").read_text(encoding="utf-8"), re.M)
    assert reported and [line[1:] for line in left_out if line.startswith("!")] == reported


def test_the_check_says_what_the_machine_lacks(tmp_path):
    for tool in ("bash", "env", "dirname", "uname", "id"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = subprocess.run([ROOT / "container/check"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 77 and done.stderr.count("\n") == 1
    assert re.match(r"image-check: not done, (it needs root|debootstrap is not installed)", done.stderr)
