"""What CO- changes, and which models are on the front."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import ROOT, simulate
from hypothesis import given
from hypothesis import strategies as st

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.gains import gain_data
from robustbench_coss.figures.overview import pareto_front
from robustbench_coss.figures.styles import styled
from robustbench_coss.figures.write import draw_figures
from robustbench_coss.records.record import Axis, Cell, Metric

STUDY = ROOT / "results" / "fashion-mnist"


@pytest.mark.slow
def test_gains_are_what_compare_finds_for_each_pair(tmp_path: Path) -> None:
    for record in STUDY.glob("records/*/*/c*.json"):  # clean, corruption and crop
        copy = tmp_path / record.relative_to(STUDY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(record)
    gains = gain_data(load_measurements(tmp_path))
    assert sorted({m.partition(" ")[0] for m in gains["model"]}) == [
        "CO-BYOL",
        "CO-MoCo",
        "CO-SimCLR",
    ]
    for (co, base), mine in gains.groupby(["model", "base"]):
        table = compare(tmp_path, str(co), str(base)).table.set_index("metric")
        for _, line in mine.iterrows():
            theirs = table.loc[line["metric"]]
            assert (line["value"], line["low"], line["high"], line["p"]) == pytest.approx(
                tuple(theirs[["difference", "low", "high", "p"]])
            )


def test_without_a_pair_there_are_no_gains_to_draw(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5))
    measured = load_measurements(tmp_path)
    assert gain_data(measured).empty
    names = [d.name for d in draw_figures(measured, measured[0].test_set)]
    assert names == ["summary"]


def test_clean_accuracy_is_set_against_what_was_measured_of_the_same_models(
    tmp_path: Path,
) -> None:
    apart = simulate.clean(0.5, n=30, method="dino")
    crops = Cell("random@0.25", "random", 0.25, {"correct": simulate.exactly(0.4, 30)})
    metric = Metric("crop_top1", "Crop top-1", "correct", ("random@0.25",))
    other = simulate.record([crops], [metric], suite="crop", axis=Axis("area"), method="byol")
    simulate.save(tmp_path / "apart", apart, other)
    assert drawn(tmp_path / "apart") == ["summary", "crop"]
    control = simulate.control(0.3, 30)
    other.model = control.model
    simulate.save(tmp_path / "control", control, other)  # no model, and so no front
    assert drawn(tmp_path / "control") == ["summary", "tradeoff", "crop"]


def drawn(results: Path) -> list[str]:
    """Names of all figures that records allow, each drawn."""
    measured = load_measurements(results)
    with styled():
        figures = draw_figures(measured, measured[0].test_set)
        for figure in figures:
            figure.draw()
    return [figure.name for figure in figures]


def test_the_front_of_a_case_worked_by_hand() -> None:
    points = [(1.0, 9.0), (5.0, 5.0), (5.0, 4.0), (4.0, 5.0), (9.0, 1.0), (8.0, 0.0)]
    assert pareto_front(points) == [(1.0, 9.0), (5.0, 5.0), (9.0, 1.0)]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_a_front_rises_in_one_as_it_falls_in_the_other_and_bounds_every_point(
    points: list[tuple[int, int]],
) -> None:
    front = pareto_front(points)
    assert [x for x, _ in front] == sorted({x for x, _ in front})
    assert [y for _, y in front] == sorted({y for _, y in front}, reverse=True)
    assert set(front) <= set(points)
    assert all(any(f[0] >= x and f[1] >= y for f in front) for x, y in points)
