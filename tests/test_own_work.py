"""README, "Own work": its blocks, run in order in an empty folder; and figures of one's own that are refused."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from repro.data.files import count_folder
from repro.data.images import load
from repro.errors import UsageError
from repro.plan.study import Study
from repro.store import read
from tests.command_line import ROOT, complaint, repro

BLOCK = re.compile(r"<!-- (file|run)(?:: (\S+))? -->\n```\w+\n(.*?)```", re.DOTALL)
PROTOCOL = 'from repro.protocol import own\nPROTOCOL = own("digits", steps=40, t_star=4, subset_size=64)\n'


def blocks() -> list[tuple[str, str, str]]:
    section = (ROOT / "README.md").read_text().partition("\n## Own work\n")[2].partition("\n## ")[0]
    return BLOCK.findall(section)


def run(line: str) -> str:
    """A line of the README; make says what it would run, which then is run in this process: starting one takes
    seconds."""
    program, *words = shlex.split(line)
    if program == "repro":
        return repro(*words).stdout
    if program == "python":
        return subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True).stdout
    assert program == "make", line
    rules = subprocess.run(["make", "-n", *words], check=True, capture_output=True, text=True).stdout
    return "".join(
        repro(*shlex.split(rule)[3:]).stdout for rule in rules.splitlines() if rule.startswith(sys.executable)
    )


def test_the_story_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = blocks()
    assert [name for kind, name, _ in found if kind == "file"] == ["draw.py", "net.py", "mine.py"]
    said = {}
    for kind, name, body in found:
        if kind == "file":
            Path(name).write_text(body)
        else:
            said |= {line: run(line) for line in body.splitlines()}
    assert "0 of 15 artifacts are complete" in said["repro plan mine.py --make mine.mk"]
    assert said["repro figure mine.py"].split() == [f"results/mine/mine.{kind}" for kind in ("pdf", "png", "csv")]
    assert said["repro verify mine.py"].startswith("folder:shapes, own scale\n")
    verdicts = {v["claim"]: v for v in json.loads(Path("results/mine/mine-verdicts.json").read_text())["verdicts"]}
    missing = {number for number, v in verdicts.items() if v["verdict"] == "missing"}
    assert missing == set() and set(verdicts) == {1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12}
    assert {v["dataset"] for v in verdicts.values()} == {"folder:shapes"} and verdicts[10]["n"] == 3

    # the difference of claim 10 from the artifacts, by hand
    outcome = {}
    for name in ("easy72-noise-t8", "random72-t8"):
        table = read(f"results/mine/shapes/imp-{name}.h5").table()
        outcome[name.partition("72")[0]] = table[table.level.between(6, 10)].acc.mean()
    assert verdicts[10]["effect"] == pytest.approx(100 * (outcome["easy"] - outcome["random"]), abs=1e-9)

    with open("noise.csv") as file:
        noise = sorted((float(row["score"]), int(row["index"])) for row in csv.DictReader(file))
    chosen = read("results/mine/shapes/subset-easy72-noise.h5")["replicate_0/index"]
    assert chosen.tolist() == [index for _, index in noise[:72]]
    assert "nothing to do" in repro("plan", "mine.py").stdout

    # what has changed is another experiment
    Path("net.py").write_text(Path("net.py").read_text() + "\n# another\n")
    assert re.search(r"is of another experiment: network\b.* is net\.py:small@", complaint("figure", "mine.py"))
    assert re.search(r"net\.py is not the code of network 'net\.py:small@\w{12}'",
                    complaint("imp", "results/mine/shapes/pretrain-all-t8.h5", "--out", "new.h5"))  # fmt: skip
    sentence = "mine.py is a figure of your own, and an archive holds the paper's alone"
    assert complaint("archive", "mine.py").startswith(sentence)


FAULTS = {
    "cannot be run (SyntaxError: ": "PROTOCOL = (",
    "cannot be run (ZeroDivisionError: division by zero, line 2)": "\n1 / 0",
    "defines no PROTOCOL: write": "x = 1",
    "own() does not take lerning_rate: give fields": PROTOCOL.replace("steps", "lerning_rate"),
    "CLAIMS of fig.py has 'figure9': choose among figure1": PROTOCOL + "CLAIMS = ['figure9']",
    "needed() of fig.py fails (KeyError: 'x', line 4): mend it": PROTOCOL + "def needed(p):\n    return {}['x']",
    "needed() of fig.py gives 3: it has to give items": PROTOCOL + "def needed(p):\n    return [3]",
    "needed() of fig.py gives nothing for digits": PROTOCOL + "def needed(p):\n    return []",
    "asks for momentum 0.5 on digits, which is always 0.9": PROTOCOL.replace("steps", "momentum=0.5, steps"),
    "nowhere is no image folder": PROTOCOL.replace("digits", "folder:nowhere"),
    "there is no file net.py for network": PROTOCOL.replace("steps", "network='net.py:Net', steps"),
}


@pytest.mark.parametrize("sentence, text", FAULTS.items(), ids=lambda text: text[:30])
def test_a_faulty_figure_is_explained(sentence, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fig.py").write_text(text)
    assert sentence in complaint("plan", "fig.py")


def test_a_figure_of_ones_own_is_none_of_the_papers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fig.py").write_text("from repro.protocol import DIGITS\nPROTOCOL = DIGITS\n")
    study = Study("fig.py", levels=7)
    assert [(p.scale, p.levels) for p in study.protocols] == [("own", 7)] and study.results == Path("results/fig")
    assert {item.condition for item in study.items()} == {
        "all_t0", "all_tstar_half", "all_tstar", "random", "easy", "hard",
    }  # fmt: skip
    assert "--scale demo is for the paper's: leave it out" in complaint("plan", "fig.py", "--scale", "demo")
    assert "--control shuffle-mask is for the paper's" in complaint("verify", "fig.py", "--control", "shuffle-mask")
    Path("figure2.py").write_text(PROTOCOL)
    assert "has the name of a figure or scale of the paper" in complaint("plan", "figure2.py")
    assert "cannot read absent.py" in complaint("plan", "absent.py")


def test_own_commands_train_what_the_protocol_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fig.py").write_text(PROTOCOL.replace("steps", "network='cifar_resnet8_w4', lr=0.3, drop_last=False, steps"))
    assert {p.training.milestones for p in Study("fig.py").protocols} == {(20, 30)}
    repro("plan", "fig.py", "--replicates", 1, "--levels", 1, "--make", "fig.mk")
    run("make -f fig.mk results/fig/digits/imp-all-t0.h5")
    recipe = read("results/fig/digits/imp-all-t0.h5").recipe
    shown = {key: recipe[key] for key in ("network", "steps", "milestones", "lr", "drop_last", "seed") if key in recipe}
    assert shown == {"network": "cifar_resnet8_w4", "steps": 40, "milestones": [20, 30], "lr": 0.3,
                     "drop_last": False, "seed": 1}  # fmt: skip


def test_folders_are_counted_as_they_are_read(tmp_path):
    for half, name, mode, file in [
        ("train", "a", "L", "0.png"), ("train", "a", "RGBA", "1.PNG"), ("train", "b", "CMYK", "2.jpg"),
        ("train", "b", "P", "3.gif"), ("val", "a", "1", "0.bmp"), ("val", "b", "RGB", "1.webp"),
    ]:  # fmt: skip
        path = tmp_path / "mix" / half / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (6, 6), 1 if mode in "L1P" else (30, 40, 50, 60)[: len(mode)]).save(path)
    data = load(f"folder:{tmp_path}/mix")  # a GIF is none of ImageFolder's formats
    assert count_folder(tmp_path / "mix") == {
        "image_size": data.image_size, "in_chans": data.in_chans, "num_classes": data.num_classes,
        "train_images": len(data.split(0)[0]), "test_images": len(data.split(0)[1]),
    } == {"image_size": 6, "in_chans": 3, "num_classes": 2, "train_images": 3, "test_images": 2}  # fmt: skip
    Image.new("I;16", (6, 6), 900).save(tmp_path / "mix/train/a/deep.png")
    with pytest.raises(UsageError, match=r"deep\.png cannot be read as an image \(more than 8 bits a channel, mode I"):
        load(f"folder:{tmp_path}/mix")
