"""The same outcomes have the same digits in every table, figure, page and message.

On committed records, single runs of two methods (whose averages of conditions are bootstrapped) and
the study that they are from. What is compared with is `numbers.number`, held to its formulas in
test_statistics.
"""

from __future__ import annotations

import html
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.analysis.configurations import SeedGroup, load_measurements
from robustbench_coss.analysis.curves import share_data
from robustbench_coss.analysis.numbers import is_share, load_table, number
from robustbench_coss.claims.verdicts import examine
from robustbench_coss.cli.measure import _print_headlines
from robustbench_coss.evaluations.submissions.agreement import Pair
from robustbench_coss.figures.write import write_figures
from robustbench_coss.pages.report.page import make_page
from robustbench_coss.pages.site.pages import write_site
from robustbench_coss.records.record import find_records, read_record
from robustbench_coss.records.training import training_of
from robustbench_coss.tables.cells import in_text, number_text
from robustbench_coss.tables.claims import effect_cell
from robustbench_coss.tables.comparison import difference_cell
from robustbench_coss.tables.leaderboard import to_csv, to_markdown
from robustbench_coss.tables.paper import paper_table

ROOT = Path(__file__).parents[2]
KEY = ["test_set", "model", "suite", "protocol", "metric"]
ENDS = ["value", "low", "high"]
SHOWN = re.compile(r"([+−]?\d+(?:\.\d+)?)(?: %| points)?\s*\[([+−]?[\d.]+, [+−]?[\d.]+)\]")


def widest_study() -> Path | None:
    """The committed study with most suites, and of those the one with most records."""
    records = {f.parent: list(f.rglob("*.json")) for f in (ROOT / "results").glob("*/records")}
    suites = {study: len({path.stem for path in found}) for study, found in records.items()}
    return max(records, key=lambda s: (suites[s], len(records[s])), default=None)


STUDY = widest_study()
pytestmark = pytest.mark.skipif(STUDY is None, reason="no study is committed")


def two_runs(study: Path) -> tuple[Path, Path]:
    """Folders of records of a CO- run and of a run of its base method, the first seeds."""
    by_method: dict[str, Path] = {}
    for path, record in find_records(study):
        if training_of(record.model).get("seed") == 0:
            by_method.setdefault(str(record.model.get("method")), path.parents[1])
    co = next(m for m in sorted(by_method) if m.startswith("co-") and m[3:] in by_method)
    return by_method[co], by_method[co[3:]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one run of a CO- model and one of its base method."""
    assert STUDY is not None
    folder = tmp_path_factory.mktemp("two")
    for run in two_runs(STUDY):
        shutil.copytree(run, folder / "records" / run.name)
    return folder


@pytest.fixture(scope="module")
def table(results: Path) -> pd.DataFrame:
    return load_table(results)


@pytest.fixture(scope="module")
def measured(results: Path) -> list[SeedGroup]:
    return load_measurements(results)


def names(measured: list[SeedGroup]) -> list[str]:
    return [m.records[0].model["name"] for m in measured if m.suite == "clean"]


def estimates(measured: list[SeedGroup]) -> Iterator[str]:
    """Every number that there is, as it is written: each metric and each single condition."""
    for m in measured:
        first = m.records[0]
        asked = [(metric.conditions, metric.column) for metric in first.metrics]
        asked += [((c.condition,), name) for c in first.cells for name in c.outcomes]
        for conditions, column in asked:
            found = number(m.records, conditions, column)
            yield in_text(found.value, found.low, found.high, is_share(first, column))
    for line in lines_of(share_data(measured)):
        value, low, high = (number_text(line[end], 1, True) for end in ENDS)
        yield f"{value} [{low}, {high}]"


def pairs_in(texts: Iterator[str] | list[str]) -> set[tuple[str, str]]:
    return {pair for text in texts for pair in SHOWN.findall(text)}


def differences(results: Path, measured: list[SeedGroup]) -> set[tuple[str, str]]:
    """Differences of the two models, either way, as tables of comparisons write them."""
    a, b = names(measured)
    lines = [line for pair in ((a, b), (b, a)) for line in _lines(results, *pair)]
    cells = [difference_cell(line) for line in lines]
    # Claims average some conditions that no metric does.
    cells += [effect_cell(row) for outcome in examine(results) for row in outcome.rows]
    return pairs_in([f"{cell.text} {cell.interval}" for cell in cells])


def _lines(results: Path, a: str, b: str) -> list[dict[str, Any]]:
    return compare(results, a, b, cells=True, everything=True).table.to_dict("records")


def page_text(page: str) -> str:
    """What a reader sees of a page, drawings apart."""
    for element in ("svg", "style", "script"):
        page = re.sub(rf"<{element}\b.*?</{element}>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def lines_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")


def test_the_long_table_has_each_number_with_its_interval(
    table: pd.DataFrame, measured: list[SeedGroup]
) -> None:
    assert (table["interval"] == "bootstrap").any()  # else this file would show little
    lines = table.set_index(["model", "suite", "protocol", "metric"])
    for m in measured:
        for metric in m.records[0].metrics:
            line = lines.loc[(m.label, m.suite, m.protocol, metric.name)]
            found = number(m.records, metric.conditions[::-1], metric.column)
            assert (line["value"], line["low"], line["high"]) == (
                found.value,
                found.low,
                found.high,
            )


def test_a_row_that_is_chosen_has_the_digits_of_the_whole_table(
    results: Path, table: pd.DataFrame
) -> None:
    for model in table["model"].unique():
        chosen = paper_table(results, models=[model]).frame
        whole = chosen[KEY].merge(table, on=KEY)
        pd.testing.assert_frame_equal(chosen[ENDS], whole[ENDS], check_exact=True)


def test_a_run_among_the_seeds_of_a_study_has_the_digits_that_it_has_alone(
    table: pd.DataFrame, measured: list[SeedGroup]
) -> None:
    assert STUDY is not None
    for m in (m for m in measured if m.suite == "clean"):
        folder = f"{m.records[0].model['name']}-{m.records[0].model['checkpoint_sha256'][:8]}"
        chosen = paper_table(STUDY, models=[folder]).frame
        alone = table[table["model"] == m.label].drop(columns=["test_set", "model"])
        both = chosen.merge(alone, on=["suite", "metric"], suffixes=("", "_alone"))
        assert len(both) == len(chosen) > 3
        for end in ENDS:
            assert (both[end] == both[f"{end}_alone"]).all()


def test_csv_markdown_latex_and_the_paper_table_spell_the_same_digits(
    results: Path, table: pd.DataFrame
) -> None:
    read = pd.read_csv(io.StringIO(to_csv(table)), keep_default_na=False)
    headline = table[table["headline"]]
    expected = set()
    for line in lines_of(headline):
        value, percent = float(line["value"]), bool(line["percent"])
        value, low, high = (number_text(float(line[k]), value, percent) for k in ENDS)
        expected.add((value, f"{low}, {high}"))
    again = [[float(x) for x in read[end]] for end in ENDS]
    assert again == [table[end].tolist() for end in ENDS]
    paper = paper_table(results)
    for text in (to_markdown(table), paper.to_markdown()):
        assert pairs_in([text.replace("**", "").replace("†", "")]) == expected
    for text in (paper.to_latex(),):
        intervals = set(re.findall(r"\\scriptsize \{?\}?\[([^\]]*)\]", text.replace("$-$", "−")))
        assert intervals == {interval for _, interval in expected}


def test_compare_states_the_values_of_the_table_and_mirrors(
    results: Path, table: pd.DataFrame, measured: list[SeedGroup]
) -> None:
    a, b = names(measured)
    one, other = compare(results, a, b).table, compare(results, b, a).table
    value = table.set_index(["model", "suite", "metric"])["value"]
    labels = [m.label for m in measured if m.suite == "clean"]
    for line, back in zip(lines_of(one), lines_of(other), strict=True):
        assert line["a"] == back["b"] == value[labels[0], line["suite"], line["metric"]]
        assert line["b"] == back["a"] == value[labels[1], line["suite"], line["metric"]]
        assert line["p"] == back["p"]
        assert (line["low"], line["high"]) == (-back["high"], -back["low"])


def test_claims_state_the_differences_of_compare(results: Path, measured: list[SeedGroup]) -> None:
    co, base = sorted(names(measured), key=lambda name: not name.startswith("co-"))
    lines = {str(line["metric"]): line for line in _lines(results, co, base)}
    rows = {row.question.measure: row for o in examine(results) for row in o.rows}
    compared = 0
    for claim, metric in (("Clean top-1", "clean_top1"), ("Noise corruption", "corruption_noise")):
        for measure, row in rows.items():
            if measure.startswith(claim) and row.question.kind == "pair" and metric in lines:
                line = lines[metric]
                found = (row.effect, row.low, row.high, row.p, row.test)
                assert found == tuple(line[k] for k in ("difference", "low", "high", "p", "test"))
                compared += 1
    assert compared == 2


def test_report_and_site_show_no_number_but_these(
    results: Path, measured: list[SeedGroup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drawings, which take most of the time, are left out of `page_text`; their numbers are below.
    monkeypatch.setattr("robustbench_coss.pages.report.page.inline", lambda *_: "")
    known = pairs_in(estimates(measured))
    write_site(results, tmp_path / "site")
    pages = [make_page(results, [], full=True)]
    pages += [path.read_text("utf-8") for path in (tmp_path / "site").rglob("*.html")]
    single = make_page(results, [names(measured)[0]])
    seen = pairs_in([page_text(page).replace("†", "") for page in [*pages, single]])
    assert len(seen) > 200
    assert seen <= known | differences(results, measured)


def test_a_figures_csv_has_the_numbers_that_it_draws(
    results: Path, table: pd.DataFrame, measured: list[SeedGroup], tmp_path: Path
) -> None:
    paths = write_figures(results, ["summary", "corruption", "crop"], out=tmp_path)
    drawn = {path.stem: pd.read_csv(path) for path in paths if path.suffix == ".csv"}
    key = ["model", "suite", "metric"]
    summary = drawn["summary"].merge(table, on=key, suffixes=("", "_table"))
    assert len(summary) == len(drawn["summary"]) > 5
    for end in ENDS:
        assert (summary[end] == summary[f"{end}_table"]).all()
    for m in (m for m in measured if m.suite in drawn):
        cells, column = m.records[0].cells, m.records[0].axis.column
        curve = drawn[m.suite]
        for line in lines_of(curve[curve["model"] == m.label]):
            group = "" if pd.isna(line["group"]) else line["group"]
            at = [c.condition for c in cells if (c.group, c.level) == (group, line["level"])]
            found = number(m.records, at, column)
            assert (line["value"], line["low"], line["high"]) == (
                found.value,
                found.low,
                found.high,
            )


def test_eval_prints_the_numbers_of_the_table(results: Path, table: pd.DataFrame) -> None:
    paths = sorted((results / "records").rglob("*.json"))
    out = io.StringIO()
    _print_headlines({path: read_record(path) for path in paths}, Console(file=out, width=10_000))
    for line in lines_of(table[table["headline"]]):
        value, percent = float(line["value"]), bool(line["percent"])
        ends = [number_text(float(line[k]), value, percent) for k in ("low", "high")]
        shown = number_text(value, value, percent) + " %" * percent
        assert f" {shown} [{', '.join(ends)}]" in out.getvalue()


def test_verification_holds_new_outcomes_against_the_same_interval(results: Path) -> None:
    record = read_record(next((results / "records").rglob("corruption.json")))
    for cell in record.cells[:5]:
        for column, outcome in cell.outcomes.items():
            found = number([record], [cell.condition], column)
            assert Pair(outcome, np.copy(outcome)).interval == (found.low, found.high)
