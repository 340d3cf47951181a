"""Randomness as a function of names, not of history.

Every draw in the project is keyed by what it is for: training by (seed, epoch, sample, …),
evaluation by (seed, suite, condition, dataset index). Resuming, sharding, batch size and
order therefore never change what is drawn.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Name = str | int | float


def seed_of(*names: Name) -> int:
    """A 63-bit seed for a tuple of names; the same names give the same seed on every machine."""
    text = "\x1f".join(f"{type(name).__name__}:{name!r}" for name in names)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*names: Name) -> torch.Generator:
    """A CPU torch generator seeded by names."""
    import torch  # a second, which tables do without

    return torch.Generator().manual_seed(seed_of(*names))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea and Flood 2014, "Fast splittable PRNGs")."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(index: NDArray[np.int64], count: int, *names: Name) -> NDArray[np.float64]:
    """`count` uniform draws in [0, 1) for each sample, all samples at once.

    Row i depends on `names` and `index[i]` alone: a counter-based generator, so that a batch
    draws the same for a sample whichever batch it is in.

    Args:
        index: [B] sample numbers, >= 0.
        count: draws per sample.
        names: what the draws are for.

    Returns:
        [B, count] float64 in [0, 1), with 53 random bits each.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        key = _mix(np.asarray(index, dtype=np.uint64) * golden + np.uint64(seed_of(*names)))
        counter = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * golden
        bits = _mix(key[:, None] + counter[None, :])
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def permutation(count: int, *names: Name) -> torch.Tensor:
    """A random permutation of 0 … count - 1 as [count] int64."""
    import torch

    return torch.randperm(count, generator=generator(*names))
