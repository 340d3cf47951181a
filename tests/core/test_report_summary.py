"""Sentences of a report about two models: what was decided, what not, and why not."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers.claim_cases import row

from robustbench_coss.analysis.controls import NOT_TRAINED
from robustbench_coss.claims.definitions import CLAIMS
from robustbench_coss.claims.verdicts import Outcome
from robustbench_coss.pages.report.pairs import Pair
from robustbench_coss.pages.report.summary import _against, claims_sentence
from robustbench_coss.tables.cells import Block


def against(*verdicts: str) -> str:
    numbers = {"a": 0.7, "b": 0.6, "difference": 0.1, "low": 0.05, "high": 0.15}
    same = numbers | {"heading": "Top-1", "percent": True, "test": "t"}
    lines = [same | {"verdict": verdict} for verdict in verdicts]
    pair = Pair("A", "B", "its base method", pd.DataFrame(lines), Block((), ()), ())
    return _against(pair, {"A": "A", "B": "B"})


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["undecided"] * 3, "undecided in 3 headline numbers."),
        ([NOT_TRAINED] * 2, "not trained enough to tell in 2 headline numbers."),
        (
            [NOT_TRAINED, NOT_TRAINED, "undecided"],
            "undecided in 1 headline number; not trained enough to tell in the other 2.",
        ),
        (["–", "undecided"], "undecided in 1 headline number; unknown in the other 1."),
    ],
)
def test_what_was_not_decided_is_counted_by_its_reason(verdicts: list[str], said: str) -> None:
    assert against(*verdicts) == f"A against B, its base method: {said}"


def test_what_was_decided_comes_first() -> None:
    found = against("A better", NOT_TRAINED)
    assert "better in Top-1 (+10.0 points [+5.0, +15.0])" in found
    assert found.endswith("; not trained enough to tell in the other 1.")


def test_claims_of_models_that_have_not_learnt_are_counted() -> None:
    verdicts = ["supported", NOT_TRAINED, NOT_TRAINED, "no records"]
    outcomes = [
        Outcome(claim, "parts", verdict, (row("supported"),), ())
        for claim, verdict in zip(CLAIMS, verdicts, strict=False)
    ]
    said = claims_sentence(outcomes)
    assert "supported 1 (clean accuracy); not trained enough to tell 2 (" in said
    assert sum(int(word) for word in said.split() if word.isdigit()) == 4 + len(verdicts)
