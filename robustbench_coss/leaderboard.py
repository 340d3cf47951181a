"""Tables of what was measured: one row per configuration, one table per test set.

`load_table` gives every number in long form; `layout` arranges the headline numbers as tables
once, and the writers of `tables` spell them out.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group

from robustbench_coss import tables
from robustbench_coss.configurations import (
    Measurement,
    load_measurements,
    method_name,
    suite_order,
)
from robustbench_coss.corruption_error import (
    ALEXNET,
    ALEXNET_BASELINE,
    Baseline,
    baseline_of,
    corruption_errors,
)
from robustbench_coss.errors import CossError
from robustbench_coss.files import write_atomically
from robustbench_coss.records import Metric, Record
from robustbench_coss.selection import Chosen, find_model
from robustbench_coss.statistics import estimate
from robustbench_coss.tables import (
    MARK,
    MISSING,
    Column,
    Section,
    TableCell,
    block,
    number_text,
    percent_text,
)

# Number columns beside the model's name in one table: a browser shows more than a printed page
# or a terminal.
WIDE, NARROW = 5, 3

NOTHING = "no corruptions were measured; run `coss-bench eval RUN --suite corruption` first"


def load_table(results: Path, baseline: str | None = None) -> pd.DataFrame:
    """Every metric of every configuration in long form, one line per configuration and metric.

    Columns: test_set, model, method, arch, width, parameters, pretrained_on, epochs, suite,
    protocol, protocol_note, metric, heading, value, low, high (95 % interval), sd (over seeds),
    seeds, n (test images), interval ("wilson", "bootstrap" or "t"), chance (top-1, in [0, 1]),
    better, percent, headline, failed_checks, problems (doubtful outcomes). Shares are in [0, 1];
    what is not known is empty. Lines are sorted by test set and clean top-1, best first.

    Args:
        baseline: add the metrics mCE and relative mCE, corruption errors divided by those of
            "alexnet" or of a measured model (see `selection.find_model`), and the column
            `baseline`, its name. What cannot be divided by them is warned of.

    Raises:
        CossError: there are no complete records, one is damaged, the baseline is unknown or fits
            none of them.
    """
    return table_of(load_measurements(results), baseline)


def table_of(measurements: list[Measurement], baseline: str | None = None) -> pd.DataFrame:
    """The long table of `load_table` from measurements at hand, such as those of some models."""
    lines = [_line(m, metric) for m in measurements for metric in m.records[0].metrics]
    if baseline is not None:
        lines += _corruption_error_lines(measurements, baseline)
    table = pd.DataFrame(lines)
    clean = table[table["metric"] == _clean_metric(table)]
    best = dict(zip(_row_keys(clean), clean["value"], strict=True))
    table["_clean"] = [best.get(key, -math.inf) for key in _row_keys(table)]
    table["_suite"] = table["suite"].map(suite_order)
    table["_position"] = range(len(table))  # metrics stay in the order the suite gives
    table = table.sort_values(
        ["test_set", "_clean", "model", "_suite", "protocol", "_position"],
        ascending=[True, False, True, True, True, True],
    )
    return table.drop(columns=["_clean", "_suite", "_position"]).reset_index(drop=True)


def _row_keys(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(table["test_set"], table["model"], strict=True))


def _clean_metric(table: pd.DataFrame) -> str | None:
    """Name of the metric that ranks: the first that the clean suite reports."""
    clean = table[table["suite"] == "clean"]
    return None if clean.empty else str(clean["metric"].iloc[0])


def _line(m: Measurement, metric: Metric) -> dict[str, Any]:
    runs = [[r.column(name, metric.column) for name in metric.conditions] for r in m.records]
    return _line_of(m, metric, runs, share=metric.percent)


def _line_of(m: Measurement, metric: Metric, runs: list[list[Any]], share: bool) -> dict[str, Any]:
    """A line of the long table from one list of per-image columns per seed."""
    result = estimate(runs, m.test_set.slug, m.configuration, m.suite, metric.name, share=share)
    training = m.model.get("training") or {}
    return {
        "test_set": m.test_set.label,
        "model": m.configuration,
        "method": m.model.get("method"),
        "arch": m.model.get("arch"),
        "width": m.model.get("width"),
        "parameters": m.model.get("parameters"),
        "pretrained_on": m.model.get("dataset"),
        "epochs": training.get("epochs"),
        "suite": m.suite,
        "protocol": m.protocol,
        "protocol_note": m.protocol_note,
        "metric": metric.name,
        "heading": metric.label + (f" ({m.protocol})" if m.protocol else ""),
        **m.columns(result),
        "chance": m.test_set.chance,
        "better": metric.better,
        "percent": metric.percent,
        "headline": metric.headline,
        "failed_checks": failed_checks(m.records),
        "problems": problems(m.records),
    }


def failed_checks(records: Sequence[Record]) -> str:
    """ "name (2 of 5 seeds): detail of the first; …" or "" if every check passed."""
    failed: dict[str, list[str]] = {}
    for record in records:
        for check in record.checks:
            if not check.passed:
                failed.setdefault(check.name, []).append(check.detail)
    return "; ".join(
        f"{name}{_share_of_seeds(len(details), records)}: {details[0]}"
        for name, details in failed.items()
    )


def problems(records: Sequence[Record]) -> str:
    """ "fog@3 and 2 more conditions (2 of 5 seeds): detail of the first" or "" if none is."""
    found = [[cell for cell in record.cells if cell.problem] for record in records]
    doubtful = list(dict.fromkeys(cell.condition for cells in found for cell in cells))
    if not doubtful:
        return ""
    more = len(doubtful) - 1
    where = doubtful[0] + (f" and {more} more condition{'s' * (more > 1)}" if more else "")
    first = next(cell.problem for cells in found for cell in cells)
    return f"{where}{_share_of_seeds(sum(map(bool, found)), records)}: {first}"


def _share_of_seeds(count: int, records: Sequence[Record]) -> str:
    return f" ({count} of {len(records)} seeds)" if len(records) > 1 else ""


def _corruption_error_lines(measurements: list[Measurement], baseline: str) -> list[dict[str, Any]]:
    """Lines of mCE and relative mCE of every measurement of corruptions that a baseline fits."""
    chosen = None if baseline.casefold() == "alexnet" else find_model(measurements, baseline)
    lines, refused = [], defaultdict(list)
    for m in (m for m in measurements if m.suite == "corruption"):
        try:
            by = ALEXNET_BASELINE if chosen is None else _baseline_for(m, chosen)
            errors = [corruption_errors(record, by) for record in m.records]
        except CossError as error:
            refused[m.test_set.label, str(error)].append(m.configuration)
            continue
        for name, label, columns in (
            ("corruption_mce", "mCE", [[e.mce_per_image] for e in errors]),
            ("corruption_rmce", "Relative mCE", [[e.relative_mce_per_image] for e in errors]),
        ):
            # The corruptions say what it is about; nothing is averaged over them here.
            metric = Metric(name, label, "correct", tuple(ALEXNET), "lower")
            lines.append(_line_of(m, metric, columns, share=False) | {"baseline": by.name})
    if not lines:
        reasons = [f"{where}: {reason}" for where, reason in refused]
        raise CossError(f"no mCE with baseline {baseline!r}; {'; '.join(reasons) or NOTHING}")
    for (where, reason), models in refused.items():
        warnings.warn(f"no mCE on {where} for {', '.join(models)}: {reason}", stacklevel=2)
    return lines


def _baseline_for(m: Measurement, chosen: Chosen) -> Baseline:
    """A baseline from what the chosen model has of the same test set, suite and protocol."""
    for other in chosen.measurements:
        if (other.test_set, other.suite, other.protocol) == (m.test_set, m.suite, m.protocol):
            return baseline_of(chosen.label, other.records)
    protocol = f" under protocol ({m.protocol})" if m.protocol else ""
    raise CossError(f"the baseline {chosen.label} has no record of corruptions{protocol}")


def layout(table: pd.DataFrame, width: int) -> list[Section]:
    """The headline metrics of a long table as a section per test set.

    A section's tables show up to `width` number columns each, a suite's together where they fit;
    its last table says what the models are.
    """
    parts = table.groupby("test_set", sort=True)
    return [_section(str(name), part, width) for name, part in parts]


def headline_columns(part: pd.DataFrame) -> list[pd.DataFrame]:
    """The lines behind each number column of one test set's table, in the order of the columns.

    A column is what may be compared: one metric of one suite under one protocol.
    """
    shown = part[part["headline"]]
    groups = shown.groupby(["suite", "protocol", "metric"], sort=False)
    # Metrics stay in the order their suite gives.
    columns = [lines for _, lines in groups]
    columns.sort(key=lambda lines: (suite_order(lines["suite"].iloc[0]), lines["protocol"].iloc[0]))
    return columns


def _section(title: str, part: pd.DataFrame, width: int) -> Section:
    models = list(dict.fromkeys(part["model"]))
    by_suite: dict[tuple[str, str], list[Column]] = {}
    for lines in headline_columns(part):
        suite, protocol, heading = lines[["suite", "protocol", "heading"]].iloc[0]
        column = (str(heading), number_cells(models, lines))
        by_suite.setdefault((str(suite), str(protocol)), []).append(column)
    packs: list[list[Column]] = [[]]
    for columns in by_suite.values():
        if packs[-1] and len(packs[-1]) + len(columns) > width:
            packs.append([])
        for column in columns:
            if len(packs[-1]) == width:
                packs.append([])
            packs[-1].append(column)
    blocks = []
    for i, pack in enumerate(packs):
        described = [_names(models)] if i else _row_columns(models, part)
        blocks.append(block(described + pack))
    blocks.append(block(_model_columns(models, part)))
    caption = (
        f"Chance level (top-1): {percent_text(float(part['chance'].iloc[0]))} %. "
        "Shares in %, with 95 % intervals; best value of a column in bold."
    )
    return Section(title, caption, tuple(blocks), tuple(table_notes(part)))


def number_cells(models: list[str], lines: pd.DataFrame) -> list[TableCell]:
    """One metric under one protocol as a column of cells: a cell for each of the models.

    Args:
        models: labels, in the order of the rows.
        lines: of the long table, at most one per model.
    """
    percent, better = bool(lines["percent"].iloc[0]), str(lines["better"].iloc[0])
    present = {str(line["model"]): line for line in lines.to_dict("records")}
    values = {m: float(line["value"]) for m, line in present.items()}
    rank = {m: v if better == "higher" else -v for m, v in values.items() if not math.isnan(v)}
    # Equal as shown is equal: bold must not rest on digits that nobody sees.
    winner = max(rank, key=lambda m: rank[m]) if better and len(rank) > 1 else None
    best = None if winner is None else number_text(values[winner], values[winner], percent)
    cells = []
    for model in models:
        if model not in rank:
            cells.append(TableCell(MISSING, marked=bool(present) and _failed(present.get(model))))
            continue
        line = present[model]
        text = number_text(values[model], values[model], percent)
        low, high = (number_text(float(line[k]), values[model], percent) for k in ("low", "high"))
        interval = "" if math.isnan(float(line["low"])) else f"[{low}, {high}]"
        cells.append(TableCell(text, interval, text == best, _failed(line)))
    return cells


def _failed(line: Any) -> bool:
    return line is not None and bool(line["failed_checks"] or line["problems"])


def _names(models: list[str]) -> Column:
    return "Model", [TableCell(model) for model in models]


def _row_columns(models: list[str], part: pd.DataFrame) -> list[Column]:
    of = {model: part[part["model"] == model] for model in models}
    chance = percent_text(float(part["chance"].iloc[0]))
    return [
        _names(models),
        ("Seeds", [TableCell(range_text(of[m]["seeds"])) for m in models]),
        ("Images", [TableCell(range_text(of[m]["n"])) for m in models]),
        ("Chance", [TableCell(chance) for _ in models]),
    ]


def _model_columns(models: list[str], part: pd.DataFrame) -> list[Column]:
    first = {line["model"]: line for line in part.drop_duplicates("model").to_dict("records")}
    spell: dict[str, tuple[str, Callable[[Any], str]]] = {
        "method": ("Method", method_name),
        "arch": ("Architecture", str),
        "width": ("Width", lambda width: f"{width:g}"),
        "parameters": ("Parameters", lambda count: f"{int(count):,}"),
        "pretrained_on": ("Pretrained on", str),
        "epochs": ("Epochs", lambda epochs: f"{epochs:g}"),
    }
    columns = [_names(models)]
    for key, (heading, say) in spell.items():
        values = [first[model][key] for model in models]
        known = [not pd.isna(value) for value in values]
        texts = [say(v) if k else MISSING for v, k in zip(values, known, strict=True)]
        columns.append((heading, [TableCell(text) for text in texts]))
    return columns


def table_notes(part: pd.DataFrame, intervals: bool = True) -> list[str]:
    """What stands below one test set's table: its intervals, protocols, baseline and doubts."""
    several = sorted({int(k) for k in part["seeds"] if k > 1})
    notes = []
    if several and intervals:
        notes.append(
            f"Rows with several seeds ({', '.join(map(str, several))}): mean over seeds with "
            "Student's t interval; it covers the training seed, the test images being the same."
        )
    if (part["seeds"] == 1).any() and intervals:
        notes.append(
            "Rows with one seed: Wilson interval, or bootstrap over images for averages of "
            "conditions; it covers the draw of the test images, not the training seed."
        )
    protocols = part[part["protocol"] != ""].drop_duplicates(["suite", "protocol"])
    notes += [
        f"{line['suite']} ({line['protocol']}): {line['protocol_note']}."
        for _, line in protocols.sort_values(["suite", "protocol"]).iterrows()
    ]
    if "baseline" in part:
        notes += [
            f"mCE and relative mCE: corruption errors divided by those of {baseline}, in %, after "
            "Hendrycks and Dietterich 2019; their intervals take the baseline's as exact."
            for baseline in part["baseline"].dropna().unique()
        ]
    for column, words in (
        ("failed_checks", "failed sanity check"),
        ("problems", "doubtful outcomes under"),
    ):
        marked = part[part[column] != ""].drop_duplicates(["model", "suite", "protocol"])
        notes += [
            f"{MARK} {line['model']}, {line['suite']}: {words} {line[column]}."
            for _, line in marked.iterrows()
        ]
    return notes


def range_text(values: pd.Series) -> str:
    """Whole numbers as "5", or "3–5" where they differ."""
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def to_markdown(table: pd.DataFrame) -> str:
    """The leaderboard as GitHub-flavoured Markdown."""
    return tables.to_markdown("Leaderboard", layout(table, WIDE))


def to_latex(table: pd.DataFrame) -> str:
    """The leaderboard as LaTeX tables; they need what `tables.to_latex` says."""
    return tables.to_latex("leaderboard", layout(table, NARROW))


def to_rich(table: pd.DataFrame) -> Group:
    """The leaderboard for a terminal; intervals stand on a line of their own."""
    return tables.to_rich(layout(table, NARROW))


def to_csv(table: pd.DataFrame) -> str:
    """The long table as CSV, numbers at full precision."""
    return str(table.to_csv(index=False, lineterminator="\n"))


def write_leaderboard(results: Path, table: pd.DataFrame | None = None) -> list[Path]:
    """Write `leaderboard.md`, `.csv` and `.tex` into a results folder, each whole or not at all.

    Args:
        table: what `load_table(results)` gave, where the caller has it already.

    Returns:
        The three paths.

    Raises:
        CossError: there are no complete records, one is damaged, or the folder is not writable.
    """
    table = load_table(results) if table is None else table
    texts = {"md": to_markdown(table), "csv": to_csv(table), "tex": to_latex(table)}
    paths = []
    for suffix, text in texts.items():
        paths.append(results / f"leaderboard.{suffix}")
        write_atomically(paths[-1], text)
    return paths
