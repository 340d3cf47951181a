"""A comparison of two models as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from robustbench_coss.analysis.comparison import TESTS, Comparison
from robustbench_coss.analysis.controls import NOT_TRAINED
from robustbench_coss.tables.cells import (
    MARK,
    MISSING,
    Block,
    Column,
    Section,
    TableCell,
    block,
    number_text,
)


def layout(found: Comparison) -> list[Section]:
    """A section per test set; the notes stand below the last."""
    sections = []
    parts = list(found.table.groupby("test_set", sort=False))
    for i, (title, part) in enumerate(parts):
        notes = doubt_notes(found.a, found.b, part)
        if i == len(parts) - 1:
            notes = [*_general_notes(found), *notes]
        sections.append(
            Section(
                str(title),
                _caption(found, part),
                (block(difference_columns(part)), *_consistency(part)),
                tuple(notes),
                verdict(found.a, found.b, part),
            )
        )
    return sections


NAMED = 3  # measures that a sentence names before it counts the others


def verdict(a: str, b: str, part: pd.DataFrame) -> str:
    """What lines of a comparison's table come to, in a sentence."""
    if reasons := list(filter(None, part["untrained"].unique())):
        return f"Nothing can be said of {a} and {b}: {'; '.join(reasons)}."
    of = {v: list(lines["heading"]) for v, lines in part.groupby("verdict", sort=False)}
    said = [
        f"{word} in {_named(of[key])}"
        for key, word in (
            ("A better", "better"),
            ("B better", "worse"),
            ("A higher", "higher"),
            ("B higher", "lower"),
        )
        if key in of
    ]
    of_all = _measures(len(part))
    tested = int(part["p_holm"].notna().sum())
    if not tested:
        return f"Nothing is decided between {a} and {b} in {of_all}."
    rest = len(of.get("undecided", [])) if said else len(part) - tested
    undecided = f"; {rest} of {of_all} undecided" if rest else ""
    if not said:
        return f"{a} and {b} do not differ significantly in any of {_measures(tested)}{undecided}."
    return f"{a} against {b}: {', '.join(said)}{undecided}."


def _measures(count: int) -> str:
    return f"{count} measure{'s' * (count > 1)}"


def _named(headings: Sequence[str]) -> str:
    more = len(headings) - NAMED
    if more <= 0:
        return " and ".join(filter(None, [", ".join(headings[:-1]), headings[-1]]))
    return f"{', '.join(headings[:NAMED])} and {more} more"


def _caption(found: Comparison, part: pd.DataFrame) -> str:
    sides = [
        f"{letter}: {label} ({counts} {'seed' if counts == '1' else 'seeds'})"
        for letter, label, counts in (
            ("A", found.a, _spread(part["seeds_a"])),
            ("B", found.b, _spread(part["seeds_b"])),
        )
    ]
    return (
        f"{', '.join(sides)}, {_spread(part['n'])} test images. "
        "Shares in %, differences of shares in points, with 95 % intervals."
    )


def _spread(values: pd.Series) -> str:
    return " or ".join(f"{int(v):,}" for v in sorted(values.unique()))


def difference_columns(part: pd.DataFrame) -> list[Column]:
    """Lines of a comparison's table as columns: both values, difference, tests, verdict."""
    lines = part.to_dict("records")
    return [
        ("Metric", [TableCell(line["heading"]) for line in lines]),
        ("A", [_number(line, "a") for line in lines]),
        ("B", [_number(line, "b") for line in lines]),
        ("A − B", [difference_cell(line) for line in lines]),
        ("p", [TableCell(p_text(line["p"])) for line in lines]),
        ("p (Holm)", [TableCell(p_text(line["p_holm"])) for line in lines]),
        ("Verdict", [TableCell(line["verdict"], best=_decided(line)) for line in lines]),
    ]


def _consistency(part: pd.DataFrame) -> tuple[Block, ...]:
    """A block with the error consistency of the lines that have one."""
    if "kappa" not in part or part["kappa"].isna().all():
        return ()
    lines = part[part["kappa"].notna()].to_dict("records")
    kappa = [signed_cell(li["kappa"], li["kappa_low"], li["kappa_high"], 1, False) for li in lines]
    shares = {"Both right or wrong": "agreement", "by chance": "agreement_expected"}
    columns: list[Column] = [
        ("Metric", [TableCell(line["heading"]) for line in lines]),
        ("Error consistency κ", kappa),
        *(
            (heading, [TableCell(number_text(line[key], line[key], True)) for line in lines])
            for heading, key in shares.items()
        ),
    ]
    return (block(columns),)


def _decided(line: Mapping[Any, Any]) -> bool:
    return line["verdict"] not in ("undecided", NOT_TRAINED, MISSING)


def _number(line: Mapping[Any, Any], side: str) -> TableCell:
    value = line[side]
    text = MISSING if math.isnan(value) else number_text(value, value, line["percent"])
    return TableCell(text, marked=bool(line[f"doubts_{side}"]))


def difference_cell(line: Mapping[Any, Any]) -> TableCell:
    """The difference of a line of a comparison's table, signed, with its interval."""
    scale = max(abs(line["a"]), abs(line["b"]))  # as many decimals as the two values have
    return signed_cell(line["difference"], line["low"], line["high"], scale, line["percent"])


def signed_cell(
    value: float, low: float, high: float, scale: float, percent: bool, marked: bool = False
) -> TableCell:
    """A number that is positive or negative, with its interval and its sign."""

    def signed(x: float) -> str:
        text = number_text(x, scale, percent)
        return text if text.startswith("−") or not text.strip("0.") else f"+{text}"

    if math.isnan(value):
        return TableCell(MISSING, marked=marked)
    interval = "" if math.isnan(low) else f"[{signed(low)}, {signed(high)}]"
    return TableCell(signed(value), interval, marked=marked)


def p_text(p: float) -> str:
    """A p value with three decimals."""
    return MISSING if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


_KAPPA = (
    "Error consistency: Cohen's kappa of right and wrong (Geirhos et al. 2020), mean over "
    "conditions; 0 where both err on the same images no more often than their accuracies alone "
    "make them, 1 where always. Interval over images of one run each, else over seeds."
)


def tests_note(table: pd.DataFrame) -> list[str]:
    """What gave the p of lines of a comparison's table, and what their correction is over."""
    tests = int(table["p_holm"].notna().sum())  # one run beside several is shown with its p alone
    return [
        *(words for test, words in TESTS.items() if test in set(table["test"])),
        f"Holm's correction is over all tests with a corrected p, {tests} here; the verdict is the "
        "corrected one at 5 %. Intervals are not corrected. Undecided does not mean equal.",
    ]


def _general_notes(found: Comparison) -> list[str]:
    return [
        *tests_note(found.table),
        *([_KAPPA] if "kappa" in found.table and found.table["kappa"].notna().any() else []),
        *found.remarks,
        *(f"Not compared: {reason}." for reason in found.refused),
    ]


def doubt_notes(a: str, b: str, part: pd.DataFrame) -> list[str]:
    """What makes numbers of two models doubtful in lines of a comparison, each said once."""
    notes = [
        f"{MARK} {label}, {line['suite']}: {line[column]}."
        for label, column in ((a, "doubts_a"), (b, "doubts_b"))
        for line in part[part[column] != ""].to_dict("records")
    ]
    return list(dict.fromkeys(notes))
