"""What the pages show: leaderboards, what stands beside them, and a dossier of every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustbench_coss.analysis.calibration import for_pages
from robustbench_coss.analysis.configurations import SeedGroup, load_measurements
from robustbench_coss.analysis.numbers import table_of, with_metrics
from robustbench_coss.pages.dossier.models import ModelPart, model_part
from robustbench_coss.pages.dossier.suites import SuitePart, suite_parts
from robustbench_coss.pages.site.board import Board, Heading, Number, Row, board_of
from robustbench_coss.pages.site.links import links_of
from robustbench_coss.pages.site.overview import Overview, overview
from robustbench_coss.pages.site.pairs import PairTable, pair_tables
from robustbench_coss.pages.site.plots import View
from robustbench_coss.tables.leaderboard import to_csv

OTHERS = 7  # models behind a model's own curve


@dataclass(frozen=True)
class Plot:
    """A view with the model whose curves it is about, and others that stand behind it, the best
    of them where there are more (`cut`).
    """

    view: View
    model: str
    others: tuple[str, ...]
    cut: bool


@dataclass(frozen=True)
class Standing:
    """A headline number of a model among those of all models.

    Attributes:
        others: values of the other models on the column's range, in [0, 1].
    """

    heading: Heading
    number: Number
    others: tuple[float, ...]


@dataclass(frozen=True)
class ModelPage:
    """All that was measured of one model on one test set.

    Attributes:
        row: of the leaderboard.
        standings: its headline numbers.
        elsewhere: (test set, page) of the same weights measured on other test sets.
        model: how it came about.
        links: (what, address) of paper, code and weights, as far as the record says them.
        suites: what each suite found, with the curves of it.
    """

    row: Row
    board: Board
    standings: tuple[Standing, ...]
    elsewhere: tuple[tuple[str, str], ...]
    model: ModelPart
    links: tuple[tuple[str, str], ...]
    suites: tuple[tuple[SuitePart, tuple[Plot, ...]], ...]


@dataclass(frozen=True)
class Beside:
    """What a test set has beside its leaderboard.

    Attributes:
        overview: its plots.
        pairs: models compared image by image, see `pair_tables`.
        csv, json: all its numbers in long form.
    """

    overview: Overview
    pairs: tuple[PairTable, ...]
    csv: str
    json: str


@dataclass(frozen=True)
class Site:
    """All pages.

    Attributes:
        beside: what stands beside each leaderboard.
    """

    boards: tuple[Board, ...]
    models: tuple[ModelPage, ...]
    beside: tuple[Beside, ...]


def load_site(results: Path) -> Site:
    """Everything that the records of a results folder say, arranged as pages.

    Raises:
        CossError: there are no complete records, or one is damaged.
    """
    measurements = with_metrics(load_measurements(results))
    table = table_of(for_pages(measurements))
    boards, models, beside = [], [], []
    pages_of: dict[str, list[tuple[str, str]]] = {}
    sets = list(dict.fromkeys(m.test_set for m in measurements))
    by_set = {s: [m for m in measurements if m.test_set == s] for s in sets}
    for test_set, here in by_set.items():
        part = table[table["test_set"] == test_set.label]
        board = board_of(test_set, here, part)
        boards.append(board)
        beside.append(
            Beside(
                overview(board, here),
                pair_tables(board, here, measurements),
                to_csv(part),
                part.to_json(orient="records", indent=1, double_precision=15) + "\n",
            )
        )
        for row in board.rows:
            for sha256 in _weights(here, row.model):
                pages_of.setdefault(sha256, []).append((board.title, row.page))
    for board, here in zip(boards, by_set.values(), strict=True):
        lines = table[table["test_set"] == board.title]
        for row in board.rows:
            same = [page for sha in _weights(here, row.model) for page in pages_of[sha]]
            elsewhere = dict.fromkeys(page for page in same if page[1] != row.page)
            own = [m for m in here if m.label == row.model]
            suites = suite_parts(own, lines[lines["model"] == row.model])
            models.append(
                ModelPage(
                    row,
                    board,
                    _standings(board, row),
                    tuple(elsewhere),
                    model_part(row.model, own),
                    links_of(own[0].model),
                    tuple((part, _plots(part, row.model, board)) for part in suites),
                )
            )
    return Site(tuple(boards), tuple(models), tuple(beside))


def _weights(measurements: Sequence[SeedGroup], model: str) -> list[str]:
    """Hashes of the checkpoints of a model, by seed."""
    records = [r for m in measurements if m.label == model for r in m.records]
    return list(dict.fromkeys(r.model["checkpoint_sha256"] for r in records))


def _standings(board: Board, row: Row) -> tuple[Standing, ...]:
    found = []
    for i, heading in enumerate(board.headings):
        bars = [r.numbers[i].bar for r in board.rows if r is not row and not r.control]
        others = {bar[1] for bar in bars if bar is not None}
        found.append(Standing(heading, row.numbers[i], tuple(sorted(others))))
    return tuple(found)


def _plots(part: SuitePart, model: str, board: Board) -> tuple[Plot, ...]:
    ranked = [row.model for row in board.rows if row.model != model and not row.control]
    mine = [
        view
        for view in board.views
        if (view.suite, view.protocol) == (part.suite, part.protocol) and model in view.curves
    ]
    plots = []
    for view in mine:
        others = [name for name in ranked if name in view.curves]
        plots.append(Plot(view, model, tuple(others[:OTHERS]), len(others) > OTHERS))
    return tuple(plots)
