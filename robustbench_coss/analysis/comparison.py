"""Two models beside each other, from their records alone: differences, tests and verdicts.

Only what was measured on the same images under one protocol is compared; what is not, is named
with the reason. `compare` makes the long table, `layout` arranges it for the writers of `tables`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_coss.analysis.calibration import with_calibration
from robustbench_coss.analysis.configurations import SeedGroup, TestSet, load_measurements
from robustbench_coss.analysis.controls import NOT_TRAINED, PIXELS, standing, without_controls
from robustbench_coss.analysis.error_consistency import consistency_line
from robustbench_coss.analysis.numbers import (
    failed_checks,
    is_share,
    number,
    problems,
    values_of,
)
from robustbench_coss.analysis.pairing import mismatch, seeds_of
from robustbench_coss.analysis.selection import Chosen, find_model
from robustbench_coss.errors import CossError
from robustbench_coss.records.columns import Column
from robustbench_coss.records.record import Better, Metric, Record
from robustbench_coss.statistics.contrasts import difference, over_seeds, unmatched
from robustbench_coss.statistics.intervals import CONFIDENCE
from robustbench_coss.statistics.paired_tests import holm
from robustbench_coss.tables.cells import MISSING

TESTS = {
    "mcnemar": "One run each, right or wrong (or seeds that do not vary): McNemar's exact test, "
    "Agresti and Min's interval; both cover the draw of the test images, not the training seed.",
    "permutation": "One run each, averages of conditions and numbers (or seeds that do not vary): "
    "permutation of signs image by image, interval over images; both cover the draw of the test "
    "images, not the training seed.",
    "t": "Several seeds: Student's t of the differences seed by seed where seeds coincide, from "
    "their variance between seeds and between images; it covers both.",
}


Beside = Callable[[SeedGroup, SeedGroup], list[dict[str, Any]]]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        a, b: labels of the two models.
        table: one line per metric or condition. Columns: test_set, suite, protocol, metric,
            heading, a, b, difference (a - b), low, high (95 % interval), p, p_holm, verdict, test
            ("mcnemar", "permutation" or "t"), n (test images), seeds_a, seeds_b, better, percent,
            kappa, kappa_low, kappa_high, agreement and agreement_expected (error consistency of
            right and wrong, see `error_consistency`), doubts_a, doubts_b, one_sided (whether
            one run stands beside several, or fewer than two seeds coincide, so that nothing is
            decided), untrained (which of the two does not beat the controls, so that
            nothing is decided). Shares are in [0, 1].
        refused: what was measured of a model and could not be compared, with the reason.
        remarks: what to know when reading the differences.
    """

    a: str
    b: str
    table: pd.DataFrame
    refused: tuple[str, ...]
    remarks: tuple[str, ...]


def compare(
    results: Path,
    a: str,
    b: str,
    suites: Sequence[str] = (),
    cells: bool = False,
    calibration: bool = False,
    everything: bool = False,
    beside: Beside | None = None,
) -> Comparison:
    """Compare two measured models in the headline metrics that both were measured in alike.

    Args:
        results: folder of the records.
        a, b: names of models, see `selection.find_model`.
        suites: compare in these alone; empty for all.
        cells: also compare every single condition but the reference, in what the suite draws.
        calibration: also compare statistics of probabilities.
        everything: compare in all metrics; more tests, of which each is then held to more.
        beside: gives further lines of two measurements.

    Raises:
        CossError: a name is unknown or ambiguous, both stand for the same runs, a suite was not
            measured, nothing can be compared, or a record is damaged.
    """
    measured = load_measurements(results)
    measured = with_calibration(measured) if calibration else measured
    one, other = (find_model(measured, name) for name in (a, b))
    return compare_chosen(
        one, other, measured, suites, cells, everything or calibration, beside, consistency=True
    )


def compare_chosen(
    one: Chosen,
    other: Chosen,
    measured: Sequence[SeedGroup],
    suites: Sequence[str] = (),
    cells: bool = False,
    everything: bool = False,
    beside: Beside | None = None,
    consistency: bool = False,
) -> Comparison:
    """`compare` for two models that were found already among all that was measured; error
    consistency only if asked for."""
    known = sorted({m.suite for c in (one, other) for m in c.measurements})
    if unknown := [s for s in suites if s not in known]:
        raise CossError(f"no records of suite {unknown[0]!r}; measured: {', '.join(known)}")
    lines, refused, pairs = differences(
        one, other, measured, suites or known, cells, everything, consistency
    )
    lines += [line | {"untrained": ""} for pair in pairs if beside for line in beside(*pair)]
    if not lines:
        raise CossError(f"nothing to compare: {'; '.join(refused)}")
    table = judge(pd.DataFrame(lines))
    remarks = [*_remarks(one, other, pairs), *_on_controls(one, other, table, measured)]
    return Comparison(one.label, other.label, table, tuple(refused), tuple(remarks))


def differences(
    one: Chosen,
    other: Chosen,
    measured: Sequence[SeedGroup],
    suites: Sequence[str],
    cells: bool = False,
    everything: bool = False,
    consistency: bool = False,
) -> tuple[list[dict[str, Any]], list[str], list[tuple[SeedGroup, SeedGroup]]]:
    """All differences of two models, not corrected for their number.

    Args:
        measured: all that was measured; controls among it say whether the two have learnt.
        consistency: whether lines have error consistency, too.

    Returns:
        lines as in `Comparison.table` but `p_holm` and `verdict`, which `judge` adds; what could
        not be compared; and the pairs of measurements that could.

    Raises:
        CossError: both stand for the same runs.
    """
    _check_apart(one, other)
    pairs, refused = _pairs(one, other, suites)
    lines: list[dict[str, Any]] = []
    test_sets = dict.fromkeys(x.test_set for x, _ in pairs)
    untrained = {each: _untrained(one, other, each, measured) for each in test_sets}
    for x, y in pairs:
        metrics, left_out = _shared_metrics(x, y, cells, everything)
        refused += left_out
        lines += [
            difference_line(x, y, metric)
            | (consistency_line(x, y, metric) if consistency else {})
            | {"untrained": untrained[x.test_set]}
            for metric in metrics
        ]
    return lines, refused, pairs


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """The table with p_holm, corrected over its rows, and the verdicts that follow from it."""
    judged = table.assign(p_holm=holm(table["p"].where(~table["one_sided"])))
    judged["verdict"] = [_verdict(line) for line in judged.to_dict("records")]
    order = [name for name in judged.columns if name not in ("p_holm", "verdict")]
    after = order.index("p") + 1
    return judged[[*order[:after], "p_holm", "verdict", *order[after:]]]


def _untrained(one: Chosen, other: Chosen, test_set: TestSet, measured: Sequence[SeedGroup]) -> str:
    """Which of two models does not beat the controls, in words; "" if both do or none can tell.

    Against a control itself every comparison counts: it is how one sees what was learnt.
    """
    sides = [[m for m in c.measurements if m.test_set == test_set] for c in (one, other)]
    if any(m.control for side in sides for m in side):
        return ""
    found = [
        replace(standing(side, measured), model=c.label).reason
        for c, side in zip((one, other), sides, strict=True)
    ]
    return "; ".join(filter(None, found))


def _on_controls(
    one: Chosen, other: Chosen, table: pd.DataFrame, measured: Sequence[SeedGroup]
) -> list[str]:
    """What the controls say of two models on the test sets of a table, as remarks."""
    said = [f"{reason}: {NOT_TRAINED}." for reason in table["untrained"].unique() if reason]
    shown = set(table["test_set"])
    for test_set in dict.fromkeys(m.test_set for m in one.measurements):
        for chosen in (one, other):
            side = [m for m in chosen.measurements if m.test_set == test_set]
            if side and test_set.label in shown and not any(m.control for m in side):
                said += [f"{lacking}." for lacking in [without_controls(side, measured)] if lacking]
    return list(dict.fromkeys(text[0].upper() + text[1:] for text in said))


def _check_apart(one: Chosen, other: Chosen) -> None:
    """Two names must not stand for the same runs, nor one for a part of the other."""
    runs = [
        {r.model["checkpoint_sha256"] for m in chosen.measurements for r in m.records}
        for chosen in (one, other)
    ]
    if one.label == other.label or runs[0] == runs[1]:
        raise CossError(f"both names stand for {one.label}; name two models")
    if runs[0] < runs[1] or runs[1] < runs[0]:
        whole, part = (one, other) if runs[1] < runs[0] else (other, one)
        raise CossError(f"{part.label} is one of the runs of {whole.label}; name two models")


def _pairs(
    one: Chosen, other: Chosen, suites: Sequence[str]
) -> tuple[list[tuple[SeedGroup, SeedGroup]], list[str]]:
    """Measurements that can be compared, and why the others cannot."""
    pairs: list[tuple[SeedGroup, SeedGroup]] = []
    refused: list[str] = []
    everything = [*one.measurements, *other.measurements]
    for test_set in dict.fromkeys(m.test_set for m in everything):
        here = [[m for m in c.measurements if m.test_set == test_set] for c in (one, other)]
        if not all(here):
            only = one.label if here[0] else other.label
            refused.append(f"{test_set.label}: only {only} was measured on it")
            continue
        for suite in dict.fromkeys(m.suite for m in [*here[0], *here[1]]):
            if suite not in suites:
                continue
            what = f"{suite} on {test_set.label}"
            mine, theirs = ({m.protocol: m for m in side if m.suite == suite} for side in here)
            if not (mine and theirs):
                only = one.label if mine else other.label
                refused.append(f"{what}: only {only} was measured")
                continue
            if not mine.keys() & theirs.keys():
                notes = [" and ".join(m.protocol_note for m in s.values()) for s in (mine, theirs)]
                refused.append(
                    f"{what}: different protocols, {one.label} {notes[0]}, {other.label} {notes[1]}"
                )
            for protocol in mine.keys() & theirs.keys():
                pair = mine[protocol], theirs[protocol]
                if reason := mismatch([*pair[0].records, *pair[1].records]):
                    refused.append(f"{what}: {reason}")
                else:
                    pairs.append(pair)
    return pairs, refused


def _shared_metrics(
    x: SeedGroup, y: SeedGroup, cells: bool, everything: bool
) -> tuple[list[Metric], list[str]]:
    """Metrics that are the same average for both models, and which are not."""
    sides = [{k.name: k for k in m.records[0].metrics if everything or k.headline} for m in (x, y)]
    mine, theirs = sides
    differ = [
        k.label
        for name, k in (mine | theirs).items()
        if not (name in mine and name in theirs and _average(mine[name]) == _average(theirs[name]))
    ]
    refused = []
    if differ:
        where = f"{x.suite} on {x.test_set.label}"
        refused = [f"{where}, {', '.join(differ)}: not averaged over the same conditions for both"]
    shared = [k for k in mine.values() if k.label not in differ]
    return shared + (list(_single_conditions(x, y, shared)) if cells else []), refused


def _average(metric: Metric) -> tuple[str, tuple[str, ...]]:
    return metric.column, metric.conditions


def _single_conditions(x: SeedGroup, y: SeedGroup, shown: Sequence[Metric]) -> Iterator[Metric]:
    """Conditions of both models as metrics of their own, but the reference (which the clean suite
    has) and those that are a metric already."""
    axis = x.records[0].axis
    theirs = {c.condition for c in y.records[0].cells if axis.column in c.outcomes}
    better: Better = next((k.better for k in x.records[0].metrics if k.column == axis.column), "")
    for cell in x.records[0].cells:
        name = cell.condition
        there = cell.group and name in theirs and axis.column in cell.outcomes
        if there and (axis.column, (name,)) not in map(_average, shown):
            yield Metric(name, name, axis.column, (name,), better, axis.percent)


def difference_line(x: SeedGroup, y: SeedGroup, metric: Metric) -> dict[str, Any]:
    """x - y in one metric, not corrected: a line of `Comparison.table` without its last columns."""
    sides = [[values_of(record, metric) for record in m.records] for m in (x, y)]
    share = is_share(x.records[0], metric.column)
    values = [number(m.records, metric.conditions, metric.column).value for m in (x, y)]
    return line_of(x, y, metric, sides, share, values)


def line_of(
    x: SeedGroup,
    y: SeedGroup,
    metric: Metric,
    sides: Sequence[Sequence[Column]],
    share: bool,
    values: Sequence[float],
) -> dict[str, Any]:
    """A line as `difference_line` gives it, from values at hand.

    Args:
        sides: for either, for each run the value of every image.
        share: they lie in [0, 1] by nature.
        values: of either, as shown.
    """
    seeds, (mine, theirs) = _seeds(x, y), sides
    # Pixels were not drawn: they are the same beside every seed of the other.
    mine, theirs = (
        list(runs) * len(kept) if m.control == PIXELS else runs
        for runs, kept, m in zip((mine, theirs), seeds, (x, y), strict=True)
    )
    found = difference(mine, theirs, share, seeds)
    return {
        "test_set": x.test_set.label,
        "suite": x.suite,
        "protocol": x.protocol,
        "metric": metric.name,
        "heading": x.heading(metric.label),
        "a": values[0],
        "b": values[1],
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "test": found.test,
        "n": int(mine[0].size),
        "seeds_a": len(x.records),
        "seeds_b": len(y.records),
        "better": metric.better,
        "percent": metric.percent,
        "doubts_a": doubts_of(x.records),
        "doubts_b": doubts_of(y.records),
        "one_sided": not over_seeds(seeds) and max(map(len, seeds)) > 1,
    }


def _seeds(x: SeedGroup, y: SeedGroup) -> list[list[Hashable]]:
    """Which seeds of two configurations coincide; pixels, which have none, have the other's."""
    seeds = [seeds_of(m.records) for m in (x, y)]
    return [seeds[1 - i] if m.control == PIXELS else seeds[i] for i, m in enumerate((x, y))]


def doubts_of(records: Sequence[Record]) -> str:
    checks, doubtful = failed_checks(records), problems(records)
    said = [f"failed sanity check {checks}"] * bool(checks)
    return "; ".join(said + [f"doubtful outcomes under {doubtful}"] * bool(doubtful))


def _verdict(line: Mapping[Any, Any]) -> str:
    if line["untrained"]:
        return NOT_TRAINED
    if math.isnan(line["p"]):
        return MISSING
    if line["one_sided"] or line["p_holm"] > 1 - CONFIDENCE:
        return "undecided"
    if not line["better"]:
        return "A higher" if line["difference"] > 0 else "B higher"
    return "A better" if (line["difference"] > 0) == (line["better"] == "higher") else "B better"


def _remarks(one: Chosen, other: Chosen, pairs: Sequence[tuple[SeedGroup, SeedGroup]]) -> list[str]:
    remarks = []
    for pair in pairs:
        seeds = _seeds(*pair)
        alone = [f"{seed} of {(one, other)[i].label}" for i, seed in unmatched(seeds)]
        if not over_seeds(seeds) and max(map(len, seeds)) > 1:
            remarks.append(
                f"{one.label} and {other.label} have {len(seeds[0])} and {len(seeds[1])} seeds, of "
                "which fewer than two coincide: nothing says how much one run varies, so nothing "
                "is decided; intervals cover the draw of the test images alone."
            )
        elif over_seeds(seeds) and alone:
            remarks.append(f"Differences are over the seeds of both, without {', '.join(alone)}.")
    if any(_probe(x) != _probe(y) for x, y in pairs):
        remarks.append(
            "The linear probes were trained with different settings, which is part of the "
            "difference."
        )
    return list(dict.fromkeys(remarks))


def _probe(m: SeedGroup) -> Any:
    probe = m.model.get("probe") or {}
    return [probe.get(key) for key in ("dataset", "settings", "n_train")]
