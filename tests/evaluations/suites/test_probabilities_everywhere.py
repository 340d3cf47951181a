"""Every suite records probabilities wherever it says right or wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from robustbench_coss import registry
from robustbench_coss.evaluations.protocol import Subject
from robustbench_coss.evaluations.suites.shift import TestSet as PublishedSet
from robustbench_coss.records.confidence import (
    CONFIDENCE,
    CONFIDENCES,
    TRUE_CLASS,
    logits_of,
)
from robustbench_coss.test_sets.description import Description
from robustbench_coss.test_sets.opening import Members
from robustbench_coss.testing import pictures

QUICK: dict[str, dict[str, Any]] = {
    "adversarial": {"attacks": ["fgsm", "pgd-l2"], "eps": [1.0], "eps_l2": [0.2], "steps": 2},
    "occlusion": {"ratios": [0.5], "sigmas": [1.0]},
    "crop": {"areas": [0.4]},
}
SEEN = ("clean", "corruption", "occlusion", "adversarial", "crop", "redundancy", "rf")


@pytest.mark.parametrize("name", SEEN)
def test_an_answer_that_is_right_is_given_the_probability_of_the_true_class(
    name: str, subject: Subject
) -> None:
    suite = registry.load("suite", name)(**QUICK.get(name, {}))
    suite.prepare(subject, pictures(60, first=1000), 32)
    batch, rights = pictures(16), 0
    conditions = suite.conditions(subject)
    for condition in conditions[:: 1 if len(conditions) < 40 else 12]:
        found = suite.measure(subject, batch, condition, 0)
        if "correct" not in found:
            assert not found.keys() & set(CONFIDENCES)
            continue
        right, sure, true = (found[k] for k in ("correct", CONFIDENCE, TRUE_CLASS))
        assert torch.equal(sure[right], true[right]), condition.name
        assert torch.all(true <= sure), condition.name
        rights += int(right.sum())
    assert rights > 0
    suite.close()


def published(decision: str) -> PublishedSet:
    told = Description(
        title="T",
        about="t",
        trained_on="x",
        folders=("t",),
        layout="folders",
        decision=decision,
        classes={"a": ("0",), "b": ("1",)},
        pictures=None,
        paper="p",
        source="s",
        licence="l",
        checked="c",
    )
    return PublishedSet("t", told, Members(("a", "b"), ((0, 3), (4,)), True))


@pytest.mark.parametrize("decision", ["all", "within", "mean"])
def test_a_published_set_has_the_probabilities_of_its_own_classes(decision: str) -> None:
    outputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * 2
    shares = softmax(outputs.double().numpy(), axis=1)
    a, b, rest = shares[:, [0, 3]].sum(1), shares[:, 4], shares[:, [1, 2, 5]].sum(1)
    if decision == "mean":
        a = a / 2
    if decision != "all":
        rest = np.zeros(40)
    expected = np.stack([a, b, rest], axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    found = published(decision).scores(outputs)
    assert np.allclose(found.softmax(dim=1), expected, atol=1e-6)


def test_the_suite_asks_for_the_probability_of_what_it_answers(subject: Subject) -> None:
    from robustbench_coss.evaluations.protocol import Condition
    from robustbench_coss.evaluations.suites.shift import Shift

    suite = Shift()
    suite._sets = [published("all")]
    batch = pictures(30)
    batch = type(batch)(batch.images, batch.labels % 2, batch.index)
    found = suite.measure(subject, batch, Condition("t", "t", 1.0, images="t"), 0)
    shares = subject(batch.images).softmax(1).detach().double().numpy()
    groups = np.stack([shares[:, [0, 3]].sum(1), shares[:, 4], shares[:, [1, 2, 5]].sum(1)], 1)
    owner = np.array([0, 2, 2, 0, 1, 2])[shares.argmax(1)]
    rows = np.arange(30)
    for name, exact in (
        (CONFIDENCE, groups[rows, owner]),
        (TRUE_CLASS, groups[rows, batch.labels.numpy()]),
    ):
        assert np.abs(expit(logits_of(found[name].numpy())) - exact).max() < 0.007, name
    assert (owner == 2).any()  # some answers are none of the set's classes
