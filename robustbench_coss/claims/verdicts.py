"""What the records say about each claim: all tests of a call judged together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustbench_coss.analysis.configurations import SeedGroup, TestSet, load_measurements
from robustbench_coss.analysis.controls import NOT_TRAINED, without_controls
from robustbench_coss.claims.definitions import CLAIMS, QUESTIONS, Claim
from robustbench_coss.claims.questions import Question, find_questions
from robustbench_coss.statistics.intervals import CONFIDENCE
from robustbench_coss.statistics.paired_tests import holm

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
NO_RECORDS = "no records"
ASKED = "no verdict"


@dataclass(frozen=True)
class Row:
    """A question with its answer.

    Attributes:
        effect, low, high: shares as shares in [-1, 1]; the 95 % interval is not corrected.
        p: two-sided; NaN where there is none.
        p_holm: corrected over the rows that decide, or over those that do not. NaN for rows that
            compare single runs, whatever their p, which does not cover the training seed.
        verdict: at 5 % by `p_holm`; of models that do not beat the controls `NOT_TRAINED`.
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
    """A claim on a test set: its verdict, the rows that it rests on, and what is lacking.

    Attributes:
        controls: what controls are lacking to tell whether the models have learnt; "" if none.
    """

    claim: Claim
    test_set: str
    verdict: str
    rows: tuple[Row, ...]
    lacking: tuple[str, ...]
    controls: str = ""


def examine(results: Path, ablations: bool = False) -> list[Outcome]:
    """What the records of a results folder say about every claim, test set by test set.

    Args:
        ablations: count models that are not the method as published, too.

    Raises:
        CossError: there is no complete record, or a record is damaged.
    """
    return examine_measured(load_measurements(results), ablations)


def examine_measured(measured: Iterable[SeedGroup], ablations: bool = False) -> list[Outcome]:
    """`examine` for what was loaded already."""
    on: dict[TestSet, list[SeedGroup]] = {}
    for m in measured:
        on.setdefault(m.test_set, []).append(m)
    found = [
        (claim, test_set, find_questions(claim, here, ablations))
        for test_set, here in on.items()
        for claim in (*CLAIMS, *QUESTIONS)
    ]
    rows = iter(judge([question for _, _, f in found for question in f.questions]))
    outcomes = []
    for claim, test_set, f in found:
        mine = tuple(next(rows) for _ in f.questions)
        if claim.asks and not mine:
            continue
        lacking = (*f.lacking, *([] if mine else [claim.produce]))
        verdict = ASKED if claim.asks else verdict_of(mine, f.complete)
        controls = _lacking_controls(on[test_set]) if mine else ""
        outcomes.append(Outcome(claim, test_set.label, verdict, mine, lacking, controls))
    return outcomes


def _lacking_controls(here: Sequence[SeedGroup]) -> str:
    """What is lacking to tell whether models have learnt, of the first model that lacks it."""
    for label in dict.fromkeys(m.label for m in here):
        model = [m for m in here if m.label == label]
        if said := without_controls(model, here):
            return said
    return ""


def judge(questions: Sequence[Question]) -> list[Row]:
    """Answer the questions of one call, with Holm's correction in three families: those that decide
    about claims, those that do not (single pairs below a mean, models that have not learnt), and
    those that are no claim's."""
    answers = [question.answer() for question in questions]
    corrected = np.full(len(questions), math.nan)
    for kind in ((True, False), (False, False), (False, True)):
        family = [i for i, q in enumerate(questions) if q.seeded and (q.decides, q.asks) == kind]
        corrected[family] = holm([answers[i].p for i in family])
    return [
        Row(q, a.value, a.low, a.high, a.p, p, _verdict(q, a.value, p), a.test)
        for q, a, p in zip(questions, answers, corrected.tolist(), strict=True)
    ]


def _verdict(question: Question, effect: float, p_holm: float) -> str:
    if question.asks:
        return ASKED
    if question.untrained:
        return NOT_TRAINED
    if math.isnan(p_holm) or p_holm > 1 - CONFIDENCE:
        return UNDECIDED
    return SUPPORTED if effect > 0 else NOT_SUPPORTED


def verdict_of(rows: Iterable[Row], complete: bool) -> str:
    """A claim's verdict: supported if all rows that decide are, not if one of them is not.

    A claim that is not tested on all of its measures (`complete`) cannot be supported.

    That all have to be supported needs no correction of its own (Berger 1982, "Multiparameter
    hypothesis testing and acceptance sampling"); that one is enough against it has Holm's.
    """
    rows = list(rows)
    verdicts = {row.verdict for row in rows if row.question.decides}
    if not verdicts:
        return NOT_TRAINED if rows else NO_RECORDS
    if NOT_SUPPORTED in verdicts:
        return NOT_SUPPORTED
    return SUPPORTED if complete and verdicts == {SUPPORTED} else UNDECIDED
