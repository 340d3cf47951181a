"""The site shows the leaderboard's numbers, fetches nothing, and replaces nothing but itself."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from helpers import simulate
from helpers.bench import Outcome
from helpers.html_pages import Element, parse
from scipy import stats

from robustbench_coss.analysis.configurations import TestSet, load_measurements
from robustbench_coss.analysis.curves import curve_data
from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.errors import CossError
from robustbench_coss.pages.site import pages, write_site
from robustbench_coss.pages.site.data import page_name
from robustbench_coss.pages.site.plots import BOTTOM, LEFT, RIGHT, STROKES, TOP, views, y_px
from robustbench_coss.records.record import Axis, Cell, Check, Metric, Record, find_records

NASTY = "<script>alert(1)</script> \u2028 & \"quoted\" 'x' {{ 7*7 }} </script><!-- | ../../a"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, three seeds, six suites; a failed check among them."""
    folder = tmp_path_factory.mktemp("results")
    simulate.all_suites(folder, seeds=3, n=60)
    return folder


@pytest.fixture(scope="module")
def site(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "site"
    assert write_site(results, out) == out / "index.html"
    return out


def read(page: Path) -> Element:
    return parse(page.read_text(encoding="utf-8"))


def board_rows(index: Element) -> dict[str, list[Element]]:
    """Model -> its number cells, of the first table of headline numbers."""
    (table, *_) = index.all("table", class_="numbers")
    (body,) = table.all("tbody")
    found = {}
    for row in body.all("tr"):
        (name,) = row.all("th")
        found[name.text] = row.all("td")
    return found


def headings(index: Element) -> list[str]:
    (table, *_) = index.all("table", class_="numbers")
    return [th.text for th in table.all("th", scope="col")]


def write(tmp_path: Path, *records: Record) -> Path:
    simulate.save(tmp_path / "results", *records)
    write_site(tmp_path / "results", tmp_path / "site")
    return tmp_path / "site"


def page_of(site: Path, model: str) -> Element:
    """The page that the leaderboard links a model's name to."""
    index = read(site / "index.html")
    (link,) = [a for a in index.all("a") if a.text == model]
    return read(site / unquote(link.attributes["href"]))


# ---- numbers ----


def test_the_leaderboard_shows_the_numbers_of_the_long_table(results: Path, site: Path) -> None:
    index = read(site / "index.html")
    rows, columns = board_rows(index), headings(index)[1:]
    table = load_table(results)
    shown = table[table["headline"]]
    assert list(rows) == list(dict.fromkeys(table["model"]))  # best clean top-1 first
    assert columns == [*dict.fromkeys(shown["heading"]), "Seeds", "Images"]
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
    assert [cell.text for cell in cells[-2:]] == ["1", "1,000"]


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
    names = [th.text for th in second.all("th", scope="col")][1:-2]
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
    assert [th.text for th in models.all("th")] == ["BYOL · rf29_resnet18 ×0.25"]
    assert [th.text for th in controls.all("th")] == [
        "Controls, which have learnt nothing",
        "control:pixels",
    ]
    assert table.all("span", class_="best") == []  # a control wins no column
    assert "A control, which has learnt nothing" in page_of(site, "control:pixels").text
    assert "A control" not in page_of(site, "BYOL · rf29_resnet18 ×0.25").text


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


# ---- safety ----


def texts(site: Path) -> dict[str, str]:
    return {
        p.relative_to(site).as_posix(): p.read_text(encoding="utf-8")
        for p in site.rglob("*")
        if p.is_file()
    }


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of records that try to be markup in every field."""
    record = simulate.clean(0.5, name=NASTY, checks=[Check(NASTY, False, NASTY)], dataset="parts")
    record.model |= {"method": None, "arch": None, "dataset": NASTY, "training": {"seed": NASTY}}
    record.device, record.versions = NASTY, {NASTY: NASTY}
    record.suite_config = {NASTY: NASTY}
    record.cells[0].problem = NASTY
    odd = [Cell(NASTY, NASTY, 1.0, {"correct": simulate.exactly(0.5, 200)})]
    odd += [Cell("clean", "", 0.0, {"correct": simulate.exactly(0.6, 200)})]
    metric = Metric("m", NASTY, "correct", (NASTY,))
    other = simulate.record(
        odd, [metric], suite="odd", name=NASTY, axis=Axis(NASTY, "correct", NASTY)
    )
    other.model |= record.model
    out = tmp_path_factory.mktemp("nasty")
    return write(out, record, other, simulate.clean(0.4, method="dino"))


def test_names_are_shown_as_they_are_and_never_run(nasty: Path) -> None:
    shown = " ".join(NASTY.split())
    assert shown in board_rows(read(nasty / "index.html"))
    assert page_of(nasty, shown).all("h1")[0].text == shown
    for name, text in texts(nasty).items():
        assert "<script>alert" not in text, name
        if name.endswith(".html"):
            scripts = parse(text).all("script")
            assert all("src" in s.attributes or "json" in s.attributes["type"] for s in scripts)
            on = [a for e in parse(text).walk() for a in e.attributes if a.startswith("on")]
            assert on == []


def test_data_for_the_script_is_json_that_no_name_can_leave(nasty: Path) -> None:
    page = (nasty / "compare-parts-32px.html").read_text(encoding="utf-8")
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert not set("<>&\u2028\u2029") & set(block)
    assert NASTY in [name for _, name, _ in json.loads(block)["models"]]


@pytest.mark.parametrize("which", ["site", "nasty"])
def test_pages_are_well_formed_and_their_links_lead_somewhere(
    which: str, request: pytest.FixtureRequest
) -> None:
    site: Path = request.getfixturevalue(which)
    trees = {p: read(p) for p in site.rglob("*.html")}
    assert len(trees) >= 4
    ids = {p.resolve(): {e.attributes.get("id") for e in t.walk()} for p, t in trees.items()}
    for page, tree in trees.items():
        for element in tree.walk():
            for attribute in ("href", "src"):
                if attribute not in element.attributes:
                    continue
                address = element.attributes[attribute]
                if address.startswith("https://"):
                    assert element.tag == "a"  # followed by hand, to the paper
                    assert address == "https://arxiv.org/abs/2501.02860"
                    continue
                if address == "data:,":
                    continue
                path, anchor = urldefrag(address)
                target = (page.parent / unquote(path)).resolve() if path else page.resolve()
                assert target.is_file(), address
                if anchor and not anchor.startswith("models="):
                    assert anchor in ids[target], address


def test_nothing_is_fetched(site: Path) -> None:
    for name, text in texts(site).items():
        if name.endswith(".css"):
            assert not re.search(r"url\(|@import|@font-face", text), name
        if name.endswith(".js"):
            assert not re.search(r"fetch\(|XMLHttp|import\b|WebSocket|Beacon|Worker|\bsrc\b", text)
            assert re.findall(r"https?://\S+", text.replace("http://www.w3.org/2000/svg", "")) == []
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function", text
            )
        if name.endswith(".html"):
            tags = {e.tag for e in parse(text).walk()}
            assert not tags & {"img", "iframe", "object", "embed", "video", "audio", "base", "form"}
            assert re.findall(r"style=\"(?!--)", text) == []


def test_tables_are_named_and_their_headings_scoped(site: Path) -> None:
    for page in site.rglob("*.html"):
        tree = read(page)
        for table in tree.all("table"):
            if table.attributes.get("id") == "numbers":
                continue  # filled by the script; see test_site_browser.py
            assert len(table.all("caption")) == 1
            assert all("scope" in th.attributes for th in table.all("th"))
        for region in tree.all("div", role="region"):
            assert region.attributes.get("tabindex") == "0"
            assert {"aria-label", "aria-labelledby"} & set(region.attributes)
        assert tree.all("html")[0].attributes["lang"] == "en"
        (skip,) = tree.all("a", class_="skip")
        assert skip.attributes["href"] == "#main"


# ---- the folder ----


def test_same_records_same_bytes_in_another_process(
    results: Path, site: Path, tmp_path: Path
) -> None:
    again = ["--results", str(results), "--out", str(tmp_path / "again")]
    words = [sys.executable, "-m", "robustbench_coss", "site", *again]
    subprocess.run(words, check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert texts(tmp_path / "again") == texts(site)


def test_a_rebuild_takes_away_what_is_no_longer_measured(tmp_path: Path) -> None:
    write(tmp_path, simulate.clean(0.5), simulate.clean(0.6, method="dino"))
    (gone,) = (tmp_path / "results" / "records").glob("dino*")
    (gone / "parts" / "clean.json").unlink()
    site = write(tmp_path, simulate.clean(0.5))
    assert len(list((site / "models").iterdir())) == 1
    listed = json.loads((site / pages.MARKER).read_text())["files"]
    assert sorted([*listed, pages.MARKER]) == sorted(texts(site))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_crash_leaves_the_old_site_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = write(tmp_path, simulate.clean(0.5))
    before = texts(site)
    simulate.save(tmp_path / "results", simulate.clean(0.6, method="dino"))
    written = []

    def fail(path: Path, data: str) -> None:
        written.append(path)
        if len(written) == 3:
            raise CossError("cannot write: disk full")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data)

    monkeypatch.setattr(pages, "write_atomically", fail)
    with pytest.raises(CossError, match="disk full"):
        write_site(tmp_path / "results", site)
    assert texts(site) == before
    assert {p.name for p in tmp_path.iterdir()} == {"results", "site"}


def test_a_folder_of_other_things_is_left_alone(
    tmp_path: Path, bench: Callable[..., Outcome]
) -> None:
    simulate.save(tmp_path / "results", simulate.clean(0.5))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    command = ["site", "--results", str(tmp_path / "results"), "--out", str(mine)]
    found = bench(*command)
    assert found.code == 1
    assert "is not empty and holds no earlier site" in found.err
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert texts(mine) == {"thesis.tex": "years of work"}


def test_a_file_put_into_a_site_is_not_lost(tmp_path: Path) -> None:
    site = write(tmp_path, simulate.clean(0.5))
    (site / "CNAME").write_text("example.org")
    with pytest.raises(CossError, match="CNAME is not part of the site"):
        write_site(tmp_path / "results", site)
    assert (site / "CNAME").exists()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    simulate.save(tmp_path / "results", simulate.clean(0.5))
    (tmp_path / "site").write_text("")
    with pytest.raises(CossError, match="is a file"):
        write_site(tmp_path / "results", tmp_path / "site")


def test_an_empty_folder_is_taken_and_the_default_lies_in_the_results(
    tmp_path: Path, bench: Callable[..., Outcome]
) -> None:
    simulate.save(tmp_path / "results", simulate.clean(0.5))
    (tmp_path / "results" / "site").mkdir()
    found = bench("site", "--results", tmp_path / "results")
    index = tmp_path / "results" / "site" / "index.html"
    assert (found.code, found.out) == (0, f"wrote {index}\n")
    assert oct(index.parent.stat().st_mode & 0o777) == "0o755"  # a web server can read it
    assert load_table(tmp_path / "results").shape[0] == 3  # the site is no record


def test_without_records_there_is_one_line_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="no complete records"):
        write_site(tmp_path, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_pages_of_long_and_like_names_have_names_of_their_own() -> None:
    test_set = TestSet("parts, 32 px", "parts-32px", 10)
    models = ["x" * 300 + "a", "x" * 300 + "b", "é?", "é!", "../../etc/passwd", ".", "A", "a"]
    names = {page_name(test_set, model).lower() for model in models}  # some disks ignore case
    assert len(names) == len(models)
    assert max(map(len, names)) < 100
    assert all(re.fullmatch(r"[\w+][\w.+-]*", name, re.ASCII) for name in names)
