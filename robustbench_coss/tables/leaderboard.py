"""Tables of what was measured: one row per configuration, one table per test set.

`numbers.load_table` gives every number in long form; `layout` arranges the headline numbers as
tables once, and the writers of `tables` spell them out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
from rich.console import Group

from robustbench_coss.analysis.labels import method_name
from robustbench_coss.files import csv_text
from robustbench_coss.tables import cells as tables
from robustbench_coss.tables import terminal
from robustbench_coss.tables.cells import (
    MARK,
    MISSING,
    Column,
    Section,
    TableCell,
    block,
    number_cell,
    number_text,
    percent_text,
    without_constants,
)

WIDE = 5  # number columns that a browser shows beside the model's name
ALL = 10_000


def layout(table: pd.DataFrame, width: int = ALL) -> list[Section]:
    """The headline metrics of a long table as a section per test set.

    A section's tables show up to `width` number columns each, a suite's together where they fit;
    its last table says what the models are. What is the same for all rows is in the caption.
    """
    parts = table.groupby("test_set", sort=True)
    return [_section(str(name), part, width) for name, part in parts]


def headline_columns(part: pd.DataFrame) -> list[pd.DataFrame]:
    """The lines behind each number column of one test set's table, in the order of the columns.

    A column is what may be compared: one metric of one suite under one protocol.
    """
    shown = part[part["headline"]]
    # Metrics stay in the order their suite gives.
    ordered = shown.sort_values(["suite", "protocol"], kind="stable")
    groups = ordered.groupby(["suite", "protocol", "metric"], sort=False, observed=True)
    return [lines for _, lines in groups]


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
    names = name_cells(models, part)
    counts, of_all = without_constants(count_columns(models, part))
    described, also_of_all = without_constants(model_columns(models, part))
    blocks = [block([names, *(() if i else counts), *pack]) for i, pack in enumerate(packs)]
    blocks += [block([names, *described])] * bool(described)
    shared = [*of_all, *also_of_all]
    caption = f"All: {', '.join(shared)}. " if shared else ""
    caption += (
        f"Chance level (top-1): {percent_text(float(part['chance'].iloc[0]))} %. "
        "Shares in %, with 95 % intervals; best value of a column in bold."
    )
    return Section(title, caption, tuple(blocks), tuple(table_notes(part)))


def number_cells(models: list[str], lines: pd.DataFrame) -> list[TableCell]:
    """One metric under one protocol as a column of cells: a cell for each of the models.

    Controls do not compete for the best value.

    Args:
        models: labels, in the order of the rows.
        lines: of the long table, at most one per model.
    """
    percent, better = bool(lines["percent"].iloc[0]), str(lines["better"].iloc[0])
    present = {str(line["model"]): line for line in lines.to_dict("records")}
    values = {m: float(line["value"]) for m, line in present.items()}
    rank = {m: v if better == "higher" else -v for m, v in values.items() if not math.isnan(v)}
    compete = {m: v for m, v in rank.items() if not present[m]["control"]}
    # Equal as shown is equal: bold must not rest on digits that nobody sees.
    winner = max(compete, key=lambda m: compete[m]) if better and len(compete) > 1 else None
    best = None if winner is None else number_text(values[winner], values[winner], percent)
    cells = []
    for model in models:
        if model not in rank:
            cells.append(TableCell(MISSING, marked=bool(present) and _failed(present.get(model))))
            continue
        line, value = present[model], values[model]
        wins = model in compete and number_text(value, value, percent) == best
        cells.append(number_cell(value, line["low"], line["high"], percent, wins, _failed(line)))
    return cells


def _failed(line: Any) -> bool:
    return line is not None and bool(line["failed_checks"] or line["problems"])


def name_cells(models: list[str], part: pd.DataFrame, labels: list[str] | None = None) -> Column:
    """The column of names, which says what rows are set apart; `labels` are shown if given."""
    controls = set(part.loc[part["control"] != "", "model"])
    shown = zip(models, labels or models, strict=True)
    return "Model", [TableCell(label, apart=model in controls) for model, label in shown]


def count_columns(models: list[str], part: pd.DataFrame) -> list[Column]:
    """How many seeds and images the headline numbers of each model rest on, or all if none is."""
    of = {model: part[part["model"] == model] for model in models}
    of = {
        m: lines[lines["headline"]] if lines["headline"].any() else lines for m, lines in of.items()
    }
    return [
        ("Seeds", [TableCell(range_text(of[m]["seeds"])) for m in models]),
        ("Images", [TableCell(range_text(of[m]["n"])) for m in models]),
    ]


def model_columns(models: list[str], part: pd.DataFrame) -> list[Column]:
    """What each model is: method, architecture, training."""
    first = {line["model"]: line for line in part.drop_duplicates("model").to_dict("records")}
    spell: dict[str, tuple[str, Callable[[Any], str]]] = {
        "method": ("Method", method_name),
        "arch": ("Architecture", str),
        "width": ("Width", lambda width: f"{width:g}"),
        "parameters": ("Parameters", lambda count: f"{int(count):,}"),
        "pretrained_on": ("Pretrained on", str),
        "epochs": ("Epochs", lambda epochs: f"{epochs:g}"),
    }
    columns: list[Column] = []
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
    if (part["control"] != "").any():
        notes.append(
            "Rows set apart are controls, which have learnt nothing: a classifier on raw pixels, "
            "networks as they were drawn. They are in no competition for the best value; a model "
            "that does not beat them on clean images shows nothing about its method."
        )
    if several and intervals:
        notes.append(
            f"Rows with several seeds ({', '.join(map(str, several))}): mean over seeds with "
            "Student's t interval; it covers the training seed, the test images being the same."
        )
    if (part["seeds"] == 1).any() and intervals:
        notes.append(
            "1 seed: says nothing about methods. The interval (Wilson's for right or wrong, "
            "Agresti and Coull's for shares over several conditions, else a bootstrap over images) "
            "covers the draw of the test images, not the training seed."
        )
    protocols = part[part["protocol"] != ""].drop_duplicates(["suite", "protocol"])
    notes += [
        f"{line['suite']} ({line['protocol']}): {line['protocol_note']}."
        for _, line in protocols.sort_values(["suite", "protocol"]).iterrows()
    ]
    if "baseline" in part:
        notes += [
            f"mCE and relative mCE: corruption errors divided by those of {baseline}, in %, after "
            "Hendrycks and Dietterich 2019. Of a measured baseline, relative mCE is a ratio of "
            "sums, and intervals cover the images and seeds of both; AlexNet's are constants."
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


def to_rich(table: pd.DataFrame) -> Group:
    """The leaderboard for a terminal; intervals stand on a line of their own."""
    return terminal.to_rich(layout(table))


def to_csv(table: pd.DataFrame) -> str:
    """The long table as CSV, numbers at full precision."""
    return csv_text(table)
