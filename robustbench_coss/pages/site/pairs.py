"""Pairs of models compared image by image, for the comparison page.

Not all pairs of a long leaderboard: a page holds those of its best models, and every CO- model with
its base method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from robustbench_coss.analysis.comparison import compare_chosen
from robustbench_coss.analysis.configurations import SeedGroup, bases_of
from robustbench_coss.analysis.selection import Chosen
from robustbench_coss.errors import CossError
from robustbench_coss.pages.site.board import Board, Row
from robustbench_coss.tables.comparison import difference_cell, p_text, verdict

BEST = 8  # models of which all pairs are compared


@dataclass(frozen=True)
class PairTable:
    """Two models of a leaderboard.

    Attributes:
        a, b: their pages.
        verdict: in a sentence.
        lines: per headline metric its words, A - B, the interval, Holm's p and the verdict.
    """

    a: str
    b: str
    verdict: str
    lines: tuple[tuple[str, str, str, str, str], ...]


def pair_tables(
    board: Board, here: Sequence[SeedGroup], measured: Sequence[SeedGroup]
) -> tuple[PairTable, ...]:
    """Pairs that a leaderboard's page can tell apart.

    Args:
        here: measurements on its test set.
        measured: all of the folder; controls among them say what has learnt.
    """
    chosen: dict[str, Chosen] = {}
    for row in board.rows:
        chosen[row.page] = Chosen(row.model, tuple(m for m in here if m.label == row.model))
    found = []
    for one, other in _pairs(board.rows, bases_of(here)):
        try:
            table = compare_chosen(chosen[one.page], chosen[other.page], measured)
        except CossError:  # nothing was measured of both alike
            continue
        lines = []
        for line in table.table.to_dict("records"):
            cell = difference_cell(line)
            said = (line["heading"], cell.text, cell.interval, p_text(line["p_holm"]))
            lines.append((*said, line["verdict"]))
        sentence = verdict(one.model, other.model, table.table)
        found.append(PairTable(one.page, other.page, sentence, tuple(lines)))
    return tuple(found)


def _pairs(rows: Sequence[Row], bases: Mapping[str, str]) -> Iterator[tuple[Row, Row]]:
    """The better one first, but for a CO- model, which stands before its base method."""
    models = {row.model: row for row in rows if not row.control}
    related = [(models[co], models[base]) for co, base in bases.items()]
    yield from related
    apart = {frozenset((a.page, b.page)) for a, b in related}
    for a, b in combinations(list(models.values())[:BEST], 2):
        if frozenset((a.page, b.page)) not in apart:
            yield a, b
