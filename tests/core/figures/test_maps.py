"""The heat map of corruptions, figures that do not grow with the models, single seeds as dots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import simulate
from helpers.claim_cases import with_options
from helpers.corruption_errors import with_errors

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.corruption_error import ALEXNET
from robustbench_coss.analysis.corruption_heat import heats
from robustbench_coss.analysis.curves import metric_data
from robustbench_coss.analysis.numbers import rank_models
from robustbench_coss.figures.bars import draw_summary
from robustbench_coss.figures.heat import draw_heat, heat_table
from robustbench_coss.figures.pens import pens_of
from robustbench_coss.figures.styles import styled
from robustbench_coss.figures.write import MOST_MAPS, draw_figures, few
from robustbench_coss.records.record import Cell


def test_the_heat_map_has_the_errors_and_mce_of_alexnet_is_100(tmp_path: Path) -> None:
    simulate.save(tmp_path, with_errors(0.435, {**ALEXNET, "spatter": 0.25}))
    measured = load_measurements(tmp_path)
    (heat,) = heats(measured)
    assert heat.kinds == (*ALEXNET, "spatter")
    assert heat.errors[0] == pytest.approx([*ALEXNET.values(), 0.25], abs=6e-4)
    assert heat.standard[0] == pytest.approx(np.mean(list(ALEXNET.values())), abs=5e-4)
    assert (heat.baseline, heat.mce[0]) == ("AlexNet", pytest.approx(1, abs=1e-3))
    pens, _ = pens_of([m.configuration for m in measured])
    with styled():
        figure = draw_heat(heat, pens)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[: len(heat.kinds)] == [f"{100 * e:.0f}" for e in heat.errors[0]]
    assert "100" in texts[len(heat.kinds)]
    assert figure.axes[0].get_title("left").endswith(f"1 seed; {heat.images[0]:,} test images")
    assert len(heat_table(heat)) == len(heat.kinds)
    assert set(heat_table(heat)["n"]) == {len(measured[0].records[0].index)}


def test_a_corruption_that_was_not_measured_is_a_dash_and_there_is_no_mean(tmp_path: Path) -> None:
    part = dict(list(ALEXNET.items())[:3])
    simulate.save(tmp_path, with_errors(0.4, part), with_errors(0.4, dict([*part.items()][:2])))
    (heat,) = heats(load_measurements(tmp_path))
    assert np.isnan(heat.standard).all()
    assert heat.baseline == ""


def test_figures_with_a_panel_per_model_hold_pairs_and_no_more_than_four(tmp_path: Path) -> None:
    for k, method in enumerate(("simclr", "mocov3", "dino", "supervised", "byol", "co-byol")):
        simulate.save(tmp_path, simulate.clean(0.9 - 0.1 * k, method=method))
    with_options(tmp_path)
    measured = load_measurements(tmp_path)
    ranked = sorted(measured, key=lambda m: rank_models(measured).index(m.label))
    names = [m.configuration.name for m in few(ranked)]
    assert len(names) == MOST_MAPS
    assert names == ["SimCLR", "MoCo v3", "BYOL", "CO-BYOL"]


def test_seeds_are_dots_where_there_are_few(tmp_path: Path) -> None:
    for method, shares in (("byol", (0.5, 0.6, 0.7)), ("dino", (0.5, 0.5, 0.6, 0.6, 0.7))):
        for seed, share in enumerate(shares):
            simulate.save(tmp_path, simulate.clean(share, method=method, seed=seed))
    measured = load_measurements(tmp_path)
    data = metric_data(measured, measured[0].records[0].metrics[:1]).set_index("model")
    (byol,) = (text for model, text in data["by_seed"].items() if model.startswith("BYOL"))
    assert byol == "0.5 0.6 0.7"
    assert "" in set(data["by_seed"])  # five seeds have an interval alone
    pens, _ = pens_of([m.configuration for m in measured])
    with styled():
        figure = draw_summary(data.reset_index(), measured[0].test_set, pens, "")
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert [list(line.get_xdata()) for line in dots if len(line.get_xdata())] == [[50, 60, 70]]


def test_the_figure_of_attacks_shows_the_worst_case_and_another_one_all(tmp_path: Path) -> None:
    right = {"correct": simulate.exactly(0.5, 50)}
    cells = [Cell("clean", "", 0.0, {"correct": simulate.exactly(0.9, 50)})]
    cells += [
        Cell(f"{group}@{level}", group, level, right)
        for group in ("worst-linf", "worst-l2", "fgsm", "pgd-linf")
        for level in (1.0, 2.0)
    ]
    simulate.save(tmp_path, simulate.record(cells, [], suite="adversarial"))
    measured = load_measurements(tmp_path)
    with styled():
        drawn = {d.name: d.draw() for d in draw_figures(measured, measured[0].test_set)}
    titles = {
        name: [panel.get_title() for panel in figure.axes if panel.get_title()]
        for name, figure in drawn.items()
    }
    assert titles["adversarial"] == ["Worst case, ℓ∞", "Worst case, ℓ2"]
    assert set(titles["adversarial-attacks"]) >= {"FGSM", "PGD, ℓ∞", "Worst case, ℓ∞"}
