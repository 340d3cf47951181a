"""Tables show hand-computed numbers, and only like beside like."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import simulate
from helpers.table_values import suite_record, value
from scipy import stats

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.labels import configurations_of
from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.records.record import Cell, Metric
from robustbench_coss.tables.leaderboard import to_markdown


def test_one_run_gets_its_share_with_a_wilson_interval(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.715, n=1000))
    line = value(load_table(tmp_path), "BYOL", "clean_top1")
    expected = stats.binomtest(715, 1000).proportion_ci(method="wilson")
    assert (line["value"], line["seeds"], line["n"]) == (0.715, 1, 1000)
    assert (line["low"], line["high"]) == pytest.approx((expected.low, expected.high))
    assert line["interval"] == "wilson"
    assert "71.5 [68.6, 74.2]" in to_markdown(load_table(tmp_path))


def test_seeds_of_one_configuration_share_a_row(tmp_path: Path) -> None:
    simulate.save(tmp_path, *(simulate.clean(0.6 + 0.05 * s, seed=s) for s in range(3)))
    table = load_table(tmp_path)
    line = value(table, "BYOL", "clean_top1")
    half = stats.t.ppf(0.975, 2) * 0.05 / math.sqrt(3)
    assert (line["value"], line["sd"], line["seeds"]) == pytest.approx((0.65, 0.05, 3))
    assert (line["low"], line["high"]) == pytest.approx((0.65 - half, 0.65 + half))
    assert set(table["model"]) == {"BYOL · rf29_resnet18 ×0.25"}


@pytest.mark.parametrize(
    "change", [{"method": "co-byol"}, {"width": 0.5}, {"classes": 10, "training": {"epochs": 30}}]
)
def test_runs_that_differ_in_more_than_name_and_seed_have_rows_of_their_own(
    tmp_path: Path, change: dict[str, object]
) -> None:
    simulate.save(tmp_path, simulate.clean(0.5), simulate.clean(0.5, seed=1, name="x", **change))
    assert load_table(tmp_path)["model"].nunique() == 2


def test_equal_short_names_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    longer = simulate.clean(0.5, seed=1, training={"epochs": 100})
    simulate.save(tmp_path, simulate.clean(0.5), longer)
    assert set(load_table(tmp_path)["model"]) == {
        "BYOL · rf29_resnet18 ×0.25 (epochs=20)",
        "BYOL · rf29_resnet18 ×0.25 (epochs=100)",
    }


@pytest.mark.parametrize(
    ("key", "values"),
    [("views", ({"min_crop": 0.08}, {"min_crop": 1.0})), ("options", ({"w_s": 0.1}, {"w_s": 0.5}))],
)
def test_points_of_a_sweep_are_rows_and_only_their_seeds_are_put_together(
    tmp_path: Path, key: str, values: tuple[dict[str, float], ...]
) -> None:
    for k, point in enumerate(values):
        for seed in range(2):
            training = {key: point}
            share = 0.3 + 0.4 * k
            name = f"{point}-s{seed}"
            simulate.save(tmp_path, simulate.clean(share, seed=seed, name=name, training=training))
    table = load_table(tmp_path)
    top = table[table["metric"] == "clean_top1"].set_index("model")["value"].to_dict()
    (setting,) = values[0]
    assert top == {
        f"BYOL · rf29_resnet18 ×0.25 ({setting}={values[0][setting]})": pytest.approx(0.3),
        f"BYOL · rf29_resnet18 ×0.25 ({setting}={values[1][setting]})": pytest.approx(0.7),
    }
    assert set(table["seeds"]) == {2}


def test_a_seed_that_was_run_twice_counts_once_and_the_latest_counts(tmp_path: Path) -> None:
    simulate.save(
        tmp_path,
        simulate.clean(0.9, name="new", created="2026-02-01T00:00:00Z"),
        simulate.clean(0.1, name="old", created="2026-01-01T00:00:00Z"),
    )
    line = value(load_table(tmp_path), "BYOL", "clean_top1")
    assert (line["value"], line["seeds"]) == (0.9, 1)


def test_what_a_probe_found_does_not_part_seeds_but_how_it_was_trained_does(
    tmp_path: Path,
) -> None:
    records = _, chosen, longer = [simulate.clean(0.5, seed=seed) for seed in range(3)]
    chosen.model["probe"]["l2"] = 0.01
    for record in records:
        record.model["probe"]["settings"]["epochs"] = 100 if record is longer else 50
    simulate.save(tmp_path, *records)
    table = load_table(tmp_path)
    assert dict(zip(table["model"], table["seeds"], strict=True)) == {
        "BYOL · rf29_resnet18 ×0.25 (epochs=50)": 2,
        "BYOL · rf29_resnet18 ×0.25 (epochs=100)": 1,
    }


def test_classifiers_of_one_model_are_told_apart_in_a_word(tmp_path: Path) -> None:
    several: list[dict[str, Any]] = [
        {"settings": {"kind": "logistic", "max_train": None, "l2_values": 12}},
        {"settings": {"kind": "sgd", "max_train": None, "epochs": 90, "lr": 0.1}},
        {"settings": {"kind": "sgd", "max_train": 2000, "epochs": 90, "lr": 0.1}},
        {"own_head": True},
    ]
    for number, probe in enumerate(several):
        record = simulate.clean(0.5, name=str(number))
        kept = {} if "own_head" in probe else record.model["probe"]
        record.model["probe"] = kept | probe
        simulate.save(tmp_path, record)
    said = {str(model).partition("probe=")[2] for model in load_table(tmp_path)["model"]}
    assert said == {"logistic)", "sgd)", "sgd on 2,000)", "own head)"}


def test_what_follows_from_a_setting_is_left_out_of_labels_unless_nothing_else_differs() -> None:
    common = {"name": "a", "method": "byol", "arch": "resnet18", "checkpoint_sha256": "0"}
    with_mlp, without, other = (
        common | {"parameters": count, "training": {"recipe": {"seed": 0, "mlp": mlp}}}
        for count, mlp in ((20, True), (10, False), (30, True))
    )
    for models, differs in (
        ((with_mlp, without), {"mlp=true", "mlp=false"}),
        ((with_mlp, other), {"parameters=20", "parameters=30"}),
    ):
        assert {c.differs for c in configurations_of(models).values()} == differs


def test_models_without_a_training_seed_are_told_apart_by_their_weights() -> None:
    models = [{"name": name, "checkpoint_sha256": name} for name in ("one", "two")]
    found = configurations_of(models).values()
    assert sorted(configuration.label for configuration in found) == ["one", "two"]


def test_an_average_of_conditions_weighs_each_condition_the_same(tmp_path: Path) -> None:
    shares = {"a": 0.2, "b": 0.4, "c": 0.9}
    cells = [Cell(k, "g", 1.0, {"correct": simulate.exactly(v, 50)}) for k, v in shares.items()]
    metric = Metric("mean", "Mean", "correct", ("a", "b", "c"))
    simulate.save(tmp_path, simulate.record(cells, [metric], suite="corruption"))
    line = value(load_table(tmp_path), "BYOL", "mean")
    assert line["value"] == pytest.approx(0.5)
    # Of 50 images 10 are right under all three, 10 under two, 25 under c alone: sum 25, squares
    # 10 + 10 * 4/9 + 25/9; two right or wrong are added each, by Agresti and Coull (1998).
    z = 1.959964
    n, squares = 50 + z**2, 10 + 40 / 9 + 25 / 9 + z**2 / 2
    half = z * math.sqrt((squares / n - 0.25) / n)
    assert line["interval"] == "agresti-coull"
    assert (line["low"], line["high"]) == pytest.approx((0.5 - half, 0.5 + half))


def test_rows_are_sorted_by_clean_top1_and_the_best_value_is_bold(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.6), simulate.clean(0.7, method="co-byol"))
    text = to_markdown(load_table(tmp_path))
    assert text.index("| CO-BYOL") < text.index("| BYOL")
    assert "**70.0** [" in text
    assert "60.0 [" in text
    assert "**60.0**" not in text


@pytest.mark.parametrize(("better", "bold"), [("higher", "80.0"), ("lower", "30.0"), ("", None)])
def test_bold_follows_what_is_better(tmp_path: Path, better: str, bold: str | None) -> None:
    simulate.save(
        tmp_path,
        suite_record("third-party", 0.3, better),
        suite_record("third-party", 0.8, better, method="co-byol"),
    )
    assert re.findall(r"\*\*([\d.]+)\*\*", to_markdown(load_table(tmp_path))) == [bold] * bool(bold)


def test_a_single_row_has_nothing_in_bold(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5))
    assert "**" not in to_markdown(load_table(tmp_path))


def test_values_equal_as_shown_are_both_bold(tmp_path: Path) -> None:
    simulate.save(
        tmp_path,
        simulate.clean(0.5000, n=10_000),
        simulate.clean(0.5001, n=10_000, method="co-byol"),
    )
    assert to_markdown(load_table(tmp_path)).count("**50.0**") == 2


def test_a_suite_that_was_not_measured_shows_a_dash(tmp_path: Path) -> None:
    simulate.save(
        tmp_path,
        simulate.clean(0.5),
        simulate.clean(0.6, method="co-byol"),
        suite_record("crop", 0.4, method="co-byol"),
    )
    (row,) = [r for r in to_markdown(load_table(tmp_path)).splitlines() if "| – |" in r]
    assert row.startswith("| BYOL")


def test_an_undefined_number_shows_a_dash_and_is_never_best(tmp_path: Path) -> None:
    for method, number in (("byol", math.nan), ("co-byol", 0.2)):
        cells = [Cell("c", "g", 1.0, {"x": np.full(20, number)})]
        metric = Metric("m", "M", "x", ("c",), percent=False)
        simulate.save(tmp_path, simulate.record(cells, [metric], suite="other", method=method))
    text = to_markdown(load_table(tmp_path))
    assert "nan" not in text
    assert "| – |" in text


def test_test_sets_have_sections_of_their_own(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5), simulate.clean(0.9, dataset="mnist", classes=4))
    text = to_markdown(load_table(tmp_path))
    assert re.findall(r"^## (.*)$", text, re.M) == ["mnist, 32 px", "parts, 32 px"]
    assert "Chance level (top-1): 25.0 %" in text
    assert "Chance level (top-1): 10.0 %" in text


def test_versions_of_a_test_set_are_not_mixed(tmp_path: Path) -> None:
    other = simulate.clean(0.9, seed=1)
    other.dataset["fingerprint"] = "f" * 64
    simulate.save(tmp_path, simulate.clean(0.5), other)
    assert load_table(tmp_path)["test_set"].nunique() == 2
    assert {m.test_set.slug for m in load_measurements(tmp_path)} > {"parts-32px-version-ffffffff"}


def test_protocols_of_a_suite_have_columns_of_their_own(tmp_path: Path) -> None:
    simulate.save(
        tmp_path,
        suite_record("corruption", 0.3, config={"backend": "fast", "severities": 5}),
        suite_record(
            "corruption", 0.4, config={"backend": "reference", "severities": 5}, method="co-byol"
        ),
    )
    text = to_markdown(load_table(tmp_path))
    assert "corruption number (a)" in text
    assert "corruption number (b)" in text
    assert "corruption (a): backend=fast." in text
    assert "**" not in text.replace("severities", "")


def test_measurements_of_other_numbers_of_images_are_not_compared(tmp_path: Path) -> None:
    simulate.save(
        tmp_path, simulate.clean(0.5, n=100), simulate.clean(0.5, n=200, method="co-byol")
    )
    text = to_markdown(load_table(tmp_path))
    assert "Top-1 (a)" in text
    assert "n=100" in text
