"""Closed forms for networks of two linear layers, with logits V W x: gradients, and products with the Hessian.
And runs of imp on such a network and digits, whose masks they make again by hand."""

import math

import numpy as np
import torch

from repro.data import load
from repro.store import read
from repro.train.random_streams import stream
from tests.command_line import CPU, repro

NET = """
import torch
from torch import nn

class Distances(nn.Module):
    def forward(self, x):
        points = x.reshape(-1, 3, 4)
        return torch.cdist(points, points).flatten(1)

def distances(num_classes, in_chans):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_chans, 12), Distances(), nn.Linear(9, num_classes))

def two(num_classes, in_chans):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_chans, 12, bias=False), nn.Linear(12, num_classes, bias=False))
"""
OWN = """
import random

import numpy as np
import torch

def taylor(weights, gradients, masks):
    assert all((weights[name][~masks[name]] == 0).all() for name in weights)
    return {name: (weights[name] * gradients[name]).abs() for name in weights}

def scalar(weights, gradients, masks):
    return {name: each.sum() for name, each in weights.items()}

def some(weights, gradients, masks):
    return {"1.weight": weights["1.weight"]}

def nothing(weights, gradients, masks):
    pass

def breaks(weights, gradients, masks):
    return weights["head"]

def infinite(weights, gradients, masks):
    return {name: each / 0 for name, each in weights.items()}

def headless(weights, gradients, masks):
    return {"1.weight": abs(weights["1.weight"]), "2.weight": weights["2.weight"] / 0}

def signs(weights, gradients, masks):
    return {name: each > 0 for name, each in weights.items()}

def waves(weights, gradients, masks):
    return {name: each + 1j for name, each in weights.items()}

def counted(weights, gradients, masks):
    calls.append(0)
    return {name: each.abs() * (-1) ** len(calls) for name, each in weights.items()}

def drawn(weights, gradients, masks):
    return {
        name: random.random() * torch.rand_like(each) + torch.from_numpy(np.random.rand(*each.shape))
        for name, each in weights.items()
    }

calls = []
number = 3
"""
SHAPES = ((12, 64), (10, 12))
LEVELS, BATCH = 2, 32


def by_hand(w, v, x, y, temperature=1.0):
    """Gradients (dW, dV) of the mean cross-entropy of softmax(V W x / T), and what `hessian_product` needs beside."""
    hidden = x @ w.T
    logits = hidden @ v.T / temperature
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    delta = (p - np.eye(len(v))[y]) / (len(x) * temperature)  # by the logits before the temperature
    return (v.T @ delta.T @ x, delta.T @ hidden), (hidden, p, delta)


def hessian_product(w, v, x, y, a, b, temperature):
    """H (a, b) by Pearlmutter's R operator: the derivative of `by_hand` along a for W and b for V."""
    _, (hidden, p, delta) = by_hand(w, v, x, y, temperature)
    moved_hidden = x @ a.T
    moved_logits = (moved_hidden @ v.T + hidden @ b.T) / temperature
    moved_p = p * moved_logits - p * (p * moved_logits).sum(1, keepdims=True)
    moved = moved_p / (len(x) * temperature)
    return b.T @ delta.T @ x + v.T @ moved.T @ x, moved.T @ hidden + delta.T @ moved_hidden


def mean(parts):
    return [np.mean(each, 0) for each in zip(*parts)]


# --- whole runs -------------------------------------------------------------------------------------------------------


def rewind_points(folder):
    """A two-layer network's rewind points on digits, w.h5, and a file of criteria, own.py."""
    (folder / "net.py").write_text(NET)
    (folder / "own.py").write_text(OWN)
    repro("pretrain", *net(folder), "-t", 3, "--out", folder / "w.h5")
    return folder


def net(folder):
    network = ("--dataset", "digits", "--network", f"{folder}/net.py:two", "--replicates", 2, *CPU)
    return *network, "--steps", 8, "--milestones", 5, "--lr", 0.05, "--batch-size", BATCH


def imp(folder, out, *options):
    repro("imp", folder / "w.h5", "--levels", LEVELS, *CPU, *options, "--out", out)
    return read(out)


def masks(artifact, replicate, level):
    packed = artifact[f"replicate_{replicate}/level_{level}/mask"]
    flat = np.unpackbits(packed, count=sum(map(math.prod, SHAPES))).astype(bool)
    return [part.reshape(shape) for part, shape in zip(np.split(flat, [math.prod(SHAPES[0])]), SHAPES)]


def weights(artifact, name):
    flat = artifact[name].astype(float)
    return [part.reshape(shape) for part, shape in zip(np.split(flat, [math.prod(SHAPES[0])]), SHAPES)]


def images(artifact, replicate, count, address=0):
    """Batches of the data set, drawn by hand from the addressed stream."""
    data = load("digits")
    index = data.split(replicate)[0].numpy()
    order = stream(artifact.recipe["seed"], replicate, "prune.order", address, 0).permutation(len(index))
    x = (data.images.double() / 255 - torch.tensor(data.mean)) / torch.tensor(data.std)
    x = x.permute(0, 3, 1, 2).reshape(len(x), -1).numpy()
    rows = [index[order[k * BATCH : (k + 1) * BATCH]] for k in range(count)]
    return [(x[each], data.labels[each].numpy()) for each in rows]


def highest(scores, alive, count):
    """The masks of the ``count`` highest scores of all layers among those alive."""
    flat = np.concatenate([np.where(a, s, -np.inf).ravel() for s, a in zip(scores, alive)])
    kept = np.zeros(len(flat), bool)
    kept[np.argsort(-flat, kind="stable")[:count]] = True
    return [part.reshape(shape) for part, shape in zip(np.split(kept, [math.prod(SHAPES[0])]), SHAPES)]


def left(total, level, fraction=0.2):
    for _ in range(level):
        total -= math.ceil(fraction * total) + 1
    return total


def snip_by_hand(w, v, data):
    return [abs(a * b) for a, b in zip((w, v), mean(by_hand(w, v, *batch)[0] for batch in data))]


def grasp_by_hand(w, v, data, alive=(1, 1)):
    g = [a * b for a, b in zip(mean(by_hand(w, v, *batch, 200.0)[0] for batch in data), alive)]
    return [a * b for a, b in zip((w, v), mean(hessian_product(w, v, *batch, *g, 200.0) for batch in data))]
