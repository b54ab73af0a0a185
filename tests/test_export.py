"""What other programs read: tables as CSV and Parquet, networks and masks as a plain state_dict."""

import json
import re
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
from pyarrow import parquet

from repro import store
from repro.data.user_numbers import read_numbers
from repro.errors import UsageError
from repro.nets import create
from repro.reading import networks
from repro.reading.export_tables import export
from tests.command_line import HANG, ROOT, complaint, repro

ROWS = {
    "replicate": [0, 1],
    "acc": [0.1 + 0.2, np.nan],
    "half": np.float32([1 / 3, 2]),
    "lost": [False, True],
    "name": ['a,"b"', "ü"],
}


def write(path, kind="imp", *, recipe=None, table=ROWS, arrays=None):
    recipe = {"dataset": "digits", "lr": 0.5, "milestones": [4, 6]} if recipe is None else recipe
    store.write(
        path,
        kind=kind,
        recipe=recipe,
        inputs={},
        defaults={},
        arrays=arrays or {},
        table=table,
        provenance={},
        compression=None,
    )
    return path


def test_parquet_gives_the_table_back_exactly(tmp_path):
    source = write(tmp_path / "x.h5")
    assert repro("export", source, "--out", tmp_path / "x.parquet").stdout == f"{tmp_path}/x.parquet\n"
    read = parquet.read_table(tmp_path / "x.parquet")
    types = {field.name: str(field.type) for field in read.schema}
    assert types.pop("name") in ("string", "large_string")
    assert types == {"replicate": "int64", "acc": "double", "half": "float", "lost": "bool"}
    pd.testing.assert_frame_equal(read.to_pandas(), store.table(source), check_exact=True)
    assert read.column("acc").to_pylist() == [0.1 + 0.2, None] and read.column("name").to_pylist() == ROWS["name"]
    assert read.column("half").to_pylist() == ROWS["half"].tolist() and read.column("lost").to_pylist() == ROWS["lost"]


def test_parquet_says_where_it_comes_from(tmp_path):
    source = write(tmp_path / "x.h5")
    export(source, tmp_path / "x.parquet")
    told = json.loads(parquet.read_schema(tmp_path / "x.parquet").metadata[b"repro"])
    with h5py.File(source) as file:
        for name in ("kind", "name", "identity", "content_sha256"):
            assert told[name] == file.attrs[name]
        assert told["recipe"] == json.loads(file.attrs["recipe"]) and told["inputs"] == {}


@pytest.fixture
def folder(tmp_path):
    """Two kinds: integers that one of them lacks, and a column that is text in one and a number in the other."""
    write(tmp_path / "all" / "a.h5", table={"level": [8], "acc": [1 / 3]}, recipe={"network": "net8"})
    write(tmp_path / "all" / "b.h5", "score", table={"network": [3, 4]}, recipe={})
    return tmp_path / "all"


def test_a_folder_becomes_one_table(folder, tmp_path):
    export(folder, tmp_path / "all.parquet")
    read = parquet.read_table(tmp_path / "all.parquet")
    assert read.column("level").to_pylist() == [8, None, None] and str(read.schema.field("level").type) == "int64"
    assert read.column("network").to_pylist() == ["net8", "3", "4"]
    assert read.column("acc").to_pylist() == [1 / 3, None, None]
    identities = [store.read(folder / name).identity for name in ("a.h5", "b.h5")]
    told = json.loads(read.schema.metadata[b"repro"])
    assert [each["identity"] for each in told] == identities
    assert read.column("identity").to_pylist() == [identities[0], *2 * identities[1:]]
    (tmp_path / "tables").mkdir()
    assert export(folder, tmp_path / "tables") == tmp_path / "tables" / "all.csv"
    rows = [line.split(",") for line in (tmp_path / "tables" / "all.csv").read_text(encoding="utf-8").splitlines()]
    assert [row[rows[0].index("level")] for row in rows[1:]] == ["8", "", ""]
    assert float(rows[1][rows[0].index("acc")]) == 1 / 3


def test_scores_of_each_image_and_back(tmp_path):
    """Two folds, one after the other; what `select --scores FILE:COLUMN` reads of one are the same numbers."""
    folds = {0: ([1, 4], [1 / 3, 0.5]), 1: ([0, 2, 3], [0.25, 2, 1e-3])}
    arrays = {f"fold_{k}/index": np.array(index) for k, (index, _) in folds.items()}
    arrays |= {f"fold_{k}/{name}": np.float32(el2n) for k, (_, el2n) in folds.items() for name in ("el2n", "grand")}
    arrays |= {"fold_0/network_0/el2n": np.float32([7, 7]), "fold_1/half_correlation": np.float64(0.9)}
    source = write(tmp_path / "s.h5", "score", arrays=arrays)
    repro("export", source, "--part", "scores", "--out", tmp_path / "s.csv")
    told = pd.read_csv(tmp_path / "s.csv", dtype={"el2n": "float32", "grand": "float32"})
    assert list(told.columns) == ["fold", "index", "el2n", "grand"]
    assert told.fold.tolist() == [0, 0, 1, 1, 1] and told["index"].tolist() == [1, 4, 0, 2, 3]
    assert told.el2n.tolist() == told.grand.tolist() == np.float32([1 / 3, 0.5, 0.25, 2, 1e-3]).tolist()
    told[told.fold == 1].to_csv(tmp_path / "one.csv", index=False)
    read = read_numbers(f"{tmp_path}/one.csv:el2n", "score", size=5, train=np.array([0, 2, 3]))
    assert np.float32(read[[0, 2, 3]]).tolist() == arrays["fold_1/el2n"].tolist() and np.isnan(read[[1, 4]]).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("x.txt", "--out x.txt ends in .txt: take .csv or .parquet for a table, .pt or .safetensors for a network"),
        ("x.csv --part scores", "net.h5 is an imp artifact where a score artifact is needed: give the path of one"),
        ("x.pt --part scores", "--out x.pt is of a network, and scores are a table: end it in .csv or .parquet"),
        ("x.csv --part scores --level 3", "--level 3, but scores are written as one table: leave it out"),
        ("x.csv --level 3", "--level is of a network and --out x.csv of a table: end it in .pt or .safetensors"),
        (
            "x.pt --part ticket",
            "--out x.pt holds one network: say --part and --replicate, and --level unless it is a rewind point",
        ),
        ("x.pt --part ticket --replicate 0", "part ticket without a level: give one, 0 is the dense network"),
        (
            "x.pt --part rewind --replicate 0 --level 1",
            "level 1 of a rewind point, which all levels share: leave the level out",
        ),
        ("x.pt --part mask --replicate 0 --level 9", "net.h5 has no level 9 of replicate 0: see repro inspect net.h5"),
        ("x.pt --part rewind --replicate 5", "net.h5 has no replicate 5: see repro inspect net.h5"),
        (
            "x.pt --part ticket --replicate 0 --level 3",
            "net.h5 kept nothing of level 3 of replicate 0, since the level before it diverged: choose another",
        ),
    ],
)
def test_what_cannot_be_exported(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_network("net.h5", "cifar_resnet8_w4", 10, 1)
    assert complaint("export", "net.h5", "--out", *words.split()) == said
    assert [path.name for path in tmp_path.iterdir()] == ["net.h5"]


def test_kinds_without_that_part(tmp_path):
    for name, kind, recipe in (("s.h5", "score", {}), ("p.h5", "pretrain", {"dataset": "digits"})):
        write(
            tmp_path / name,
            kind,
            recipe={"network": "cifar_resnet8_w4", **recipe},
            arrays={"replicate_0/weights": np.zeros(5310, "f4")},
        )
    with pytest.raises(UsageError, match="s.h5 is a score artifact, which has no levels and no rewind points"):
        networks.export(tmp_path / "s.h5", tmp_path / "x.pt", replicate=0, level=None, part="rewind")
    with pytest.raises(UsageError, match="p.h5 is a pretrain artifact, which has no ticket: ask for part rewind"):
        networks.export(tmp_path / "p.h5", tmp_path / "x.pt", replicate=0, level=1, part="ticket")


def by_hand(net):
    """{name: shape} of the prunable weights, of the other parameters and of the float buffers, in PyTorch's order."""
    weights = {
        f"{name}.weight"
        for name, module in net.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    }
    parameters = {name: tuple(p.shape) for name, p in net.named_parameters()}
    return (
        {name: shape for name, shape in parameters.items() if name in weights},
        {name: shape for name, shape in parameters.items() if name not in weights},
        {name: tuple(b.shape) for name, b in net.named_buffers() if b.is_floating_point()},
    )


def split(vector, *groups):
    """A flat vector, cut into named arrays in the order of the groups."""
    shapes = [item for group in groups for item in group.items()]
    ends = np.cumsum([int(np.prod(shape)) for _, shape in shapes])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes, np.split(vector, ends)[:-1], strict=False)}


def write_network(path, name, num_classes, in_chans, dataset="digits", network=None):
    """An imp artifact of random numbers: replicate 0 with levels 0 and 2; level 3 was lost."""
    groups = by_hand(network or create(name, num_classes=num_classes, in_chans=in_chans))
    prunable, size = (sum(int(np.prod(s)) for group in part for s in group.values()) for part in (groups[:1], groups))
    rng = np.random.default_rng(5)
    mask = rng.random(prunable) < 0.3
    arrays = {"replicate_0/level_0/rewind_weights": rng.standard_normal(size, "f4")}
    for level, kept in ((0, np.ones(prunable, bool)), (2, mask)):
        arrays[f"replicate_0/level_{level}/mask"] = np.packbits(kept)
        arrays[f"replicate_0/level_{level}/weights"] = rng.standard_normal(size, "f4")
    remaining = np.array([prunable, mask.sum(), 0])
    table = {
        "replicate": [0] * 3,
        "level": [0, 2, 3],
        "remaining": remaining,
        "density": remaining / prunable,
        "acc": [0.5] * 3,
        "diverged": [False, False, True],
        "piece": [f"replicate_0/level_{level}" for level in (0, 2, 3)],
    }
    write(path, recipe={"dataset": dataset, "network": name}, table=table, arrays=arrays)
    return groups


def check_ticket(file, source, groups):
    """That a file holds mask times rewind point of level 2, read by h5py and NumPy alone."""
    with h5py.File(source) as stored:
        vector = stored["replicate_0/level_0/rewind_weights"][:]
        bits = np.unpackbits(stored["replicate_0/level_2/mask"][:])
    prunable = sum(int(np.prod(shape)) for shape in groups[0].values())
    vector[:prunable] *= bits[:prunable]
    held = torch.load(file, weights_only=True)
    for name, array in split(vector, *groups).items():
        assert held[name].dtype == torch.float32 and np.array_equal(held[name].numpy(), array), name


@pytest.mark.parametrize(
    ("name", "classes", "channels", "dataset"),
    [
        ("cifar_resnet8_w4", 10, 1, "digits"),
        ("cifar_resnet8_w4", 100, 3, "cifar100"),
        ("cifar_resnet8_w4", 7, 3, "folder:pets"),
        ("cifar_resnet8_w4", 3, 1, "folder:grey"),
        ("test_resnet", 37, 3, "folder:pets"),
    ],
)
def test_parts_of_a_network(name, classes, channels, dataset, tmp_path):
    source = tmp_path / "net.h5"
    groups = write_network(source, name, classes, channels, dataset)
    of = ("--replicate", 0, "--level", 2)
    with h5py.File(source) as stored:
        rewind, trained = stored["replicate_0/level_0/rewind_weights"][:], stored["replicate_0/level_2/weights"][:]
        bits = np.unpackbits(stored["replicate_0/level_2/mask"][:]).astype(bool)
    repro("export", source, "--out", tmp_path / "ticket.pt", "--part", "ticket", *of)
    repro("export", source, "--out", tmp_path / "trained.safetensors", "--part", "trained", *of)
    repro("export", source, "--out", tmp_path / "rewind.pt", "--part", "rewind", "--replicate", 0)
    repro("export", source, "--out", tmp_path / "mask.pt", "--part", "mask", *of)
    check_ticket(tmp_path / "ticket.pt", source, groups)
    held = {"trained": safetensors.torch.load_file(tmp_path / "trained.safetensors")}
    held |= {part: torch.load(tmp_path / f"{part}.pt", weights_only=True) for part in ("ticket", "rewind", "mask")}
    for part, vector in (("trained", trained), ("rewind", rewind)):
        assert all(np.array_equal(held[part][n], array) for n, array in split(vector, *groups).items())
    masks = split(bits[: sum(int(np.prod(shape)) for shape in groups[0].values())], groups[0])
    assert held["mask"].keys() == masks.keys() == groups[0].keys()
    for n, mask in masks.items():
        assert held["mask"][n].dtype == torch.bool and np.array_equal(held["mask"][n], mask)
        assert torch.equal(held["rewind"][n] * held["mask"][n], held["ticket"][n])
    net = create(name, num_classes=classes, in_chans=channels)
    for part in ("ticket", "trained", "rewind"):
        net.load_state_dict(held[part])  # strictly: no name is missing, and none is too much


def test_a_rewind_point_before_imp(tmp_path):
    groups = by_hand(create("cifar_resnet8_w4", num_classes=10, in_chans=1))
    vector = np.random.default_rng(1).standard_normal(5310, "f4")
    recipe = {"dataset": "digits", "network": "cifar_resnet8_w4"}
    write(tmp_path / "p.h5", "pretrain", recipe=recipe, arrays={"replicate_1/weights": vector})
    repro("export", tmp_path / "p.h5", "--part", "rewind", "--replicate", 1, "--out", tmp_path / "p.pt")
    held = torch.load(tmp_path / "p.pt", weights_only=True)
    assert all(np.array_equal(held[name], array) for name, array in split(vector, *groups).items())


def test_numbers_of_another_network_are_refused(tmp_path):
    recipe = {"dataset": "digits", "network": "cifar_resnet8_w4"}
    write(tmp_path / "p.h5", "pretrain", recipe=recipe, arrays={"replicate_0/weights": np.zeros(5311, "f4")})
    with pytest.raises(UsageError, match="keeps 5311 numbers a network, which cifar_resnet8_w4 has for no number of"):
        networks.export(tmp_path / "p.h5", tmp_path / "p.pt", replicate=0, level=None, part="rewind")


def test_trained_weights_in_place_of_the_ticket_would_be_noticed(tmp_path, monkeypatch):
    """STYLE: "trained weights exported where the ticket was meant", planted."""
    source = tmp_path / "net.h5"
    groups = write_network(source, "cifar_resnet8_w4", 10, 1)
    right = networks.tensors_of
    monkeypatch.setattr(
        networks,
        "tensors_of",
        lambda artifact, layout, r, level, part: right(
            artifact, layout, r, level, "trained" if part == "ticket" else part
        ),
    )
    networks.export(source, tmp_path / "ticket.pt", replicate=0, level=2, part="ticket")
    with pytest.raises(AssertionError):
        check_ticket(tmp_path / "ticket.pt", source, groups)


def page_block(marker: str) -> str:
    """The first block of Python after a sentence of docs/python-and-exports.md."""
    text = (ROOT / "docs/python-and-exports.md").read_text(encoding="utf-8")
    assert text.count(marker) == 1, f"docs/python-and-exports.md needs the sentence {marker!r} once"
    return text[text.index(marker) :].partition("```python\n")[2].partition("\n```")[0]


def without_repro(lines: str, folder) -> str:
    """What the lines print in a fresh process in a folder, where importing repro fails."""
    program = f"import sys; sys.modules['repro'] = None\n{lines}"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.heavy
def test_the_example_of_the_page_needs_no_repro(tmp_path):
    """Its very lines, on a ticket of the very network."""
    example = page_block("A ticket in a program that does not know this one")
    name, classes, channels = re.search(r'create_model\("(\w+)", num_classes=(\d+), in_chans=(\d+)\)', example).groups()
    net = timm.create_model(name, num_classes=int(classes), in_chans=int(channels))
    groups = write_network(tmp_path / "imp.h5", name, int(classes), int(channels), network=net)
    repro(
        "export",
        tmp_path / "imp.h5",
        "--replicate",
        0,
        "--level",
        2,
        "--part",
        "ticket",
        "--out",
        tmp_path / "ticket.pt",
    )
    check_ticket(tmp_path / "ticket.pt", tmp_path / "imp.h5", groups)
    with h5py.File(tmp_path / "imp.h5") as stored:
        remaining = stored["table/density"][1]
    assert len(example.splitlines()) == 5
    assert without_repro(example, tmp_path) == f"{1 - remaining:.4f} of the weights are pruned\n"
