"""Figures along training settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import simulate
from helpers.figure_records import BYOL
from scipy import stats

from robustbench_coss.analysis import curves as data_of
from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.figures import training
from robustbench_coss.figures.pens import MOST_MODELS
from robustbench_coss.figures.styles import styled
from robustbench_coss.figures.write import write_figures

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
    start: int = 0,
    **options: object,
) -> None:
    """A clean record of a model pretrained with some settings."""
    training = {"views": {"min_crop": min_crop}, "options": OPTIONS[method] | options}
    name = f"{method}-{arch}-{min_crop}-{options}-{seed}"
    record = simulate.clean(share, n=n, method=method, seed=seed, name=name, training=training)
    record.model |= {"arch": arch, "parameters": len(arch)}
    record.cells[0].outcomes["correct"] = simulate.exactly(share, n, start)
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
    with styled():
        (figure,) = (d.draw() for d in drawings if d.name == "training-crop")
    note = " ".join(figure.legends[0].get_title().get_text().split())
    assert "chance 10 %" in note
    assert "1 to 2 seeds; 100 test images; 95 %: Student's t over seeds" in note
    assert note.endswith("and Wilson over test images")


def test_seeds_that_agree_on_the_share_but_not_on_the_images_name_their_interval(
    tmp_path: Path,
) -> None:
    for crop in (0.2, 1.0):
        trained(tmp_path, 0.5, min_crop=crop)
        trained(tmp_path, 0.5, min_crop=crop, seed=1, start=25)  # 25 images right in each alone
    measurements = load_measurements(tmp_path)
    drawings = training.training_figures(measurements[0].test_set, measurements)
    with styled():
        (figure,) = (d.draw() for d in drawings if d.name == "training-crop")
    note = " ".join(figure.legends[0].get_title().get_text().split())
    assert note.endswith("Agresti-Coull over test images")


def test_all_models_of_a_sweep_enter_its_figure_however_many_there_are(tmp_path: Path) -> None:
    crops = [round(0.05 * k, 2) for k in range(1, MOST_MODELS + 4)]
    for crop in crops:
        trained(tmp_path, 0.5, min_crop=crop)
    write_figures(tmp_path)
    written = tmp_path / "figures" / "parts-32px" / "training-crop"
    assert all(written.with_suffix(suffix).is_file() for suffix in (".pdf", ".png"))
    assert pd.read_csv(written.with_suffix(".csv"))["level"].tolist() == crops
