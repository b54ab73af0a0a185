"""docs/own-work.md: its blocks, run in order in an empty folder; figures of one's own, and their labels."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paper_figures.shared.curves import Arm, panel_of
from repro.data.folders import count_folder
from repro.data.images import load
from repro.errors import UsageError
from repro.plan import Cell
from repro.protocol import DIGITS
from repro.store import read
from repro.study.collect import collect
from repro.study.study import Study
from repro.verify.outcomes import from_runs
from tests.command_line import ROOT, complaint, repro
from tests.test_own_values import PROTOCOL

BLOCK = re.compile(r"<!-- (file|run)(?:: (\S+))? -->\n```\w+\n(.*?)```", re.DOTALL)


def blocks() -> list[tuple[str, str, str]]:
    return BLOCK.findall((ROOT / "docs/own-work.md").read_text(encoding="utf-8"))


def run(line: str) -> str:
    """A line of the page; make says what it would run, which then is run in this process: starting one takes
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


@pytest.mark.heavy
def test_the_story_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = blocks()
    files = ["draw.py", "net.py", "mine.py", "theirs.py", "criterion.py"]
    assert [name for kind, name, _ in found if kind == "file"] == files
    said = {}
    for kind, name, body in found:
        if kind == "file":
            Path(name).write_text(body, encoding="utf-8")
        elif not name:
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

    with open("noise.csv", encoding="utf-8") as file:
        noise = sorted((float(row["score"]), int(row["index"])) for row in csv.DictReader(file))
    chosen = read("results/mine/shapes/subset-easy72-noise.h5")["replicate_0/index"]
    assert chosen.tolist() == [index for _, index in noise[:72]]
    assert "nothing to do" in repro("plan", "mine.py").stdout

    # subsets in and out: of 240 images the ranks 24 to 95
    for subset in (read("band.h5")["replicate_2/index"], np.load("band.npy"), read("theirs.h5")["replicate_1/index"]):
        assert subset.tolist() == [index for _, index in noise[24:96]]

    ours, theirs = (lines.splitlines() for line, lines in said.items() if line.startswith("repro check-ticket"))
    assert [line.split()[0] for line in ours[1:]] == ["untold", "holds", "untold", "untold", "holds", "holds", "holds"]
    assert [line.split()[0] for line in theirs[1:]] == [
        "holds",
        "untold",
        "untold",
        "untold",
        "holds",
        "holds",
        "untold",
    ]

    (compared,) = (lines for line, lines in said.items() if line.startswith("repro compare"))
    assert [line.split()[:2] for line in compared.splitlines()[1:7]] == [
        [str(level), seeds] for level in (0, 5, 10) for seeds in ("equal", "other")
    ]
    with open("compared.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["layer"] == "all"]
    runs = (read(f"results/mine/shapes/imp-{name}.h5").table() for name in ("all-t16", "easy72-noise-t8"))
    acc = [run.set_index(["replicate", "level"]).acc for run in runs]
    for row in rows:
        ends = [each[int(row[f"replicate_{which}"]), int(row["level"])] for which, each in zip("ab", acc)]
        assert [float(row["acc_a"]), float(row["acc_b"])] == pytest.approx(ends, abs=1e-5)
    assert len(rows) == 18 and all(Path(f"compared.{kind}").exists() for kind in ("pdf", "png"))

    # other ways to prune, from the same rewind point
    runs = {name: read(f"{name}.h5") for name in ("taylor", "synflow", "rate", "finetuned")}
    left = {name: run.table().groupby("level").remaining.first().tolist() for name, run in runs.items()}
    free = 8 * 16 * 9  # the first convolution, 8 x 3 x 9, and the head, 16 x 3, stay dense
    assert left["rate"] == left["taylor"] == [1416, 1131, 903, 721]
    assert left["synflow"] == [264 + n for n in (free, 920, 735, 587)]
    assert runs["taylor"].recipe["pruning"].startswith("criterion.py:taylor@")
    assert runs["rate"].recipe["rewind"] == "learning-rate" and runs["finetuned"].recipe["finetune_steps"] == 12

    # what has changed is another experiment
    Path("net.py").write_text(Path("net.py").read_text(encoding="utf-8") + "\n# another\n", encoding="utf-8")
    assert re.search(r"is of another experiment: network\b.* is net\.py:small@", complaint("figure", "mine.py"))
    assert re.search(
        r"net\.py is not the code of network 'net\.py:small@\w{12}'",
        complaint("imp", "results/mine/shapes/pretrain-all-t8.h5", "--out", "new.h5"),
    )
    sentence = "mine.py is a figure of your own, and an archive holds the paper's alone"
    assert complaint("archive", "mine.py").startswith(sentence)


@pytest.mark.heavy
def test_start_and_schedule_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {name: body for _, name, body in blocks() if name}
    for name in ("draw.py", "net.py"):
        Path(name).write_text(found[name], encoding="utf-8")
    run("python draw.py")
    first, _, second, last = map(run, found["start"].splitlines())
    trained, tuned, pruned = (read(f"{name}.h5") for name in ("trained", "tuned", "tuned-imp"))
    assert (trained.recipe["init"], tuned.recipe["init"]) == ("network", "file")
    assert [each.recipe["steps"] for each in (trained, tuned, pruned)] == [60, 40, 40]  # 240 images, 10 batches
    assert trained.recipe["schedule"] == "cosine" and pruned.recipe["schedule"] == "linear"
    assert trained.table().acc.mean() > 0.6  # of three classes
    for r in (0, 1):
        assert np.array_equal(tuned[f"replicate_{r}/weights"], trained["replicate_0/weights"])
    ends = [pruned[f"replicate_{r}/level_0/weights"] for r in (0, 1)]
    assert not np.array_equal(*ends)
    alike = "all networks begin with the same weights: they differ by data order only"
    assert alike not in first and alike in second and alike in last


def test_a_figure_of_ones_own_is_none_of_the_papers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fig.py").write_text("from repro.protocol import DIGITS\nPROTOCOL = DIGITS\n", encoding="utf-8")
    study = Study("fig.py", levels=7)
    assert [(p.scale, p.levels) for p in study.protocols] == [("own", 7)] and study.results == Path("results/fig")
    assert {item.condition for item in study.items()} == {
        "all_t0",
        "all_tstar_half",
        "all_tstar",
        "random",
        "easy",
        "hard",
    }
    assert "--scale demo is for the paper's: leave it out" in complaint("plan", "fig.py", "--scale", "demo")
    assert "--control shuffle-mask is for the paper's" in complaint("verify", "fig.py", "--control", "shuffle-mask")
    Path("figure2.py").write_text(PROTOCOL, encoding="utf-8")
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
    assert shown == {
        "network": "cifar_resnet8_w4",
        "steps": 40,
        "milestones": [20, 30],
        "lr": 0.3,
        "drop_last": False,
        "seed": 1,
    }


HUMAN = """
from repro.plan import Cell, Chosen, Subset
from repro.protocol import own

PROTOCOL = own(
    "digits", network="cifar_resnet8_w4", steps=8, t_star=4, subset_size=64, levels=1, replicates=2, sweep_levels=(1,),
)
CLAIMS = ()

def needed(p):
    easy, random = (Subset(kind, 64) for kind in ("easy", "random"))
    own = Subset("easy", 64, score="own.csv")
    chain = [Cell("all_tstar", p, 4, labels="human.csv"), Cell("easy", p, 2, easy, labels="human.csv"),
             Cell("random", p, 2, random, labels="human.csv"), Cell("mine", p, 2, own, labels="human.csv"),
             Cell("like", p, 2, Subset("random", 64, like=easy), labels="human.csv")]
    hard = Chosen(p, Subset("hard", 64), labels="human.csv")
    return [Cell("all_tstar", p, 4), Cell("easy", p, 2, easy), *chain, hard]
"""


@pytest.mark.heavy
def test_a_figure_whose_cells_name_a_file_of_labels(tmp_path, monkeypatch):
    """Scores, subsets and pre-training by the labels of the file, as human ones; pruning by the data set's own."""
    monkeypatch.chdir(tmp_path)
    clean = load("digits").labels.numpy()
    human = np.where(np.arange(len(clean)) % 5 == 0, (clean + 1) % 10, clean)
    np.savetxt("human.csv", human, fmt="%d")
    np.savetxt("own.csv", np.arange(len(clean)), fmt="%d")
    Path("fig.py").write_text(HUMAN, encoding="utf-8")
    assert "0 of 22 artifacts" in run("repro plan fig.py --make fig.mk")
    run("make -f fig.mk")
    study = Study("fig.py")
    assert not study.lacking() and "nothing to do" in repro("plan", "fig.py").stdout
    made = {path.stem: read(path) for path in Path("results/fig/digits").glob("*.h5")}
    labelled = {name for name in made if "labels-human" in name}
    assert len(labelled) == 16 and {"scores-labels-human", "subset-easy64-labels-human"} <= labelled
    for name in labelled:
        if not name.startswith("imp-"):
            assert np.array_equal(made[name]["labels"], human), name
    assert all("labels" not in made[name] for name in made.keys() - labelled)

    evidence = collect(study.items(), study.results)
    runs = evidence.runs.set_index(["condition", "labels"]).sort_index()
    assert set(runs.index) == {(c, "human.csv") for c in ("all_tstar", "easy", "random", "mine", "like")} | {
        ("all_tstar", ""),
        ("easy", ""),
    }
    for (condition, labels), stem in {("easy", ""): "easy64", ("easy", "human.csv"): "easy64-labels-human"}.items():
        assert list(runs.loc[(condition, labels), "acc"]) == list(made[f"imp-{stem}-t2"].table().acc)
    hard = evidence.subsets[evidence.subsets.condition == "hard"]
    index = made["subset-hard64-labels-human"]["replicate_1/index"]
    assert hard.wrong_labels.iloc[1] == pytest.approx((human != clean)[index].mean())

    # claims and the paper's figures do not take labelled runs for clean ones; an arm may name the file
    found = from_runs(evidence.runs, study.protocols[0])
    assert set(found.by_level) == {"all_tstar", "easy"}
    (p,) = study.protocols
    drawn = panel_of(evidence.runs, p, [Arm("easy", 64, 2), Arm("easy", 64, 2, labels="human.csv")])
    assert drawn["n"].tolist() == [2] * 4
    means = [made[f"imp-{stem}-t2"].table().groupby("level").acc.mean() for stem in ("easy64", "easy64-labels-human")]
    assert drawn["mean_acc"].tolist() == pytest.approx([*means[0], *means[1]])

    np.savetxt("human.csv", clean, fmt="%d")  # another file of that name is another experiment
    assert "was made with other labels than those of human.csv" in complaint("figure", "fig.py")
    assert "nothing to do" not in repro("plan", "fig.py").stdout
    assert "labels_sha256" in complaint("score", "--dataset", "digits", *made_with("fig.py", "score"))


def made_with(figure, verb):
    """The options of the first command of a kind that a figure plans with a file of labels."""
    from repro import plan

    study = Study(figure)
    steps = plan.steps(study.items(), study.results)
    return next(step.command[3:] for step in steps if step.verb == verb and step.labels)


def test_labels_of_the_training_images_alone(tmp_path, monkeypatch):
    """The file leaves out test images, whose labels stay the data set's own: what it does say is compared."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for half, count in (("train", 6), ("test", 3)):
        for name in ("a", "b"):
            folder = Path("few") / half / name
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f"{k}.png")
    np.savetxt("human.csv", [0, 1] * 6, fmt="%d")
    Path("fig.py").write_text(
        "from repro.plan import Cell\nfrom repro.protocol import own\n"
        'PROTOCOL = own("folder:few", network="cifar_resnet8_w2", steps=4, batch_size=6, t_star=2, levels=1,\n'
        "               replicates=2)\n"
        'def needed(p):\n    return [Cell("all_tstar", p, 2, labels="human.csv")]\n',
        encoding="utf-8",
    )
    run("repro plan fig.py --make fig.mk")
    run("make -f fig.mk")
    assert read("results/fig/few/pretrain-all-labels-human-t2.h5")["labels"].tolist() == [0, 1] * 6 + [0] * 3 + [1] * 3
    assert "nothing to do" in repro("plan", "fig.py").stdout
    np.savetxt("human.csv", [0, 1] * 5 + [1, 0], fmt="%d")
    assert "nothing to do" not in repro("plan", "fig.py").stdout
    Path("human.csv").unlink()
    assert "cannot read human.csv" in complaint("plan", "fig.py")
    with pytest.raises(UsageError, match="noise .=0.1. and labels .=human.csv.: give one of them"):
        Cell("easy", DIGITS, 10, noise=0.1, labels="human.csv")
    assert Cell("easy", DIGITS, 10, labels="CIFAR-10_human.pt:worse_label").name == "all-labels-worse_label-t10"


def test_folders_are_counted_as_they_are_read(tmp_path):
    for half, name, mode, file in [
        ("train", "a", "L", "0.png"),
        ("train", "a", "RGBA", "1.PNG"),
        ("train", "b", "CMYK", "2.jpg"),
        ("train", "b", "P", "3.gif"),
        ("val", "a", "1", "0.bmp"),
        ("val", "b", "RGB", "1.webp"),
    ]:
        path = tmp_path / "mix" / half / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (6, 6), 1 if mode in "L1P" else (30, 40, 50, 60)[: len(mode)]).save(path)
    data = load(f"folder:{tmp_path}/mix")  # a GIF is none of ImageFolder's formats
    assert (
        count_folder(tmp_path / "mix")
        == {
            "image_size": data.image_size,
            "in_chans": data.in_chans,
            "num_classes": data.num_classes,
            "train_images": len(data.split(0)[0]),
            "test_images": len(data.split(0)[1]),
        }
        == {"image_size": 6, "in_chans": 3, "num_classes": 2, "train_images": 3, "test_images": 2}
    )
    Image.new("I;16", (6, 6), 900).save(tmp_path / "mix/train/a/deep.png")
    with pytest.raises(UsageError, match=r"deep\.png cannot be read as an image \(more than 8 bits a channel, mode I"):
        load(f"folder:{tmp_path}/mix")
