"""Probabilities in records as numbers in tables: which, under what names, and where not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.bench import Bench
from helpers.command_line import complaint
from helpers.simulate import record
from sklearn.metrics import roc_auc_score

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.numbers import load_table, number, values_of
from robustbench_coss.errors import CossError
from robustbench_coss.figures.write import write_figures
from robustbench_coss.pages.report.page import make_page
from robustbench_coss.records.columns import Column
from robustbench_coss.records.confidence import CONFIDENCES
from robustbench_coss.records.record import (
    Cell,
    Metric,
    Record,
    path_of,
    read_record,
    write_record,
)
from robustbench_coss.tables.paper import paper_table

N = 240
FOGS = tuple(f"fog@{level}" for level in (1, 2, 3))


def columns(seed: int, sure: float = 40) -> dict[str, Column]:
    """Codes of a model that is more often right where it is surer."""
    draw = np.random.default_rng(seed)
    code = np.clip(draw.normal(sure, 25, N), -60, 127).astype(np.int8)
    right = draw.random(N) < 1 / (1 + np.exp(-code / 40))
    true = np.where(right, code, np.minimum(code, -code - 5)).astype(np.int8)
    others = draw.integers(0, 20, N).astype(np.int8)
    return {"correct": right, "confidence": code, "true_class": true, "other_squares": others}


def corruption(seed: int, draws: int) -> Record:
    cells = [Cell("clean", "", 0.0, columns(draws))]
    cells += [Cell(f, "weather", 1.0 + i, columns(draws + 1 + i, 20)) for i, f in enumerate(FOGS)]
    metrics = [
        Metric("corruption_top1", "Corruption top-1", "correct", FOGS),
        Metric("corruption_weather", "Weather top-1", "correct", FOGS, headline=False),
    ]
    return record(cells, metrics, suite="corruption", seed=seed)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BYOL with one run, DINO with one from before there were probabilities."""
    folder = tmp_path_factory.mktemp("calibration")
    made = corruption(0, 10)
    old = corruption(0, 20)
    old.model |= {"method": "dino", "name": "dino-s0", "checkpoint_sha256": "d" * 64}
    for cell in old.cells:
        for name in CONFIDENCES:
            del cell.outcomes[name]
    other = corruption(0, 30)
    other.model |= {"method": "simclr", "name": "simclr-s0", "checkpoint_sha256": "e" * 64}
    for each in (made, old, other):
        write_record(folder / path_of(each), each)
    return folder


def test_a_record_with_probabilities_is_read_as_it_was_written(results: Path) -> None:
    made = corruption(0, 10)
    read = read_record(results / path_of(made))
    for one, other in zip(made.cells, read.cells, strict=True):
        for name, column in one.outcomes.items():
            assert other.outcomes[name].dtype == column.dtype
            assert np.array_equal(other.outcomes[name], column)


def test_statistics_stand_beside_headline_top1_where_probabilities_are(results: Path) -> None:
    plain, table = load_table(results), load_table(results, calibration=True)
    assert not plain["metric"].str.contains("ece").any()
    added = table[~table["metric"].isin(plain["metric"])]
    statistics = ("nll", "brier", "ece", "auroc", "accuracy_at_80")
    assert set(added["metric"]) == {f"corruption_{name}" for name in statistics}
    assert not added["model"].str.contains("DINO").any()
    assert set(added.loc[added["headline"], "metric"]) == {"corruption_ece"}
    auroc = added[(added["metric"] == "corruption_auroc") & added["model"].str.contains("BYOL")]
    cells = corruption(0, 10).cells[1:]
    expected = [roc_auc_score(c.outcomes["correct"], c.outcomes["confidence"]) for c in cells]
    assert float(auroc["value"].iloc[0]) == pytest.approx(np.mean(expected), abs=1e-9)
    pd.testing.assert_frame_equal(
        table[table["metric"].isin(plain["metric"])].reset_index(drop=True), plain
    )


def test_values_of_images_have_the_statistic_as_their_mean(results: Path) -> None:
    (record_, *_) = (m.records[0] for m in load_measurements(results) if "BYOL" in m.label)
    metric = Metric("x", "X", "ece", FOGS)
    values = values_of(record_, metric)
    assert values.shape == (N,)
    assert values.mean() == pytest.approx(number([record_], FOGS, "ece").value, abs=1e-12)


def test_a_column_of_that_name_is_the_column() -> None:
    made = record([Cell("clean", "", 0.0, {"nll": np.arange(4.0)})], [])
    assert number([made], ["clean"], "nll").value == 1.5


def test_a_table_of_chosen_metrics_takes_statistics_by_name(results: Path) -> None:
    chosen = paper_table(results, metrics=["corruption_top1", "Corruption NLL (nats)"])
    assert chosen.metrics == ("corruption_top1", "corruption_nll")
    assert len(chosen.frame[chosen.frame["metric"] == "corruption_nll"]) == 2


def test_two_models_are_compared_in_them_and_the_difference_is_that_of_the_values(
    results: Path,
) -> None:
    found = compare(results, "byol-s0", "simclr-s0", calibration=True).table.set_index("metric")
    for name in ("corruption_nll", "corruption_ece", "corruption_accuracy_at_80"):
        line = found.loc[name]
        assert line["difference"] == pytest.approx(line["a"] - line["b"], abs=1e-12)
        assert line["low"] < line["difference"] < line["high"]
        assert line["test"] == "permutation"
    assert found.loc["corruption_ece", "better"] == "lower"
    plain = compare(results, "byol-s0", "simclr-s0").table
    assert not plain["metric"].str.contains("nll").any()


def test_the_command_writes_all_conditions_and_refuses_records_without(
    results: Path, tmp_path: Path, bench: Bench
) -> None:
    said = bench("leaderboard", "--results", results, "--calibration")
    assert said.code == 0, said
    table = pd.read_csv(results / "calibration.csv")
    assert len(table) == 2 * 4 * 5  # models, conditions, statistics
    assert set(table["condition"]) == {"clean", *FOGS}
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    old = corruption(0, 20)
    for cell in old.cells:
        for name in CONFIDENCES:
            del cell.outcomes[name]
    write_record(tmp_path / path_of(old), old)
    said = bench("leaderboard", "--results", tmp_path, "--calibration")
    assert "no record holds probabilities" in complaint(said)
    with pytest.raises(CossError, match="no record holds probabilities"):
        load_table(tmp_path, calibration=True)


def test_a_suite_may_report_a_statistic_in_place_of_a_column(tmp_path: Path) -> None:
    made = record(
        [Cell("clean", "", 0.0, columns(1))], [Metric("own", "Own", "brier", ("clean",), "lower")]
    )
    write_record(tmp_path / path_of(made), made)
    value = load_table(tmp_path)["value"].iloc[0]
    assert 0 < value < 2
    del made.cells[0].outcomes["true_class"]
    write_record(tmp_path / path_of(made), made)
    with pytest.raises(CossError, match="which is not there"):
        read_record(tmp_path / path_of(made))


def test_reports_and_pages_show_nll_and_ece_and_no_means_of_codes(
    results: Path, tmp_path: Path, bench: Bench
) -> None:
    page = make_page(results, ["byol-s0"])
    assert "Corruption ECE" in page
    assert "Corruption NLL (nats)" in page
    assert bench("site", "--results", results, "--out", tmp_path / "site").code == 0
    pages = [p.read_text(encoding="utf-8") for p in (tmp_path / "site").rglob("*.html")]
    assert any("Corruption ECE" in text for text in pages)
    for text in (page, *pages):
        assert "true class" not in text
        assert "other squares" not in text
    assert "corruption_ece" not in set(load_table(results)["metric"])  # no record was changed


def test_the_calibration_error_is_drawn_against_severity(results: Path, tmp_path: Path) -> None:
    write_figures(results, ["corruption-ece"], out=tmp_path)
    (path,) = tmp_path.rglob("corruption-ece.csv")
    drawn = pd.read_csv(path)
    assert drawn["model"].nunique() == 2  # of the third there are no probabilities
    for made, label in ((corruption(0, 10), "BYOL"), (corruption(0, 30), "SimCLR")):
        lines = drawn[drawn["model"].str.contains(label, case=False)]
        assert lines["level"].tolist() == [0, 1, 2, 3]
        for cell, value in zip(made.cells, lines["value"], strict=True):
            logit = 2 * np.sinh(cell.outcomes["confidence"] * np.arcsinh(16) / 127)
            sure, right = 1 / (1 + np.exp(-logit)), cell.outcomes["correct"]
            gap = 0.0
            for low in range(15):
                inside = (sure > low / 15) & (sure <= (low + 1) / 15)
                gap += abs(sure[inside].sum() - right[inside].sum())
            assert value == pytest.approx(gap / N)
