"""What the comparison page is given: dots where the numbers are, and the rows of its table."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import simulate

from robustbench_coss.pages.site.compare import comparison
from robustbench_coss.pages.site.data import load_site
from robustbench_coss.records.record import Cell, Metric


def test_dots_and_whiskers_stand_at_their_shares(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5, n=100), simulate.clean(0.2, n=100, method="dino"))
    (board,) = load_site(tmp_path).boards
    given = comparison(board, ())
    dots, headline = given["dots"], given["data"]["views"]["headline"]
    assert [row.text for row in dots.rows] == ["Top-1", "kNN"]
    ((_, band, line, marks),) = headline["curves"][0][0]
    assert band == ""
    middle = dots.TOP + dots.ROW / 2
    assert marks.startswith(f"M405 {middle:g}*")  # half way between 190 and 620
    # Wilson: 50 of 100 are [40.4, 59.6].
    low, high = (190 + 4.3 * end for end in (40.3832, 59.6168))
    assert line.startswith(f"M{low:.1f} {middle:g}H{high:.1f}")
    assert dots.chance == pytest.approx(190 + 43)
    assert headline["cells"][1][0] == ["20.0", "[13.3, 28.9]", 0]


def test_what_is_no_share_is_in_the_table_alone_and_what_is_not_measured_has_no_dot(
    tmp_path: Path,
) -> None:
    cells = [Cell("c", "g", 1.0, {"cosine": simulate.exactly(0.5, 100) * 0.25})]
    metric = Metric("m", "Cosine", "cosine", ("c",), percent=False)
    other = simulate.record(cells, [metric], suite="crop", method="dino")
    simulate.save(tmp_path, simulate.clean(0.5, n=100), other)
    (board,) = load_site(tmp_path).boards
    given = comparison(board, ())
    headline = given["data"]["views"]["headline"]
    assert [row.text for row in given["dots"].rows] == ["Top-1", "kNN"]
    assert headline["rows"] == ["Top-1, %", "kNN, %", "Cosine"]
    number = {row.name: i for i, row in enumerate(board.rows)}
    assert headline["curves"][number["DINO"]] == [[[0, "", "", ""]]]
    assert headline["cells"][number["DINO"]][0][0] == "–"
    assert headline["cells"][number["DINO"]][2][0] == "0.125"
