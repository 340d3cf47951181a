"""AUROC and FPR@95 against scikit-learn's curves, and what their errors are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from robustbench_coss.statistics.detection import auroc, fpr, pseudo_values
from robustbench_coss.statistics.intervals import Floats, bootstrap_mean


def scores(seed: int, n: int = 400, m: int = 300, apart: float = 1.5) -> tuple[Floats, Floats]:
    draw = np.random.default_rng(seed)
    return draw.normal(apart, 1, n), draw.normal(0, 1, m)


def curve(own: Floats, other: Floats) -> tuple[Any, Any]:
    """Labels and scores, the data set itself as the positive class."""
    return np.r_[np.ones(len(own)), np.zeros(len(other))], np.r_[own, other]


@pytest.mark.parametrize("digits", [9, 0])  # without and with many ties
def test_numbers_are_those_of_scikit_learns_curve(digits: int) -> None:
    own, other = (np.round(s, digits) for s in scores(1))
    labels, both = curve(own, other)
    assert auroc(own, other)[0] == pytest.approx(roc_auc_score(labels, both), abs=1e-12)
    shares, recalls, _ = roc_curve(labels, both, drop_intermediate=False)
    assert fpr(own, other)[0] == pytest.approx(shares[np.argmax(recalls >= 0.95)], abs=1e-12)


def test_of_20_images_19_are_above_the_threshold() -> None:
    own = np.arange(20.0)  # 1 is the largest score that 19 of 20 reach
    value, _, _ = fpr(own, np.array([0.5, 1.0, 1.5, 30.0]))
    assert value == 0.75


def test_what_is_told_apart_wholly_or_not_at_all() -> None:
    own = np.arange(10.0)
    assert auroc(own, own - 100)[0] == 1
    assert fpr(own, own - 100)[0] == 0
    assert auroc(own, own + 100)[0] == 0
    assert fpr(own, own + 100)[0] == 1
    same = np.zeros(7)
    assert auroc(same, np.zeros(3))[0] == 0.5
    assert fpr(same, np.zeros(3))[0] == 1


@pytest.mark.parametrize("number", [auroc, fpr])
def test_pseudo_values_of_several_sets_have_the_mean_of_their_numbers(number: Any) -> None:
    own, one = scores(2)
    other = scores(3, m=90, apart=0.5)[1]
    found = pseudo_values(number, own, [one, other])
    assert found.shape == (400 + 300 + 90,)
    assert found.mean() == pytest.approx((number(own, one)[0] + number(own, other)[0]) / 2)


def test_pseudo_values_of_an_auroc_vary_as_delong_says() -> None:
    own, other = scores(4)
    wins = (own[:, None] > other).astype(float)
    expected = wins.mean(1).var(ddof=1) / 400 + wins.mean(0).var(ddof=1) / 300
    found = pseudo_values(auroc, own, [other]).var(ddof=1) / 700
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("number", "rel"), [(auroc, 0.1), (fpr, 0.2)])
def test_pseudo_values_vary_as_new_samples_do(
    number: Callable[[Floats, Floats], Any], rel: float
) -> None:
    values = []
    for seed in range(400):
        own, one = scores(seed)
        other = np.random.default_rng(10_000 + seed).normal(0.5, 1, 150)
        values.append(pseudo_values(number, own, [one, other]))
    spread = np.std([v.mean() for v in values], ddof=1)
    said = np.sqrt(np.mean([v.var(ddof=1) / len(v) for v in values]))
    assert said == pytest.approx(spread, rel=rel)


def test_intervals_of_fpr_hold_the_true_number() -> None:
    true = norm.sf(norm.ppf(0.05) + 1.5)
    held = 0
    for seed in range(150):
        own, other = scores(seed)
        low, high = bootstrap_mean(pseudo_values(fpr, own, [other]))
        held += low <= true <= high
    assert held >= 132  # 95 of 100 but for 150 trials and 400 images


def test_a_score_that_is_not_finite_leaves_no_number() -> None:
    own, other = scores(5)
    own[3] = math.nan
    assert np.isnan(pseudo_values(auroc, own, [other])).all()
