"""Ratios of two measured means: by formula, against a bootstrap of both sides, and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from robustbench_coss.statistics.ratios import coefficient_of_variation, ratio

Floats = NDArray[np.float64]


def sides(tops: Floats, bottoms: Floats) -> tuple[list[Floats], list[Floats]]:
    """Contributions to mean(tops) / mean(bottoms), of [k, n] each."""
    below = bottoms.mean()
    level = tops.mean() / below
    return [run / below for run in tops], [level * run / below for run in bottoms]


def wrong(generator: np.random.Generator, k: int, error: float, hard: Floats) -> Floats:
    """[k, n] errors in {0, 1}: runs differ, and both sides find the same images hard."""
    seed = 0.1 * generator.standard_normal((k, 1))
    noise = 0.6 * generator.standard_normal((k, hard.size))
    spread = math.sqrt(1 + 0.1**2 + 0.6**2)
    return (hard + seed + noise > spread * stats.norm.isf(error)).astype(np.float64)


def test_a_ratio_of_single_runs_has_the_interval_of_a_bootstrap_of_both() -> None:
    generator = np.random.default_rng(5)
    hard = generator.standard_normal(800)
    top, bottom = (wrong(generator, 1, error, hard) for error in (0.3, 0.4))
    found = ratio(*sides(top, bottom), [[0], [0]])
    chosen = generator.integers(0, 800, (4000, 800))
    drawn = top[0][chosen].mean(axis=1) / bottom[0][chosen].mean(axis=1)
    assert found.value == pytest.approx(top.mean() / bottom.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.008)
    assert (found.seeds, found.interval) == (1, "bootstrap")


@pytest.mark.parametrize("seeds", [[[0, 1, 2], [0, 1, 2]], [[0, 1, 2], [3, 4, 5]]])
def test_students_interval_by_its_formula(seeds: list[list[int]]) -> None:
    """Without differences between images but for the residual ones there is no image part."""
    tops = np.array([[0.30], [0.34], [0.38]]) + np.tile([0.02, -0.02], 50)
    bottoms = np.array([[0.50], [0.52], [0.60]]) + np.tile([0.02, -0.02], 50)
    a, b = sides(tops, bottoms)
    found = ratio(a, b, seeds)
    change = np.array([run.mean() for run in a]), np.array([run.mean() for run in b])
    if seeds[0] == seeds[1]:
        error, df = math.sqrt((change[0] - change[1]).var(ddof=1) / 3), 2.0
    else:
        parts = np.array([side.var(ddof=1) / 3 for side in change])
        error, df = math.sqrt(parts.sum()), parts.sum() ** 2 / (parts**2 / 2).sum()
    image = (1 - found.value) * 0.02 / bottoms.mean() * np.tile([1, -1], 50)
    both = (stats.t.ppf(0.975, df) * error) ** 2 + (
        stats.t.ppf(0.975, 99) ** 2 * image.var(ddof=1) / 100
    )
    assert found.value == pytest.approx(0.34 / 0.54)
    assert (found.low, found.high) == pytest.approx(
        (found.value - math.sqrt(both), found.value + math.sqrt(both))
    )
    assert (found.seeds, found.interval) == (3, "t")
    assert found.sd == pytest.approx(0.04 / 0.54)


def test_a_model_divided_by_itself_is_exactly_one() -> None:
    generator = np.random.default_rng(3)
    for k in (1, 3):
        runs = wrong(generator, k, 0.3, generator.standard_normal(100))
        found = ratio(*sides(runs, runs), [list(range(k))] * 2)
        assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1), abs=1e-12)


def test_a_single_run_beside_several_has_the_interval_of_the_others_seeds() -> None:
    generator = np.random.default_rng(4)
    hard = generator.standard_normal(200)
    many, one = wrong(generator, 3, 0.3, hard), wrong(generator, 1, 0.4, hard)
    for tops, bottoms in ((many, one), (one, many)):
        found = ratio(*sides(tops, bottoms), [list(range(len(s))) for s in (tops, bottoms)])
        means = many.mean(axis=1)
        over = tops.mean() / bottoms.mean() * means / means.mean()
        seeds = stats.t.ppf(0.975, 2) * over.std(ddof=1) / math.sqrt(3)
        assert found.high - found.value >= seeds
        assert found.interval == "t"


def test_what_is_no_number_has_no_interval() -> None:
    nothing = [np.full(4, math.nan)]
    found = ratio(nothing, nothing, [[0], [0]])
    assert np.isnan([found.value, found.low, found.high]).all()


@pytest.mark.parametrize(("k", "shared"), [(3, True), (3, False), (5, True)])
def test_the_interval_holds_the_true_ratio_as_often_as_it_says(k: int, shared: bool) -> None:
    """400 cases, so +- 2.2 points for two standard errors of a share of 95 %."""
    generator = np.random.default_rng([k, shared])
    seeds = [list(range(k)), [s if shared else s + k for s in range(k)]]
    held = 0
    for _ in range(400):
        hard = generator.standard_normal(300)
        top, bottom = (wrong(generator, k, error, hard) for error in (0.25, 0.4))
        found = ratio(*sides(top, bottom), seeds)
        held += found.low <= 0.25 / 0.4 <= found.high
    assert 0.928 <= held / 400 <= 0.99


def test_a_share_has_the_coefficient_of_variation_of_a_binomial() -> None:
    right = np.arange(100) < 20
    expected = math.sqrt(0.2 * 0.8 / 99) / 0.2
    assert coefficient_of_variation([right.astype(float)]) == pytest.approx(expected)
    assert coefficient_of_variation([np.zeros(10)]) == math.inf
    assert coefficient_of_variation([-np.ones(10)]) == math.inf
    # Runs of .2 and .4: their means vary by .02, of images none do.
    runs = [np.full(10, 0.2), np.full(10, 0.4)]
    assert coefficient_of_variation(runs) == pytest.approx(math.sqrt(0.02 / 2) / 0.3)
