"""Error consistency of two models in `compare`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import simulate
from sklearn.metrics import cohen_kappa_score

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.tables.comparison import layout


def save(results: Path, method: str, seed: int, right: np.ndarray) -> np.ndarray:
    made = simulate.clean(0.5, len(right), method=method, seed=seed)
    made.cells[0].outcomes["correct"] = right
    simulate.save(results, made)
    return right


def rights(draw: np.random.Generator) -> np.ndarray:
    return draw.random(120) < 0.6


def test_it_stands_on_the_lines_of_right_and_wrong_over_seeds_that_coincide(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    mine = {seed: save(tmp_path, "byol", seed, rights(draw)) for seed in (0, 1, 2)}
    theirs = {seed: save(tmp_path, "dino", seed, rights(draw)) for seed in (2, 1, 5)}
    found = compare(tmp_path, "byol", "dino")
    lines = found.table.set_index("metric")
    expected = np.mean([cohen_kappa_score(mine[s], theirs[s]) for s in (1, 2)])
    assert lines.loc["clean_top1", "kappa"] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(lines.loc["clean_knn", "kappa"])
    (section,) = layout(found)
    assert [b.headings[1] for b in section.blocks] == ["A", "Error consistency κ"]
    assert any("Cohen's kappa" in note for note in section.notes)


def test_without_common_seeds_runs_are_taken_in_order(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    mine = [save(tmp_path, "byol", seed, rights(draw)) for seed in (0, 1)]
    theirs = [save(tmp_path, "dino", seed, rights(draw)) for seed in (7, 8)]
    line = compare(tmp_path, "byol", "dino").table.set_index("metric").loc["clean_top1"]
    expected = np.mean([cohen_kappa_score(a, b) for a, b in zip(mine, theirs, strict=True)])
    assert line["kappa"] == pytest.approx(expected, abs=1e-12)
