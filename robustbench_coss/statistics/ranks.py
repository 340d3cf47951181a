"""Rank correlation of two numbers over models, some of which are variants of each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import cache
from itertools import chain, permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from robustbench_coss.statistics.intervals import UPPER, generator_for
from robustbench_coss.statistics.paired_tests import Difference

FEWEST = 4  # models without which a rank correlation has no interval
_EXACT = 40_320  # orders that are all gone through, those of 8 models; of more, some are drawn
_DRAWS = 10_000


def rank_correlation(
    x: ArrayLike,
    y: ArrayLike,
    families: Sequence[Hashable] | None = None,
    forms: Sequence[Hashable] | None = None,
) -> Difference:
    """Spearman's rank correlation with an interval and a permutation test.

    Variants of a model are alike in both numbers whatever has to do with what, so that they are no
    independent witnesses; nor are models of one form, which share what makes it (and, trained with
    the same seeds, their draws). Orders of `y` are therefore drawn within the members of a family
    that are of one form, of families of the same make-up as wholes, and of forms in all families at
    once: what a hypothesis of no relation leaves exchangeable (Winkler et al. 2015, "Multi-level
    block permutation"). p is the share of orders with a correlation at least as far from 0: of all
    of them where there are at most 40,320, else of 10,000 drawn ones and the one found (Phipson and
    Smyth 2010). The interval is Fisher's z with the variance (1 + rho² / 2) / (m - 3) of Bonett and
    Wright (2000, "Sample size requirements for estimating Pearson, Kendall and Spearman
    correlations") for m families: as wide as if members of a family all said the same. At rho = ±1,
    where z is infinite, it starts half a step (6 / (n (n² - 1))) short of that.

    Args:
        x, y: [n] numbers, n >= 4; ties get their mean rank. The draw of orders is keyed by the
            ranks, families and forms.
        families: what family each belongs to; None if each is its own.
        forms: which form each has; None if all have one. Few, since all orders of them are tried.

    Returns:
        `value` is rho in [-1, 1] and `test` is "rank"; all are NaN where x or y are constant or
        have a NaN, and the interval is for fewer than 4 families.

    Raises:
        ValueError: fewer than 4 pairs, or of different numbers.
    """
    one, other = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n = one.size
    families = list(range(n)) if families is None else list(families)
    forms = [""] * n if forms is None else list(forms)
    if one.ndim != 1 or one.shape != other.shape or n < FEWEST or len(families) != n:
        raise ValueError(f"rank_correlation needs {FEWEST} or more pairs, and a family for each")
    ranks = [_ranks(values) - (n + 1) / 2 for values in (one, other)]
    length = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    if np.isnan(one).any() or np.isnan(other).any() or length == 0:
        return Difference(math.nan, math.nan, math.nan, math.nan, "rank")
    rho = float(np.clip(ranks[0] @ ranks[1] / length, -1, 1))
    low, high = _interval(rho, n, len(set(families)))
    # In an order that does not depend on the one given, so that neither does the draw.
    pairs = list(zip(*ranks, strict=True))
    kinds = sorted(set(forms), key=str)
    table = [
        [
            sorted((i for i in range(n) if (families[i], forms[i]) == (family, form)),
                   key=lambda i: pairs[i])
            for form in kinds
        ]
        for family in dict.fromkeys(families)
    ]  # fmt: skip
    table.sort(key=lambda row: ([*map(len, row)], [pairs[i] for cell in row for i in cell]))
    shapes = tuple(tuple(map(len, row)) for row in table)
    order = [i for row in table for cell in row for i in cell]
    a, b = ranks[0][order], ranks[1][order]
    if _count(shapes) <= _EXACT:
        drawn, found = b[_all_orders(shapes)], 0
    else:
        sizes = [size for shape in shapes for size in shape]
        blocks = np.repeat(range(len(sizes)), sizes)
        generator = generator_for("rank correlation", np.stack([a, b, blocks]))
        drawn, found = b[_draw_orders(shapes, generator)], 1
    as_far = int((np.abs(drawn @ a) >= (abs(rho) - 1e-9) * length).sum())
    return Difference(rho, low, high, (as_far + found) / (len(drawn) + found), "rank")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 … n by size; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return np.asarray((last - (counts - 1) / 2)[place])


def _interval(rho: float, n: int, families: int) -> tuple[float, float]:
    if families < FEWEST:
        return math.nan, math.nan
    most = 1 - 6 / (n * (n**2 - 1))
    z = math.atanh(min(max(rho, -most), most))
    half = float(special.ndtri(UPPER)) * math.sqrt((1 + rho**2 / 2) / (families - 3))
    return min(math.tanh(z - half), rho), max(math.tanh(z + half), rho)


Shapes = tuple[tuple[int, ...], ...]
"""For each family how many members it has of each form."""


def _turns(shapes: Shapes) -> list[tuple[int, ...]]:
    """Orders of the forms after which there are as many families of each make-up as before."""
    return [
        turn
        for turn in permutations(range(len(shapes[0])))
        if Counter(tuple(shape[g] for g in turn) for shape in shapes) == Counter(shapes)
    ]


def _takers(shapes: Shapes, turn: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Families of each make-up, and those that can take their places with their forms turned."""
    turned = [tuple(shape[g] for g in turn) for shape in shapes]
    every = range(len(shapes))
    return [
        ([f for f in every if shapes[f] == make_up], [f for f in every if turned[f] == make_up])
        for make_up in dict.fromkeys(shapes)
    ]


def _places(shapes: Shapes) -> list[list[list[int]]]:
    """Numbers from 0 for the members, family by family and form by form."""
    count = iter(range(sum(map(sum, shapes))))
    return [[[next(count) for _ in range(size)] for size in shape] for shape in shapes]


def _count(shapes: Shapes) -> int:
    """Orders of the forms, of families of one make-up, and within a form of a family."""
    alike = math.prod(map(math.factorial, Counter(shapes).values()))
    return len(_turns(shapes)) * alike * math.prod(math.factorial(n) for n in chain(*shapes))


@cache
def _all_orders(shapes: Shapes) -> NDArray[np.int64]:
    """[_count, n] every order of the members."""
    members, found = _places(shapes), []
    inside = [[list(permutations(cell)) for cell in row] for row in members]
    for turn in _turns(shapes):
        takers = _takers(shapes, turn)
        for chosen in product(*(permutations(after) for _, after in takers)):
            taken = {f: by for (before, _), after in zip(takers, chosen, strict=True)
                     for f, by in zip(before, after, strict=True)}  # fmt: skip
            cells = [inside[taken[f]][g] for f in range(len(shapes)) for g in turn]
            found += [tuple(chain.from_iterable(one)) for one in product(*cells)]
    return np.array(found)


def _draw_orders(shapes: Shapes, generator: np.random.Generator) -> NDArray[np.int64]:
    """[_DRAWS, n] orders of the same kind, drawn."""
    members, turns, found = _places(shapes), _turns(shapes), []
    counts = generator.multinomial(_DRAWS, [1 / len(turns)] * len(turns))
    for turn, count in zip(turns, counts.tolist(), strict=True):
        parts: dict[int, list[NDArray[np.int64]]] = {}
        for before, after in _takers(shapes, turn):
            taken = generator.permuted(np.tile(after, (count, 1)), axis=1)
            for column, f in enumerate(before):
                parts[f] = []
                for g, size in zip(turn, shapes[f], strict=True):
                    cells = np.zeros((len(shapes), size), np.int64)
                    cells[after] = [members[by][g] for by in after]
                    parts[f].append(generator.permuted(cells[taken[:, column]], axis=1))
        found.append(np.concatenate([p for f in sorted(parts) for p in parts[f]], axis=1))
    return np.concatenate(found)
