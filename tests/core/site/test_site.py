"""The site shows the leaderboard's numbers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from helpers import simulate
from helpers.html_pages import Element
from helpers.site_pages import board_rows, name_in, page_of, read, write
from scipy import stats

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.curves import curve_data
from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.pages.site.plots import BOTTOM, LEFT, RIGHT, STROKES, TOP, views, y_px
from robustbench_coss.records.record import Axis, Cell, Check, Metric, find_records


def headings(index: Element) -> list[str]:
    (table, *_) = index.all("table", class_="numbers")
    return [th.text for th in table.all("th", scope="col")]


# ---- numbers ----


def test_the_leaderboard_shows_the_numbers_of_the_long_table(results: Path, site: Path) -> None:
    index = read(site / "index.html")
    rows, columns = board_rows(index), headings(index)[1:]
    table = load_table(results)
    shown = table[table["headline"]]
    assert list(rows) == list(dict.fromkeys(table["model"]))  # best clean top-1 first
    assert columns == [*dict.fromkeys(shown["heading"]), "Measured"]
    for _, line in shown.iterrows():
        cell = rows[line["model"]][columns.index(line["heading"])]
        scale, digits = (100, 1) if line["percent"] else (1, 3)
        value, low, high = (f"{scale * line[key]:.{digits}f}" for key in ("value", "low", "high"))
        mark = "† (see the notes)" if line["failed_checks"] else ""
        assert cell.text == f"{value}{mark} [{low}, {high}]"
        assert float(cell.attributes["data-v"]) == line["value"]


def test_a_single_run_is_shown_with_wilsons_interval(tmp_path: Path) -> None:
    site = write(tmp_path, simulate.clean(0.715, n=1000))
    (cells,) = board_rows(read(site / "index.html")).values()
    expected = stats.binomtest(715, 1000).proportion_ci(method="wilson")
    assert cells[0].text == f"71.5 [{100 * expected.low:.1f}, {100 * expected.high:.1f}]"
    assert "1 seed · 1,000 images" in read(site / "index.html").text


def test_an_average_of_conditions_of_a_single_run_names_its_interval(tmp_path: Path) -> None:
    cells = [
        Cell(name, "", 0.0, {"correct": simulate.exactly(share, 50)})
        for name, share in (("a", 0.5), ("b", 0.4))
    ]
    metric = Metric("both", "Both", "correct", ("a", "b"))
    site = write(tmp_path, simulate.record(cells, [metric], suite="mine"))
    assert "Agresti-Coull" in page_of(site, "BYOL · rf29_resnet18 ×0.25").text


def test_the_best_of_a_column_is_bold_and_the_first_sorted_by_clean_accuracy(
    tmp_path: Path,
) -> None:
    site = write(tmp_path, simulate.clean(0.5), simulate.clean(0.7, method="dino"))
    index = read(site / "index.html")
    best = {
        model: bool(cells[0].all("span", class_="best"))
        for model, cells in board_rows(index).items()
    }
    assert list(best.values()) == [True, False]
    assert next(iter(best)).startswith("DINO")
    (ranked,) = [th for th in index.all("th") if "aria-sort" in th.attributes]
    assert (ranked.text, ranked.attributes["aria-sort"]) == ("Top-1", "descending")


def test_bars_place_intervals_on_the_range_of_their_column(tmp_path: Path) -> None:
    site = write(tmp_path, simulate.clean(0.5), simulate.clean(0.7, method="dino"))
    ends = [
        (ci.low, ci.high)
        for ci in (stats.binomtest(k, 200).proportion_ci(method="wilson") for k in (140, 100))
    ]
    left, right = ends[1][0], ends[0][1]
    for cells, (low, high) in zip(
        board_rows(read(site / "index.html")).values(), ends, strict=True
    ):
        (bar,) = cells[0].all("span", class_="interval")
        found = [float(x) for x in re.findall(r"--\w:([-\d.e]+)", bar.attributes["style"])]
        assert found[0] == pytest.approx((low - left) / (right - left), abs=1e-4)
        assert found[2] == pytest.approx((high - left) / (right - left), abs=1e-4)


@pytest.mark.slow
def test_every_model_has_a_page_with_every_metric_and_condition(results: Path, site: Path) -> None:
    table = load_table(results)
    for model, lines in table.groupby("model"):
        page = page_of(site, str(model))
        text = page.text
        for _, line in lines.iterrows():
            scale, unit = (100, ", %") if line["percent"] else (1, "")
            assert line["heading"] + unit in text
            if line["percent"]:
                assert f"{scale * line['value']:.1f} [" in text
    for _, record in find_records(results):
        model = {"byol": "BYOL", "co-byol": "CO-BYOL"}[record.model["method"]]
        page = page_of(site, f"{model} · rf29_resnet18 ×0.25")
        names = {th.text for th in page.all("th", scope="row")}
        assert {cell.condition for cell in record.cells} <= names
        assert record.model["checkpoint_sha256"] in page.text


def test_a_condition_with_several_seeds_has_students_interval(tmp_path: Path) -> None:
    site = write(tmp_path, *(simulate.clean(0.6 + 0.05 * s, seed=s) for s in range(3)))
    page = page_of(site, "BYOL · rf29_resnet18 ×0.25")
    (cells,) = page.all("table", class_="cells")
    half = stats.t.ppf(0.975, 2) * 5 / math.sqrt(3)
    (row,) = [tr for tr in cells.all("tr") if tr.all("td")]
    assert [th.text for th in cells.all("th", scope="col")][3:] == [
        "correct, %",
        "knn, %",
        "top5, %",
    ]
    assert row.all("td")[2].text == f"65.0 [{65 - half:.1f}, {65 + half:.1f}]"


def test_a_table_is_a_test_set_and_a_column_a_protocol(tmp_path: Path) -> None:
    long = simulate.clean(0.6, name="long", config={"knn_k": 200}, method="dino")
    other = simulate.clean(0.4, dataset="mnist", name="elsewhere")
    site = write(tmp_path, simulate.clean(0.5), long, other)
    index = read(site / "index.html")
    titles = [h.text for h in index.all("h2")]
    assert titles[:2] == ["mnist, 32 px", "parts, 32 px"]
    first, second = index.all("table", class_="numbers")
    assert len(first.all("tbody")[0].all("tr")) == 1
    names = [th.text for th in second.all("th", scope="col")][1:-1]
    assert names == ["Top-1 (a)", "kNN (a)", "Top-1 (b)", "kNN (b)"]
    assert [th.text for th in second.all("th", scope="colgroup")] == [
        "Clean images (a)",
        "Clean images (b)",
    ]
    assert "knn_k=200" in index.text
    assert {p.name for p in site.glob("compare-*")} == {
        "compare-mnist-32px.html",
        "compare-parts-32px.html",
    }


def test_controls_stand_apart_below_the_models(tmp_path: Path) -> None:
    site = write(tmp_path, simulate.clean(0.5), simulate.control(0.6))
    (table,) = read(site / "index.html").all("table", class_="numbers")
    models, controls = table.all("tbody")
    assert [name_in(row) for row in models.all("tr")] == ["BYOL · rf29_resnet18 ×0.25"]
    said, control = controls.all("tr")
    assert said.text == "Controls, which have learnt nothing"
    assert name_in(control) == "control:pixels"
    assert table.all("span", class_="best") == []  # a control wins no column
    assert "A control, which has learnt nothing" in page_of(site, "control:pixels").text
    assert "A control" not in page_of(site, "BYOL · rf29_resnet18 ×0.25").text


def test_untrained_controls_of_several_seeds_share_a_page_with_a_command_each(
    tmp_path: Path,
) -> None:
    drawn = [simulate.control(0.3, arch="resnet18", width=0.5, seed=seed) for seed in range(3)]
    page = page_of(write(tmp_path, *drawn), "control:untrained:resnet18:0.5")
    for seed in range(3):
        assert f"coss-bench eval control:untrained:resnet18:0.5:{seed} " in page.text


def test_the_same_weights_on_another_test_set_are_linked(tmp_path: Path) -> None:
    site = write(tmp_path, simulate.clean(0.5), simulate.clean(0.4, dataset="mnist"))
    found = []
    for page in (site / "models").glob("*.html"):
        (lead,) = read(page).all("p", class_="lead")
        found.append(lead.text)
    assert any("on mnist" in t and "other test sets: parts, 32 px." in t for t in found)
    assert any("on parts" in t and "other test sets: mnist, 32 px." in t for t in found)


def test_failed_checks_and_doubtful_outcomes_are_said_where_the_numbers_are(tmp_path: Path) -> None:
    record = simulate.clean(0.5, checks=[Check("falls with eps", False, "rises by 3 %")])
    record.cells[0].problem = "3 of 200 outputs are NaN or infinite"
    site = write(tmp_path, record)
    index = read(site / "index.html")
    (cells,) = board_rows(index).values()
    assert cells[0].all("span", class_="mark")
    (notes,) = index.all("ul", class_="notes")
    assert "failed sanity check falls with eps: rises by 3 %" in notes.text
    page = page_of(site, "BYOL · rf29_resnet18 ×0.25")
    (section,) = page.all("section", class_="warning")
    assert "Failed sanity check falls with eps: rises by 3 %" in section.text
    assert "3 of 200 outputs are NaN or infinite" in section.text
    (check,) = page.all("li", class_="failed")
    assert check.text == "failed falls with eps — rises by 3 %"


# ---- plots ----


def test_y_runs_from_the_bottom_to_the_top() -> None:
    assert [y_px(v, 0, 50) for v in (0, 25, 50)] == [BOTTOM, (BOTTOM + TOP) / 2, TOP]


def test_curves_go_through_the_points_of_the_figures(results: Path, site: Path) -> None:
    measurements = load_measurements(results)
    (view, *_) = [v for v in views(measurements) if v.suite == "corruption"]
    data = curve_data([m for m in measurements if m.suite == "corruption"])
    model = str(data["model"].iloc[0])
    noise = data[(data["model"] == model) & data["group"].isin(["", "noise"])].sort_values("level")
    page = page_of(site, model)
    (figure,) = [f for f in page.all("figure") if f.all("figcaption")[0].text == "Noise"]
    (line,) = figure.all("path", class_="line")
    points = [[float(x) for x in p.split()] for p in line.attributes["d"][1:].split("L")]
    assert len(points) == 6  # the clean image and five severities
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert all(LEFT < x < RIGHT for x, _ in points)
    span = view.y_high - view.y_low
    back = [view.y_low + (BOTTOM - y) / (BOTTOM - TOP) * span for _, y in points]
    assert back == pytest.approx((100 * noise["value"]).tolist(), abs=0.1 * span / 100)


def test_small_budgets_have_room_and_large_crops_come_first(results: Path) -> None:
    found = {v.suite: v for v in views(load_measurements(results)) if v.label.endswith("(%)")}
    eps = found["adversarial"].panels[0].x
    assert eps[1] - eps[0.5] == pytest.approx(eps[2] - eps[1], abs=0.2)  # a step per doubling
    crops = found["redundancy"].panels[0].x
    assert [*sorted(crops, key=lambda level: crops[level])] == sorted(crops, reverse=True)


def test_colours_and_dashes_are_those_of_the_figures() -> None:
    assert [s.colour for s in STROKES] == ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]
    assert STROKES[0].dash == ""
    assert len({s.dash for s in STROKES}) == len({s.marker for s in STROKES}) == 4


def test_outcomes_that_are_not_finite_leave_a_gap_and_break_nothing(tmp_path: Path) -> None:
    cells = [Cell("clean", "", 0.0, {"y": simulate.exactly(1, 20).astype("float32")})]
    for level, value in ((1.0, math.nan), (2.0, 0.5)):
        column = simulate.exactly(1, 20).astype("float32") * value
        cells.append(Cell(f"c@{level}", "g", level, {"y": column}))
    metric = Metric("m", "M", "y", ("c@1.0",), "", percent=False)
    record = simulate.record(cells, [metric], suite="mine", axis=Axis("x", "y", "y", False))
    site = write(tmp_path, record)
    (cell, *_) = board_rows(read(site / "index.html")).popitem()[1]
    assert cell.text == "–"
    assert "data-v" not in cell.attributes
    (line,) = page_of(site, "BYOL · rf29_resnet18 ×0.25").all("path", class_="line")
    assert line.attributes["d"].count("L") == 1
    assert "nan" not in (site / "compare-parts-32px.html").read_text().lower().split("<script")[-1]
