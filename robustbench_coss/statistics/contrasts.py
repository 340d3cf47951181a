"""Differences and sums of configurations over seeds and images: arrays in, estimates out.

The same seed gives configurations the same initial weights, order and views, so that their runs
rise and fall together. What is tested is therefore the sum within each seed, not a sum of means
whose errors are taken to be independent.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from robustbench_coss.statistics.intervals import CONFIDENCE, Floats
from robustbench_coss.statistics.paired_tests import Difference, by_images

Seeds = Sequence[Sequence[Hashable]]
"""For each configuration the seeds of its runs, in their order; equal ones coincide."""


@dataclass(frozen=True)
class Block:
    """Configurations that have seeds in common, directly or by way of others among them.

    Attributes:
        members: their places in the sum.
        seeds: the seeds that all of them have.
    """

    members: tuple[int, ...]
    seeds: tuple[Hashable, ...]


def blocks_of(seeds: Seeds) -> list[Block]:
    """Configurations put together where seeds coincide; blocks are independent of each other."""
    sets = [set(mine) for mine in seeds]
    found: list[set[int]] = []
    for i, mine in enumerate(sets):
        joined = [block for block in found if any(sets[j] & mine for j in block)]
        found = [block for block in found if block not in joined] + [{i}.union(*joined)]
    blocks = []
    for block in sorted(map(sorted, found)):
        common = set.intersection(*(sets[i] for i in block))
        blocks.append(Block(tuple(block), tuple(s for s in seeds[block[0]] if s in common)))
    return blocks


def over_seeds(seeds: Seeds) -> bool:
    """Whether a contrast can speak of seeds: every block has two or more in common.

    A single run says nothing about how much its configuration varies; taking it to vary as others
    do decides too often where it varies more.
    """
    return all(len(block.seeds) > 1 for block in blocks_of(seeds))


def unmatched(seeds: Seeds) -> list[tuple[int, Hashable]]:
    """Seeds that a contrast leaves out since not all of their block have them, as (place, seed)."""
    return [
        (i, seed)
        for block in blocks_of(seeds)
        for i in block.members
        for seed in seeds[i]
        if seed not in block.seeds
    ]


def difference(
    a: Sequence[NDArray[Any]],
    b: Sequence[NDArray[Any]],
    share: bool = False,
    seeds: Seeds | None = None,
) -> Difference:
    """Mean of one configuration minus mean of another: the `contrast` with weights 1 and -1.

    Args:
        a, b: for each run the value of every image, [n], in the same order everywhere.
        seeds: of the runs of either; None if none coincide.
    """
    if seeds is None:
        seeds = [[(side, i) for i in range(len(runs))] for side, runs in enumerate((a, b))]
    return contrast((a, b), (1, -1), seeds, share)


def contrast(
    groups: Sequence[Sequence[NDArray[Any]]],
    weights: Sequence[float],
    seeds: Seeds,
    share: bool = False,
) -> Difference:
    """A weighted sum of the means of configurations, over seeds and images.

    A benchmark has to account for every source of variation (Bouthillier et al. 2021, arXiv
    2103.03098). Where seeds coincide (`blocks_of`) the sum is taken seed by seed, image by image,
    over the seeds that all configurations of the block have; blocks are independent. Seeds are
    crossed with images, so that the sum has the variance

        sum over blocks of (seed / k + residual / (k n)) + image / n,

    where "image" is the variance between images of the whole sum. The variance of seed means and
    that of image means each contain the residuals, which are therefore counted once, with the
    seeds: unbiased, where resampling seeds and images counts them up to three times (Owen 2007,
    "The pigeonhole bootstrap"). Each of the two parts has its own Student's quantile, and half the
    interval is the root of the sum of squares of both (Zou and Donner 2008, "Construction of
    confidence limits about effect measures"): k - 1 degrees of freedom for the seeds of a block,
    Satterthwaite's (1946) for several, and n - 1 for images. One quantile with Satterthwaite's
    degrees of freedom for all would decide in up to 13 of 100 nulls with two seeds, 7 with three.
    With one block and images that make no difference it is the paired t test over seeds, with two
    unpaired Welch's. p is the level at which the interval ends at 0.

    Where a block has fewer than two seeds in common (`over_seeds` is false), the sum of the
    configurations' means is tested image by image (`by_images`), which says nothing about seeds; so
    it is where no outcome varies between seeds.

    Args:
        groups: for each configuration the runs, each [n] values of the same images in one order.
        weights: one per configuration.
        seeds: of the runs.
        share: values lie in [0, 1] by nature, so the interval is cut at the largest sum.

    Returns:
        `p` is two-sided, of a sum of 0; `test` is "t", or that of `by_images`. Interval and p are
        NaN for a single image of several seeds, or if a value is NaN.

    Raises:
        ValueError: no run, no image, columns of different lengths, or a group without its weight
            or seeds.
    """
    columns = [column for runs in groups for column in runs]
    if not (columns and all(len(runs) for runs in groups) and columns[0].size) or any(
        column.shape != columns[0].shape for column in columns
    ):
        raise ValueError("a contrast needs runs of every configuration, all of the same images")
    if [len(runs) for runs in groups] != [len(mine) for mine in seeds] or len(seeds) != len(
        weights
    ):
        raise ValueError("a contrast needs a weight per configuration and a seed per run")
    share = share or all(column.dtype == bool for column in columns)
    # No sum of shares can be further from 0 than this.
    most = float(sum(w for w in weights if w > 0)) if share else None
    rows = [np.stack(list(runs)).astype(np.float64) for runs in groups]
    if over_seeds(seeds):
        blocks = [
            np.sum([weights[i] * _rows_of(rows[i], seeds[i], b.seeds) for i in b.members], axis=0)
            for b in blocks_of(seeds)
        ]
        found = _crossed(blocks, rows)
        if found is not None:
            low, high = found.low, found.high
            if most is not None:
                low, high = (float(np.clip(end, -most, most)) for end in (low, high))
            return Difference(found.value, low, high, found.p, "t")
    means = [mine.mean(axis=0) for mine in rows]
    turns = most == 1 and len(means) == 2 and all(np.isin(m, (0.0, 1.0)).all() for m in means)
    values = np.sum([w * m for w, m in zip(weights, means, strict=True)], axis=0)
    return by_images(values, most, turns)


def _rows_of(rows: Floats, mine: Sequence[Hashable], wanted: Sequence[Hashable]) -> Floats:
    place = {seed: i for i, seed in enumerate(mine)}
    return rows[[place[seed] for seed in wanted]]


def _crossed(blocks: Sequence[Floats], outcomes: Sequence[Floats]) -> Difference | None:
    """The sum of means of independent [k, n] blocks; None where nothing varies between seeds."""
    per_image = np.sum([block.mean(axis=0) for block in blocks], axis=0)
    value, n = float(per_image.mean()), len(per_image)
    if n < 2 or math.isnan(value):
        return Difference(value, math.nan, math.nan, math.nan, "t")
    images = float(per_image.var(ddof=1)) / n
    residual, variances = 0.0, []
    for block in blocks:
        k, means = len(block), block.mean(axis=1)
        left = block - means[:, None] - block.mean(axis=0) + block.mean()
        within = float((left**2).sum()) / ((k - 1) * (n - 1)) / (k * n)
        # Seed means contain the residuals, so that they vary at least as much.
        between = max(float(means.var(ddof=1)) / k, within)
        residual += within
        variances.append((between, k - 1))
    seeds = sum(between for between, _ in variances)
    largest = max(float(np.abs(rows).max(initial=0.0)) for rows in outcomes)
    if seeds <= (1e-12 * largest) ** 2:  # 0 but for rounding
        return None
    # Welch and Satterthwaite's degrees of freedom, of shares: squares of tiny variances are 0.
    freedom = 1 / sum((between / seeds) ** 2 / df for between, df in variances)
    parts = [(seeds, freedom), (max(images - residual, 0.0), n - 1)]

    def half(p: float) -> float:
        return math.sqrt(sum(v * float(special.stdtrit(df, 1 - p / 2)) ** 2 for v, df in parts))

    p, step = 0.5, 0.25
    while step > 1e-17:  # half falls with p
        p, step = p + (step if half(p) > abs(value) else -step), step / 2
    return Difference(value, value - half(1 - CONFIDENCE), value + half(1 - CONFIDENCE), p, "t")
