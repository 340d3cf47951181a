"""What the records say, in sentences: every number with its interval, every doubt first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from robustbench_coss.analysis.configurations import SeedGroup, TestSet
from robustbench_coss.analysis.controls import NOT_TRAINED
from robustbench_coss.analysis.labels import Configuration, short_labels
from robustbench_coss.analysis.numbers import problems
from robustbench_coss.claims.verdicts import (
    NO_RECORDS,
    NOT_SUPPORTED,
    SUPPORTED,
    UNDECIDED,
    Outcome,
)
from robustbench_coss.pages.dossier.suites import check_lines, suite_title
from robustbench_coss.pages.dossier.words import counted, listed
from robustbench_coss.pages.report.pairs import Pair, Pairs
from robustbench_coss.records.about import OWN_SUITES
from robustbench_coss.tables.cells import MISSING, in_text, percent_text
from robustbench_coss.tables.comparison import difference_cell

SINGLE = " These are single runs: with another training seed it may come out differently."


def doubts(measurements: Sequence[SeedGroup], short: Mapping[str, str]) -> list[str]:
    """Failed sanity checks, each with the models that it failed for, and doubtful outcomes, a
    sentence each; empty if there are none. `short` has names by label."""
    failed: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    said = []
    for m in measurements:
        where = f"{suite_title(m)} on {m.test_set.label}"
        for check in check_lines(m.records):
            if check.failed:
                count = f" ({check.runs - check.passed} of {check.runs} seeds)" * (check.runs > 1)
                found = short[m.label], count, check.detail
                failed.setdefault((where, check.name), []).append(found)
        if outcomes := problems(m.records):
            said.append(f"{short[m.label]}, {where}: doubtful outcomes under {outcomes}.")
    checks = []
    for (where, name), of in failed.items():
        models = listed([model + count for model, count, _ in of])
        first, _, detail = of[0]
        said_of = f"{first}: {detail}" if len(of) > 1 else detail
        checks.append(f"{where}: failed sanity check {name}: {models}; {said_of}.")
    return checks + said


def sentences(
    test_set: TestSet,
    mine: Sequence[SeedGroup],
    measured: Sequence[SeedGroup],
    table: pd.DataFrame,
    pairs: Pairs,
) -> list[str]:
    """The headline numbers on one test set and how they compare.

    Args:
        mine: what was measured on it of the report's models.
        measured: what was measured of all models, which they are compared with.
        table: the lines of the long table about it.
    """
    controls = {m.label for m in mine if m.control}
    everything = list(dict.fromkeys(table["model"]))
    models = [model for model in everything if model not in controls] or everything
    named = list(dict.fromkeys([*models, *(x for pair in pairs.pairs for x in (pair.a, pair.b))]))
    known = {m.label: m.configuration for m in measured}
    short, _ = short_labels(known.get(name, Configuration("", name)) for name in named)
    one = len(models) == 1
    compared = table[table["model"].isin(models)]
    said = [_one(test_set, compared) if one else _several(test_set, models, compared, short)]
    if len(models) < len(everything):
        said.append(f"Beside them stand {counted(len(controls), 'control')} that learnt nothing.")
    said += [_against(pair, short) for pair in pairs.pairs]
    said.append(" ".join(filter(None, [_coverage(mine, models), _checks(mine)])))
    return said


def _where(test_set: TestSet, table: pd.DataFrame) -> str:
    counts = sorted({int(n) for n in table["n"]})
    images = counted(counts[-1], "test image")
    if len(counts) > 1:
        images = f"{counts[0]:,} to {images}"
    return (
        f"{images} of {test_set.label} ({test_set.classes:,} classes, "
        f"chance {percent_text(test_set.chance)} %)"
    )


def _one(test_set: TestSet, table: pd.DataFrame) -> str:
    seeds = int(table["seeds"].max())
    over = f"over {seeds} training seeds" if seeds > 1 else "in one run"
    headline = table[table["headline"]].to_dict("records")
    numbers = [f"{line['heading']} is {_number(line)}" for line in headline[:1]]
    numbers += [f"{line['heading']} {_number(line)}" for line in headline[1:]]
    if not numbers:
        return f"On {_where(test_set, table)}, no headline number was measured."
    return f"On {_where(test_set, table)}, {over}: {listed(numbers)}."


def _several(
    test_set: TestSet, models: Sequence[str], table: pd.DataFrame, short: Mapping[str, str]
) -> str:
    said = f"{counted(len(models), 'model')} were measured on {_where(test_set, table)}."
    first = table[(table["suite"] == "clean") & table["headline"]]
    if first.empty:
        return said
    (suite, metric, heading) = first[["suite", "metric", "heading"]].iloc[0]
    same = (first["suite"] == suite) & (first["heading"] == heading) & (first["metric"] == metric)
    lines = first[same].sort_values("value", kind="stable").to_dict("records")
    if len(lines) < 2:
        return said
    low, high = lines[0], lines[-1]
    return (
        f"{said} {heading} goes from {_number(low)} ({short[low['model']]}) to {_number(high)} "
        f"({short[high['model']]})."
    )


def _number(line: Mapping[Any, Any]) -> str:
    return in_text(line["value"], line["low"], line["high"], line["percent"])


def _against(pair: Pair, short: Mapping[str, str]) -> str:
    """What was decided between two models, and what not."""
    lines = pair.table.to_dict("records")
    said = []
    for words, verdicts in (
        ("better in", ["A better"]),
        ("worse in", ["B better"]),
        ("different in", ["A higher", "B higher"]),
    ):
        if group := [_change(line) for line in lines if line["verdict"] in verdicts]:
            said.append(f"{words} {listed(group)}")
    rest = len(lines) - sum(line["verdict"].endswith(("better", "higher")) for line in lines)
    reasons = {UNDECIDED: UNDECIDED, NOT_TRAINED: NOT_TRAINED, MISSING: "unknown"}
    for verdict, words in reasons.items():
        if count := sum(line["verdict"] == verdict for line in lines):
            last = said and count == rest
            where = f"the other {count}" if last else counted(count, "headline number")
            said.append(f"{words} in {where}")
            rest -= count
    caveat = "" if (pair.table["test"] == "t").all() else SINGLE
    sides = f"{short[pair.a]} against {short[pair.b]}, {pair.relation}"
    return f"{sides}: {'; '.join(said)}.{caveat}"


def _change(line: Mapping[Any, Any]) -> str:
    cell = difference_cell(line)
    unit = " points" * bool(line["percent"])
    return f"{line['heading']} ({cell.text}{unit} {cell.interval})"


def _coverage(mine: Sequence[SeedGroup], models: Sequence[str]) -> str:
    measured = {m.suite: set[str]() for m in mine}
    for m in mine:
        if m.label in models:
            measured[m.suite].add(m.label)
    missing = [suite for suite in OWN_SUITES if suite not in measured]
    partly = [
        f"{suite} ({len(of)} of {len(models)} models)"
        for suite, of in measured.items()
        if len(of) < len(models)
    ]
    said = []
    if missing:
        said.append(f"Not measured: {listed(missing)}.")
    if partly:
        said.append(f"Not measured of every model: {listed(partly)}.")
    return " ".join(said)


def _checks(mine: Sequence[SeedGroup]) -> str:
    checks = [check for m in mine for r in m.records for check in r.checks]
    if not checks:
        return "These records hold no sanity checks."
    failed = sum(not check.passed for check in checks)
    if failed:
        return f"{failed} of {counted(len(checks), 'sanity check')} failed; see above."
    return f"All {counted(len(checks), 'sanity check')} in these records passed."


def claims_sentence(outcomes: Sequence[Outcome]) -> str:
    """How many claims of the paper have which verdict; "" if none could be tested."""
    outcomes = [outcome for outcome in outcomes if not outcome.claim.asks]
    if not any(outcome.rows for outcome in outcomes):
        return ""
    counts: dict[str, list[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.verdict, []).append(outcome.claim.title.lower())
    said = [
        f"{verdict} {len(counts[verdict])} ({', '.join(counts[verdict])})"
        for verdict in (SUPPORTED, NOT_SUPPORTED, UNDECIDED, NOT_TRAINED, NO_RECORDS)
        if verdict in counts
    ]
    return f"The {len(outcomes)} claims of the CO-SSL paper on these records: {'; '.join(said)}."
