"""Verdicts written down: sections for the writers of `tables`, and JSON-able values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from robustbench_coss.analysis.comparison import doubts_of
from robustbench_coss.analysis.controls import NOT_TRAINED
from robustbench_coss.analysis.pairing import seeds_of
from robustbench_coss.claims.questions import Source
from robustbench_coss.claims.verdicts import ASKED, NO_RECORDS, UNDECIDED, Outcome, Row
from robustbench_coss.records.record import path_of
from robustbench_coss.statistics.contrasts import unmatched
from robustbench_coss.tables.cells import (
    MARK,
    Column,
    Section,
    TableCell,
    block,
    without_constants,
)
from robustbench_coss.tables.comparison import p_text, signed_cell

SCHEMA = 1

_TESTS = {
    "t": "Several seeds: Student's t of the sums seed by seed, from their variance between seeds "
    "and between images; it covers both.",
    "rank": "Correlations: Spearman's over configurations, each with the mean of its seeds; "
    "permutation test that keeps variants of a method together.",
}
_SINGLE = (
    "Single runs, or fewer than two seeds that both sides have: the interval covers the draw of "
    "the test images and not the training seed, so they stay undecided. Train and measure a second "
    "seed of both at least."
)


def to_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All of it: shares in percentage points, NaN as None, paths within the results folder."""
    return {
        "schema": SCHEMA,
        "test_sets": [
            {
                "test_set": test_set,
                "controls": next(
                    (o.controls for o in outcomes if o.test_set == test_set and o.controls), ""
                ),
                "claims": [
                    {
                        "claim": o.claim.key,
                        "statement": o.claim.statement,
                        "verdict": o.verdict,
                        "rows": [_row_json(row) for row in o.rows],
                        "lacking": list(o.lacking),
                    }
                    for o in mine
                ],
            }
            for test_set, mine in groupby(outcomes, lambda o: o.test_set)
        ],
    }


def _row_json(row: Row) -> dict[str, Any]:
    q = row.question
    scale = 100 if q.unit == "points" else 1
    return {
        "kind": q.kind,
        "measure": q.measure,
        "compared": q.compared,
        "protocol": q.protocol,
        "decides": q.decides,
        "untrained": q.untrained,
        "effect": _number(scale * row.effect),
        "unit": q.unit,
        "low": _number(scale * row.low),
        "high": _number(scale * row.high),
        "test": row.test,
        "p": _number(row.p),
        "p_holm": _number(row.p_holm),
        "verdict": row.verdict,
        "images": _images(row),
        "sources": [
            {
                "configuration": s.measurement.label,
                "role": s.role,
                "suite": s.measurement.suite,
                "seeds": len(s.measurement.records),
                "doubts": doubts_of(s.measurement.records),
                "records": [path.as_posix() for path in _paths(s)],
            }
            for s in q.sources
        ],
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _images(row: Row) -> int:
    return int(row.question.sources[0].measurement.records[0].index.size)


def _paths(source: Source) -> list[Path]:
    """Where the records lie in the results folder."""
    return [path_of(record) for record in source.measurement.records]


def layout(outcomes: Sequence[Outcome], records: bool = True) -> list[Section]:
    """A section per test set: the verdicts, the evidence, and what to know about it.

    Args:
        records: whether to name the files that the numbers come from.
    """
    return [
        _section(name, list(mine), records)
        for name, mine in groupby(outcomes, lambda o: o.test_set)
    ]


def _section(test_set: str, outcomes: Sequence[Outcome], records: bool) -> Section:
    rows = [(o, row) for o in outcomes for row in o.rows]
    images = " or ".join(f"{n:,}" for n in sorted({_images(row) for _, row in rows}))
    caption = (
        f"{images} test images. Effects that speak for a claim are positive: CO- minus base, "
        "shares in percentage points, with 95 % intervals."
        if rows
        else ""
    )
    verdicts = block(
        [
            ("Claim", [TableCell(o.claim.statement) for o in outcomes]),
            (
                "Verdict",
                [TableCell(o.verdict, best=_decided(o.verdict)) for o in outcomes],
            ),
        ]
    )
    columns, of_all = without_constants(_columns(rows)) if rows else ([], [])
    of_all += _common_setting(rows)
    caption += f" All: {', '.join(of_all)}." if of_all else ""
    blocks = (verdicts, block(columns)) if rows else (verdicts,)
    notes = _notes(outcomes) + (_records_notes(outcomes) if records else [])
    return Section(test_set, caption, blocks, tuple(notes))


def _decided(verdict: str) -> bool:
    return verdict not in (UNDECIDED, NOT_TRAINED, NO_RECORDS, ASKED)


def _columns(rows: Sequence[tuple[Outcome, Row]]) -> list[Column]:
    questions = [row.question for _, row in rows]
    return [
        (
            "Metric",
            [TableCell(q.measure + (f" ({q.protocol})" * bool(q.protocol))) for q in questions],
        ),
        ("Model", [TableCell(name) for name in _short(rows)]),
        ("Runs", [TableCell(_runs(row)) for _, row in rows]),
        ("Effect", [effect_cell(row) for _, row in rows]),
        ("p (Holm)", [TableCell(p_text(row.p_holm)) for _, row in rows]),
        ("Verdict", [TableCell(row.verdict, best=_decided(row.verdict)) for _, row in rows]),
    ]


def _common_setting(rows: Sequence[tuple[Outcome, Row]]) -> list[str]:
    """What follows the method in the names of all models, if it is the same."""
    found = {row.question.compared.partition(" · ")[2] for _, row in rows} - {""}
    return list(found) if len(found) == 1 else []


def _short(rows: Sequence[tuple[Outcome, Row]]) -> list[str]:
    common = "".join(f" · {setting}" for setting in _common_setting(rows))
    return [row.question.compared.removesuffix(common) for _, row in rows]


def _runs(row: Row) -> str:
    """Runs of CO- models + runs of base methods; of a correlation, all."""
    runs: dict[str, set[str]] = {}
    for source in row.question.sources:
        hashes = (r.model["checkpoint_sha256"] for r in source.measurement.records)
        runs.setdefault(source.role, set()).update(hashes)
    return " + ".join(str(len(runs[role])) for role in ("co", "base", "model") if role in runs)


def effect_cell(row: Row) -> TableCell:
    """The effect of a row, signed, with its interval."""
    doubtful = any(doubts_of(s.measurement.records) for s in row.question.sources)
    percent = row.question.unit == "points"
    return signed_cell(row.effect, row.low, row.high, 0, percent, doubtful)


def _notes(outcomes: Sequence[Outcome]) -> list[str]:
    rows = [row for o in outcomes for row in o.rows]
    tests = {row.test for row in rows if row.question.seeded}
    notes = [f"{o.controls[0].upper()}{o.controls[1:]}." for o in outcomes if o.controls]
    reasons = [row.question.untrained for row in rows if row.question.untrained]
    notes += [f"{reason}: {NOT_TRAINED}, whatever the effect." for reason in reasons]
    notes += [words for test, words in _TESTS.items() if test in tests]
    if any(not row.question.seeded for row in rows):
        notes.append(_SINGLE)
    if any(row.question.kind == "pooled" for row in rows):
        notes.append(
            "Where there are several pairs, their mean decides: of these pairs, each weighing the "
            "same, not of methods that were not measured."
        )
    notes += [left_out for row in rows if (left_out := _left_out(row))]
    if tests:
        notes.append(
            "Verdicts are at 5 % after Holm's correction over all rows of this call that decide, "
            "and over the pairs below means on their own. Undecided does not mean no effect."
        )
    sources = [s for row in rows for s in row.question.sources]
    notes += [
        f"{MARK} {s.measurement.label}, {s.measurement.suite}: {words}."
        for s in sources
        if (words := doubts_of(s.measurement.records))
    ]
    of_all = set.intersection(*(set(o.lacking) for o in outcomes))
    notes += [
        f"{reason[0].upper()}{reason[1:]}." if reason in of_all else f"{o.claim.title}: {reason}."
        for o in outcomes
        for reason in o.lacking
    ]
    return list(dict.fromkeys(notes))


def _left_out(row: Row) -> str:
    """Which runs a row leaves out since others lack their seeds; "" if none."""
    sources = row.question.sources if row.test == "t" else ()
    seeds = [seeds_of(s.measurement.records) for s in sources]
    alone = [f"{seed} of {sources[i].measurement.label}" for i, seed in unmatched(seeds)]
    return f"Left out, since not all have the seed: {', '.join(alone)}." if alone else ""


def _records_notes(outcomes: Iterable[Outcome]) -> list[str]:
    """ "Records of BYOL: records/{byol-s0-…,byol-s1-…}/parts/{clean,crop}.json", for a shell."""
    paths: dict[str, list[Path]] = {}
    for s in (s for o in outcomes for row in o.rows for s in row.question.sources):
        paths.setdefault(s.measurement.label, []).extend(_paths(s))
    notes = []
    for label in sorted(paths):
        *parents, files = zip(*(path.with_suffix("").parts for path in paths[label]), strict=True)
        notes.append(f"Records of {label}: {'/'.join(map(_braces, [*parents, files]))}.json")
    return notes


def _braces(words: Iterable[str]) -> str:
    several = list(dict.fromkeys(words))
    return f"{{{','.join(several)}}}" if len(several) > 1 else several[0]
