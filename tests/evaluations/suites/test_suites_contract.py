"""What every registered suite must hold to, third-party ones included."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_coss import registry, testing
from robustbench_coss.evaluations.protocol import (
    Batch,
    Condition,
    Subject,
    Suite,
    correct,
    top1,
)
from robustbench_coss.records.record import Metric
from robustbench_coss.testing import check_suite


@pytest.mark.parametrize("name", registry.names("suite"))
def test_every_suite_keeps_the_contract(name: str, subject: Subject) -> None:
    suite = registry.load("suite", name)()
    assert suite.name == name
    check_suite(suite, subject)


class Mirrored(Suite):
    """A suite without fault: images as they are, and mirrored."""

    name = "mirrored"

    def conditions(self, subject: Subject) -> list[Condition]:
        return [Condition("as it is", "", 0.0), Condition("mirrored", "mirrored", 1.0)]

    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        images = batch.images.flip(3) if condition.group else batch.images
        return {"correct": correct(subject, images, batch.labels)}

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        return [Metric("mirrored_top1", "Mirrored top-1", "correct", ("mirrored",))]


def _measure(change: Callable[[Batch, Condition, int], dict[str, Tensor]]) -> Any:
    def measure(
        self: Mirrored, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        good = Mirrored.measure(self, subject, batch, condition, seed)
        return good | (change(batch, condition, seed) if condition.group else {})

    return measure


def _conditions(*found: Condition) -> Any:
    return lambda self, subject: list(found)


REFERENCE, TURNED = Condition("as it is", "", 0.0), Condition("mirrored", "mirrored", 1.0)
FAULTS: dict[str, tuple[str, Any]] = {
    "share a name": ("conditions", _conditions(REFERENCE, TURNED, TURNED)),
    "one condition has the empty group": ("conditions", _conditions(TURNED)),
    "config.. is not JSON-able": ("config", lambda self: {"levels": (1, 2)}),
    "about is no SuiteAbout": ("about", {"title": "Mirrored"}),
    "change with batches": ("measure", _measure(lambda b, c, s: {"y": torch.rand(len(b.index))})),
    r"\(\) for 8 images": ("measure", _measure(lambda b, c, s: {"y": torch.tensor(1.0)})),
    "torch.int64": ("measure", _measure(lambda b, c, s: {"y": b.labels})),
    "not finite": (
        "measure",
        _measure(lambda b, c, s: {"y": torch.full((len(b.index),), math.nan)}),
    ),
    "no such column": (
        "metrics",
        lambda self, conditions: [Metric("m", "M", "cosine", ("mirrored",))],
    ),
    "not the image as it is": (
        "measure",
        lambda self, subject, batch, condition, seed: {
            "correct": correct(subject, batch.images.flip(3), batch.labels)
        },
    ),
    "depends on the seed": (
        "measure",
        lambda self, subject, batch, condition, seed: {
            "correct": (torch.tensor(batch.index) + seed) % 2 == 0
        },
    ),
}


@pytest.mark.parametrize("said", FAULTS)
def test_a_suite_that_breaks_the_contract_is_told_how(said: str, subject: Subject) -> None:
    check_suite(Mirrored(), subject)
    member, value = FAULTS[said]
    broken = type("Broken", (Mirrored,), {member: value})
    with pytest.raises(AssertionError, match=said):
        check_suite(broken(), subject)


def test_a_suite_is_closed_when_it_fails_too(subject: Subject) -> None:
    closed = []
    fault = {"config": lambda self: {"x": (1,)}, "close": lambda self: closed.append(1)}
    with pytest.raises(AssertionError):
        testing.check_suite(type("Broken", (Mirrored,), fault)(), subject)
    assert closed == [1]


def test_a_class_is_answered_only_where_all_logits_are_finite() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [9.0, math.nan, 0.0], [math.inf, 0.0, 0.0]])
    assert top1(logits).tolist() == [1, -1, -1]
