"""Measuring conditions of a record again, and comparing what is found with what was recorded.

Measuring is that of `evaluations.running.job`: a condition that builds on earlier ones gets them
measured again, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_coss.errors import kind_and_line
from robustbench_coss.evaluations.protocol import Condition, Suite
from robustbench_coss.evaluations.running.job import Opened
from robustbench_coss.evaluations.running.units import Measured, units
from robustbench_coss.evaluations.submissions.agreement import SAME, TRAINED, Pair, try_pairs
from robustbench_coss.evaluations.submissions.report import CellPairs, Finding, Report
from robustbench_coss.records.confidence import CONFIDENCES
from robustbench_coss.records.metadata import FACTS
from robustbench_coss.records.record import Cell, Check, Record
from robustbench_coss.seeds import permutation

FACTS_APART = 0.05  # of the largest number beside it: how far numbers of `extra` may be apart


@dataclass(frozen=True)
class Sample:
    """Which conditions are measured again: so many per record, drawn with a seed."""

    seed: int
    cells: int


def measure_again(
    opened: Opened,
    record: Record,
    sample: Sample,
    name: str,
    where: str,
    share: float,
    report: Report,
) -> list[Pair]:
    """Measure drawn conditions of a record; gives the pairs of its main column on test images.

    Args:
        opened: the model that was measured, as it was measured.
        name: of the record in the bundle.
        where: what sets this measurement apart from others of the record, for its lines.
        share: of outcomes that rounding may turn.
    """
    suite = opened.suite(record.suite)
    conditions = suite.conditions(opened.subject)
    todo = _drawn(suite, conditions, sample, record)
    counts = {c.name: len(opened.measured_on(suite, c)[1]) for c in todo}
    opened.progress.plan(sum(counts.values()))
    cells = {cell.condition: cell for cell in record.cells}
    missing = [c.name for c in conditions if c.name not in cells]
    if missing:
        report.facts.append(Finding(False, f"{name} lacks {len(missing)} conditions: {missing[0]}"))
    pairs: dict[tuple[str, str], list[Pair]] = {}  # by column and images
    summary: dict[str, Any] = {}
    for unit in units(suite, todo, [], counts):
        for found in opened.measure(unit):
            summary = found.summary
            if found.condition.name in cells:
                trained = share > SAME and found.condition.kind in suite.trains_for
                mine = _compare(
                    found,
                    cells[found.condition.name],
                    f"{record.suite} {found.condition.name}{where}",
                    TRAINED if trained else share,
                    report,
                )
                if not trained:
                    for column, pair in mine.items():
                        pairs.setdefault((column, found.condition.images), []).append(pair)
    if not where:
        _check_rest(suite, conditions, record, summary, opened.doubts, name, report)
    for (column, images), several in pairs.items():
        if len(several) > 1:
            of = f" of {images}" if images else ""
            about = f"{record.suite} {column}{of}, {len(several)} cells together{where}"
            report.together.append(try_pairs(about, several, share))
    return pairs.get(("correct", ""), [])


def _drawn(
    suite: Suite, conditions: Sequence[Condition], sample: Sample, record: Record
) -> list[Condition]:
    """A random sample of conditions, with those that they build on."""
    names = (sample.seed, record.dataset["name"], suite.name)
    order = permutation(len(conditions), "verify", *names)[: sample.cells]
    chosen = {conditions[i].name for i in order.tolist()}
    if suite.linked:  # a condition needs those before it in its group
        for group in {c.group for c in conditions}:
            members = [c.name for c in conditions if c.group == group]
            last = max((i for i, m in enumerate(members) if m in chosen), default=-1)
            chosen |= set(members[: last + 1])
    return [c for c in conditions if c.name in chosen]


def _compare(
    found: Measured, cell: Cell, title: str, share: float, report: Report
) -> dict[str, Pair]:
    """Put a condition into the report; gives its columns."""
    again = found.columns
    if not cell.outcomes.keys() & set(CONFIDENCES):  # a record from before there were any
        again = {k: column for k, column in again.items() if k not in CONFIDENCES}
        note = "some records hold no probabilities, so nothing of them is checked"
        report.notes += [note] * (again.keys() != found.columns.keys() and note not in report.notes)
    if again.keys() != cell.outcomes.keys() or any(
        column.dtype != cell.outcomes[k].dtype for k, column in again.items()
    ):
        columns = ", ".join(f"{k} ({v.dtype})" for k, v in sorted(cell.outcomes.items()))
        text = f"{title}: recorded columns {columns} are not the suite's"
        report.facts.append(Finding(False, text))
        return {}
    if bool(cell.problem) != bool(found.nonfinite):
        count = f"{found.nonfinite} outputs of the model are not finite"
        report.facts.append(Finding(False, f"{title}: {count}, recorded: {cell.problem!r}"))
    if (cell.group, cell.level) != (found.condition.group, found.condition.level):
        report.facts.append(Finding(False, f"{title}: group or level are not the suite's"))
    pairs = {k: Pair(cell.outcomes[k], again[k]) for k in again}
    trials = {k: try_pairs(f"{title} {k}", [pair], share) for k, pair in pairs.items()}
    report.cells.append(CellPairs(title, pairs, trials))
    return pairs


def _check_rest(
    suite: Suite,
    conditions: Sequence[Condition],
    record: Record,
    summary: Mapping[str, Any],
    doubts: Sequence[Check | None],
    name: str,
    report: Report,
) -> None:
    """Hold what follows from outcomes to them: derived cells, metrics, checks, facts."""
    names = {c.name for c in conditions}
    measured = [cell for cell in record.cells if cell.condition in names]
    rest = [cell for cell in record.cells if cell.condition not in names]
    wrong = []
    try:
        derived = suite.derived(measured)
        if [_plain(c) for c in derived] != [_plain(c) for c in rest]:
            wrong.append("derived conditions")
        at = {c.name: (c.group, c.level, c.kind or c.group, c.stage) for c in conditions}
        if [(c.group, c.level, c.kind, c.stage) for c in measured] != [
            at[c.condition] for c in measured
        ]:
            wrong.append("groups or levels of conditions")
        about = getattr(suite, "about", None)
        if record.about and about is not None and record.about != about.stored():
            wrong.append("wording (about)")
        if suite.metrics(conditions) != record.metrics or suite.axis != record.axis:
            wrong.append("metrics or axis")
        again = [*suite.checks(record.cells), *(d for d in doubts if d is not None)]
        checks = [(c.name, bool(c.passed)) for c in again]
        if checks != [(c.name, c.passed) for c in record.checks]:
            wrong.append("sanity checks")
    except (KeyError, ValueError, IndexError) as error:  # conditions that it needs are not there
        wrong.append(f"conditions ({kind_and_line(error)})")
    found = dict(summary)
    if FACTS not in record.extra:  # a record from before there were any
        found.pop(FACTS, None)
    if not _close(record.extra, found):
        wrong.append("facts about the model (extra)")
    text = f"{name}: derived conditions, metrics, checks and facts follow from the outcomes"
    if wrong:
        text = f"{name}: not what follows from outcomes and model: {', '.join(wrong)}"
    report.facts.append(Finding(not wrong, text))


def _plain(cell: Cell) -> tuple[Any, ...]:
    columns = {k: (v.dtype.name, v.tobytes()) for k, v in sorted(cell.outcomes.items())}
    return cell.condition, cell.group, cell.level, columns, cell.problem


def _close(a: Any, b: Any, scale: float = 0.0) -> bool:
    """Whether two JSON-able values are the same but for rounding of their numbers."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_close(a[k], b[k], scale) for k in a)
    if isinstance(a, list) and isinstance(b, (list, tuple)):
        scale = max(scale, _largest(b))
        return len(a) == len(b) and all(_close(x, y, scale) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool) or not _is_number(a) or not _is_number(b):
        return bool(a == b)
    return math.isclose(a, b, rel_tol=FACTS_APART, abs_tol=FACTS_APART * scale)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _largest(values: Any) -> float:
    if isinstance(values, (list, tuple)):
        return max((_largest(value) for value in values), default=0.0)
    return abs(float(values)) if _is_number(values) else 0.0
