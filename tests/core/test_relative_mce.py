"""Relative mCE where a baseline hardly loses, and intervals with the baseline's own sampling."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
from helpers.corruption_errors import with_errors
from numpy.typing import NDArray

from robustbench_coss.analysis.corruption_error import (
    ALEXNET,
    ALEXNET_BASELINE,
    ALEXNET_CLEAN,
    baseline_of,
    corruption_errors,
    corruption_estimates,
)
from robustbench_coss.records.record import Record

NAMES = list(ALEXNET)
# Of the baseline: it loses next to nothing under three corruptions, a lot under the others.
LOSES = dict.fromkeys(NAMES, 0.3) | {"brightness": 0.003, "fog": 0.0, "jpeg_compression": -0.01}


def drawn(clean: float, loses: dict[str, float], images: NDArray[np.float64], seed: int) -> Record:
    """A record of as many images as there are difficulties, standard normal draws."""
    record = with_errors(0.0, dict.fromkeys(NAMES, 0.0), "parts")
    generator = np.random.default_rng(seed)
    n = images.size
    record.index = np.arange(n, dtype=np.int32)
    record.label = np.zeros(n, np.int32)
    record.dataset["n"] = n
    for cell in record.cells:
        error = clean + (loses[cell.kind] if cell.kind else 0.0)
        latent = 0.8 * images + 0.6 * generator.standard_normal(n)
        cell.outcomes["correct"] = latent > np.quantile(latent, error)
    return record


def resampled(record: Record, chosen: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """[draws] error per corruption, and on clean images as ""."""
    found: dict[str, list[NDArray[np.float64]]] = {}
    for cell in record.cells:
        found.setdefault(cell.kind, []).append(1 - cell.outcomes["correct"][chosen].mean(axis=1))
    return {name: np.mean(errors, axis=0) for name, errors in found.items()}


def test_a_corruption_under_which_the_baseline_hardly_loses_weighs_what_it_is() -> None:
    base = with_errors(0.2, {c: 0.2 + LOSES[c] for c in NAMES}, "parts")
    mine = with_errors(0.1, {c: 0.15 + LOSES[c] for c in NAMES}, "parts")
    found = corruption_errors(mine, baseline_of("base", [base]))
    assert found.relative_mce == pytest.approx((12 * 0.35 + 0.053 + 0.05 + 0.04) / (3.6 - 0.007))
    ratios = [(LOSES[c] + 0.05) / LOSES[c] for c in NAMES if LOSES[c] > 0]
    assert np.mean(ratios) > 2  # of which the mean is made by brightness alone
    assert math.isclose(found.relative_mce_per_image.mean(), found.relative_mce)


def test_against_alexnet_it_is_the_papers_mean_of_ratios() -> None:
    errors = dict.fromkeys(NAMES, 0.8)
    found = corruption_errors(with_errors(0.3, errors), ALEXNET_BASELINE)
    ratios = [0.5 / (ALEXNET[c] - ALEXNET_CLEAN) for c in NAMES]
    assert found.relative_mce == pytest.approx(np.mean(ratios))
    total = 15 * 0.5 / (sum(ALEXNET.values()) - 15 * ALEXNET_CLEAN)
    assert abs(np.mean(ratios) - total) > 0.1


def test_intervals_are_those_of_a_bootstrap_that_draws_the_baseline_too() -> None:
    generator = np.random.default_rng(11)
    images = generator.standard_normal(600)
    base, mine = drawn(0.15, LOSES, images, 1), drawn(0.2, dict.fromkeys(NAMES, 0.25), images, 2)
    mce, relative = corruption_estimates([mine], baseline_of("base", [base]))
    chosen = generator.integers(0, 600, (1500, 600))
    a, b = resampled(mine, chosen), resampled(base, chosen)
    both = np.mean([a[c] / b[c] for c in NAMES], axis=0)
    excess = [sum(side[c] - side[""] for c in NAMES) for side in (a, b)]
    for estimate, values in ((mce, both), (relative, excess[0] / excess[1])):
        ends = np.quantile(values, [0.025, 0.975])
        assert (estimate.low, estimate.high) == pytest.approx(ends, abs=0.12 * np.ptp(ends))
        assert estimate.low < estimate.value < estimate.high


def test_a_baseline_has_an_mce_of_exactly_one() -> None:
    images = np.random.default_rng(12).standard_normal(300)
    seeds = [drawn(0.2, LOSES, images, seed) for seed in (1, 2, 3)]
    for seed, record in enumerate(seeds):
        record.model["training"] = {"seed": seed}
        record.model["checkpoint_sha256"] = f"{seed:064x}"
    for records in (seeds[:1], seeds):
        for found in corruption_estimates(records, baseline_of("base", records)):
            assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1), abs=1e-9)


@pytest.mark.parametrize(
    ("loses", "clean", "words"),
    [
        (dict.fromkeys(NAMES, 0.001), 0.3, ["relative mCE .* loses little under corruptions"]),
        (dict.fromkeys(NAMES, -0.01), 0.3, ["relative mCE .* loses little under corruptions"]),
        (dict.fromkeys(NAMES, 0.3) | {"fog": 0.0}, 0.02, ["^mCE .* makes few errors under fog;"]),
        (dict.fromkeys(NAMES, 0.3), 0.2, []),
    ],
)
def test_small_divisors_are_warned_of(
    loses: dict[str, float], clean: float, words: list[str]
) -> None:
    images = np.random.default_rng(13).standard_normal(1000)
    base, mine = drawn(clean, loses, images, 1), drawn(0.2, dict.fromkeys(NAMES, 0.2), images, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, relative = corruption_estimates([mine], baseline_of("base", [base]))
    said = [str(w.message) for w in caught]
    assert len(said) == len(words)
    for text, pattern in zip(said, words, strict=True):
        assert re.search(pattern, text)
        assert "the baseline base" in text
    assert math.isnan(relative.value) == (loses["fog"] < 0)
