"""Tables of numbers with intervals: laid out once, spelled as Markdown, LaTeX or for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

MISSING = "–"
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


def to_markdown(heading: str, sections: Sequence[Section]) -> str:
    """Sections as GitHub-flavoured Markdown under a heading."""
    lines = [f"# {escape_markdown(heading)}"]
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


def to_latex(command: str, sections: Sequence[Section]) -> str:
    """Sections as LaTeX tables, which need the package `booktabs`; `command` made them."""
    lines = [rf"% Needs \usepackage{{booktabs}}. Written by `coss-bench {command}`."]
    for section in sections:
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


def to_rich(sections: Sequence[Section]) -> Group:
    """Sections for a terminal; intervals stand on a line of their own."""
    parts: list[Table | Text] = []
    for section in sections:
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
