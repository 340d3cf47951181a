"""A share of some images alone has the interval of so many images, whatever its pseudo-values."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import simulate
from scipy.stats import binomtest

from robustbench_coss.analysis.numbers import number
from robustbench_coss.evaluations.suites.shift import shape_bias
from robustbench_coss.records.columns import COUNTED
from robustbench_coss.records.record import Cell, Metric, Record


def biased(shapes: int, textures: int, n: int, seed: int = 0) -> Record:
    shape, texture = np.arange(n) < shapes, np.arange(n) >= n - textures
    bias = {"shape_bias": shape_bias(shape, texture), COUNTED: shape | texture}
    metric = Metric("bias", "Shape bias", "shape_bias", ("bias",), "")
    return simulate.record([Cell("bias", "d", 0.0, bias)], [metric], suite="shift", seed=seed)


@pytest.mark.parametrize(("shapes", "textures"), [(5, 0), (0, 5), (1, 11), (200, 600), (3, 3)])
@pytest.mark.parametrize("seeds", [1, 2])
def test_the_interval_is_wilsons_of_the_images_that_are_either(
    shapes: int, textures: int, seeds: int
) -> None:
    found = number(
        [biased(shapes, textures, 1280, s) for s in range(seeds)], ["bias"], "shape_bias"
    )
    wanted = binomtest(shapes, shapes + textures).proportion_ci(method="wilson")
    assert found.value == pytest.approx(shapes / (shapes + textures), abs=1e-6)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    assert found.interval == "wilson"


def test_of_no_image_nothing_is_known() -> None:
    found = number([biased(0, 0, 100)], ["bias"], "shape_bias")
    assert (found.low, found.high) == (0.0, 1.0)


def test_seeds_that_differ_have_students_interval() -> None:
    found = number([biased(1, 3, 50, 0), biased(2, 2, 50, 1)], ["bias"], "shape_bias")
    assert (found.value, found.interval) == (pytest.approx(3 / 8), "t")
