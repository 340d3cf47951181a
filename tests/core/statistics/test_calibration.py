"""Statistics of probabilities against reference libraries, hand-worked cases and simulations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from robustbench_coss.statistics.calibration import AUROC, BRIER, COVERED, ECE, NLL
from robustbench_coss.statistics.contrasts import difference
from robustbench_coss.statistics.functionals import (
    Statistic,
    estimate_of,
    pseudo_values,
)

EVERY = {"nll": NLL, "brier": BRIER, "ece": ECE, "auroc": AUROC, "covered": COVERED}
Floats = NDArray[np.float64]


def value_of(statistic: Statistic, columns: Any) -> float:
    """Of every image once."""
    rows = {k: np.asarray(columns[k], np.float64) for k in statistic.columns}
    return float(statistic.of(rows, np.ones((1, len(columns["correct"]))))[0])


def outputs(n: int, classes: int = 6, seed: int = 0, sure: float = 2.0) -> tuple[Floats, Any]:
    """Probabilities [n, classes] and labels [n] of a model that is right more often than not."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    scores = draw.normal(size=(n, classes))
    scores[np.arange(n), labels] += draw.normal(1.0, 1.0, n)
    shares = np.exp(sure * scores)
    return shares / shares.sum(axis=1, keepdims=True), labels


def columns_of(shares: Floats, labels: Any) -> dict[str, NDArray[Any]]:
    n, answer = len(labels), shares.argmax(axis=1)
    sure = shares.max(axis=1)
    return {
        "correct": answer == labels,
        "confidence": logit(sure),
        "true_class": logit(shares[np.arange(n), labels]),
        "other_squares": (shares**2).sum(axis=1) - sure**2,
    }


def test_nll_and_brier_are_those_of_scikit_learn() -> None:
    shares, labels = outputs(400)
    columns = columns_of(shares, labels)
    assert value_of(NLL, columns) == pytest.approx(log_loss(labels, shares), abs=1e-9)
    brier = brier_score_loss(labels, shares, scale_by_half=False, labels=range(6))
    assert value_of(BRIER, columns) == pytest.approx(brier, abs=1e-9)


@pytest.mark.parametrize("sure", [0.7, 2.0, 6.0])
def test_ece_is_that_of_torchmetrics(sure: float) -> None:
    shares, labels = outputs(700, sure=sure)
    expected = multiclass_calibration_error(
        torch.from_numpy(shares), torch.from_numpy(labels), 6, n_bins=15, norm="l1"
    )
    assert value_of(ECE, columns_of(shares, labels)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_the_auroc_of_being_right_is_that_of_scikit_learn(ties: bool) -> None:
    columns = columns_of(*outputs(500))
    if ties:
        columns["confidence"] = np.round(columns["confidence"])
    expected = roc_auc_score(columns["correct"], columns["confidence"])
    assert value_of(AUROC, columns) == pytest.approx(expected, abs=1e-12)


def test_accuracy_at_80_percent_coverage_leaves_out_the_least_sure() -> None:
    columns = columns_of(*outputs(500))
    kept = np.argsort(-columns["confidence"])[:400]
    found = value_of(COVERED, columns)
    assert found == pytest.approx(columns["correct"][kept].mean(), abs=1e-12)


def test_of_equally_sure_answers_at_the_edge_the_expected_share_counts() -> None:
    # 8 of 10 are kept: the 6 surest, 3 of which are right, and 2 of 4 of which half are right.
    columns = {
        "correct": np.array([1, 1, 1, 0, 0, 0, 1, 1, 0, 0], bool),
        "confidence": np.array([3.0] * 6 + [1.0] * 4),
    }
    assert value_of(COVERED, columns) == pytest.approx((3 + 1) / 8)


def test_without_a_wrong_or_a_right_answer_there_is_no_auroc() -> None:
    for right in (True, False):
        columns = {"correct": np.full(9, right), "confidence": np.arange(9.0)}
        assert math.isnan(value_of(AUROC, columns))
        assert value_of(COVERED, columns) == right
        found = estimate_of(AUROC, [[columns]])
        assert math.isnan(found.value)
        assert math.isnan(found.low)


def test_bins_are_open_below_and_closed_above() -> None:
    # 1/15 falls into the first bin, beside a right answer that makes up for it.
    confidence = np.array([1 / 15, 0.5 / 15])
    columns = {"correct": np.array([False, False]), "confidence": logit(confidence)}
    rows = {"correct": np.array([0.0, 0.0]), "confidence": logit(confidence)}
    assert value_of(ECE, columns) == pytest.approx(confidence.mean())
    right = {"correct": np.array([True, False]), "confidence": logit(np.array([0.9, 0.91]))}
    # 0.9 and 0.91 are in (13/15, 14/15]: |1/2 - 0.905| and not the mean of 0.1 and 0.91.
    assert value_of(ECE, right) == pytest.approx(0.405)
    assert float(ECE.of(rows, np.array([[1.0, 3.0]]))[0]) == pytest.approx(2.5 / 15 / 4)


def test_an_answer_that_is_not_finite_leaves_no_number() -> None:
    columns = columns_of(*outputs(50))
    for name in ("confidence", "true_class", "other_squares"):
        columns[name] = columns[name].copy()
        columns[name][3] = np.nan
    assert all(math.isnan(value_of(statistic, columns)) for statistic in EVERY.values())


@pytest.mark.parametrize("name", EVERY)
def test_pseudo_values_have_the_statistic_as_their_mean(name: str) -> None:
    columns = columns_of(*outputs(300))
    found = pseudo_values(EVERY[name], columns)
    assert found.shape == (300,)
    assert found.mean() == pytest.approx(value_of(EVERY[name], columns), abs=1e-12)


def test_pseudo_values_of_an_auroc_have_the_variance_of_delong() -> None:
    columns = columns_of(*outputs(400))
    right = columns["confidence"][columns["correct"]]
    wrong = columns["confidence"][~columns["correct"]]
    wins = (right[:, None] > wrong).astype(float)  # no ties in these
    delong = wins.mean(1).var(ddof=1) / len(right) + wins.mean(0).var(ddof=1) / len(wrong)
    found = pseudo_values(AUROC, columns).var(ddof=1) / 400
    assert found == pytest.approx(delong, rel=0.02)


def naive(statistic: Statistic, conditions: list[dict[str, Any]]) -> Floats:
    """Draws of images, one after the other."""
    draw, n = np.random.default_rng(5), len(conditions[0]["correct"])
    found = []
    for _ in range(400):
        rows = draw.integers(0, n, n)
        parts = [{k: v[rows] for k, v in columns.items()} for columns in conditions]
        found.append(np.mean([value_of(statistic, part) for part in parts]))
    return np.array(found)


@pytest.mark.parametrize("name", ["ece", "auroc", "covered"])
@pytest.mark.parametrize("count", [1, 2])
def test_an_interval_is_as_wide_as_that_of_drawing_images_one_by_one(name: str, count: int) -> None:
    statistic = EVERY[name]
    shares, labels = outputs(200)
    coded = [columns_of(shares, labels), columns_of(shares**0.5, labels)][:count]
    for columns in coded:
        columns["confidence"] = np.round(columns["confidence"], 1)
    found = estimate_of(statistic, [coded])
    drawn = naive(statistic, coded)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.interval == "bootstrap"
    assert found.high - found.low == pytest.approx(high - low, rel=0.15)
    assert found.low < found.value < found.high


@pytest.mark.slow
def test_intervals_of_ece_hold_what_so_many_images_give_on_average() -> None:
    # Of a model that is calibrated, so that all of its ECE is the bias of few images.
    every = []
    for seed in range(150):
        draw = np.random.default_rng(seed)
        level = np.round(draw.normal(1.0, 1.5, 250), 1)
        every.append({"correct": draw.random(250) < expit(level), "confidence": level})
    true = np.mean([value_of(ECE, columns) for columns in every])
    found = [estimate_of(ECE, [[columns]]) for columns in every]
    held = np.mean([f.low <= true <= f.high for f in found])
    assert held >= 0.88  # 95 of 100 but for 150 trials; a plain percentile holds 50


def test_several_seeds_have_the_interval_of_students_t() -> None:
    runs = [[columns_of(*outputs(100, seed=seed))] for seed in range(3)]
    values = [value_of(ECE, run[0]) for run in runs]
    found = estimate_of(ECE, runs)
    assert found.interval == "t"
    assert found.value == pytest.approx(np.mean(values))
    assert found.high - found.value == pytest.approx(
        4.3027 * np.std(values, ddof=1) / 3**0.5, rel=1e-3
    )


def test_two_models_that_differ_by_chance_are_seldom_told_apart() -> None:
    found = 0
    for seed in range(60):
        shares, labels = outputs(150, seed=seed)
        other = outputs(150, seed=seed)[0]  # the same images, other noise on what it says
        noise = np.random.default_rng(seed).normal(0, 0.5, (2, 150, 6))
        pair = [s * np.exp(e) for s, e in zip((shares, other), noise, strict=True)]
        values = [pseudo_values(ECE, columns_of(s / s.sum(1, keepdims=True), labels)) for s in pair]
        found += difference([values[0]], [values[1]]).p < 0.05
    assert found <= 7
