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
from helpers import simulate
from helpers.bench import Bench
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from robustbench_coss.analysis import curves as data_of
from robustbench_coss.analysis.configurations import SeedGroup, load_measurements
from robustbench_coss.analysis.curves import curve_data
from robustbench_coss.analysis.labels import Configuration, short_labels
from robustbench_coss.cli.plot import plot
from robustbench_coss.errors import CossError
from robustbench_coss.figures import curves, looks, training, write
from robustbench_coss.figures.cka import cka_data, draw_cka
from robustbench_coss.figures.looks import COLOURS, DASHES, MARKERS, MOST_MODELS
from robustbench_coss.figures.styles import STYLES, panels_across, style, styled
from robustbench_coss.figures.write import write_figures
from robustbench_coss.records.about import about_suite
from robustbench_coss.records.record import Axis, Cell, Metric

BYOL = "BYOL · rf29_resnet18 ×0.25"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of all suites, two methods by two seeds."""
    folder = tmp_path_factory.mktemp("results")
    simulate.all_suites(folder, seeds=2, n=60)
    return folder


@pytest.fixture(scope="module")
def drawn(results: Path) -> Path:
    """The folder of all figures of them."""
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
        "crop-agrees",
        "crop-cosine",
        "redundancy",
        "redundancy-metrics",
    }
    assert {path.name for path in drawn.iterdir()} == {
        f"{name}.{suffix}" for name in names for suffix in ("pdf", "png", "csv")
    }


def test_figures_are_one_column_wide(drawn: Path) -> None:
    for path in drawn.glob("*.png"):
        with Image.open(path) as image:
            assert image.width == round(3.4 * 300)
            assert "Software" not in image.info


def test_pdfs_embed_truetype_fonts_and_carry_no_date(drawn: Path) -> None:
    for path in drawn.glob("*.pdf"):
        raw = path.read_bytes()
        streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", raw, re.S)
        content = raw + b"".join(_inflated(stream) for stream in streams)
        assert b"/FontFile2" in content  # TrueType, embedded
        assert b"/Type3" not in content
        assert b"CreationDate" not in content


def sizes(folder: Path) -> set[float]:
    """Widths of the PDFs in a folder in inches: the pages' boxes, in points."""
    boxes = [
        re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", path.read_bytes())
        for path in folder.rglob("*.pdf")
    ]
    return {round(float(box[1]) / 72, 3) for box in boxes if box is not None}


@pytest.mark.parametrize(
    ("options", "inches"),
    [
        (("--venue", "cvpr"), 3.25),
        (("--venue", "ICML", "--width", "full"), 6.75),
        (("--venue", "neurips", "--width", "full"), 5.5),  # 33 picas of a sixth of an inch
        (("--style", "slides"), 12),
    ],
)
def test_figures_are_as_wide_as_the_page_they_are_for(
    bench: Bench, results: Path, tmp_path: Path, options: tuple[str, ...], inches: float
) -> None:
    chosen = ("--figure", "corruption,summary", "--out", tmp_path)
    outcome = bench("plot", "--results", results, *chosen, *options)
    assert outcome.code == 0, outcome.err
    assert sizes(tmp_path) == {inches}
    assert {path.stem for path in tmp_path.rglob("*.*")} == {"corruption", "summary"}
    for path in tmp_path.rglob("*.pdf"):
        assert b"/Type3" not in path.read_bytes()


def test_more_panels_stand_side_by_side_on_wider_figures() -> None:
    for name, inches, across in (("paper", 3.25, 2), ("paper", 6.875, 4), ("slides", None, 3)):
        with styled(name, inches):
            assert panels_across() == across


@pytest.mark.parametrize("name", STYLES)
def test_styles_embed_truetype_and_state_what_the_layout_needs(name: str) -> None:
    settings = style(name)
    assert settings["pdf.fonttype"] == 42
    assert {"figure.figsize", "font.size", "legend.fontsize"} <= set(settings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--figure", "corruptoin"), "no figure 'corruptoin'; did you mean corruption"),
        (("--venue", "nature"), "unknown venue 'nature'; known: cvpr"),
        (("--width", "full"), "--width is of the pages of a --venue"),
        (("--venue", "cvpr", "--style", "slides"), "--venue is for the pages of papers"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(
    bench: Bench, results: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    outcome = bench("plot", "--results", results, "--out", tmp_path / "out", *options)
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


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
    about = about_suite("adversarial")
    groups = ["", "fgsm", "pgd-linf", "noise-linf", "pgd-l2", "sanity", "theirs"]
    assert looks.panel_order(groups, about) == ["fgsm", "pgd-linf", "pgd-l2", "theirs"]


def test_a_control_without_the_panel_it_belongs_to_gets_its_own() -> None:
    about = about_suite("adversarial")
    assert looks.panel_order(["", "noise-linf"], about) == ["noise-linf"]


def test_the_reference_starts_every_curve() -> None:
    data = pd.DataFrame(
        {"group": ["", "a", "a", "b"], "level": [0.0, 2.0, 1.0, 1.0], "value": [9, 7, 8, 5]}
    )
    assert looks.with_reference(data, "a")["value"].tolist() == [9, 8, 7]


def test_panels_of_earlier_stages_are_named_after_stage_and_kind(tmp_path: Path) -> None:
    right = {"correct": simulate.exactly(0.5, 20)}
    cells = [
        Cell("clean", "", 0.0, right),
        *(
            Cell(f"{stage} {kind}@1", f"{stage} {kind}", 1.0, right, stage=stage, kind=kind)
            for stage, kind in (("stage2", "random-zero"), ("stage2", "noise"), ("my", "odd $1"))
        ),
        *(Cell(f"{kind}@1", kind, 1.0, right) for kind in ("noise", "random-zero")),
    ]
    simulate.save(tmp_path, simulate.record(cells, [], suite="occlusion"))
    mine = load_measurements(tmp_path)
    styles = looks.panel_styles(mine, Axis("the suite's own"), [cell.group for cell in cells])
    assert [(style.title, style.x_label) for style in styles] == [
        ("Random, zeroed", "masked share"),
        ("Feature noise", "noise σ (channel s.d.)"),
        ("stage2: Random, zeroed", "masked share"),
        ("stage2: Feature noise", "noise σ (channel s.d.)"),
        ("my odd $1", "masked share"),
    ]
    assert curves.plain("theirs $1") == r"theirs \$1"


def test_crops_are_drawn_by_agreement_and_cosine_too(drawn: Path) -> None:
    records = [m for m in load_measurements(drawn.parents[1]) if m.suite == "crop"]
    for column in ("agrees", "cosine"):
        data = pd.read_csv(drawn / f"crop-{column}.csv")
        for m in records:
            mine = data[(data["model"] == m.label) & (data["group"] == "centre")]
            expected = [
                np.mean([r.column(f"centre@{level}", column) for r in m.records])
                for level in mine["level"]
            ]
            assert len(mine) == 7
            assert mine["value"].tolist() == pytest.approx(expected)


def pooled(hits: dict[float, int], seed: int = 0, n: int = 100) -> simulate.Record:
    """A redundancy record of known numbers of right answers by share pooled."""
    cells = [
        Cell(f"k@{share}", "" if share == 1 else "pooled", share, {
            "correct": simulate.exactly(count / n, n)
        })
        for share, count in hits.items()
    ]  # fmt: skip
    axis = Axis("share of local representations pooled")
    return simulate.record(cells, [], suite="redundancy", axis=axis, seed=seed)


def test_the_smallest_share_that_keeps_95_percent_is_beside_the_curve(tmp_path: Path) -> None:
    simulate.save(tmp_path, pooled({1.0: 80, 0.5: 79, 0.25: 78, 0.125: 40}))
    write_figures(tmp_path)
    data = pd.read_csv(tmp_path / "figures" / "parts-32px" / "redundancy.csv")
    (share,) = [line for _, line in data.iterrows() if line["group"] == "95 % kept: pooled"]
    assert (share["value"], share["level"], share["interval"]) == (0.25, 0.95, "bootstrap")
    assert share["low"] <= 0.25 <= share["high"] < 1
    assert len(data) == 5


def test_the_share_that_keeps_95_percent_is_marked_and_written_out(tmp_path: Path) -> None:
    for seed, half in enumerate((79, 79, 40)):
        simulate.save(tmp_path, pooled({1.0: 80, 0.5: half, 0.25: 20}, seed))
    (m,) = load_measurements(tmp_path)
    data, shares = data_of.curve_data([m]), data_of.share_data([m])
    pens = {m.label: looks.LineStyle("a", COLOURS[0], MARKERS[0], DASHES[0])}
    axis = m.records[0].axis
    styles = looks.panel_styles([m], axis, data["group"])
    figure = curves.draw_curves(data, shares, axis, styles, m.about, m.test_set, pens, "")
    curve, strip = figure.axes
    assert strip.get_xlim() == curve.get_xlim()
    assert [label.get_text() for label in strip.get_yticklabels()] == ["66.7 %"]
    interval, mark = strip.lines
    assert mark.get_xdata()[0] == pytest.approx((0.5 + 0.5 + 1) / 3)
    # Its t interval reaches below zero and over one; it is drawn as far as the axis goes.
    assert sorted(interval.get_xdata()) == pytest.approx([min(curve.get_xlim()), 1.0])
    threshold = [line.get_ydata()[0] for line in curve.lines if line.get_linestyle() == "--"]
    assert pytest.approx(0.95 * 80) in threshold


def with_cka(results: Path, matrices: list[list[list[float]]], **extra: object) -> list[SeedGroup]:
    """Redundancy measurements of one model, one seed per matrix over two positions."""
    for seed in range(len(matrices)):
        simulate.save(results, pooled({1.0: 80, 0.5: 60}, seed))
    measurements = load_measurements(results)
    for record, matrix in zip(measurements[0].records, matrices, strict=True):
        record.extra = {"cka": matrix, "cka_positions": [[0, 1], [2, 1]]} | extra
    return measurements


def test_cka_is_averaged_over_seeds_position_by_position(tmp_path: Path) -> None:
    matrices = [[[1, 0.2], [0.2, 1]], [[1, 0.6], [0.6, 1]]]
    data = cka_data(with_cka(tmp_path, matrices))
    assert data["value"].tolist() == pytest.approx([1, 0.4, 0.4, 1])
    assert data["sd"].tolist() == pytest.approx([0, 0.4 / np.sqrt(2), 0.4 / np.sqrt(2), 0])
    places = data[["row_a", "column_a", "row_b", "column_b"]].to_numpy().tolist()
    assert places == [[0, 1, 0, 1], [0, 1, 2, 1], [2, 1, 0, 1], [2, 1, 2, 1]]
    assert set(data["seeds"]) == {2}


def test_the_cka_heat_map_shows_the_matrix_and_the_mean_of_its_pairs(tmp_path: Path) -> None:
    data = cka_data(with_cka(tmp_path, [[[1, 0.25], [0.25, 1]]]))
    figure = draw_cka(data, {BYOL: "BYOL", "absent": "absent"})
    panel = figure.axes[0]
    assert panel.images[0].get_array().tolist() == [[1, 0.25], [0.25, 1]]
    assert panel.get_title() == "BYOL\nmean of pairs 0.25"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "2"]


def test_long_labels_above_cka_panels_do_not_meet(tmp_path: Path) -> None:
    one = cka_data(with_cka(tmp_path, [[[1, 0.25], [0.25, 1]]]))
    labels = ["CO-MoCo v3 · rf29_resnet18 ×0.125", "supervised · rf29_resnet18 ×0.125"]
    data = pd.concat([one.assign(model=label) for label in labels])
    with styled():
        figure = draw_cka(data, {label: label for label in labels})
        figure.canvas.draw()
        left, right = (panel.title.get_window_extent() for panel in figure.axes[:2])
    assert left.x0 >= 0
    assert left.x1 < right.x0
    assert right.x1 <= figure.bbox.x1


def test_records_without_cka_have_no_heat_map_and_damaged_ones_are_refused(
    tmp_path: Path,
) -> None:
    matrix = [[1, 0.5], [0.5, 1]]
    measurements = with_cka(tmp_path, [matrix])
    assert len(cka_data(measurements)) == 4
    measurements[0].records[0].extra = {}
    assert cka_data(measurements).empty
    for damaged in ([[1, 0.5]], [[1, "x"], [0, 1]], [[1, float("nan")], [0, 1]], None):
        measurements[0].records[0].extra = {"cka": damaged, "cka_positions": [[0, 1], [2, 1]]}
        with pytest.raises(CossError, match="no CKA that can be read"):
            cka_data(measurements)
    measurements[0].records[0].extra = {"cka": matrix}
    with pytest.raises(CossError, match="no CKA that can be read"):
        cka_data(measurements)


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
    save = write._save

    def spy(stem: Path, data: pd.DataFrame, figure: Figure) -> list[Path]:
        titles.extend(legend.get_title().get_text() for legend in figure.legends)
        return save(stem, data, figure)

    monkeypatch.setattr(write, "_save", spy)
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
    def labels(*given: tuple[str, str]) -> tuple[list[str], str]:
        return short_labels([Configuration("", name, arch, 2.0) for name, arch in given])

    assert labels(("A", "net"), ("B", "net")) == (["A", "B"], "net ×2")
    assert labels(("A", "net"), ("A", "other")) == (["A · net ×2", "A · other ×2"], "")
    assert labels(("A", "net")) == (["A · net ×2"], "")
    runs = [Configuration("", "one · a name"), Configuration("", "two · a name")]
    assert short_labels(runs) == (["one · a name", "two · a name"], "")
    control = Configuration("", "control:pixels", control="pixels")
    models = [Configuration("", name, "net") for name in "AB"]
    assert short_labels([*models, control]) == (["A", "B", "control:pixels"], "net")


def test_tick_labels_keep_their_distance() -> None:
    levels = [0.05, 0.08, 0.14, 0.25, 0.35, 0.5, 0.75, 1.0]
    kept = looks.spread_ticks(levels, "log")
    assert kept[0] == 1.0
    assert min(np.diff(np.log(kept[::-1]))) > 0.12 * np.log(20)


def test_other_processes_draw_the_same_bytes(tmp_path: Path) -> None:
    cells = [Cell(f"c{k}", "noise", k, {"correct": simulate.exactly(k / 9, 90)}) for k in range(6)]
    for method in ("byol", "co-byol"):
        record = simulate.record(cells, [], suite="corruption", method=method)
        simulate.save(tmp_path, record)
    here = {path: path.read_bytes() for path in write_figures(tmp_path)}
    assert len(here) == 3
    code = "import sys, pathlib; from robustbench_coss.figures.write import write_figures as w"
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


# ---- along training settings ----

OPTIONS = {
    "byol": {"ema": 0.95, "dim": 128},
    "co-byol": {"ema": 0.95, "dim": 128, "w_s": 0.3, "grid": None},
}


def trained(
    results: Path,
    share: float,
    method: str = "co-byol",
    seed: int = 0,
    arch: str = "rf29_resnet18",
    min_crop: float = 0.5,
    n: int = 100,
    **options: object,
) -> None:
    """A clean record of a model pretrained with some settings."""
    training = {"views": {"min_crop": min_crop}, "options": OPTIONS[method] | options}
    name = f"{method}-{arch}-{min_crop}-{options}-{seed}"
    record = simulate.clean(share, n=n, method=method, seed=seed, name=name, training=training)
    record.model |= {"arch": arch, "parameters": len(arch)}
    simulate.save(results, record)


def training_figures(results: Path) -> dict[str, pd.DataFrame]:
    """The numbers of every figure along training settings, by the figure's name."""
    measurements = load_measurements(results)
    made = training.training_figures(measurements[0].test_set, measurements)
    return {drawing.name: drawing.data for drawing in made}


def test_training_crops_give_one_line_per_method_with_seeds_put_together(tmp_path: Path) -> None:
    shares = {0.08: (0.4, 0.5, 0.6), 0.5: (0.7, 0.7, 0.7), 1.0: (0.2, 0.3, 0.4)}
    for crop, by_seed in shares.items():
        for seed, share in enumerate(by_seed):
            trained(tmp_path, share, "byol", seed, min_crop=crop)
            trained(tmp_path, share + 0.1, "co-byol", seed, min_crop=crop)
    data = training_figures(tmp_path)["training-crop"]
    assert data["model"].tolist() == [BYOL] * 3 + [f"CO-{BYOL}"] * 3
    assert data["level"].tolist() == [0.08, 0.5, 1.0] * 2
    assert data["value"].tolist() == pytest.approx([0.5, 0.7, 0.3, 0.6, 0.8, 0.4])
    assert data["sd"].tolist() == pytest.approx([0.1, 0, 0.1] * 2)
    half = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert data["high"][0] - data["value"][0] == pytest.approx(half)
    assert set(data["seeds"]) == {3}


def test_a_setting_that_does_not_vary_alone_is_not_drawn(tmp_path: Path) -> None:
    trained(tmp_path, 0.5)
    trained(tmp_path, 0.6, seed=1)
    trained(tmp_path, 0.6, "byol")
    assert training_figures(tmp_path) == {}
    # Two crops, but of models that differ in something else as well.
    trained(tmp_path, 0.6, min_crop=0.2, ema=0.5)
    assert training_figures(tmp_path) == {}
    # Two architectures at two crops, but none at both.
    trained(tmp_path, 0.6, arch="resnet18", min_crop=0.2)
    assert set(training_figures(tmp_path)) == {"training-crop-field"}
    trained(tmp_path, 0.6, arch="resnet18")
    assert set(training_figures(tmp_path)) == {"training-crop-field", "training-crop"}


def test_weights_of_the_local_term_start_at_the_method_without_it(tmp_path: Path) -> None:
    trained(tmp_path, 0.5, "byol")
    trained(tmp_path, 0.1, "byol", ema=0.2)  # another base method: it belongs to another line
    trained(tmp_path, 0.2, "byol", min_crop=1.0)
    for w_s, share in ((0.8, 0.6), (0.1, 0.7), (0.3, 0.8)):
        trained(tmp_path, share, w_s=w_s)
    data = training_figures(tmp_path)["training-w_s"]
    assert data["level"].tolist() == [0, 0.1, 0.3, 0.8]
    assert data["value"].tolist() == [0.5, 0.7, 0.8, 0.6]
    assert set(data["model"]) == {f"CO-{BYOL}"}
    assert data["configuration"][0].startswith("BYOL")


def test_a_weight_of_zero_that_was_measured_is_not_replaced(tmp_path: Path) -> None:
    trained(tmp_path, 0.5, "byol")
    trained(tmp_path, 0.4, w_s=0.0)
    trained(tmp_path, 0.6, w_s=0.2)
    data = training_figures(tmp_path)["training-w_s"]
    assert data["level"].tolist() == [0, 0.2]
    assert data["value"].tolist() == [0.4, 0.6]


def test_grids_are_drawn_by_their_number_of_positions_and_all_comes_last(tmp_path: Path) -> None:
    for grid, share in ((None, 0.8), (2, 0.7), (1, 0.6)):
        trained(tmp_path, share, grid=grid)
    data = training_figures(tmp_path)["training-grid"]
    assert data["level"].tolist() == [1, 4, np.inf]
    assert data["value"].tolist() == [0.6, 0.7, 0.8]


def test_fields_are_drawn_by_size_and_unbounded_ones_come_last(tmp_path: Path) -> None:
    numbers = {}
    for i, arch in enumerate(("resnet18", "rf101_resnet18", "rf9_resnet18", "rf29_resnet18")):
        for k, crop in enumerate((1.0, 0.2)):
            numbers[arch, crop] = (10 * i + k + 30) / 100
            trained(tmp_path, numbers[arch, crop], arch=arch, min_crop=crop)
    data = training_figures(tmp_path)["training-crop-field"]
    expected = ["rf9_resnet18", "rf29_resnet18", "rf101_resnet18", "resnet18"]
    assert data["arch"].tolist() == [arch for arch in expected for _ in range(2)]
    assert data["level"].tolist() == [0.2, 1.0] * 4
    values = {(line["arch"], line["level"]): line["value"] for _, line in data.iterrows()}
    assert values == pytest.approx(numbers)
    assert set(data["model"]) == {"CO-BYOL ×0.25"}


def test_the_heat_map_shows_its_numbers_and_leaves_blank_what_was_not_measured(
    tmp_path: Path,
) -> None:
    for seed, shift in enumerate((0.0, 0.02)):
        for arch, crop, share in (("rf9_a", 0.2, 0.4), ("rf9_a", 1.0, 0.6), ("rf17_a", 0.2, 0.5)):
            trained(tmp_path, share + shift, seed=seed, arch=arch, min_crop=crop)
    measurements = load_measurements(tmp_path)
    data = data_of.field_data(measurements)
    figure = training._draw_field(data, measurements[0].test_set)
    shown = {t.get_position(): t.get_text() for t in figure.axes[0].texts}
    # The sd of two seeds 2 points apart is 2 / sqrt(2) points.
    assert shown == {(0, 0): "41.0\n±1.4", (1, 0): "61.0\n±1.4", (0, 1): "51.0\n±1.4"}
    title = figure.get_suptitle()
    assert title.endswith("mean ± s.d., 2 seeds per point; grey: not measured")


def test_lines_along_a_setting_state_seeds_interval_and_chance(tmp_path: Path) -> None:
    trained(tmp_path, 0.5, min_crop=0.2)
    trained(tmp_path, 0.5, min_crop=1.0)
    trained(tmp_path, 0.6, min_crop=1.0, seed=1)
    measurements = load_measurements(tmp_path)
    drawings = training.training_figures(measurements[0].test_set, measurements)
    (figure,) = (d.figure for d in drawings if d.name == "training-crop")
    note = figure.legends[0].get_title().get_text()
    assert "chance 10 %" in note
    assert "1 to 2 seeds per point" in note
    assert "Wilson over test images and Student's t over seeds" in note


def test_all_models_of_a_sweep_enter_its_figure_however_many_there_are(tmp_path: Path) -> None:
    crops = [round(0.05 * k, 2) for k in range(1, MOST_MODELS + 4)]
    for crop in crops:
        trained(tmp_path, 0.5, min_crop=crop)
    write_figures(tmp_path)
    written = tmp_path / "figures" / "parts-32px" / "training-crop"
    assert all(written.with_suffix(suffix).is_file() for suffix in (".pdf", ".png"))
    assert pd.read_csv(written.with_suffix(".csv"))["level"].tolist() == crops
