"""Tables of what was measured: one row per configuration, one table per test set.

`load_table` gives every number in long form; `layout` arranges the headline numbers as tables
once, and the Markdown, LaTeX and terminal writers only spell them out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from robustbench_coss.configurations import (
    Measurement,
    load_measurements,
    method_name,
    suite_order,
)
from robustbench_coss.files import write_atomically
from robustbench_coss.records import Metric
from robustbench_coss.statistics import estimate

MISSING = "–"
MARK = "†"  # a failed sanity check

# Number columns beside the model's name in one table: a browser shows more than a printed page
# or a terminal.
WIDE, NARROW = 5, 3

_LEFT = {"Model", "Method", "Architecture", "Pretrained on"}  # columns of words, not numbers


def load_table(results: Path) -> pd.DataFrame:
    """Every metric of every configuration in long form, one line per configuration and metric.

    Columns: test_set, model, method, arch, width, parameters, pretrained_on, epochs, suite,
    protocol, protocol_note, metric, heading, value, low, high (95 % interval), sd (over seeds),
    seeds, n (test images), interval ("wilson", "bootstrap" or "t"), chance (top-1, in [0, 1]),
    better, percent, headline, failed_checks. Shares are in [0, 1]; what is not known is empty.
    Lines are sorted by test set and clean top-1, best first.

    Raises:
        CossError: there are no complete records, or one is damaged.
    """
    lines = [
        _line(measurement, metric)
        for measurement in load_measurements(results)
        for metric in measurement.records[0].metrics
    ]
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
    result = estimate(
        runs, m.test_set.slug, m.configuration, m.suite, metric.name, share=metric.percent
    )
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
        "failed_checks": _failed_checks(m),
    }


def _failed_checks(m: Measurement) -> str:
    """ "name (2 of 5 seeds): detail of the first; …" or "" if every check passed."""
    failed: dict[str, list[str]] = {}
    for record in m.records:
        for check in record.checks:
            if not check.passed:
                failed.setdefault(check.name, []).append(check.detail)
    seeds = len(m.records)
    return "; ".join(
        name + (f" ({len(details)} of {seeds} seeds)" if seeds > 1 else "") + f": {details[0]}"
        for name, details in failed.items()
    )


@dataclass(frozen=True)
class TableCell:
    """One number as shown: text and interval, whether it is the best, whether to distrust it."""

    text: str
    interval: str = ""
    best: bool = False
    marked: bool = False


Column = tuple[str, list[TableCell]]


@dataclass(frozen=True)
class Block:
    """A table narrow enough to read: headings and, per row, one cell per heading."""

    headings: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]

    def align(self, left: str, right: str) -> list[str]:
        """One of two words per column: numbers stand right."""
        return [left if heading in _LEFT else right for heading in self.headings]


@dataclass(frozen=True)
class Section:
    """All tables of one test set, and the notes below them."""

    title: str
    caption: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]


def layout(table: pd.DataFrame, width: int) -> list[Section]:
    """The headline metrics of a long table as a section per test set.

    A section's tables show up to `width` number columns each, a suite's together where they fit;
    its last table says what the models are.
    """
    parts = table.groupby("test_set", sort=True)
    return [_section(str(name), part, width) for name, part in parts]


def _section(title: str, part: pd.DataFrame, width: int) -> Section:
    models = list(dict.fromkeys(part["model"]))
    shown = part[part["headline"]]
    # A column is what may be compared: one metric of one suite under one protocol.
    by_suite: dict[tuple[str, str], list[Column]] = {}
    for (suite, protocol, _), lines in shown.groupby(["suite", "protocol", "metric"], sort=False):
        column = (str(lines["heading"].iloc[0]), _number_cells(models, lines))
        by_suite.setdefault((str(suite), str(protocol)), []).append(column)
    packs: list[list[Column]] = [[]]
    for key in sorted(by_suite, key=lambda k: (suite_order(k[0]), k[1])):
        columns = by_suite[key]
        if packs[-1] and len(packs[-1]) + len(columns) > width:
            packs.append([])
        for column in columns:
            if len(packs[-1]) == width:
                packs.append([])
            packs[-1].append(column)
    blocks = []
    for i, pack in enumerate(packs):
        described = [_names(models)] if i else _row_columns(models, part)
        blocks.append(_block(described + pack))
    blocks.append(_block(_model_columns(models, part)))
    caption = (
        f"Chance level (top-1): {_percent(float(part['chance'].iloc[0]))} %. "
        "Shares in %, with 95 % intervals; best value of a column in bold."
    )
    return Section(title, caption, tuple(blocks), tuple(_notes(part)))


def _block(columns: list[Column]) -> Block:
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    return Block(tuple(heading for heading, _ in columns), rows)


def _number_cells(models: list[str], lines: pd.DataFrame) -> list[TableCell]:
    percent, better = bool(lines["percent"].iloc[0]), str(lines["better"].iloc[0])
    present = {str(line["model"]): line for line in lines.to_dict("records")}
    values = {m: float(line["value"]) for m, line in present.items()}
    rank = {m: v if better == "higher" else -v for m, v in values.items() if not math.isnan(v)}
    # Equal as shown is equal: bold must not rest on digits that nobody sees.
    winner = max(rank, key=lambda m: rank[m]) if better and len(rank) > 1 else None
    best = None if winner is None else _number(values[winner], values[winner], percent)
    cells = []
    for model in models:
        if model not in rank:
            cells.append(TableCell(MISSING, marked=bool(present) and _failed(present.get(model))))
            continue
        line = present[model]
        text = _number(values[model], values[model], percent)
        low, high = (_number(float(line[k]), values[model], percent) for k in ("low", "high"))
        interval = "" if math.isnan(float(line["low"])) else f"[{low}, {high}]"
        cells.append(TableCell(text, interval, text == best, _failed(line)))
    return cells


def _failed(line: Any) -> bool:
    return line is not None and bool(line["failed_checks"])


def _names(models: list[str]) -> Column:
    return "Model", [TableCell(model) for model in models]


def _row_columns(models: list[str], part: pd.DataFrame) -> list[Column]:
    of = {model: part[part["model"] == model] for model in models}
    chance = _percent(float(part["chance"].iloc[0]))
    return [
        _names(models),
        ("Seeds", [TableCell(_range(of[m]["seeds"])) for m in models]),
        ("Images", [TableCell(_range(of[m]["n"])) for m in models]),
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


def _notes(part: pd.DataFrame) -> list[str]:
    several = sorted({int(k) for k in part["seeds"] if k > 1})
    notes = []
    if several:
        notes.append(
            f"Rows with several seeds ({', '.join(map(str, several))}): mean over seeds with "
            "Student's t interval; it covers the training seed, the test images being the same."
        )
    if (part["seeds"] == 1).any():
        notes.append(
            "Rows with one seed: Wilson interval, or bootstrap over images for averages of "
            "conditions; it covers the draw of the test images, not the training seed."
        )
    protocols = part[part["protocol"] != ""].drop_duplicates(["suite", "protocol"])
    notes += [
        f"{line['suite']} ({line['protocol']}): {line['protocol_note']}."
        for _, line in protocols.sort_values(["suite", "protocol"]).iterrows()
    ]
    failed = part[part["failed_checks"] != ""].drop_duplicates(["model", "suite", "protocol"])
    notes += [
        f"{MARK} {line['model']}, {line['suite']}: failed sanity check {line['failed_checks']}."
        for _, line in failed.iterrows()
    ]
    return notes


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _number(x: float, scale: float, percent: bool) -> str:
    """A number with as many decimals as the value it belongs to deserves."""
    if percent:
        text = _percent(x)
    else:
        text = f"{x:.{3 if abs(scale) < 1 else 2 if abs(scale) < 10 else 1}f}"
    return re.sub(r"^-(?=[0.]+$)", "", text).replace("-", "−")


def _range(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def to_markdown(table: pd.DataFrame) -> str:
    """The leaderboard as GitHub-flavoured Markdown."""
    lines = ["# Leaderboard"]
    for section in layout(table, WIDE):
        lines += ["", f"## {escape_markdown(section.title)}", "", escape_markdown(section.caption)]
        for block in section.blocks:
            lines += ["", _pipes(map(escape_markdown, block.headings))]
            lines += [_pipes(block.align("---", "--:"))]
            lines += [_pipes(map(_markdown_cell, row)) for row in block.rows]
        if section.notes:
            lines += ["", *(f"- {escape_markdown(note)}" for note in section.notes)]
    return "\n".join(lines) + "\n"


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: TableCell) -> str:
    text = escape_markdown(cell.text)
    shown = f"**{text}**" if cell.best else text
    interval = f" {escape_markdown(cell.interval)}" if cell.interval else ""
    return shown + (MARK if cell.marked else "") + interval


def escape_markdown(text: str) -> str:
    """Text that GitHub-flavoured Markdown shows as it is, in a table cell too."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|~$#])", r"\\\1", text)
    # Brackets make a link only before "(", ":" or "["; intervals stay readable.
    text = re.sub(r"\[(?=[^\]]*\][(:\[])", r"\\[", text)
    # Underscores inside a word ("rf29_resnet18") are plain in this dialect.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def to_latex(table: pd.DataFrame) -> str:
    """The leaderboard as LaTeX tables; they need the package `booktabs`."""
    lines = [r"% Needs \usepackage{booktabs}. Written by `coss-bench leaderboard`."]
    for section in layout(table, NARROW):
        for i, block in enumerate(section.blocks):
            title = f"{section.title}. {section.caption}" if i == 0 else f"{section.title}."
            lines += [
                "",
                r"\begin{table}[t]",
                r"\centering\small",
                rf"\caption{{{escape_latex(title)}}}",
                rf"\begin{{tabular}}{{@{{}}{''.join(block.align('l', 'r'))}@{{}}}}",
                r"\toprule",
                " & ".join(map(escape_latex, block.headings)) + r" \\",
                r"\midrule",
                *(" & ".join(map(_latex_cell, row)) + r" \\" for row in block.rows),
                r"\bottomrule",
                r"\end{tabular}",
            ]
            if i == len(section.blocks) - 1 and section.notes:
                lines += [r"\par\smallskip\footnotesize\raggedright"]
                lines += [escape_latex(note) + r"\par" for note in section.notes]
            lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def _latex_cell(cell: TableCell) -> str:
    text = escape_latex(cell.text)
    shown = rf"\textbf{{{text}}}" if cell.best else text
    shown += r"$^\dagger$" if cell.marked else ""
    if not cell.interval:
        return shown
    return rf"\shortstack[r]{{{shown}\\ {{\scriptsize {escape_latex(cell.interval)}}}}}"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "_": r"\_",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # What the tables themselves use, for engines and fonts without these characters.
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "†": r"$^\dagger$",
    "ℓ": r"$\ell$",
    "∞": r"$\infty$",
    "ε": r"$\varepsilon$",
    "σ": r"$\sigma$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "²": r"$^2$",
}


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    text = " ".join(text.split())
    # A "[" at the start of a cell would be read as the optional argument of the "\\\\" before it.
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return f"{{}}{escaped}" if escaped.startswith("[") else escaped


def to_csv(table: pd.DataFrame) -> str:
    """The long table as CSV, numbers at full precision."""
    return str(table.to_csv(index=False, lineterminator="\n"))


def to_rich(table: pd.DataFrame) -> Group:
    """The leaderboard for a terminal; intervals stand on a line of their own."""
    parts: list[Table | Text] = []
    for section in layout(table, NARROW):
        for i, block in enumerate(section.blocks):
            last = i == len(section.blocks) - 1
            shown = Table(
                title=escape(section.title) if i == 0 else None,
                caption=escape(section.caption) if last else None,
                title_justify="left",
                caption_justify="left",
                box=SIMPLE_HEAD,
                pad_edge=False,
                collapse_padding=True,
            )
            cells = zip(*block.rows, strict=True)
            for heading, side, column in zip(
                block.headings, block.align("left", "right"), cells, strict=True
            ):
                # Names may break between words only: a cut name is no name.
                words = [word for cell in column for word in cell.text.split()]
                longest = max(map(len, words), default=0)
                shown.add_column(
                    escape(heading),
                    justify="left" if side == "left" else "right",
                    min_width=longest,
                )
            for row in block.rows:
                shown.add_row(*map(_rich_cell, row))
            parts.append(shown)
        parts += [Text(note, style="dim") for note in section.notes]
    return Group(*parts)


def _rich_cell(cell: TableCell) -> Text:
    text = Text(cell.text, style="bold" if cell.best else "")
    if cell.marked:
        text.append(MARK, style="red")
    if cell.interval:
        text.append(f"\n{cell.interval}", style="dim")
    return text


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
