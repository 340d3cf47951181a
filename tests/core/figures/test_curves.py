"""Curves show hand-computed means; panels and lines are told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import simulate
from helpers.figure_records import BYOL, pooled
from matplotlib.figure import Figure
from scipy import stats

from robustbench_coss.analysis import curves as data_of
from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.curves import curve_data
from robustbench_coss.analysis.labels import Configuration, short_labels
from robustbench_coss.figures import curves, looks, write
from robustbench_coss.figures.pens import MOST_MODELS
from robustbench_coss.figures.styles import styled
from robustbench_coss.figures.write import write_figures
from robustbench_coss.records.about import about_suite
from robustbench_coss.records.record import Axis, Cell, Metric


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


def test_conditions_of_one_group_and_level_are_averaged_with_equal_weight(tmp_path: Path) -> None:
    simulate.save(tmp_path, corruption({"clean": 0.9, "gaussian@1": 0.6, "shot@1": 0.3}))
    write_figures(tmp_path)
    csv = pd.read_csv(
        tmp_path / "figures" / "parts-32px" / "corruption.csv", keep_default_na=False
    ).set_index("group")
    assert csv.loc["noise", "value"] == pytest.approx(0.45)
    assert csv.loc["noise", "conditions"] == 2
    # Some images are right under one of the two: a share of an image, see `agresti_coull`.
    assert csv.loc["noise", "interval"] == "agresti-coull"
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
    pens = {m.label: looks.LineStyle("a", "#0072B2", "o", "-")}
    axis = m.records[0].axis
    styles = looks.panel_styles([m], axis, data["group"])
    with styled():
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


def test_of_many_models_the_best_by_clean_accuracy_are_drawn_and_the_legend_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    save = write._save

    def spy(stem: Path, data: pd.DataFrame, figure: Figure, force: bool) -> list[Path]:
        titles.extend(legend.get_title().get_text() for legend in figure.legends)
        return save(stem, data, figure, force)

    monkeypatch.setattr(write, "_save", spy)
    for k in range(MOST_MODELS + 2):
        simulate.save(tmp_path, simulate.clean(0.1 + 0.05 * k, method=f"m{k}"))
    write_figures(tmp_path)
    folder = tmp_path / "figures" / "parts-32px"
    models = set(pd.read_csv(folder / "summary.csv")["model"].str.partition(" ")[0])
    assert models == {f"m{k}" for k in range(2, MOST_MODELS + 2)}
    assert len(titles) == 1
    assert "the 8 best of 10 models by clean top-1" in titles[0]


def test_what_all_models_share_moves_from_the_labels_to_the_legend_title() -> None:
    def labels(*given: Configuration) -> tuple[list[str], str]:
        shown, shared = short_labels(given)
        assert list(shown) == [c.label for c in given]
        return list(shown.values()), shared

    def models(*given: tuple[str, str]) -> list[Configuration]:
        return [Configuration("", name, arch, 2.0) for name, arch in given]

    assert labels(*models(("A", "net"), ("B", "net"))) == (["A", "B"], "net ×2")
    apart = ["A · net ×2", "A · other ×2"]
    assert labels(*models(("A", "net"), ("A", "other"))) == (apart, "")
    assert labels(*models(("A", "net"))) == (["A · net ×2"], "")
    runs = [Configuration("", "one · a name"), Configuration("", "two · a name")]
    assert labels(*runs) == (["one · a name", "two · a name"], "")
    control = Configuration("", "control:pixels", control="pixels")
    both = models(("A", "net"), ("B", "net"))
    assert labels(*both, control) == (["A", "B", "control:pixels"], "net ×2")


def test_tick_labels_keep_their_distance() -> None:
    levels = [0.05, 0.08, 0.14, 0.25, 0.35, 0.5, 0.75, 1.0]
    kept = looks.spread_ticks(levels, "log")
    assert kept[0] == 1.0
    assert min(np.diff(np.log(kept[::-1]))) > 0.12 * np.log(20)
