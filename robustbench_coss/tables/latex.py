"""Tables as LaTeX: a float each, numbers by their decimal markers, no wider than a line."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import groupby
from textwrap import wrap

from robustbench_coss.files import slug
from robustbench_coss.machine.terminal import clean
from robustbench_coss.tables.cells import (
    MARK,
    MISSING,
    WRITTEN_BY,
    Block,
    Section,
    TableCell,
    first_apart,
    packs,
)

LINE, GAP, NAMES = 380, 6, 70
"""Points: a line of 5.5 inches, as conferences have it, or a page of two columns has and more;
`2\\tabcolsep`; what names take before they wrap."""
CHARACTER, SMALL = 4.5, 3.4
"""Points that a character takes on average in `\\small` and in `\\scriptsize`."""
LATIN = 0x17F
"""Last character of Latin Extended-A, up to which pdfLaTeX has them."""
HEADING = 11  # characters of a line of a heading


def to_latex(command: str, sections: Sequence[Section]) -> str:
    """Sections as tables, which need the packages `booktabs` and `siunitx`.

    A section is one table: an interval stands below its number, a standard deviation beside it, and
    columns that a line has no room for stand below the others. Only rows of another kind make a
    table of their own. Notes are comments. `command` made them.
    """
    lines = [rf"% Needs \usepackage{{booktabs,siunitx}}. {WRITTEN_BY} {command}`."]
    for section in sections:
        lines += ["", *(f"% {' '.join(note.split())}" for note in section.notes)]
        for k, (_, blocks) in enumerate(groupby(section.blocks, lambda b: [r[0] for r in b.rows])):
            label = f"{command}-{slug(section.title)}" + f"-{k + 1}" * bool(k)
            lines += _float(section, list(blocks), label)
    set_ones = (line for line in lines if not line.startswith("%"))
    if any(ord(character) > LATIN for line in set_ones for character in line):
        lines.insert(0, "% For LuaLaTeX or XeLaTeX: names hold characters that pdfLaTeX lacks.")
    return "\n".join(lines) + "\n"


def _float(section: Section, blocks: Sequence[Block], label: str) -> list[str]:
    caption = [f"{section.title}.", section.lead, section.caption]
    if any(cell.marked for block in blocks for row in block.rows for cell in row):
        caption.append(f"{MARK}: failed a sanity check or doubtful.")
    body: list[str] = []
    for block in blocks:
        beside = _beside(block)
        columns = block.columns("l", "r")
        sizes = [_sizes(column, k == beside) for k, column in enumerate(columns)]
        for numbers, widths in packs(sizes, LINE, GAP, NAMES):
            body += [r"\par\medskip"] * bool(body) + _tabular(block, numbers, widths)
    return [
        r"\begin{table}[tp]",
        r"\centering\small",
        r"\sisetup{detect-weight, retain-explicit-plus}",
        r"\setlength{\belowcaptionskip}{4pt}\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escape_latex(' '.join(filter(None, caption)))}}}",
        rf"\label{{tab:{label}}}",
        *body,
        r"\end{table}",
    ]


def _beside(block: Block) -> int | None:
    """The one column that has intervals, which then need no lines of their own; else None."""
    columns = zip(*block.rows, strict=True)
    spread = [k for k, cells in enumerate(columns) if any(map(_stands_below, cells))]
    return spread[0] if len(spread) == 1 and not block.groups else None


def _sizes(column: tuple[str, Sequence[TableCell], str], beside: bool) -> tuple[int, int]:
    """Points that a column takes at least, with its words wrapped, and at most."""
    heading, cells, side = column
    texts = [
        cell.text
        + "*" * (cell.significant + cell.marked)
        + "±" * bool(_spread(cell))
        + _spread(cell)
        for cell in cells
    ]
    whole = max((len(text) * CHARACTER for text in texts), default=0)
    below = max((len(cell.interval) * SMALL for cell in cells if _stands_below(cell)), default=0)
    words = [w for text in texts for w in re.split("[ :]", text)] if side == "l" else texts
    least = max((len(word) * CHARACTER for word in words), default=0)
    least, whole = (least + below, whole + below) if beside else (max(least, below), whole)
    titled = max(map(len, _lines(heading))) * CHARACTER
    return math.ceil(max(least, titled)), math.ceil(max(whole, below, titled))


def _tabular(block: Block, numbers: Sequence[int], widths: Sequence[int]) -> list[str]:
    """Some columns of a block; columns of words break at their width where they have to."""
    columns = [block.columns("l", "r")[k] for k in numbers]
    formats = [_table_format(cells) if side == "r" else "" for _, cells, side in columns]
    single = _beside(block)
    beside = numbers.index(single) if single in numbers else None
    aligned = [
        (f"S[{number}]" if number else _words_column(column, width)) + r"@{\,}l" * (k == beside)
        for k, (number, column, width) in enumerate(zip(formats, columns, widths, strict=True))
    ]
    groups = [block.groups[k] for k in numbers] if block.groups else [""] * len(numbers)
    headings = [
        _heading(heading.removeprefix(f"{group} "), bool(number), k == beside)
        for k, (number, (heading, _, _), group) in enumerate(
            zip(formats, columns, groups, strict=True)
        )
    ]
    lines = [
        rf"\begin{{tabular}}{{@{{}}{''.join(aligned)}@{{}}}}",
        r"\toprule",
        *_group_heads(groups),
        " & ".join(headings) + r" \\",
        r"\midrule",
    ]
    rows = [[row[k] for k in numbers] for row in block.rows]
    below = [beside is None and any(map(_stands_below, row)) for row in rows]
    apart = first_apart(block)
    for i, row in enumerate(rows):
        if i and i == apart:
            lines.append(r"\midrule")
        shown = [
            (_latex_number(cell) if number else _latex_words(cell))
            + (f" & {_latex_below(cell)}" if k == beside else "")
            for k, (number, cell) in enumerate(zip(formats, row, strict=True))
        ]
        lines.append(" & ".join(shown) + r" \\")
        if below[i]:
            lines.append(" & ".join(map(_latex_below, row)) + r" \\")
        if any(below) and i < len(below) - 1 and i + 1 != apart:
            lines.append(r"\addlinespace[1pt]")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _words_column(column: tuple[str, Sequence[TableCell], str], width: int) -> str:
    side, (_, most) = column[2], _sizes(column, False)
    return side if width >= most else rf">{{\raggedright\arraybackslash}}p{{{width}pt}}"


def _heading(heading: str, over_numbers: bool, over_two: bool) -> str:
    if over_two:
        return rf"\multicolumn{{2}}{{c}}{{{escape_latex(heading)}}}"
    if not over_numbers:
        return escape_latex(heading)
    lines = r"\\".join(map(escape_latex, _lines(heading)))
    return rf"{{\shortstack{{{lines}}}}}" if r"\\" in lines else f"{{{lines}}}"


def _group_heads(groups: Sequence[str]) -> list[str]:
    """A line of heads over the columns of each group, with rules below them."""
    if not any(groups):
        return []
    heads, rules, place = [], [], 1
    for group, members in groupby(groups):
        count = len(list(members))
        head = rf"\multicolumn{{{count}}}{{c}}{{{escape_latex(group)}}}"
        heads.append(head if group else "&" * (count - 1))
        rules += [rf"\cmidrule(lr){{{place}-{place + count - 1}}}"] * bool(group)
        place += count
    return [" & ".join(heads) + r" \\", "".join(rules)]


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
    text = re.sub("(?<=:)", r"\\allowbreak ", escape_latex(cell.text))
    shown = rf"\textbf{{{text}}}" if cell.best else text
    return shown + _spread_after(cell) + _marks_after(cell)


def _latex_below(cell: TableCell) -> str:
    return rf"{{\scriptsize {escape_latex(cell.interval)}}}" if _stands_below(cell) else ""


def _lines(heading: str) -> list[str]:
    return wrap(heading, HEADING, break_long_words=False, break_on_hyphens=False)


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
    "ℓ∞": r"$\ell_\infty$",
    "ℓ2": r"$\ell_2$",
    "ℓ": r"$\ell$",
    "κ": r"$\kappa$",
    "∞": r"$\infty$",
    "ε": r"$\varepsilon$",
    "σ": r"$\sigma$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "²": r"$^2$",
}


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    text = clean(" ".join(text.split()))
    # A "[" at the start of a cell would be read as the optional argument of the "\\\\" before it.
    escaped = re.sub("ℓ[∞2]|.", lambda found: _LATEX.get(found[0], found[0]), text)
    return f"{{}}{escaped}" if escaped.startswith("[") else escaped
