"""Numbers of different protocols, suites, images or models never stand for one another."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from helpers import simulate

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.curves import curve_data
from robustbench_coss.analysis.numbers import load_table, rank_models
from robustbench_coss.errors import CossError
from robustbench_coss.figures.styles import styled
from robustbench_coss.figures.write import draw_figures
from robustbench_coss.pages.report.page import make_page
from robustbench_coss.pages.site.data import load_site
from robustbench_coss.records.record import Axis, Cell, Metric, Record
from robustbench_coss.tables.paper import paper_table

matplotlib.use("agg")


def dark(share: float, suite: str = "dark", **options) -> Record:  # type: ignore[no-untyped-def]
    """A third party's suite with a metric of a name that its own author chose."""
    cells = [
        Cell("clean", "", 0.0, {"correct": simulate.exactly(0.9, 200)}),
        Cell("x", "g", 1.0, {"correct": simulate.exactly(share, 200)}),
    ]
    metrics = [Metric("dark_top1", "Dark top-1", "correct", ("x",))]
    return simulate.record(cells, metrics, suite=suite, axis=Axis("light"), **options)


def test_models_are_ranked_by_the_first_protocol_in_tables_figures_and_pages(
    tmp_path: Path,
) -> None:
    # Best under version 1, which is protocol a, worst under version 2.
    for method, (first, second) in {"byol": (0.8, 0.5), "dino": (0.6, 0.7)}.items():
        again = simulate.clean(second, method=method, name=f"{method}-again")
        again.suite_version = 2
        once = simulate.clean(first, method=method)
        again.model["checkpoint_sha256"] = once.model["checkpoint_sha256"]
        simulate.save(tmp_path, once, again)
    alone = simulate.clean(0.95, method="simclr")  # under the other protocol only
    alone.suite_version = 2
    simulate.save(tmp_path, alone)
    ranked = rank_models(load_measurements(tmp_path))
    assert [name.split(" ")[0] for name in ranked] == ["BYOL", "DINO", "SimCLR"]
    assert list(load_table(tmp_path)["model"].unique()) == ranked
    (board,) = load_site(tmp_path).boards
    assert [row.model for row in board.rows] == ranked
    assert board.ranked == 0
    assert [row.numbers[0].value for row in board.rows] == [0.8, 0.6, None]


def test_a_scatter_plot_holds_models_of_one_protocol(tmp_path: Path) -> None:
    for method, clean, share, version in (("byol", 0.8, 0.5, 1), ("dino", 0.6, 0.7, 2)):
        other = dark(share, method=method)
        other.suite_version = version
        simulate.save(tmp_path, simulate.clean(clean, method=method), other)
    measured = load_measurements(tmp_path)
    with styled():
        drawn = draw_figures(measured, measured[0].test_set)
        (figure,) = [drawing.draw() for drawing in drawn if drawing.name == "tradeoff"]
    points = {
        panel.get_title(): {tuple(p) for line in panel.lines for p in line.get_xydata()[:1]}
        for panel in figure.axes
    }
    assert points["Dark top-1 (a) (%)"] == {(80.0, 50.0)}
    assert points["Dark top-1 (b) (%)"] == {(60.0, 70.0)}


def test_suites_may_give_their_metrics_one_name(tmp_path: Path) -> None:
    for suite, share in (("dark", 0.3), ("light", 0.9)):
        simulate.save(tmp_path, dark(share, suite), dark(share, suite, method="dino"))
    table = paper_table(tmp_path)
    text = table.to_markdown()
    assert "| Model | Dark top-1 | Dark top-1 |" in text
    assert "| BYOL | **30.0** [24.1, 36.7] | **90.0** [85.1, 93.4] |" in text
    latex = table.to_latex()
    assert "30.0" in latex
    assert "90.0" in latex


def test_error_consistency_pairs_conditions_by_name(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    right = {name: draw.random(200) < 0.5 for name in "xy"}
    for method, order in (("byol", "xy"), ("dino", "yx")):
        cells = [Cell("clean", "", 0.0, {"correct": simulate.exactly(0.9, 200)})]
        cells += [Cell(k, "g", i + 1.0, {"correct": right[k]}) for i, k in enumerate(order)]
        metrics = [Metric("dark_top1", "Dark top-1", "correct", ("x", "y"))]
        simulate.save(
            tmp_path,
            simulate.record(cells, metrics, suite="dark", axis=Axis("light"), method=method),
        )
    (line,) = compare(tmp_path, "byol", "dino").table.to_dict("records")
    assert line["kappa"] == 1  # they answer alike
    assert (line["agreement"], line["difference"]) == (1, 0)


def test_configurations_whose_settings_read_alike_are_two_rows(tmp_path: Path) -> None:
    simulate.save(
        tmp_path,
        simulate.clean(0.8, name="a", training={"options": {}}),
        simulate.clean(0.6, name="b"),
        simulate.clean(0.4, name="c", training={"layer": 1}),
        simulate.clean(0.2, name="d", training={"layer": "1"}),
    )
    table = load_table(tmp_path)
    assert sorted(table.loc[table["metric"] == "clean_top1", "value"]) == [0.2, 0.4, 0.6, 0.8]
    assert table["model"].nunique() == 4


def test_test_sets_of_like_names_have_files_of_their_own(tmp_path: Path) -> None:
    for name, method in (("my set", "byol"), ("my-set", "dino")):
        simulate.save(tmp_path, simulate.clean(0.8, dataset=name, method=method))
    sets = {m.test_set for m in load_measurements(tmp_path)}
    assert len({each.slug for each in sets}) == len({each.label for each in sets}) == 2


def test_a_metric_over_different_images_is_refused(tmp_path: Path) -> None:
    record = dark(0.5)
    record.cells[1].outcomes["correct"] = simulate.exactly(0.4, 50)
    told = {"name": "o", "fingerprint": "", "n": 50, "conditions": ["x"]}
    record.dataset["others"] = [told]
    simulate.save(tmp_path, record)
    assert load_table(tmp_path)[["value", "n"]].values.tolist() == [[0.4, 50]]
    (point,) = curve_data(load_measurements(tmp_path)).query("group == 'g'").to_dict("records")
    assert (point["value"], point["n"]) == (0.4, 50)  # not the 200 of the data set
    record.metrics = [Metric("dark_top1", "Dark top-1", "correct", ("clean", "x"))]
    simulate.save(tmp_path, record)
    with pytest.raises(CossError, match="metric dark_top1 is of conditions on different images"):
        load_table(tmp_path)


def test_models_without_a_metric_are_in_no_table(tmp_path: Path) -> None:
    plain = dark(0.5, method="dino")
    plain.metrics = []
    simulate.save(tmp_path, plain)
    for made in (load_table, load_site, lambda results: make_page(results, [])):
        with pytest.raises(CossError, match="no record states a metric"):
            made(tmp_path)
    simulate.save(tmp_path, simulate.clean(0.7))
    (board,) = load_site(tmp_path).boards
    assert [row.name for row in board.rows] == ["BYOL"]
    assert "DINO" not in make_page(tmp_path, [])
