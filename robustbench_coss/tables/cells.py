"""Tables of numbers with intervals: laid out once, and spelled as Markdown.

`latex` and `terminal` spell the same tables for print and for a screen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MISSING = "–"
STAR = "*"  # significantly different from another row
MARK = "†"  # a failed sanity check or doubtful outcomes

# Columns of words, not numbers.
_LEFT = {
    "Model",
    "Method",
    "Architecture",
    "Pretrained on",
    "Metric",
    "Verdict",
    "Claim",
    "Condition",
    "Run",
    "Name",
    "Description",
    "Package",
}


@dataclass(frozen=True)
class TableCell:
    """One number as shown.

    Attributes:
        text: the number.
        interval: "[low, high]", or "±" and the standard deviation over seeds; "" for neither.
        best: whether it is the best of its column.
        marked: whether to distrust it.
        significant: whether it differs from the row that the caption names.
        apart: whether its row is set apart; stands in the row's first cell.
    """

    text: str
    interval: str = ""
    best: bool = False
    marked: bool = False
    significant: bool = False
    apart: bool = False


Column = tuple[str, list[TableCell]]


@dataclass(frozen=True)
class Block:
    """A table narrow enough to read: headings and, per row, one cell per heading.

    Attributes:
        groups: per column, what it shares with its neighbours; "" for nothing.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    groups: tuple[str, ...] = ()

    def align(self, left: str, right: str) -> list[str]:
        """One of two words per column: numbers stand right."""
        return [left if heading in _LEFT else right for heading in self.headings]

    def columns(self, left: str, right: str) -> list[tuple[str, tuple[TableCell, ...], str]]:
        """Heading, cells and side of each column."""
        cells = [tuple(row[k] for row in self.rows) for k in range(len(self.headings))]
        return list(zip(self.headings, cells, self.align(left, right), strict=True))


@dataclass(frozen=True)
class Section:
    """All tables of one test set, and the notes below them; `lead` is said before them."""

    title: str
    caption: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]
    lead: str = ""


def block(columns: Sequence[Column], groups: Sequence[str] = ()) -> Block:
    """Columns of equal length as a table."""
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    return Block(tuple(heading for heading, _ in columns), rows, tuple(groups))


def without_constants(columns: Sequence[Column]) -> tuple[list[Column], list[str]]:
    """Columns that tell rows apart, and in words for a caption what the others say of all rows."""
    kept, said = [], []
    for heading, cells in columns:
        # A caption has no room for an interval, nor for a dagger.
        if len(cells) > 1 and len(set(cells)) == 1 and not (cells[0].interval or cells[0].marked):
            word = heading[0].lower() + heading[1:] if heading[1:2].islower() else heading
            said += [f"{word} {cells[0].text}"] * (cells[0].text != MISSING)
        else:
            kept.append((heading, cells))
    return kept, said


def percent_text(share: float) -> str:
    """A share in % with one decimal."""
    return f"{100 * share:.1f}"


def number_text(x: float, scale: float, percent: bool) -> str:
    """A number with as many decimals as the value it belongs to deserves."""
    if percent:
        text = percent_text(x)
    else:
        text = f"{x:.{3 if abs(scale) < 1 else 2 if abs(scale) < 10 else 1}f}"
    return re.sub(r"^-(?=[0.]+$)", "", text).replace("-", "−")


def interval_text(low: float, high: float, scale: float, percent: bool) -> str:
    """ "[low, high]" with the decimals of the value `scale`; "" where there is no interval."""
    if math.isnan(low):
        return ""
    return f"[{number_text(low, scale, percent)}, {number_text(high, scale, percent)}]"


def number_cell(
    value: float, low: float, high: float, percent: bool, best: bool = False, marked: bool = False
) -> TableCell:
    """A number with its interval; a dash where it is none."""
    if math.isnan(value):
        return TableCell(MISSING, marked=marked)
    text, interval = number_text(value, value, percent), interval_text(low, high, value, percent)
    return TableCell(text, interval, best, marked)


def in_text(value: float, low: float, high: float, percent: bool) -> str:
    """A number in running text: "66.8 % [61.1, 72.4]"; a dash where it is none."""
    cell = number_cell(value, low, high, percent)
    unit = " %" * (percent and cell.text != MISSING)
    return f"{cell.text}{unit} {cell.interval}".rstrip()


WRITTEN_BY = "Written by `coss-bench"


def mark_of(text: str) -> bytes | None:
    """What tells a table's file from others, beside the first line where that says it."""
    return f"<!-- {WRITTEN_BY}".encode() if text.startswith("# ") else None


def to_markdown(heading: str, sections: Sequence[Section], command: str = "") -> str:
    """Sections as GitHub-flavoured Markdown under a heading; a comment names what made them."""
    lines = [f"# {escape_markdown(heading)}"]
    lines += ["", f"<!-- {WRITTEN_BY} {command}`. -->"] if command else []
    for section in sections:
        lines += ["", f"## {escape_markdown(section.title)}"]
        for text in filter(None, (section.lead, section.caption)):
            lines += ["", escape_markdown(text)]
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
    shown = f"**{text}**" if cell.best else f"*{text}*" if cell.apart else text
    interval = f" {escape_markdown(cell.interval)}".replace("±", "± ") if cell.interval else ""
    return (
        shown + (rf"\{STAR}" if cell.significant else "") + (MARK if cell.marked else "") + interval
    )


def escape_markdown(text: str) -> str:
    """Text that GitHub-flavoured Markdown shows as it is, in a table cell too."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|~$#])", r"\\\1", text)
    # Brackets make a link only before "(", ":" or "["; intervals stay readable.
    text = re.sub(r"\](?=[(:\[])", r"\\]", text)
    # What begins a list or is a rule.
    text = re.sub(r"^(\d{0,9})([-+.)])(?= |$|-+$)", r"\1\\\2", text)
    # Underscores inside a word ("rf29_resnet18") are plain in this dialect.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def first_apart(block: Block) -> int | None:
    """The first row that is set apart, if any."""
    return next((i for i, row in enumerate(block.rows) if row[0].apart), None)


def packs(
    sizes: Sequence[tuple[int, int]], width: int, gap: int, names: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Columns spread over tables that are no wider than `width`, each with the first column.

    Args:
        sizes: of each column the widths with its words wrapped and with none wrapped.
        gap: between two columns.
        names: what the first column may take, if it has names that long, before they wrap for
            columns to stand beside each other.

    Yields:
        the numbers of a table's columns, and their widths; wider than `width` only where the first
        column and another one are.
    """
    first, *others = sizes
    floor = [least for least, _ in sizes]
    if sum(floor) + gap * len(others) > width:
        floor[0] = min(first[1], max(first[0], names))
    rest = list(range(1, len(floor)))
    while True:
        taken, room = [0], width - floor[0]
        while rest and (len(taken) == 1 or floor[rest[0]] + gap <= room):
            room -= floor[rest[0]] + gap
            taken.append(rest.pop(0))
        widths = [floor[k] for k in taken]
        while room > 0 and (short := [i for i, k in enumerate(taken) if widths[i] < sizes[k][1]]):
            for i in short[:room]:
                widths[i] += 1
            room -= len(short[:room])
        yield taken, widths
        if not rest:
            return
