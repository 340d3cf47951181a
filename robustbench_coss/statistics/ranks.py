"""Rank correlation of two numbers over models, some of which are variants of each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import cache
from itertools import chain, permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from robustbench_coss.statistics.intervals import UPPER, generator_for
from robustbench_coss.statistics.paired_tests import Difference

FEWEST = 4  # models without which a rank correlation has no interval
_EXACT = 40_320  # orders that are all gone through, those of 8 models; of more, some are drawn
_DRAWS = 10_000


def rank_correlation(
    x: ArrayLike, y: ArrayLike, families: Sequence[Hashable] | None = None
) -> Difference:
    """Spearman's rank correlation with an interval and a permutation test.

    Variants of a model are alike in both numbers whatever has to do with what, so that they are no
    independent witnesses. Orders of `y` are therefore drawn within families, and of families of one
    size as wholes: what a hypothesis of no relation leaves exchangeable (Winkler et al. 2015,
    "Multi-level block permutation"). p is the share of orders with a correlation at least as far
    from 0: of all of them where there are at most 40,320, else of 10,000 drawn ones and the one
    found (Phipson and Smyth 2010). The interval is Fisher's z with the variance
    (1 + rho² / 2) / (m - 3) of Bonett and Wright (2000, "Sample size requirements for estimating
    Pearson, Kendall and Spearman correlations") for m families: as wide as if members of a family
    all said the same. At rho = ±1, where z is infinite, it starts half a step (6 / (n (n² - 1)))
    short of that.

    Args:
        x, y: [n] numbers, n >= 4; ties get their mean rank. The draw of orders is keyed by the
            ranks and families.
        families: what family each belongs to; None if each is its own.

    Returns:
        `value` is rho in [-1, 1] and `test` is "rank"; all are NaN where x or y are constant or
        have a NaN, and the interval is for fewer than 4 families.

    Raises:
        ValueError: fewer than 4 pairs, or of different numbers.
    """
    one, other = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n = one.size
    families = list(range(n)) if families is None else list(families)
    if one.ndim != 1 or one.shape != other.shape or n < FEWEST or len(families) != n:
        raise ValueError(f"rank_correlation needs {FEWEST} or more pairs, and a family for each")
    ranks = [stats.rankdata(values) - (n + 1) / 2 for values in (one, other)]
    length = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    if np.isnan(one).any() or np.isnan(other).any() or length == 0:
        return Difference(math.nan, math.nan, math.nan, math.nan, "rank")
    rho = float(np.clip(ranks[0] @ ranks[1] / length, -1, 1))
    low, high = _interval(rho, n, len(set(families)))
    # In an order that does not depend on the one given, so that neither does the draw.
    members = [[i for i in range(n) if families[i] == f] for f in dict.fromkeys(families)]
    members = [sorted(mine, key=lambda i: (ranks[0][i], ranks[1][i])) for mine in members]
    members.sort(key=lambda mine: (len(mine), [(ranks[0][i], ranks[1][i]) for i in mine]))
    sizes = [len(mine) for mine in members]
    order = [i for mine in members for i in mine]
    a, b = ranks[0][order], ranks[1][order]
    if _count(sizes) <= _EXACT:
        drawn, found = b[_all_orders(tuple(sizes))], 0
    else:
        generator = generator_for("rank correlation", np.stack([a, b, np.repeat(sizes, sizes)]))
        drawn, found = b[_draw_orders(sizes, generator)], 1
    as_far = int((np.abs(drawn @ a) >= (abs(rho) - 1e-9) * length).sum())
    return Difference(rho, low, high, (as_far + found) / (len(drawn) + found), "rank")


def _interval(rho: float, n: int, families: int) -> tuple[float, float]:
    if families < FEWEST:
        return math.nan, math.nan
    most = 1 - 6 / (n * (n**2 - 1))
    z = math.atanh(min(max(rho, -most), most))
    half = float(stats.norm.ppf(UPPER)) * math.sqrt((1 + rho**2 / 2) / (families - 3))
    return min(math.tanh(z - half), rho), max(math.tanh(z + half), rho)


def _count(sizes: Sequence[int]) -> int:
    """Orders of families of these sizes: of those of one size, and within each."""
    alike = math.prod(map(math.factorial, Counter(sizes).values()))
    return alike * math.prod(map(math.factorial, sizes))


@cache
def _all_orders(sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """[_count, n] every order of n things that lie family by family, smallest first."""
    found: list[tuple[int, ...]] = [()]
    start = 0
    for size, count in sorted(Counter(sizes).items()):
        blocks = [range(start + i * size, start + (i + 1) * size) for i in range(count)]
        start += size * count
        inside = [list(permutations(block)) for block in blocks]
        mine = [
            tuple(chain.from_iterable(one))
            for swapped in permutations(inside)
            for one in product(*swapped)
        ]
        found = [before + after for before in found for after in mine]
    return np.array(found)


def _draw_orders(sizes: Sequence[int], generator: np.random.Generator) -> NDArray[np.int64]:
    """[_DRAWS, n] orders of the same kind, drawn."""
    parts, start = [], 0
    for size, count in sorted(Counter(sizes).items()):
        block = np.arange(start, start + size * count).reshape(count, size)
        start += size * count
        swapped = generator.permuted(np.tile(np.arange(count), (_DRAWS, 1)), axis=1)
        parts.append(generator.permuted(block[swapped], axis=2).reshape(_DRAWS, -1))
    return np.concatenate(parts, axis=1)
