"""Probabilities beside right and wrong: against float64 softmax, and how far their codes may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax

from robustbench_coss.evaluations.answers import answered, answers
from robustbench_coss.evaluations.protocol import Condition
from robustbench_coss.evaluations.suites.adversarial import Adversarial
from robustbench_coss.records.confidence import (
    CONFIDENCE,
    CONFIDENCES,
    NO_ANSWER,
    OTHERS,
    SCALE,
    TRUE_CLASS,
    logits_of,
    squares_of,
)
from robustbench_coss.records.record import Cell
from robustbench_coss.statistics.calibration import AUROC, BRIER, ECE, NLL
from robustbench_coss.testing import pictures, tiny_subject


def logits(n: int, classes: int, scale: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    found = torch.randn(n, classes, generator=draw)
    found[torch.arange(n), labels] += torch.randn(n, generator=draw) + 1
    return scale * found, labels


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("scale", [0.5, 3.0, 12.0])
def test_codes_are_as_close_to_the_softmax_as_is_said(classes: int, scale: float) -> None:
    outputs, labels = logits(2000, classes, scale)
    found = {name: column.numpy() for name, column in answered(outputs, labels).items()}
    shares = softmax(outputs.double().numpy(), axis=1)
    true = shares[np.arange(2000), labels.numpy()]
    others = (shares**2).sum(axis=1) - shares.max(axis=1) ** 2
    assert np.array_equal(found["correct"], shares.argmax(axis=1) == labels.numpy())
    for name, exact in ((CONFIDENCE, shares.max(axis=1)), (TRUE_CLASS, true)):
        assert found[name].dtype == np.int8
        read = expit(logits_of(found[name]))
        assert np.abs(read - exact).max() <= 0.0069  # half a step at p = 1/2
        # In ln p, of which NLL is made: half a step is sqrt(1 + l^2 / 4) / SCALE of l.
        inside = exact > np.exp(-31)
        odds = np.log(exact[inside]) - np.log1p(-np.minimum(exact[inside], 1 - 1e-16))
        apart = np.abs(np.log(read[inside]) - np.log(exact[inside]))
        assert (apart <= 1.02 * np.sqrt(1 + odds**2 / 4) / SCALE + 1e-5).all()
    assert np.abs(squares_of(found[OTHERS]) - others).max() <= 0.5 / 508 + 1e-6


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_statistics_of_codes_are_those_of_the_probabilities(scale: float) -> None:
    outputs, labels = logits(4000, 10, scale)
    found = {name: column.numpy() for name, column in answered(outputs, labels).items()}
    read = {"correct": found["correct"], OTHERS: squares_of(found[OTHERS])}
    read |= {name: logits_of(found[name]) for name in (CONFIDENCE, TRUE_CLASS)}
    logs = log_softmax(outputs.double().numpy(), axis=1)
    shares, rows = np.exp(logs), np.arange(4000)
    true, sure = logs[rows, labels], logs.max(axis=1)
    exact = {
        "correct": found["correct"],
        CONFIDENCE: sure - np.log(-np.expm1(sure)),
        TRUE_CLASS: true - np.log(-np.expm1(true)),
        OTHERS: (shares**2).sum(axis=1) - np.exp(2 * sure),
    }
    for statistic, most in ((NLL, 0.003), (BRIER, 0.001), (ECE, 0.003), (AUROC, 0.001)):
        found = [float(statistic.of(of, np.ones((1, 4000)))[0]) for of in (read, exact)]
        assert abs(found[0] - found[1]) < most


def test_answers_near_certainty_are_told_apart_though_32_bit_rounds_them_to_1() -> None:
    outputs = torch.tensor([[18.0, 0.0], [24.0, 0.0], [40.0, 0.0]])
    codes = answered(outputs, torch.tensor([0, 0, 1]))
    assert codes[CONFIDENCE].tolist() == [
        round(SCALE * float(np.arcsinh(x / 2))) for x in (18, 24, 32)
    ]
    assert codes[CONFIDENCE].tolist()[2] == 127
    assert codes[TRUE_CLASS].tolist()[2] == -127


def test_an_output_that_is_not_finite_has_no_probability() -> None:
    outputs = torch.tensor([[1.0, float("nan")], [float("inf"), 0.0], [1.0, 0.0]])
    found = answered(outputs, torch.tensor([0, 0, 0]))
    assert found["correct"].tolist() == [False, False, True]
    for name in CONFIDENCES:
        assert found[name].tolist()[:2] == [NO_ANSWER] * 2
        assert found[name].tolist()[2] != NO_ANSWER
    assert np.isnan(logits_of(found[CONFIDENCE].numpy())).tolist() == [True, True, False]


def test_an_attack_leaves_the_probabilities_of_the_image_it_ends_with() -> None:
    subject, batch = tiny_subject(), pictures(24)
    suite = Adversarial(attacks=["fgsm"])
    condition = Condition("fgsm@4/255", "fgsm", 4.0)
    found = suite.measure(subject, batch, condition, 0)
    clean = answers(subject, batch.images, batch.labels)
    right = clean["correct"]
    assert 0 < int(right.sum()) < 24 or right.all()
    rows = right.nonzero().flatten()
    images, _ = suite.disturb(
        subject, batch.images[rows], batch.labels[rows], rows.tolist(), condition, 0
    )
    expected = subject(images).softmax(1)[torch.arange(len(rows)), batch.labels[rows]].detach()
    read = expit(logits_of(found[TRUE_CLASS][rows].numpy()))
    assert np.abs(read - expected.numpy()).max() < 0.007
    for name in CONFIDENCES:  # nothing was done to the others
        assert torch.equal(found[name][~right], clean[name][~right])


def test_the_worst_case_has_the_probabilities_of_the_attack_that_did_most() -> None:
    def cell(kind: str, right: list[bool], true: list[int]) -> Cell:
        codes = {name: np.array(true, np.int8) for name in CONFIDENCES}
        return Cell(f"{kind}@2/255", kind, 2.0, {"correct": np.array(right), **codes})

    # Image 0 is broken by the first alone, 1 by both, 2 by none.
    cells = [
        cell("fgsm", [False, False, True], [-5, -9, 40]),
        cell("pgd-linf", [True, False, True], [-20, -3, 30]),
    ]
    (worst,) = Adversarial(attacks=["fgsm", "pgd-linf"]).derived(cells)
    assert worst.outcomes["correct"].tolist() == [False, False, True]
    assert worst.outcomes[TRUE_CLASS].tolist() == [-5, -9, 30]
    assert worst.outcomes["correct"].dtype == bool
    assert worst.outcomes[TRUE_CLASS].dtype == np.int8
    for each in cells:
        for name in CONFIDENCES:
            del each.outcomes[name]
    (plain,) = Adversarial(attacks=["fgsm", "pgd-linf"]).derived(cells)
    assert list(plain.outcomes) == ["correct"]
