"""Heat maps of CKA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import simulate
from helpers.figure_records import BYOL, pooled

from robustbench_coss.analysis.configurations import SeedGroup, load_measurements
from robustbench_coss.errors import CossError
from robustbench_coss.figures.cka import cka_data, draw_cka
from robustbench_coss.figures.styles import styled


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
    (images,) = set(data["n"])
    assert figure.axes[-1].get_ylabel().endswith(f"\n1 seed; {images} test images")
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
