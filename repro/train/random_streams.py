"""Addressed randomness: every draw comes from a stream named by (seed, replicate, purpose, address).

No stream is ever continued from where another piece of work left it. So the order of execution, an interruption,
the make-up of a cohort and the number of workers change nothing, and replicates of different conditions share
initialisation and data order by construction (they are paired).
"""

import hashlib

import numpy as np
import torch

SEED_BITS = 63


def _digest(seed: int, replicate: int, purpose: str, address: tuple[int, ...]) -> int:
    text = ",".join([str(int(seed)), str(int(replicate)), purpose, *map(str, map(int, address))])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def stream(seed: int, replicate: int, purpose: str, *address: int) -> np.random.Generator:
    """A NumPy generator (Philox, 128-bit key) for this address; equal addresses give equal draws."""
    return np.random.Generator(np.random.Philox(key=_digest(seed, replicate, purpose, address)))


def torch_stream(seed: int, replicate: int, purpose: str, *address: int) -> torch.Generator:
    """A CPU torch generator for this address, for initialisers that take one."""
    generator = torch.Generator()
    return generator.manual_seed(_digest(seed, replicate, purpose, address) % 2**SEED_BITS)
