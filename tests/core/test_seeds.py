"""Draws keyed by names: every name counts, none runs into the next, and rows stand alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from robustbench_coss.seeds import Name, generator, permutation, seed_of, uniform

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix(x: int) -> int:
    """SplitMix64's output function in whole numbers (Steele, Lea and Flood 2014)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def by_hand(index: int, place: int, *names: Name) -> float:
    text = "\x1f".join(f"{type(name).__name__}:{name!r}" for name in names)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    key = splitmix((index * GOLDEN + (int.from_bytes(digest, "little") >> 1)) & MASK)
    return (splitmix((key + (place + 1) * GOLDEN) & MASK) >> 11) / 2**53


NAMES: list[tuple[Name, ...]] = [
    ("view", 0, 1),
    ("view", 1, 0),
    ("view", 0, 1, 0),
    ("view", 0),
    ("view01",),
    ("view", "01"),
    ("view", "0", 1),
    ("view", 0.0, 1),
    ("vie", "w", 0, 1),
    ("crop", 0, 1),
]


def test_each_name_counts_and_none_runs_into_the_next() -> None:
    assert len({seed_of(*names) for names in NAMES}) == len(NAMES)
    assert all(0 <= seed_of(*names) < 2**63 for names in NAMES)
    rows = [tuple(uniform(np.arange(3), 2, *names).flatten()) for names in NAMES]
    assert len({*rows}) == len(NAMES)
    orders = [tuple(permutation(50, *names).tolist()) for names in NAMES]
    assert len({*orders}) == len(NAMES)
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(50))}
    draws = [float(torch.rand((), generator=generator(*names))) for names in NAMES]
    assert len({*draws}) == len(NAMES)


@pytest.mark.parametrize("names", NAMES[:3])
def test_uniform_draws_are_those_of_whole_numbers_row_by_row(names: tuple[Name, ...]) -> None:
    index = np.array([0, 7, 7, 123_456_789])
    found = uniform(index, 3, *names)
    wanted = [[by_hand(int(i), place, *names) for place in range(3)] for i in index]
    assert found.tolist() == wanted
    # A row is the same in another batch, and with more draws after it.
    assert uniform(index[1:2], 5, *names)[0, :3].tolist() == wanted[1]


def test_uniform_draws_are_uniform() -> None:
    found = uniform(np.arange(2_000), 10, "test").flatten()
    assert found.min() >= 0
    assert found.max() < 1
    # 20,000 draws: the share below q varies by at most .0036 (one standard deviation).
    for q in (0.1, 0.5, 0.9):
        assert abs((found < q).mean() - q) < 4 * 0.0036
    columns = found.reshape(-1, 10)
    assert np.abs(np.corrcoef(columns.T) - np.eye(10)).max() < 0.1
