"""Tables for a terminal: as many columns side by side as its width has room for.

What does not fit goes into further tables below, each with the first column again; words wrap,
numbers never do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from robustbench_coss.machine.terminal import printable
from robustbench_coss.tables.cells import (
    MARK,
    STAR,
    Block,
    Section,
    TableCell,
    first_apart,
    packs,
)

GAP, EDGES = 2, 2  # between two columns, and of a whole table
NAMES = 3  # a first column of names may take one third of the width before they wrap


def to_rich(sections: Sequence[Section]) -> Group:
    """Sections for a terminal of any width; intervals stand on a line of their own."""
    parts: list[Words | Fitted] = []
    for section in sections:
        parts += [Words(section.lead, "bold")] * bool(section.lead)
        parts.append(Words(section.title, "table.title"))
        parts += map(Fitted, section.blocks)
        parts += [Words(section.caption, "table.caption")] * bool(section.caption)
        parts += [Words(note, "dim") for note in section.notes]
    return Group(*parts)


@dataclass(frozen=True)
class Words:
    """A paragraph. Words that are longer than a line, such as paths, stay in one piece."""

    text: str
    style: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = printable(self.text)
        lines = wrap(text, options.max_width, break_long_words=False, break_on_hyphens=False)
        yield Text("\n".join(lines), style=self.style, overflow="ignore")


@dataclass(frozen=True)
class Fitted:
    """A block, spread over as many tables as the width asks for."""

    block: Block

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width - EDGES
        for numbers, widths in packs(self._sizes(), width, GAP, width // NAMES):
            yield _table(self.block, numbers, widths)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        first, *others = (least for least, _ in self._sizes())
        return Measurement(first + GAP + max(others, default=0) + EDGES, options.max_width)

    def _sizes(self) -> list[tuple[int, int]]:
        return [_sizes(*column) for column in self.block.columns("left", "right")]


def _sizes(heading: str, column: Sequence[TableCell], side: str) -> tuple[int, int]:
    """The least and the greatest width of a column: only words may wrap."""
    heading = printable(heading)
    lines = [line for cell in column for line in _cell(cell).plain.split("\n")]
    whole = max(map(cell_len, lines), default=0)
    parts = [part for line in lines for part in _parts(line)] if side == "left" else lines
    least = max(map(cell_len, [*heading.split(), *parts]), default=0)
    return least, max(whole, least, cell_len(heading))


def _parts(line: str) -> list[str]:
    """What stays together of a line: words, and of long names what punctuation parts."""
    return [part for word in line.split() for part in re.findall(r"[^:/,=]*[:/,=]?", word) if part]


def _table(block: Block, numbers: list[int], widths: list[int]) -> Table:
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    sides = block.align("left", "right")
    for k, width in zip(numbers, widths, strict=True):
        heading = _wrapped(Text(printable(block.headings[k]), style="table.header"), width)
        shown.add_column(heading, justify=sides[k], width=width, overflow="fold")  # type: ignore[arg-type]
    apart = first_apart(block)
    for j, row in enumerate(block.rows):
        if j and j == apart:
            shown.add_section()
        cells = [_cell(row[k]) for k in numbers]
        shown.add_row(*map(_wrapped, cells, widths), style="dim" if row[0].apart else "")
    return shown


def _wrapped(text: Text, width: int) -> Text:
    """A text with line breaks where it has to wrap: between words, else after punctuation."""
    lines: list[Text] = []
    for line in text.split("\n"):
        cuts, start, end = [], 0, 0
        for found in re.finditer(r"[^\s:/,=]*(?:[:/,=]|\s+|$)", line.plain):
            if end > start and cell_len(line.plain[start : found.end()].rstrip()) > width:
                cuts.append(start := end)
            end = found.end()
        pieces = line.divide(cuts) if cuts else [line]
        for piece in pieces:
            piece.rstrip()
        lines += pieces
    return Text("\n").join(lines)


def _cell(cell: TableCell) -> Text:
    text = Text(printable(cell.text), style="bold" if cell.best else "")
    if cell.significant:
        text.append(STAR)
    if cell.marked:
        text.append(printable(MARK), style="red")
    if cell.interval:
        text.append(printable(f"\n{cell.interval}"), style="dim")
    return text
