"""Squares of probabilities are kept of a published set where a byte holds them, else left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robustbench_coss.evaluations.protocol import Batch, Condition
from robustbench_coss.evaluations.suites.shift import Shift, TestSet
from robustbench_coss.records.confidence import (
    CONFIDENCE,
    OTHERS,
    TRUE_CLASS,
    logits_of,
    squares_of,
)
from robustbench_coss.test_sets.opening import Members

Groups = tuple[tuple[int, ...], ...]
SHARES = torch.tensor([[0.4, 0.2, 0.2, 0.2], [0.1, 0.7, 0.1, 0.1]])


def measured(decision: str, groups: Groups) -> dict[str, Any]:
    """Of two pictures of the first class, whose probabilities are `SHARES`."""
    told: Any = SimpleNamespace(decision=decision, kinds=())
    suite = Shift()
    suite._sets = [TestSet("x", told, Members(tuple("abcd"[: len(groups)]), groups, True))]
    batch = Batch(torch.zeros(2, 3, 1, 1), torch.zeros(2, dtype=torch.int64), range(2))
    subject: Any = lambda images: SHARES.log()  # noqa: E731
    return suite.measure(subject, batch, Condition("x", "x", 1.0), 0)


@pytest.mark.parametrize(
    ("decision", "groups"),
    [
        ("all", ((0,), (1, 2, 3))),  # 0.4 answers, and 0.6² are too many
        ("within", ((0,), (1, 2, 3))),
        ("all", ((0,), (1,))),  # 0.4 are of classes that the set lacks
    ],
)
def test_there_is_no_brier_score_where_the_answer_may_not_be_the_likeliest(
    decision: str, groups: Groups
) -> None:
    found = measured(decision, groups)
    assert found["correct"].tolist() == [True, False]
    assert OTHERS not in found
    sure = 1 / (1 + torch.from_numpy(logits_of(found[TRUE_CLASS].numpy())).neg().exp())
    whole = 0.6 if (decision, len(groups)) == ("within", 1) else 1.0
    torch.testing.assert_close(sure, torch.tensor([0.4, 0.1]).double() / whole, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("decision", "groups", "shares"),
    [
        ("all", ((0,), (1,), (2,), (3,)), [[0.4, 0.2, 0.2, 0.2], [0.7, 0.1, 0.1, 0.1]]),
        ("within", ((0,), (1,)), [[2 / 3, 1 / 3], [7 / 8, 1 / 8]]),
        ("mean", ((0,), (1, 2, 3)), [[2 / 3, 1 / 3], [3 / 4, 1 / 4]]),  # 0.4 and 0.2; 0.1 and 0.3
    ],
)
def test_elsewhere_they_are_those_of_all_classes_but_the_answer(
    decision: str, groups: Groups, shares: list[list[float]]
) -> None:
    found = measured(decision, groups)
    expected = [sum(p * p for p in row[1:]) for row in shares]  # the answer's stands first
    assert squares_of(found[OTHERS].numpy()).tolist() == pytest.approx(expected, abs=0.5 / 508)
    answer = 1 / (1 + torch.from_numpy(logits_of(found[CONFIDENCE].numpy())).neg().exp())
    assert answer.tolist() == pytest.approx([row[0] for row in shares], abs=0.01)
