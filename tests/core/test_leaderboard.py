"""Tables show hand-computed numbers, only like beside like, and every name as it is."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import simulate
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.corruption_error import ALEXNET
from robustbench_coss.analysis.labels import configurations_of
from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.cli.leaderboard import leaderboard
from robustbench_coss.errors import CossError
from robustbench_coss.records.record import Cell, Check, Metric, Record
from robustbench_coss.statistics.intervals import combine_seeds
from robustbench_coss.tables.cells import escape_latex, escape_markdown
from robustbench_coss.tables.leaderboard import (
    to_csv,
    to_latex,
    to_markdown,
    to_rich,
    write_leaderboard,
)

NASTY = "<script>alert(1)</script> a|b_50% & $x$ #1 {y} ~z^2 \\end"


def value(table: pd.DataFrame, model: str, metric: str) -> pd.Series:
    (line,) = [
        line
        for _, line in table.iterrows()
        if line["model"].startswith(model) and line["metric"] == metric
    ]
    return line


def rendered(results: Path) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(to_rich(load_table(results)))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def suite_record(
    suite: str, share: float, better: str = "higher", n: int = 200, **options
) -> Record:  # type: ignore[no-untyped-def]
    metric = Metric(f"{suite}_number", f"{suite} number", "correct", ("c",), better)
    cells = [Cell("c", "g", 1.0, {"correct": simulate.exactly(share, n)})]
    return simulate.record(cells, [metric], suite=suite, **options)


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
    for k, value in enumerate(values):
        for seed in range(2):
            training = {key: value}
            share = 0.3 + 0.4 * k
            name = f"{value}-s{seed}"
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
    chosen, longer = simulate.clean(0.5, seed=1), simulate.clean(0.5, seed=2)
    chosen.model["probe"]["l2"] = 0.01
    longer.model["probe"]["settings"]["epochs"] = 100
    simulate.save(tmp_path, simulate.clean(0.5), chosen, longer)
    table = load_table(tmp_path)
    assert dict(zip(table["model"], table["seeds"], strict=True)) == {
        "BYOL · rf29_resnet18 ×0.25 (epochs=50)": 2,
        "BYOL · rf29_resnet18 ×0.25 (epochs=100)": 1,
    }


def test_models_without_a_training_seed_are_told_apart_by_name() -> None:
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
    assert line["interval"] == "bootstrap"


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


def test_a_failed_sanity_check_marks_its_suite_and_is_named_below(tmp_path: Path) -> None:
    checks = [Check("more steps do not help", False, "20 steps: +3.1 %"), Check("fine", True, "")]
    simulate.save(
        tmp_path,
        simulate.clean(0.5),
        suite_record("adversarial", 0.4, checks=checks),
        suite_record("adversarial", 0.3, seed=1),
        suite_record("adversarial", 0.2, method="co-byol"),
    )
    table = load_table(tmp_path)
    markdown, latex, terminal = to_markdown(table), to_latex(table), rendered(tmp_path)
    assert len(re.findall(r"\d\**†", markdown)) == 1
    assert "failed sanity check more steps do not help (1 of 2 seeds): 20 steps: +3.1 %" in markdown
    assert latex.count(r"$^\dagger$") == 2
    assert terminal.count("†") == 2
    assert "fine" not in markdown


def test_a_hostile_model_name_is_shown_and_not_executed(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5, method=NASTY))
    table = load_table(tmp_path)
    markdown = to_markdown(table)
    assert "<script>" not in markdown
    assert "&lt;script&gt;alert(1)&lt;/script&gt; a\\|b_50%" in markdown
    # Every row of a table keeps its number of cells.
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    blocks = re.split(r"\n\n", "\n".join(line for line in markdown.splitlines()))
    for block in blocks:
        widths = {len(re.findall(r"(?<!\\)\|", r)) for r in block.splitlines() if r.startswith("|")}
        assert len(widths) <= 1
    assert rows
    latex = to_latex(table)
    assert r"a\textbar{}b\_50\% \& \$x\$ \#1 \{y\} \textasciitilde{}z\textasciicircum{}2" in latex
    assert r"\textbackslash{}end" in latex
    csv = pd.read_csv(io.StringIO(to_csv(table)))
    assert set(csv["method"]) == {NASTY}
    assert "<script>alert(1)</script>" in rendered(tmp_path)


def test_markup_of_the_terminal_library_in_a_name_is_shown_as_text(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5, method="[red]x[/red]"))
    assert "[red]x[/red]" in rendered(tmp_path)


@given(st.text())
def test_escaped_latex_has_no_active_character_left(text: str) -> None:
    escaped = escape_latex(text)
    for ours in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}"):
        escaped = escaped.replace(ours, "")
    for ours in (r"\textless{}", r"\textgreater{}", r"\textbar{}"):
        escaped = escaped.replace(ours, "")
    escaped = re.sub(r"\$(\\[a-z]+|-|\^2|\^\\dagger)\$", "", escaped)
    escaped = re.sub(r"\\[{}%_&#$]", "", escaped).removeprefix("{}")
    assert not re.search(r"[{}%_&#$~^\\\n]", escaped)


@given(st.text())
def test_escaped_markdown_has_no_bare_pipe_tag_or_line_break(text: str) -> None:
    escaped = escape_markdown(text)
    assert not re.search(r"[<>\n\r]", escaped)
    assert not re.search(r"(?<!\\)(\\\\)*\|", escaped)


def test_latex_tables_have_as_many_cells_as_columns(tmp_path: Path) -> None:
    simulate.all_suites(tmp_path, seeds=2, n=40)
    latex = to_latex(load_table(tmp_path))
    plain = re.sub(r"S\[.*?\]", "S", latex)
    tables = re.findall(r"begin\{tabular\}\{@\{\}([lrS]+)@\{\}\}(.*?)\\end\{tabular\}", plain, re.S)
    assert len(tables) >= 3
    for columns, body in tables:
        for line in body.splitlines():
            if line.endswith(r" \\"):
                assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == len(tables)


def test_the_terminal_states_the_chance_level_below_the_table(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5, classes=8))
    assert "Chance level (top-1): 12.5 %" in rendered(tmp_path)


def test_the_csv_holds_every_metric_at_full_precision(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(1 / 3, n=300))
    write_leaderboard(tmp_path)
    csv = pd.read_csv(tmp_path / "leaderboard.csv")
    assert set(csv["metric"]) == {"clean_top1", "clean_top5", "clean_knn"}
    assert value(csv, "BYOL", "clean_top1")["value"] == 100 / 300
    assert "top5" not in (tmp_path / "leaderboard.md").read_text()  # not a headline metric


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5), suite_record("crop", 0.3))
    first = [path.read_bytes() for path in write_leaderboard(tmp_path)]
    assert [path.read_bytes() for path in write_leaderboard(tmp_path)] == first
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"records", "leaderboard.md", "leaderboard.csv", "leaderboard.tex"}


def test_no_records_is_an_error_that_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(CossError, match=r"no complete records.*coss-bench eval") as error:
        load_table(tmp_path / "nowhere")
    assert "\n" not in str(error.value)


def test_a_record_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    record = simulate.clean(0.5)
    record.metrics = [Metric("m", "M", "correct", ("elsewhere",))]
    simulate.save(tmp_path, record)
    with pytest.raises(CossError, match="contradicts itself"):
        load_table(tmp_path)


def test_outcomes_of_another_length_than_the_images_are_refused(tmp_path: Path) -> None:
    record = simulate.clean(0.5, n=20)
    record.cells[0].outcomes["correct"] = simulate.exactly(0.5, 19)
    simulate.save(tmp_path, record)
    with pytest.raises(CossError, match="19 outcomes correct"):
        load_table(tmp_path)


def test_the_command_prints_the_table_and_the_files_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate.save(tmp_path, simulate.clean(0.5))
    leaderboard(tmp_path)
    printed = capsys.readouterr().out
    assert "50.0" in printed
    for suffix in ("md", "csv", "tex"):
        assert (tmp_path / f"leaderboard.{suffix}").is_file()
    assert printed.count("wrote ") == 3


# ---- doubtful outcomes ----


def test_doubtful_outcomes_mark_their_suite_as_a_failed_check_does(tmp_path: Path) -> None:
    doubtful, fine = (suite_record("crop", 0.4, seed=s) for s in range(2))
    doubtful.cells[0].problem = "3 of 200 outputs are NaN or infinite"
    doubtful.cells.append(Cell("d", "g", 2.0, doubtful.cells[0].outcomes, problem="1 of 200"))
    simulate.save(
        tmp_path, simulate.clean(0.5), doubtful, fine, suite_record("crop", 0.2, method="co-byol")
    )
    table = load_table(tmp_path)
    markdown = to_markdown(table)
    assert len(re.findall(r"\d\**†", markdown)) == 1
    assert (
        "† BYOL · rf29_resnet18 ×0.25, crop: doubtful outcomes under c and 1 more condition "
        "(1 of 2 seeds): 3 of 200 outputs are NaN or infinite." in markdown
    )
    assert to_latex(table).count(r"$^\dagger$") == 2
    assert rendered(tmp_path).count("†") == 2
    csv = pd.read_csv(io.StringIO(to_csv(table)), keep_default_na=False)
    assert {line["suite"] for _, line in csv.iterrows() if line["problems"]} == {"crop"}


# ---- mCE ----


def corruptions(error: float, clean: float = 0.1, **options: Any) -> Record:
    """A record of the corruption suite with one error everywhere but on fog, where it is double."""
    cells = [Cell("clean", "", 0.0, {"correct": simulate.exactly(1 - clean, 200)})]
    for name in ALEXNET:
        share = 1 - error * (2 if name == "fog" else 1)
        column = {"correct": simulate.exactly(share, 200)}
        cells += [Cell(f"{name}@{s}", "any", s, column, kind=name) for s in range(1, 6)]
    metric = Metric("corruption_top1", "Corruption top-1", "correct", ("fog@1",))
    settings = {"config": {"backend": "fast", "constants": "imagenet-c"}}
    return simulate.record(cells, [metric], suite="corruption", **(settings | options))


def test_mce_against_a_measured_model_is_in_every_output(tmp_path: Path) -> None:
    simulate.save(tmp_path, corruptions(0.3), corruptions(0.15, 0.05, method="co-byol"))
    table = load_table(tmp_path, "byol-s0")
    mce, relative = (value(table, "CO-BYOL", f"corruption_{k}") for k in ("mce", "rmce"))
    assert mce["value"] == pytest.approx(0.5)
    assert relative["value"] == pytest.approx((14 * 0.10 / 0.2 + 0.25 / 0.5) / 15)
    assert (mce["interval"], mce["seeds"], mce["baseline"]) == ("bootstrap", 1, "byol-s0")
    assert mce["low"] < 0.5 < mce["high"]
    assert value(table, "BYOL", "corruption_mce")["value"] == pytest.approx(1)
    markdown = to_markdown(table)
    assert "| Corruption top-1 | mCE | Relative mCE |" in markdown
    assert "| **50.0** [" in markdown  # lower is better
    assert "corruption errors divided by those of byol-s0" in markdown
    heads = r"{\shortstack{Corruption\\top-1}} & {mCE} & {Relative mCE} \\"
    assert heads in to_latex(table)
    assert "corruption_rmce" in to_csv(table)
    assert "mCE" not in to_markdown(load_table(tmp_path))


def test_mce_of_seeds_has_students_interval_and_a_baseline_of_seeds_is_their_mean(
    tmp_path: Path,
) -> None:
    errors = (0.2, 0.25, 0.36)
    simulate.save(
        tmp_path,
        *(corruptions(e, seed=s) for s, e in enumerate(errors)),
        *(corruptions(e, method="co-byol", seed=s) for s, e in enumerate((0.3, 0.5))),
    )
    line = value(load_table(tmp_path, "co-byol rf29_resnet18 0.25"), "BYOL", "corruption_mce")
    mean, sd, ends = combine_seeds([e / 0.4 for e in errors])
    assert (line["value"], line["sd"], line["low"], line["high"]) == pytest.approx(
        (mean, sd, *ends)
    )


def test_alexnet_is_the_baseline_of_imagenet_and_other_data_sets_are_named(
    tmp_path: Path, bench: Callable[..., Any]
) -> None:
    simulate.save(
        tmp_path, corruptions(0.3, dataset="imagenet", classes=1000), corruptions(0.2, seed=1)
    )
    with pytest.warns(UserWarning, match="no mCE on parts") as warned:
        outcome = bench("leaderboard", "--results", tmp_path, "--baseline", "AlexNet")
    assert outcome.code == 0
    assert [str(w.message) for w in warned] == [
        "no mCE on parts, 32 px for BYOL · rf29_resnet18 ×0.25: AlexNet's errors are of "
        "ImageNet's 1,000 classes, not of parts's 10; take a model measured on parts as baseline"
    ]
    line = value(pd.read_csv(tmp_path / "leaderboard.csv"), "BYOL", "corruption_mce")
    expected = np.mean([(0.6 if name == "fog" else 0.3) / e for name, e in ALEXNET.items()])
    assert line["value"] == pytest.approx(expected)
    assert line["test_set"] == "imagenet, 32 px"
    assert "mCE" in outcome.out


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("alexnet", r"no mCE with baseline 'alexnet'; parts, 32 px: AlexNet's errors are of"),
        ("byol-s7", r"no model 'byol-s7' was measured; did you mean byol-s0"),
        ("bare", r"no mCE with baseline 'bare'; .*the baseline bare has no record of corruptions"),
    ],
)
def test_a_baseline_that_fits_nothing_is_explained_in_one_line(
    tmp_path: Path, baseline: str, message: str
) -> None:
    simulate.save(tmp_path, corruptions(0.3), simulate.clean(0.5, method="dino", name="bare"))
    with pytest.raises(CossError, match=message) as error:
        load_table(tmp_path, baseline)
    assert "\n" not in str(error.value)


def test_a_baseline_needs_records_of_corruptions(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5))
    with pytest.raises(CossError, match="no corruptions were measured"):
        load_table(tmp_path, "alexnet")
