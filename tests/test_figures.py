"""Figures show hand-computed means, embed their fonts and come out the same every time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simulate
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from robustbench_coss import figures
from robustbench_coss.cli.report import plot
from robustbench_coss.configurations import load_measurements
from robustbench_coss.errors import CossError
from robustbench_coss.figures import (
    COLOURS,
    COLUMN_INCHES,
    DASHES,
    MARKERS,
    MOST_MODELS,
    curve_data,
    legend_labels,
    write_figures,
)
from robustbench_coss.records import Axis, Cell, Metric

BYOL = "BYOL · rf29_resnet18 ×0.25"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all figures of two methods by two seeds."""
    results = tmp_path_factory.mktemp("results")
    simulate.all_suites(results, seeds=2, n=60)
    write_figures(results)
    return results / "figures" / "parts-32px"


def corruption(shares: dict[str, float], seed: int = 0, n: int = 100) -> simulate.Record:
    """Two noise corruptions at severity 1, and the reference, with known accuracies."""
    cells = [
        Cell(name, "" if name == "clean" else "noise", float(name != "clean"), {
            "correct": simulate.exactly(share, n, start=7 * i)
        })
        for i, (name, share) in enumerate(shares.items())
    ]  # fmt: skip
    axis = Axis("severity")
    return simulate.record(cells, [], suite="corruption", axis=axis, seed=seed)


def test_every_suite_has_its_figure_as_pdf_png_and_csv(drawn: Path) -> None:
    names = {
        "summary",
        "corruption",
        "occlusion",
        "adversarial",
        "crop",
        "redundancy",
        "redundancy-metrics",
    }
    assert {path.name for path in drawn.iterdir()} == {
        f"{name}.{suffix}" for name in names for suffix in ("pdf", "png", "csv")
    }


def test_figures_are_one_column_wide(drawn: Path) -> None:
    for path in drawn.glob("*.png"):
        with Image.open(path) as image:
            assert image.width == round(COLUMN_INCHES * 300)
            assert "Software" not in image.info


def test_pdfs_embed_truetype_fonts_and_carry_no_date(drawn: Path) -> None:
    for path in drawn.glob("*.pdf"):
        raw = path.read_bytes()
        streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", raw, re.S)
        content = raw + b"".join(_inflated(stream) for stream in streams)
        assert b"/FontFile2" in content  # TrueType, embedded
        assert b"/Type3" not in content
        assert b"CreationDate" not in content


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_conditions_of_one_group_and_level_are_averaged_with_equal_weight(tmp_path: Path) -> None:
    simulate.save(tmp_path, corruption({"clean": 0.9, "gaussian@1": 0.6, "shot@1": 0.3}))
    write_figures(tmp_path)
    csv = pd.read_csv(
        tmp_path / "figures" / "parts-32px" / "corruption.csv", keep_default_na=False
    ).set_index("group")
    assert csv.loc["noise", "value"] == pytest.approx(0.45)
    assert csv.loc["noise", "conditions"] == 2
    assert csv.loc["noise", "interval"] == "bootstrap"
    assert csv.loc["", "value"] == 0.9
    wilson = stats.binomtest(90, 100).proportion_ci(method="wilson")
    assert (csv.loc["", "low"], csv.loc["", "high"]) == pytest.approx((wilson.low, wilson.high))


def test_points_are_means_over_seeds_with_t_intervals(tmp_path: Path) -> None:
    for seed, share in enumerate((0.4, 0.5, 0.6)):
        simulate.save(tmp_path, corruption({"clean": 0.9, "gaussian@1": share}, seed))
    (point,) = [
        line for _, line in curve_data(load_measurements(tmp_path)).iterrows() if line["group"]
    ]
    half = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert point["value"] == pytest.approx(0.5)
    assert point["sd"] == pytest.approx(0.1)
    assert (point["low"], point["high"]) == pytest.approx((0.5 - half, 0.5 + half))
    assert (point["seeds"], point["interval"], point["model"]) == (3, "t", BYOL)


def test_sanity_conditions_are_not_drawn_and_the_noise_control_has_no_panel() -> None:
    look = figures.LOOKS["adversarial"]
    groups = ["", "fgsm", "pgd-linf", "noise-linf", "pgd-l2", "sanity", "theirs"]
    assert figures._panel_order(groups, look) == ["fgsm", "pgd-linf", "pgd-l2", "theirs"]


def test_a_control_without_the_panel_it_belongs_to_gets_its_own() -> None:
    look = figures.LOOKS["adversarial"]
    assert figures._panel_order(["", "noise-linf"], look) == ["noise-linf"]


def test_the_reference_starts_every_curve() -> None:
    data = pd.DataFrame(
        {"group": ["", "a", "a", "b"], "level": [0.0, 2.0, 1.0, 1.0], "value": [9, 7, 8, 5]}
    )
    assert figures._with_reference(data, "a")["value"].tolist() == [9, 8, 7]


def test_an_unknown_suite_is_drawn_from_its_own_groups_and_axis(tmp_path: Path) -> None:
    cells = [
        Cell(f"rain@{k}", "rain_$heavy$", k, {"margin": np.linspace(0, k, 30)}) for k in (1, 2, 3)
    ]
    cells.append(Cell("size", "", 0, {"norm": np.ones(30)}))
    metrics = [
        Metric("dry", "Margin", "margin", ("rain@1",), percent=False),
        Metric("norm", "Norm", "norm", ("size",), percent=False),
    ]
    axis = Axis("rain (mm)", "margin", "margin", percent=False)
    simulate.save(tmp_path, simulate.record(cells, metrics, suite="theirs", axis=axis))
    write_figures(tmp_path)
    folder = tmp_path / "figures" / "parts-32px"
    data = pd.read_csv(folder / "theirs.csv")
    assert data["value"].tolist() == pytest.approx([0.5, 1.0, 1.5])  # mean of 0 … k
    assert pd.read_csv(folder / "theirs-metrics.csv")["metric"].tolist() == ["norm"]


def test_a_suite_without_curves_has_none(tmp_path: Path) -> None:
    simulate.save(tmp_path, simulate.clean(0.5))
    names = {path.name for path in write_figures(tmp_path)}
    assert names == {"summary.pdf", "summary.png", "summary.csv"}


def test_hostile_names_do_not_break_a_figure(tmp_path: Path) -> None:
    for method in ("$\\frac{", "_hidden", "<script>alert(1)</script>", "a|b_50%"):
        simulate.save(tmp_path, simulate.clean(0.5, method=method))
    assert len(write_figures(tmp_path)) == 3


def test_of_many_models_the_best_by_clean_accuracy_are_drawn_and_the_legend_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    save = figures._save

    def spy(stem: Path, data: pd.DataFrame, figure: Figure) -> list[Path]:
        titles.extend(legend.get_title().get_text() for legend in figure.legends)
        return save(stem, data, figure)

    monkeypatch.setattr(figures, "_save", spy)
    for k in range(MOST_MODELS + 2):
        simulate.save(tmp_path, simulate.clean(0.1 + 0.05 * k, method=f"m{k}"))
    write_figures(tmp_path)
    folder = tmp_path / "figures" / "parts-32px"
    models = set(pd.read_csv(folder / "summary.csv")["model"].str.partition(" ")[0])
    assert models == {f"m{k}" for k in range(2, MOST_MODELS + 2)}
    assert len(titles) == 1
    assert titles[0].endswith("the 8 best of 10 models by clean top-1")


def test_models_differ_in_colour_marker_and_dash() -> None:
    for kind in (COLOURS, MARKERS, DASHES):
        assert len(set(kind)) == len(kind) >= MOST_MODELS


def test_what_all_models_share_moves_from_the_labels_to_the_legend_title() -> None:
    assert legend_labels(["A · net ×2", "B · net ×2"]) == (["A", "B"], "net ×2")
    assert legend_labels(["A · net", "A · other"]) == (["A · net", "A · other"], "")
    assert legend_labels(["A · net"]) == (["A · net"], "")
    assert legend_labels(["one", "two"]) == (["one", "two"], "")


def test_tick_labels_keep_their_distance() -> None:
    levels = [0.05, 0.08, 0.14, 0.25, 0.35, 0.5, 0.75, 1.0]
    kept = figures._spread(levels, "log")
    assert kept[0] == 1.0
    assert min(np.diff(np.log(kept[::-1]))) > 0.12 * np.log(20)


def test_other_processes_draw_the_same_bytes(tmp_path: Path) -> None:
    cells = [Cell(f"c{k}", "noise", k, {"correct": simulate.exactly(k / 9, 90)}) for k in range(6)]
    for method in ("byol", "co-byol"):
        record = simulate.record(cells, [], suite="corruption", method=method)
        simulate.save(tmp_path, record)
    here = {path: path.read_bytes() for path in write_figures(tmp_path)}
    assert len(here) == 3
    code = "import sys, pathlib; from robustbench_coss.figures import write_figures as w"
    subprocess.run(
        [sys.executable, "-c", f"{code}; w(pathlib.Path(sys.argv[1]))", str(tmp_path)],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        check=True,
    )
    assert {path: path.read_bytes() for path in here} == here


def test_drawing_leaves_the_style_of_other_figures_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    simulate.save(tmp_path, simulate.clean(0.5))
    write_figures(tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_no_records_is_an_error_that_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="coss-bench eval"):
        write_figures(tmp_path)


def test_the_command_prints_the_files_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate.save(tmp_path, simulate.clean(0.5))
    plot(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {tmp_path}/figures/parts-32px/summary.{suffix}" for suffix in ("pdf", "png", "csv")
    ]
