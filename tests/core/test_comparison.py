"""`coss-bench compare`: hand-computed differences, only like against like, names that are found."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import simulate
from rich.console import Console
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from robustbench_coss.analysis.comparison import Comparison, compare
from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.selection import find_model
from robustbench_coss.errors import CossError
from robustbench_coss.records.record import Axis, Cell, Check, Metric, Record
from robustbench_coss.statistics.contrasts import difference
from robustbench_coss.tables.cells import to_markdown
from robustbench_coss.tables.comparison import layout
from robustbench_coss.tables.latex import to_latex
from robustbench_coss.tables.terminal import to_rich


def line_of(found: Comparison, metric: str) -> Any:
    (line,) = found.table[found.table["metric"] == metric].to_dict("records")
    return line


def terminal(found: Comparison) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(to_rich(layout(found)))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def dark(shares: dict[str, float], better: str = "higher", start: int = 0, **options) -> Record:  # type: ignore[no-untyped-def]
    """A third party's suite with a mean over its conditions."""
    column = {k: simulate.exactly(v, 200, start) for k, v in shares.items()}
    cells = [Cell("clean", "", 0.0, {"correct": simulate.exactly(0.9, 200)})]
    cells += [Cell(k, "g", i + 1.0, {"correct": c}) for i, (k, c) in enumerate(column.items())]
    metric = Metric("dark_top1", "Dark top-1", "correct", tuple(shares), better)
    options = {"suite": "dark", "axis": Axis("light")} | options
    return simulate.record(cells, [metric], **options)


# ---- differences ----


def test_single_runs_are_compared_image_by_image_by_mcnemar(tmp_path: Path) -> None:
    # Both right: images 0 to 119; A alone 120 to 139; B alone 140 to 144.
    a, b = simulate.clean(0.7), simulate.clean(0.5, method="dino")
    b.cells[0].outcomes["correct"] = (np.arange(200) < 120) | (abs(np.arange(200) - 142) < 3)
    simulate.save(tmp_path, a, b)
    line = line_of(compare(tmp_path, "byol-s0", "dino-s0"), "clean_top1")
    assert (line["a"], line["b"]) == (0.7, 0.625)
    assert line["difference"] == pytest.approx(15 / 200)
    assert line["p"] == pytest.approx(mcnemar([[120, 20], [5, 55]], exact=True).pvalue)
    assert (line["test"], line["n"], line["seeds_a"], line["seeds_b"]) == ("mcnemar", 200, 1, 1)
    half = 1.959964 * np.sqrt((26 / 202 - (15 / 202) ** 2) / 202)
    assert (line["low"], line["high"]) == pytest.approx((15 / 202 - half, 15 / 202 + half))


def test_averages_of_conditions_are_compared_by_permutation_over_images(tmp_path: Path) -> None:
    simulate.save(
        tmp_path,
        dark({"x": 0.8, "y": 0.6}),
        dark({"x": 0.7, "y": 0.5}, start=20, method="dino"),
    )
    line = line_of(compare(tmp_path, "byol-s0", "dino-s0"), "dark_top1")
    assert line["test"] == "permutation"
    assert line["difference"] == pytest.approx(0.1)
    a, b = (
        [simulate.exactly(s, 200, k) for s in t] for t, k in (((0.8, 0.6), 0), ((0.7, 0.5), 20))
    )
    values = np.mean(a, axis=0) - np.mean(b, axis=0)
    theirs = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=9_999, rng=1
    ).pvalue
    assert line["p"] == pytest.approx(theirs, abs=0.01)
    # Agresti and Min's formula: half an image more in each of four cells.
    centre = values.sum() / 202
    half = 1.959964 * np.sqrt((((values**2).sum() + 1) / 202 - centre**2) / 202)
    assert (line["low"], line["high"]) == pytest.approx((centre - half, centre + half))


def test_seeds_are_put_together_with_images(tmp_path: Path) -> None:
    shares = {"byol": (0.60, 0.66, 0.63), "dino": (0.7, 0.75)}
    columns = {
        method: [simulate.exactly(s, 200, 3 * k).astype(float) for k, s in enumerate(chosen)]
        for method, chosen in shares.items()
    }
    for method, chosen in shares.items():
        for k, share in enumerate(chosen):
            record = simulate.clean(share, method=method, seed=k)
            record.cells[0].outcomes["correct"] = simulate.exactly(share, 200, 3 * k)
            simulate.save(tmp_path, record)
    found = compare(tmp_path, "byol", "dino")
    both = [runs[:2] for runs in columns.values()]  # seed 2 of BYOL has no partner
    line, expected = line_of(found, "clean_top1"), difference(*both, True, [(0, 1), (0, 1)])
    assert (line["a"], line["b"]) == pytest.approx((0.63, 0.725))
    assert (line["low"], line["high"], line["p"]) == pytest.approx(
        (expected.low, expected.high, expected.p)
    )
    assert (line["test"], line["seeds_a"], line["seeds_b"]) == ("t", 3, 2)
    assert "A: BYOL · rf29_resnet18 ×0.25 (3 seeds), B: DINO" in layout(found)[0].caption
    single = compare(tmp_path, "byol", "dino-s1")
    assert single.remarks[0] == (
        "BYOL · rf29_resnet18 ×0.25 and dino-s1 have 3 and 1 seeds, of which fewer than two "
        "coincide: nothing says how much one run varies, so nothing is decided; intervals cover "
        "the draw of the test images alone."
    )
    top1 = line_of(single, "clean_top1")
    assert (top1["p"] < 0.01, top1["verdict"], top1["one_sided"]) == (True, "undecided", True)
    assert np.isnan(top1["p_holm"])


def test_b_against_a_mirrors_a_against_b(tmp_path: Path) -> None:
    simulate.all_suites(tmp_path, seeds=1, n=100)
    there, back = (compare(tmp_path, *pair) for pair in (("byol", "co-byol"), ("co-byol", "byol")))
    assert there.table["metric"].tolist() == back.table["metric"].tolist()
    np.testing.assert_allclose(there.table["difference"], -back.table["difference"])
    np.testing.assert_allclose(there.table["p_holm"], back.table["p_holm"])
    swapped = back.table["verdict"].replace({"A better": "B better", "B better": "A better"})
    swapped = swapped.replace({"A higher": "B higher", "B higher": "A higher"})
    assert there.table["verdict"].tolist() == swapped.tolist()


def test_holm_is_over_everything_shown_and_decides(tmp_path: Path) -> None:
    simulate.all_suites(tmp_path, seeds=1, n=100)
    found = compare(tmp_path, "byol", "co-byol", cells=True)
    table = found.table
    assert len(table) > 100
    np.testing.assert_allclose(table["p_holm"], multipletests(table["p"], method="holm")[1])
    decided = table["verdict"] != "undecided"
    assert decided.tolist() == (table["p_holm"] <= 0.05).tolist()
    assert decided.any()
    assert not decided.all()
    assert f"tests with a corrected p, {len(table)} here" in terminal(found)


@pytest.mark.parametrize(
    ("better", "verdict"), [("higher", "A better"), ("lower", "B better"), ("", "A higher")]
)
def test_the_verdict_knows_what_is_better(tmp_path: Path, better: str, verdict: str) -> None:
    simulate.save(
        tmp_path, dark({"x": 0.9}, better), dark({"x": 0.2}, better, start=9, method="dino")
    )
    assert compare(tmp_path, "byol", "dino").table["verdict"].tolist() == [verdict]


def test_equal_models_are_undecided_and_an_undefined_number_is_no_test(tmp_path: Path) -> None:
    one, other = dark({"x": 0.9}), dark({"x": 0.9}, method="dino")
    for r, column in ((one, np.full(200, np.nan)), (other, np.zeros(200))):
        r.cells[1].outcomes["cosine"] = column
        r.metrics.append(Metric("cosine", "Cosine", "cosine", ("x",), percent=False))
    simulate.save(tmp_path, one, other)
    found = compare(tmp_path, "byol", "dino")
    assert found.table["verdict"].tolist() == ["undecided", "–"]
    assert found.table["p_holm"].tolist()[0] == 1.0
    assert "tests with a corrected p, 1 here" in terminal(found)
    assert "nan" not in terminal(found)


def test_cells_compare_every_condition_but_the_reference_and_none_twice(tmp_path: Path) -> None:
    x, y = {"x": 0.8, "y": 0.6}, {"x": 0.7, "y": 0.5}
    simulate.save(tmp_path, dark(x), dark(y, start=20, method="dino"))
    found = compare(tmp_path, "byol", "dino", cells=True)
    assert found.table["metric"].tolist() == ["dark_top1", "x", "y"]
    assert found.table["test"].tolist() == ["permutation", "mcnemar", "mcnemar"]
    for r in (one := dark({"x": 0.8}), other := dark({"x": 0.7}, method="dino")):
        r.dataset["fingerprint"] = "f" * 64
    simulate.save(tmp_path, one, other)  # a metric of one condition is that condition
    found = compare(tmp_path, "byol", "dino", cells=True)
    assert found.table["metric"].tolist() == ["dark_top1"]


# ---- what cannot be compared ----


def test_what_was_measured_unlike_is_named_with_the_reason(tmp_path: Path) -> None:
    def of(method: str, **options: Any) -> list[Record]:
        simulate_dark = dark({"x": 0.5}, method=method, **options)
        return [simulate.clean(0.5, method=method), simulate_dark]

    other_set = simulate.clean(0.5, method="dino", dataset="mnist")
    crop = dark({"x": 0.5}, suite="crop", method="byol")
    more = dark({"x": 0.5, "y": 0.4}, suite="occlusion", method="dino")
    fewer = dark({"x": 0.5}, suite="occlusion", method="byol")
    seeds = [dark({"x": 0.5}, suite="redundancy", method=m) for m in ("byol", "dino")]
    seeds[1].seed = 3
    images = [dark({"x": 0.5}, suite="adversarial", method=m) for m in ("byol", "dino")]
    images[1].index = images[1].index + 1
    simulate.save(
        tmp_path,
        *of("byol", config={"backend": "fast"}),
        *of("dino", config={"backend": "reference"}),
        *(other_set, crop, more, fewer, *seeds, *images),
    )
    found = compare(tmp_path, "byol-s0", "dino-s0")
    assert set(found.table["suite"]) == {"clean"}
    assert set(found.refused) == {
        "mnist, 32 px: only dino-s0 was measured on it",
        "dark on parts, 32 px: different protocols, byol-s0 backend=fast, dino-s0 "
        "backend=reference",
        "crop on parts, 32 px: only byol-s0 was measured",
        "occlusion on parts, 32 px, Dark top-1: not averaged over the same conditions for both",
        "redundancy on parts, 32 px: random draws of different seeds, 0 and 3; measure both with "
        "the same --seed",
        "adversarial on parts, 32 px: the test images are not the same; measure both with the "
        "same --limit",
    }
    assert "Not compared: crop on parts, 32 px: only byol-s0 was measured." in terminal(found)


def test_other_numbers_of_images_are_not_compared(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5), simulate.clean(0.6, n=100, method="dino"))
    with pytest.raises(
        CossError, match=r"nothing to compare: clean on parts.* byol-s0 n=200, dino-s0 n=100"
    ):
        compare(tmp_path, "byol-s0", "dino-s0")


def test_probes_trained_differently_are_remarked(tmp_path: Path) -> None:
    other = simulate.clean(0.6, method="dino")
    other.model["probe"]["settings"] = {"kind": "simclr"}
    simulate.save(tmp_path, simulate.clean(0.5), other)
    remark = compare(tmp_path, "byol", "dino").remarks[0]
    assert "probes were trained with different settings" in remark


def test_doubtful_records_are_marked(tmp_path: Path) -> None:
    failed = dark({"x": 0.7}, method="dino", checks=[Check("sane", False, "it is not")])
    failed.cells[1].problem = "1 of 200 outputs is NaN"
    simulate.save(tmp_path, dark({"x": 0.5}), failed)
    text = to_markdown("compared", layout(compare(tmp_path, "byol", "dino")))
    assert "| 50.0 | 70.0† |" in text
    assert "dark: failed sanity check sane: it is not; doubtful outcomes under x: 1 of 200" in text


# ---- names ----


@pytest.fixture
def several(tmp_path: Path) -> Path:
    simulate.save(
        tmp_path,
        simulate.clean(0.5),
        simulate.clean(0.5, seed=1),
        simulate.clean(0.6, method="dino", width=0.5),
        simulate.clean(0.6, method="dino", name="wide", width=1.0),
    )
    return tmp_path


def test_a_model_is_found_by_label_run_folder_or_hash(several: Path) -> None:
    measurements = load_measurements(several)
    run = next(r for m in measurements for r in m.records if r.model["name"] == "byol-s1")
    folder = f"byol-s1-{run.model['checkpoint_sha256'][:8]}"
    names = ("byol-s1", folder, f"results/records/{folder}/", run.model["checkpoint_sha256"][:10])
    for name in names:
        chosen = find_model(measurements, name)
        assert (chosen.label, len(chosen.measurements)) == ("byol-s1", 1)
        assert chosen.measurements[0].records == (run,)
    for name in ("BYOL · rf29_resnet18 ×0.25", "byol rf29_resnet18 0.25", "BYOL"):
        chosen = find_model(measurements, name)
        assert chosen.label == "BYOL · rf29_resnet18 ×0.25"
        assert len(chosen.measurements[0].records) == 2


def test_ambiguous_unknown_and_equal_names_are_refused(several: Path) -> None:
    measurements = load_measurements(several)
    with pytest.raises(CossError, match=r"'dino' names several models: DINO · rf29_resnet18, DINO"):
        find_model(measurements, "dino")
    with pytest.raises(CossError, match=r"no model 'byol-s3' was measured; did you mean byol-s"):
        find_model(measurements, "byol-s3")
    with pytest.raises(CossError, match=r"no model 'zzz' was measured; known: BYOL · rf29"):
        find_model(measurements, "zzz")
    with pytest.raises(CossError, match="both names stand for BYOL"):
        compare(several, "BYOL", "byol rf29_resnet18 ×0.25")
    with pytest.raises(CossError, match=r"byol-s1 is one of the runs of BYOL · rf29"):
        compare(several, "byol-s1", "BYOL")
    with pytest.raises(CossError, match="no records of suite 'crop'; measured: clean"):
        compare(several, "byol-s0", "byol-s1", ["crop"])


# ---- the command ----


def test_the_command_prints_and_writes_every_format(
    tmp_path: Path, bench: Callable[..., Any]
) -> None:
    simulate.all_suites(tmp_path, seeds=1, n=60)
    simulate.save(tmp_path, dark({"x": 0.5}))
    both = ("compare", "byol", "co-byol", "--results", tmp_path)
    shown = bench(*both, "--suite", "clean,crop")
    assert shown.code == 0, shown.err
    assert "kNN" in shown.out
    assert "Noise top-1" not in shown.out
    for ending, mark in (
        ("md", "| Metric | A | B |"),
        ("tex", r"\begin{tabular}{@{}lS[table-format"),
    ):
        printed = bench(*both, "--format", ending)
        assert mark in printed.out
        assert bench(*both, "--out", tmp_path / f"c.{ending}").out.startswith("wrote ")
        assert (tmp_path / f"c.{ending}").read_text() == printed.out
    written = bench(*both, "--out", tmp_path / "c.csv")
    assert (
        written.err == "not compared: dark on parts, 32 px: only BYOL · rf29_resnet18 ×0.25 "
        "was measured\n"
    )
    lacking = ("kappa", "kappa_low", "kappa_high", "agreement", "agreement_expected")
    empty = {name: [""] for name in lacking}  # of averages that are not of right and wrong
    table = pd.read_csv(tmp_path / "c.csv", keep_default_na=False, na_values=empty)
    pd.testing.assert_frame_equal(
        table,
        compare(tmp_path, "byol", "co-byol").table,
        check_dtype=False,
    )
    wrong = bench(*both, "--out", tmp_path / "c.docx")
    assert (wrong.code, wrong.out) == (1, "")
    assert "end it in .md, .csv or .tex" in wrong.err


def test_a_hostile_name_is_shown_and_not_executed(tmp_path: Path) -> None:
    nasty = simulate.clean(0.5, method="<script>a|b_5% & $x$")
    nasty.model["name"] = "nasty"
    simulate.save(tmp_path, nasty, simulate.clean(0.6))
    found = compare(tmp_path, "nasty", "byol")
    found = Comparison(nasty.model["method"], found.b, found.table, found.refused, found.remarks)
    markdown, latex = to_markdown(found.a, layout(found)), to_latex("compare", layout(found))
    assert "<script>" not in markdown
    assert "&lt;script&gt;" in markdown
    assert re.search(r"textless\{\}script\\textgreater\{\}a\\textbar\{\}b\\_5\\% \\& \\\$x", latex)
