"""Tables of numbers with intervals: laid out once, spelled as Markdown, LaTeX or for a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from robustbench_coss.statistics.intervals import Estimate

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


def block(columns: Sequence[Column]) -> Block:
    """Columns of equal length as a table."""
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    return Block(tuple(heading for heading, _ in columns), rows)


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


def estimate_text(found: Estimate, percent: bool) -> str:
    """A number in running text: "66.8 % [61.1, 72.4]"."""
    if math.isnan(found.value):
        return MISSING
    text = number_text(found.value, found.value, percent) + " %" * percent
    return " ".join(
        filter(None, [text, interval_text(found.low, found.high, found.value, percent)])
    )


WRITTEN_BY = "Written by `coss-bench"


def mark_of(text: str) -> bytes | None:
    """What tells a table's file from others, beside the first line where that says it."""
    return f"<!-- {WRITTEN_BY}".encode() if text.startswith("# ") else None


def to_markdown(heading: str, sections: Sequence[Section], command: str = "") -> str:
    """Sections as GitHub-flavoured Markdown under a heading; a comment names what made them."""
    lines = [f"# {escape_markdown(heading)}"]
    lines += ["", f"<!-- {WRITTEN_BY} {command}`. -->"] if command else []
    for section in sections:
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
    text = re.sub(r"\[(?=[^\]]*\][(:\[])", r"\\[", text)
    # Underscores inside a word ("rf29_resnet18") are plain in this dialect.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def to_latex(command: str, sections: Sequence[Section]) -> str:
    """Sections as LaTeX tables, which need the packages `booktabs`, `graphicx` and `siunitx`.

    Numbers stand by their decimal markers; an interval stands below its number, a standard
    deviation beside it. A table that is wider than a line is scaled down to it. `command` made
    them.
    """
    lines = [rf"% Needs \usepackage{{booktabs,graphicx,siunitx}}. {WRITTEN_BY} {command}`."]
    for section in sections:
        for i, block in enumerate(section.blocks):
            title = f"{section.title}. {section.caption}" if i == 0 else f"{section.title}."
            lines += [
                "",
                r"\begin{table}[t]",
                r"\centering\small",
                r"\sisetup{detect-weight, retain-explicit-plus}",
                r"\setlength{\belowcaptionskip}{4pt}\setlength{\tabcolsep}{4pt}",
                rf"\caption{{{escape_latex(title)}}}",
                r"\sbox0{%",
                *_tabular(block),
                r"}\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
            ]
            if i == len(section.blocks) - 1 and section.notes:
                lines += [r"\par\smallskip\footnotesize\raggedright"]
                lines += [escape_latex(note) + r"\par" for note in section.notes]
            lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def _tabular(block: Block) -> list[str]:
    sides = block.align("l", "r")
    columns = zip(*block.rows, strict=True)
    formats = [
        _table_format(column) if side == "r" else ""
        for side, column in zip(sides, columns, strict=True)
    ]
    aligned = [
        f"S[{number}]" if number else side for number, side in zip(formats, sides, strict=True)
    ]
    headings = [
        f"{{{_two_lines(heading)}}}" if number else escape_latex(heading)
        for number, heading in zip(formats, block.headings, strict=True)
    ]
    lines = [
        rf"\begin{{tabular}}{{@{{}}{''.join(aligned)}@{{}}}}",
        r"\toprule",
        " & ".join(headings) + r" \\",
        r"\midrule",
    ]
    below = [any(_stands_below(cell) for cell in row) for row in block.rows]
    first_apart = _first_apart(block)
    for i, row in enumerate(block.rows):
        if i and i == first_apart:
            lines.append(r"\midrule")
        shown = [
            _latex_number(cell) if number else _latex_words(cell)
            for number, cell in zip(formats, row, strict=True)
        ]
        lines.append(" & ".join(shown) + r" \\")
        if below[i]:
            lines.append(" & ".join(map(_latex_below, row)) + r" \\")
        if any(below) and i < len(below) - 1 and i + 1 != first_apart:
            lines.append(r"\addlinespace[2pt]")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _first_apart(block: Block) -> int | None:
    """The first row that is set apart, if any."""
    return next((i for i, row in enumerate(block.rows) if row[0].apart), None)


_NUMBER = re.compile(r"([+−]?)(\d+)(?:\.(\d+))?")


def _table_format(column: Sequence[TableCell]) -> str:
    """Options of a column of siunitx with room for every cell; "" if one is no plain number."""
    numbers = [_NUMBER.fullmatch(cell.text) for cell in column if cell.text not in ("", MISSING)]
    found = [match for match in numbers if match]
    if not found or len(found) < len(numbers):
        return ""
    sign = next((s for s in ("-", "+") for match in found if _ascii(match[1]) == s), "")
    whole, decimals = (max(len(match[k] or "") for match in found) for k in (2, 3))
    options = f"table-format={sign}{whole}{f'.{decimals}' if decimals else ''}"
    after = max((_spread_after(cell) for cell in column), key=len)
    marks = max((_latex_marks(cell) for cell in column), key=len)
    after += f"$^{{{marks}}}$" if marks else ""
    return f"{options},table-space-text-post={{{after}}}" if after else options


def _ascii(text: str) -> str:
    return text.replace("−", "-")


def _spread(cell: TableCell) -> str:
    """The standard deviation of a cell, "" if it has none."""
    return cell.interval.removeprefix("±") if cell.interval.startswith("±") else ""


def _spread_after(cell: TableCell) -> str:
    # Not as siunitx's own uncertainty, which loses the space around the sign and half of the bold.
    return rf"{{\mdseries\scriptsize\,$\pm$\,{_spread(cell)}}}" if _spread(cell) else ""


def _stands_below(cell: TableCell) -> bool:
    return bool(cell.interval) and not _spread(cell)


def _latex_marks(cell: TableCell) -> str:
    return "*" * cell.significant + r"\dagger" * cell.marked


def _marks_after(cell: TableCell) -> str:
    marks = _latex_marks(cell)
    return f"$^{marks}$" if marks in ("*", r"\dagger") else f"$^{{{marks}}}$" if marks else ""


def _latex_number(cell: TableCell) -> str:
    if cell.text in ("", MISSING):
        words = escape_latex(cell.text) + _marks_after(cell)
        return f"{{{words}}}" if words else ""
    weight = r"\bfseries " if cell.best else ""
    return weight + _ascii(cell.text) + _spread_after(cell) + _marks_after(cell)


def _latex_words(cell: TableCell) -> str:
    text = escape_latex(cell.text)
    shown = rf"\textbf{{{text}}}" if cell.best else text
    return shown + _spread_after(cell) + _marks_after(cell)


def _latex_below(cell: TableCell) -> str:
    return rf"{{\scriptsize {escape_latex(cell.interval)}}}" if _stands_below(cell) else ""


def _two_lines(heading: str) -> str:
    """A heading that is wider than the numbers below it, broken near its middle."""
    words = heading.split()
    if len(heading) <= 12 or len(words) == 1:
        return escape_latex(heading)
    halves = [(" ".join(words[:k]), " ".join(words[k:])) for k in range(1, len(words))]
    first, second = min(halves, key=lambda half: max(map(len, half)))
    return rf"\shortstack{{{escape_latex(first)}\\{escape_latex(second)}}}"


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
    "±": r"$\pm$",
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


def to_rich(sections: Sequence[Section]) -> Group:
    """Sections for a terminal; intervals stand on a line of their own."""
    parts: list[Table | Text] = []
    for section in sections:
        for i, block in enumerate(section.blocks):
            last = i == len(section.blocks) - 1
            shown = Table(
                title=Text(section.title, style="table.title") if i == 0 else None,
                caption=Text(section.caption, style="table.caption") if last else None,
                title_justify="left",
                caption_justify="left",
                box=SIMPLE_HEAD,
                pad_edge=False,
                collapse_padding=True,
                min_width=_longest_word(f"{section.title} {section.caption}"),
            )
            cells = zip(*block.rows, strict=True)
            for heading, side, column in zip(
                block.headings, block.align("left", "right"), cells, strict=True
            ):
                # Names may break between words only: a cut name is no name.
                shown.add_column(
                    Text(heading, style="table.header"),
                    justify="left" if side == "left" else "right",
                    min_width=max(_longest_word(_rich_cell(cell).plain) for cell in column),
                )
            first_apart = _first_apart(block)
            for j, row in enumerate(block.rows):
                if j and j == first_apart:
                    shown.add_section()
                shown.add_row(*map(_rich_cell, row), style="dim" if row[0].apart else "")
            parts.append(shown)
        parts += [Text(note, style="dim") for note in section.notes]
    return Group(*parts)


def _longest_word(text: str) -> int:
    """Columns of a terminal that the longest word of a text takes."""
    return max(map(cell_len, text.split()), default=0)


def _rich_cell(cell: TableCell) -> Text:
    text = Text(cell.text, style="bold" if cell.best else "")
    if cell.significant:
        text.append(STAR)
    if cell.marked:
        text.append(MARK, style="red")
    if cell.interval:
        text.append(f"\n{cell.interval}", style="dim")
    return text
