"""Tables as papers print them: chosen rows and columns of the leaderboard, against a base row.

Numbers come from `leaderboard`, tests from `comparison`, the spelling from `tables`; here is only
the choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich.console import Group

from robustbench_coss.analysis.calibration import with_calibration
from robustbench_coss.analysis.comparison import TESTS, differences, judge
from robustbench_coss.analysis.configurations import SeedGroup, load_measurements
from robustbench_coss.analysis.controls import NOT_TRAINED
from robustbench_coss.analysis.labels import Configuration, short_labels
from robustbench_coss.analysis.numbers import table_of
from robustbench_coss.analysis.selection import Chosen, find_model
from robustbench_coss.errors import CossError, unknown_name
from robustbench_coss.files import csv_text
from robustbench_coss.statistics.intervals import CONFIDENCE
from robustbench_coss.tables.cells import (
    MISSING,
    STAR,
    Column,
    Section,
    TableCell,
    block,
    percent_text,
    to_markdown,
)
from robustbench_coss.tables.comparison import difference_cell
from robustbench_coss.tables.latex import to_latex
from robustbench_coss.tables.leaderboard import (
    ALL,
    WIDE,
    headline_columns,
    name_cells,
    number_cells,
    range_text,
    table_notes,
)
from robustbench_coss.tables.terminal import to_rich

Spread = Literal["interval", "sd"]

SHORT = {
    "mcnemar": "McNemar's exact test",
    "permutation": "a paired permutation test",
    "t": "Student's t over seeds and images",
}
"""The tests of `comparison.TESTS` as a caption names them."""

HEADS = {"adversarial": "Attacks", "rf": "Receptive field", "probe": "Probes"}
"""What stands above the columns of a suite, where that is not its name."""

_COMPARED = [
    "base",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "p_holm",
    "test",
    "untrained",
]


@dataclass(frozen=True)
class PaperTable:
    """What was chosen, in long form, and how to show it.

    Attributes:
        frame: one line per model and metric, in the order shown, with the columns of
            `leaderboard.load_table`. With a base row also base (its label), difference (the row's
            value minus the base's), difference_low, difference_high (95 % interval), p, p_holm
            (corrected over all differences shown), test ("mcnemar", "permutation" or "t"),
            untrained (which of the two does not beat the controls) and significant (p_holm at most
            0.05, and both do). Shares are in [0, 1]; what is not known is empty.
        metrics: names of the columns' metrics, in order.
        spread: whether values are shown with "interval" or "sd".
        relative: whether rows show their difference to the base.
        wide: number columns of one table in Markdown.
        refused: what was measured and could not be compared with the base, with the reason.
        configurations: whose rows these are, by label.
    """

    frame: pd.DataFrame
    metrics: tuple[str, ...]
    spread: Spread
    relative: bool
    wide: int
    refused: tuple[str, ...]
    configurations: Mapping[str, Configuration]

    def to_markdown(self) -> str:
        """GitHub-flavoured Markdown."""
        return to_markdown("Results", _layout(self, self.wide), "leaderboard")

    def to_latex(self) -> str:
        """A LaTeX table per test set; see `latex.to_latex`."""
        return to_latex("leaderboard", _layout(self))

    def to_csv(self) -> str:
        """The frame as CSV, numbers at full precision."""
        return csv_text(self.frame)

    def to_rich(self) -> Group:
        """For a terminal; see `terminal.to_rich`."""
        return to_rich(_layout(self))


def paper_table(
    results: Path,
    *,
    models: Sequence[str] = (),
    metrics: Sequence[str] = (),
    suites: Sequence[str] = (),
    against: str | None = None,
    relative_to: str | None = None,
    spread: Spread = "interval",
    baseline: str | None = None,
    calibration: bool = False,
) -> PaperTable:
    """Choose rows and columns of the leaderboard.

    Args:
        results: folder of the records.
        models: rows in this order, see `selection.find_model`; empty for all, best first.
        metrics: columns in this order, by name ("clean_top1") or heading ("Clean top-1"); empty
            for the headline metrics.
        suites: suites to take columns from; empty for all.
        against: mark what differs significantly from this model; it becomes the first row where
            it is not among `models`.
        relative_to: like `against`, and show differences to that model in place of values.
        spread: 95 % intervals, or standard deviations over seeds.
        baseline: adds mCE, see `leaderboard.load_table`.
        calibration: adds statistics of probabilities; those that `metrics` names are there anyway.

    Raises:
        CossError: a name is unknown or ambiguous, nothing is left to show, the options contradict
            each other, or a record is damaged.
    """
    if against and relative_to:
        raise CossError("--against and --relative-to both name a base row; give one of them")
    if relative_to and spread == "sd":
        raise CossError(
            "differences have intervals, not standard deviations; take --against or leave out "
            "--spread sd"
        )
    measured = load_measurements(results)
    if calibration or metrics:
        measured = with_calibration(measured, None if calibration else metrics)
    known = sorted({m.suite for m in measured})
    for suite in suites:
        if suite not in known:
            raise unknown_name("suite", suite, known, more="")
    base = find_model(measured, name) if (name := against or relative_to) else None
    rows = [find_model(measured, name) for name in models]
    if base and rows and base.label not in {row.label for row in rows}:
        rows.insert(0, base)
    # A single run becomes a row of its own beside the configurations.
    labels = {m.label for m in measured}
    runs = {row.label: row for row in ([*rows, base] if base else rows) if row.label not in labels}
    apart = [
        replace(m, configuration=Configuration("", run.label, control=m.control))
        for run in runs.values()
        for m in run.measurements
    ]
    frame = table_of([*measured, *apart], baseline)
    if not rows:
        rows = [
            Chosen(label, tuple(m for m in measured if m.label == label))
            for label in dict.fromkeys(frame["model"])
            if label in labels
        ]
        if base:  # first, as what the others are measured by
            rows = [base, *(row for row in rows if row.label != base.label)]
    frame, shown = _choose(frame, [row.label for row in rows], metrics, suites)
    refused: list[str] = []
    if base is not None:
        frame, refused = _compared(frame, rows, base, measured)
    return PaperTable(
        frame,
        tuple(shown),
        spread,
        bool(relative_to),
        max(WIDE, len(shown)) if metrics else WIDE,
        tuple(refused),
        {m.label: m.configuration for m in [*measured, *apart]},
    )


def whole_table(measured: Sequence[SeedGroup], table: pd.DataFrame) -> PaperTable:
    """All rows and headline columns of a long table, `numbers.table_of` these measurements."""
    frame, shown = _choose(table, list(dict.fromkeys(table["model"])), (), ())
    known = {m.label: m.configuration for m in measured}
    return PaperTable(frame, tuple(shown), "interval", False, WIDE, (), known)


def _choose(
    frame: pd.DataFrame, models: Sequence[str], metrics: Sequence[str], suites: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """The lines of some models, suites and metrics in the order given, and the metrics."""
    frame = frame[frame["model"].isin(models)]
    if suites:
        frame = frame[frame["suite"].isin(suites)]
    if metrics:
        wanted = list(dict.fromkeys(name for given in metrics for name in _metric(frame, given)))
    else:
        frame = frame[frame["headline"]]
        parts = [lines for _, lines in frame.groupby("test_set")]
        wanted = [c["metric"].iloc[0] for part in parts for c in headline_columns(part)]
        wanted = list(dict.fromkeys(wanted))
    frame = frame[frame["metric"].isin(wanted)]
    if frame.empty:
        raise CossError("nothing to show: no chosen model was measured by a chosen suite")
    ordered = frame.assign(
        _row=frame["model"].map(list(models).index), _column=frame["metric"].map(wanted.index)
    ).sort_values(["test_set", "_row", "_column", "suite", "protocol"])
    return ordered.drop(columns=["_row", "_column"]).reset_index(drop=True), wanted


def _ascii_norms(heading: str) -> str:
    """A heading as a keyboard has it: "linf" for "ℓ∞"."""
    return heading.replace("ℓ∞", "linf").replace("ℓ", "l")


def _metric(frame: pd.DataFrame, given: str) -> list[str]:
    """Names of the metrics that a name or heading stands for."""
    plain = _ascii_norms(given.strip().casefold())
    found = []
    names: list[str] = []
    for line in frame.drop_duplicates(["metric", "heading"]).to_dict("records"):
        heading = str(line["heading"]).removesuffix(f" ({line['protocol']})")
        names += [str(line["metric"]), heading]
        if plain in (str(line["metric"]).casefold(), _ascii_norms(heading.casefold())):
            found.append(str(line["metric"]))
    if not found:
        raise unknown_name("metric", given, dict.fromkeys(names), more="")
    return found


def _compared(
    frame: pd.DataFrame, rows: Sequence[Chosen], base: Chosen, measured: Sequence[SeedGroup]
) -> tuple[pd.DataFrame, list[str]]:
    """The frame with each line's difference to the base, and what could not be compared."""
    keys = ["test_set", "suite", "protocol", "metric"]
    suites = list(dict.fromkeys(frame["suite"]))
    lines: list[dict[str, Any]] = []
    refused: list[str] = []
    for row in rows:
        if row.label == base.label:
            continue
        found, reasons, _ = differences(row, base, measured, suites, everything=True)
        lines += [{"model": row.label, **line} for line in found]
        refused += [f"{row.label}: {reason}" for reason in reasons]
    shown = frame[["model", *keys]]
    table = pd.DataFrame(lines, columns=None if lines else ["model", *keys, "p"])
    table = table.merge(shown, on=["model", *keys])
    if table.empty:
        reason = f": {'; '.join(refused)}" if refused else ""
        raise CossError(f"nothing can be compared with {base.label}{reason}")
    judged = judge(table).rename(columns={"low": "difference_low", "high": "difference_high"})
    decided = (judged["p_holm"] <= 1 - CONFIDENCE) & (judged["untrained"] == "")
    judged = judged.assign(base=base.label, significant=decided)
    wanted = judged[["model", *keys, *_COMPARED, "significant"]]
    merged = frame.merge(wanted, on=["model", *keys], how="left")
    merged["base"] = base.label
    merged["untrained"] = merged["untrained"].fillna("")
    merged["significant"] = merged["significant"].fillna(False).astype(bool)
    return merged, refused


def _layout(table: PaperTable, width: int = ALL) -> list[Section]:
    """A section per test set, its columns in tables of up to `width`."""
    parts = list(table.frame.groupby("test_set", sort=True))
    return [
        _section(table, str(title), part, width, last=i == len(parts) - 1)
        for i, (title, part) in enumerate(parts)
    ]


def _section(table: PaperTable, title: str, part: pd.DataFrame, width: int, last: bool) -> Section:
    models = list(dict.fromkeys(part["model"]))
    short, common = short_labels(table.configurations[model] for model in models)
    columns = list(_number_columns(table, part, models))
    names = name_cells(models, part, list(short.values()))
    blocks = []
    for i in range(0, len(columns), width):
        groups, shown = zip(*columns[i : i + width], strict=True)
        blocks.append(block([names, *shown], ["", *groups]))
    caption = " ".join(_caption(table, part, short, common))
    notes = table_notes(part, intervals=table.spread == "interval")
    if "base" in part:
        used = [test for test in TESTS if test in set(part["test"])]
        notes += [TESTS[test] for test in used]
        reasons = [reason for reason in part["untrained"].unique() if reason]
        notes += [f"{reason}: {NOT_TRAINED}, not marked." for reason in reasons]
    if last:
        notes += [f"Not compared: {reason}." for reason in dict.fromkeys(table.refused)]
    return Section(title, caption, tuple(blocks), tuple(notes))


def _number_columns(
    table: PaperTable, part: pd.DataFrame, models: list[str]
) -> Iterator[tuple[str, Column]]:
    """The columns, each with the suite that it is of."""
    for _, lines in sorted(
        part.groupby(["metric", "suite", "protocol"], observed=True),
        key=lambda item: (table.metrics.index(item[1]["metric"].iloc[0]), str(item[0])),
    ):
        by_model = {str(line["model"]): line for line in lines.to_dict("records")}
        cells = number_cells(models, lines)
        shown = [
            _cell(table, cell, by_model.get(model), by_model)
            for model, cell in zip(models, cells, strict=True)
        ]
        suite = str(lines["suite"].iloc[0])
        yield HEADS.get(suite, suite.capitalize()), (str(lines["heading"].iloc[0]), shown)


def _cell(table: PaperTable, cell: TableCell, line: Any, lines: dict[str, Any]) -> TableCell:
    """A cell of `leaderboard.number_cells` with the spread, difference and mark that are shown."""
    if line is None or cell.text == MISSING:
        return cell
    if table.spread == "sd":
        sd = float(line["sd"])
        digits = len(cell.text.partition(".")[2])
        shown = "" if math.isnan(sd) else f"±{sd * (100 if line['percent'] else 1):.{digits}f}"
        cell = replace(cell, interval=shown)
    if "base" not in line:
        return cell
    cell = replace(cell, significant=bool(line["significant"]))
    if not table.relative or line["model"] == line["base"]:
        return cell
    if math.isnan(line["difference"]):
        return TableCell(MISSING)
    difference = difference_cell(
        {
            "a": line["value"],
            "b": lines[line["base"]]["value"],
            "difference": line["difference"],
            "low": line["difference_low"],
            "high": line["difference_high"],
            "percent": line["percent"],
        }
    )
    return replace(cell, text=difference.text, interval=difference.interval)


def _caption(
    table: PaperTable, part: pd.DataFrame, short: dict[str, str], common: str
) -> Iterator[str]:
    if common:
        yield f"All: {common}."
    seeds = range_text(part["seeds"])
    yield f"{seeds} seed{'s' * (seeds != '1')} per row, {range_text(part['n'])} test images."
    base = str(part["base"].iloc[0]) if "base" in part else ""
    of = short.get(base, base)
    if table.relative:
        yield f"Differences to {of} (its row: values), shares in points, with 95 % intervals;"
    elif table.spread == "sd":
        yield "Shares in %, mean ± standard deviation over seeds;"
    else:
        yield "Shares in %, with 95 % intervals;"
    yield f"best value of a column in bold. Chance level: {percent_text(part['chance'].iloc[0])} %."
    used = [words for test, words in SHORT.items() if base and test in set(part["test"])]
    if used:
        count = int(table.frame["p_holm"].notna().sum())
        level = f"{1 - CONFIDENCE:.2f}"
        yield (
            f"{STAR}: differs from {of} by {' or '.join(used)}, p ≤ {level} after Holm's "
            f"correction for {count} tests."
        )
