"""Closed forms for networks of two linear layers, with logits V W x: gradients, and products with the Hessian."""

import numpy as np


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
