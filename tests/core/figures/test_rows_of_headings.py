"""Numbers that only share a heading never share a row or a panel."""

from __future__ import annotations

from pathlib import Path

from helpers import simulate

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.figures.bars import row_names
from robustbench_coss.figures.styles import styled
from robustbench_coss.figures.write import draw_figures
from robustbench_coss.records.record import Axis, Cell, Metric, Record


def other(method: str, *shares: float) -> Record:
    """A third party's suite that heads its metrics as the clean one does."""
    cells = [
        Cell(f"x@{i}", "x", i, {"correct": simulate.exactly(share, 200)})
        for i, share in enumerate(shares)
    ]
    names = ("clean_top1", "top1_again")
    metrics = [
        Metric(name, "Top-1", "correct", (cell.condition,))
        for name, cell in zip(names, cells, strict=False)
    ]
    return simulate.record(cells, metrics, suite="dark", axis=Axis("level"), method=method)


def test_equal_headings_of_two_suites_and_of_one_are_rows_and_panels_of_their_own(
    tmp_path: Path,
) -> None:
    simulate.save(tmp_path, simulate.clean(0.9), other("byol", 0.2, 0.4))
    measured = load_measurements(tmp_path)
    with styled("paper"):
        made = {d.name: d for d in draw_figures(measured, measured[0].test_set)}
        panel = made["summary"].draw().axes[0]
        panels = [axes for axes in made["tradeoff"].draw().axes if axes.get_title()]
    ticks = [label.get_text() for label in panel.get_yticklabels()]
    assert ticks == ["Top-1, clean", "kNN", "Top-1, dark clean_top1", "Top-1, dark top1_again"]
    dots = {
        round(float(y)): float(x)
        for line in panel.get_lines()
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if line.get_marker() != "None" and len(line.get_xdata())
    }
    assert dots == {0: 90, 1: 0, 2: 20, 3: 40}
    assert [axes.get_title() for axes in panels] == [
        "Top-1, dark clean_top1 (%)",
        "Top-1, dark top1_again (%)",
    ]
    drawn = [line for axes in panels for line in axes.get_lines() if line.get_marker() != "None"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in drawn] == [(90, 20), (90, 40)]


def test_headings_that_nothing_shares_stay_as_they_are(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.9))
    measured = load_measurements(tmp_path)
    (summary,) = draw_figures(measured, measured[0].test_set)
    assert list(row_names(summary.data).values()) == ["Top-1", "kNN"]
