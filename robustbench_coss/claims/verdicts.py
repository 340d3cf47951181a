"""What the records say about each claim: all tests of a call judged together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.claims.definitions import CLAIMS, Claim
from robustbench_coss.claims.questions import Question, find_questions
from robustbench_coss.statistics.intervals import CONFIDENCE
from robustbench_coss.statistics.paired_tests import holm

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
NO_RECORDS = "no records"


@dataclass(frozen=True)
class Row:
    """A question with its answer.

    Attributes:
        effect, low, high: shares as shares in [-1, 1]; the 95 % interval is not corrected.
        p: two-sided; NaN where there is none.
        p_holm: corrected over the rows that decide, or over those that do not. NaN for rows that
            compare single runs, whatever their p, which does not cover the training seed.
        verdict: at 5 % by `p_holm`.
        test: "t", "rank", "mcnemar" or "permutation", the last two of single runs.
    """

    question: Question
    effect: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: str
    test: str


@dataclass(frozen=True)
class Outcome:
    """A claim on a test set: its verdict, the rows that it rests on, and what is lacking."""

    claim: Claim
    test_set: str
    verdict: str
    rows: tuple[Row, ...]
    lacking: tuple[str, ...]


def examine(results: Path) -> list[Outcome]:
    """What the records of a results folder say about every claim, test set by test set.

    Raises:
        CossError: there is no complete record, or a record is damaged.
    """
    measurements = load_measurements(results)
    found = [
        (
            claim,
            test_set,
            find_questions(claim, [m for m in measurements if m.test_set == test_set]),
        )
        for test_set in dict.fromkeys(m.test_set for m in measurements)
        for claim in CLAIMS
    ]
    rows = iter(judge([question for _, _, f in found for question in f.questions]))
    outcomes = []
    for claim, test_set, f in found:
        mine = tuple(next(rows) for _ in f.questions)
        lacking = (*f.lacking, *([] if mine else [claim.produce]))
        outcomes.append(Outcome(claim, test_set.label, verdict_of(mine, f.complete), mine, lacking))
    return outcomes


def judge(questions: Sequence[Question]) -> list[Row]:
    """Answer the questions of one call, with Holm's correction in two families: those that decide
    about claims, and the single pairs below a mean."""
    answers = [question.answer() for question in questions]
    corrected = np.full(len(questions), math.nan)
    for decides in (True, False):
        family = [i for i, q in enumerate(questions) if q.seeded and q.decides is decides]
        corrected[family] = holm([answers[i].p for i in family])
    return [
        Row(q, a.value, a.low, a.high, a.p, p, _verdict(a.value, p), a.test)
        for q, a, p in zip(questions, answers, corrected.tolist(), strict=True)
    ]


def _verdict(effect: float, p_holm: float) -> str:
    if math.isnan(p_holm) or p_holm > 1 - CONFIDENCE:
        return UNDECIDED
    return SUPPORTED if effect > 0 else NOT_SUPPORTED


def verdict_of(rows: Iterable[Row], complete: bool) -> str:
    """A claim's verdict: supported if all rows that decide are, not if one of them is not.

    A claim that is not tested on all of its measures (`complete`) cannot be supported.

    That all have to be supported needs no correction of its own (Berger 1982, "Multiparameter
    hypothesis testing and acceptance sampling"); that one is enough against it has Holm's.
    """
    verdicts = {row.verdict for row in rows if row.question.decides}
    if not verdicts:
        return NO_RECORDS
    if NOT_SUPPORTED in verdicts:
        return NOT_SUPPORTED
    return SUPPORTED if complete and verdicts == {SUPPORTED} else UNDECIDED
