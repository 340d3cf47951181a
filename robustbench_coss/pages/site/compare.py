"""What the comparison page holds: every model's curves and dots, and the numbers of its table.

All is drawn here; the page's script lays what belongs to the chosen models into one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from robustbench_coss.pages.site.board import Board, Number
from robustbench_coss.pages.site.pairs import PairTable
from robustbench_coss.pages.site.plots import MARKER, PLOT_AT_ONCE, STROKES, Curve, Tick, View
from robustbench_coss.tables.cells import TableCell

APART = 11  # px between the dots of two models


@dataclass(frozen=True)
class Dots:
    """The frame of headline shares: a row each, dots of models below each other in it.

    Attributes:
        chance: x of guessing in px.
        rows: where, in px, the middle of a metric's row is, and its words.
        x_ticks: from left to right.
    """

    chance: float
    rows: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]

    WIDTH, LEFT, RIGHT, TOP = 640, 190, 620, 4
    ROW = APART * PLOT_AT_ONCE + 8

    @property
    def bottom(self) -> int:
        return self.TOP + self.ROW * len(self.rows)

    @property
    def height(self) -> int:
        return self.bottom + 40

    @classmethod
    def px(cls, share: float) -> float:
        """Where a share in % stands."""
        return round(cls.LEFT + (cls.RIGHT - cls.LEFT) * share / 100, 1)

    def draw(self, numbers: list[Number]) -> Curve:
        """A model's dots and whiskers, a number for each row."""
        line = marks = ""
        for row, number in zip(self.rows, numbers, strict=True):
            if number.value is not None:
                marks += f"M{self.px(100 * number.value):g} {row.at:g}{MARKER}"
            if number.interval is not None:
                low, high = (self.px(100 * end) for end in number.interval)
                line += f"M{low:g} {row.at:g}H{high:g}"
        return Curve(False, (), "", line, marks)


def comparison(board: Board, pairs: Sequence[PairTable]) -> dict[str, Any]:
    """What the template of the page is given beside the board: `dots` and the script's `data`."""
    shares = [i for i, heading in enumerate(board.headings) if heading.percent]
    dots = Dots(
        Dots.px(board.chance),
        tuple(
            Tick(Dots.TOP + Dots.ROW * (k + 0.5), board.headings[i].text)
            for k, i in enumerate(shares)
        ),
        tuple(Tick(Dots.px(share), str(share)) for share in range(0, 101, 20)),
    )
    place = {row.model: i for i, row in enumerate(board.rows)}
    headline = {
        "label": "Metric",
        "apart": APART,
        "rows": [h.text + (", %" if h.percent else "") for h in board.headings],
        "curves": {
            i: [[_paths(dots.draw([row.numbers[k] for k in shares]))]]
            for i, row in enumerate(board.rows)
        },
        "cells": {
            i: {at: _cell(number.cell) for at, number in enumerate(row.numbers)}
            for i, row in enumerate(board.rows)
        },
    }
    data = {
        "strokes": [asdict(stroke) for stroke in STROKES],
        "marker": MARKER,
        "models": [[row.page, row.name, row.rest] for row in board.rows],
        "pairs": {f"{p.a} {p.b}": [p.verdict, p.lines] for p in pairs},
        "views": {
            "headline": headline,
            **{str(k): _view(view, place) for k, view in enumerate(board.views)},
        },
    }
    return {"dots": dots, "data": data}


def _view(view: View, place: dict[str, int]) -> dict[str, Any]:
    """A suite's curves. A row of its table is a level of a panel, as far as it was measured."""
    at = {
        (panel.title, level): f"{panel.title}, {panel.x_label} {level:g}"
        for panel in view.panels
        for level in panel.x
    }
    number = {key: i for i, key in enumerate(at)}

    def cells(mine: tuple[tuple[Curve, ...], ...]) -> dict[int, list[Any]]:
        return {
            number[panel.title, p.level]: _cell(p.cell)
            for panel, curves in zip(view.panels, mine, strict=True)
            for curve in curves
            if not curve.thin
            for p in curve.points
            if p.level in panel.x
        }

    return {
        "label": view.label,
        "apart": 0,
        "rows": list(at.values()),
        "curves": {
            place[model]: [[_paths(curve) for curve in curves] for curves in mine]
            for model, mine in view.curves.items()
        },
        "cells": {place[model]: cells(mine) for model, mine in view.curves.items()},
    }


def _paths(curve: Curve) -> list[Any]:
    return [int(curve.thin), curve.band, curve.line, curve.marks]


def _cell(cell: TableCell) -> list[Any]:
    return [cell.text, cell.interval, int(cell.marked)]
