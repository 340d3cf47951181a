"""mCE and relative mCE: AlexNet's own, worked by hand, and what has no number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import simulate
from helpers.corruption_errors import with_errors

from robustbench_coss.analysis import corruption_error
from robustbench_coss.analysis.corruption_error import (
    ALEXNET,
    ALEXNET_BASELINE,
    ALEXNET_CLEAN,
    baseline_of,
    corruption_errors,
)
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.corruptions.reference import GROUPS, SEVERITIES, STANDARD

FAMILY = {name: family for family, names in GROUPS.items() for name in names}


def test_the_standard_corruptions_and_severities_are_those_of_the_suite() -> None:
    assert list(ALEXNET) == [name for family in STANDARD for name in GROUPS[family]]
    assert corruption_error.SEVERITIES == SEVERITIES


def test_alexnet_itself_has_an_mce_and_a_relative_mce_of_one() -> None:
    found = corruption_errors(with_errors(ALEXNET_CLEAN, ALEXNET), ALEXNET_BASELINE)
    assert found.mce == pytest.approx(1, abs=1e-3)
    assert found.relative_mce == pytest.approx(1, abs=5e-3)
    noise = (0.886428 + 0.894468 + 0.922640) / 3
    assert found.by_family["noise"] == pytest.approx(noise, abs=1e-3)
    assert list(found.by_family) == list(STANDARD)


def test_mce_against_a_record_by_hand() -> None:
    standard = list(ALEXNET)
    base = with_errors(0.1, dict.fromkeys(standard, 0.4), "parts")
    mine = with_errors(0.2, dict.fromkeys(standard, 0.4) | {"fog": 0.8, "saturate": 0.9}, "parts")
    found = corruption_errors(mine, baseline_of("base", [base]))
    assert found.ce["fog"] == pytest.approx(2)
    assert found.mce == pytest.approx((14 * 1 + 2) / 15)
    assert found.relative_mce == pytest.approx((14 * 0.2 / 0.3 + 0.6 / 0.3) / 15)
    assert found.by_family["weather"] == pytest.approx((3 * 0.4 + 0.8) / 4)
    assert found.by_corruption["saturate"] == pytest.approx(0.9)  # not a standard one


def test_a_baseline_of_several_seeds_is_their_mean() -> None:
    seeds = [with_errors(0.1, dict.fromkeys(ALEXNET, e), "parts") for e in (0.3, 0.5)]
    found = corruption_errors(
        with_errors(0.1, dict.fromkeys(ALEXNET, 0.2), "parts"), baseline_of("base", seeds)
    )
    assert found.mce == pytest.approx(0.2 / 0.4)


def test_what_images_contribute_averages_to_mce_and_relative_mce() -> None:
    draw = np.random.default_rng(1)
    errors = {name: float(draw.uniform(0.3, 0.9)) for name in ALEXNET}
    found = corruption_errors(with_errors(0.2, errors), ALEXNET_BASELINE)
    assert found.mce_per_image.shape == found.relative_mce_per_image.shape == (1000,)
    ratios = [round(errors[c], 3) / ALEXNET[c] for c in ALEXNET]
    assert found.mce_per_image.mean() == pytest.approx(np.mean(ratios))
    excess = [(round(errors[c], 3) - 0.2) / (ALEXNET[c] - ALEXNET_CLEAN) for c in ALEXNET]
    assert found.relative_mce_per_image.mean() == pytest.approx(np.mean(excess))


def test_a_baseline_without_errors_gives_no_number_and_raises_nothing() -> None:
    mine = with_errors(0.1, dict.fromkeys(ALEXNET, 0.2))
    perfect = baseline_of("perfect", [with_errors(0.0, dict.fromkeys(ALEXNET, 0.0))])
    found = corruption_errors(mine, perfect)
    assert math.isnan(found.mce)
    assert math.isnan(found.relative_mce)
    partly = with_errors(0.0, dict.fromkeys(ALEXNET, 0.0) | {"fog": 0.4})
    found = corruption_errors(mine, baseline_of("partly", [partly]))
    assert found.mce == pytest.approx(0.5)
    assert found.relative_mce == pytest.approx(15 * 0.1 / 0.4)


def test_alexnet_is_a_baseline_for_imagenet_c_alone() -> None:
    with pytest.raises(CossError, match=r"of ImageNet's 1,000 classes, not of parts's 10; take a"):
        corruption_errors(with_errors(0.1, ALEXNET, "parts"), ALEXNET_BASELINE)
    milder = with_errors(0.1, ALEXNET)
    milder.suite_config = {"backend": "fast", "constants": "cifar-c"}
    with pytest.raises(CossError, match="of the constants imagenet-c, not cifar-c"):
        corruption_errors(milder, ALEXNET_BASELINE)
    milder.suite_config = {"backend": "ready-made", "pictures": "0123"}
    assert corruption_errors(milder, ALEXNET_BASELINE).mce > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.dataset.update(fingerprint="other"), "different test sets"),
        (lambda r: r.dataset.update(size=64), "different image sizes"),
        (lambda r: r.suite_config.update(backend="other"), "different settings"),
        (lambda r: setattr(r, "suite_version", 2), "different versions of the suite"),
        (lambda r: setattr(r, "index", r.index + 1), "different test images"),
    ],
)
def test_a_baseline_of_another_measurement_is_refused(change, message: str) -> None:  # type: ignore[no-untyped-def]
    other = with_errors(0.1, ALEXNET)
    change(other)
    with pytest.raises(CossError, match=message):
        corruption_errors(with_errors(0.1, ALEXNET), baseline_of("other", [other]))


def test_an_incomplete_record_and_one_of_another_suite_are_refused() -> None:
    without_fog = with_errors(0.1, {k: v for k, v in ALEXNET.items() if k != "fog"})
    with pytest.raises(CossError, match="lacks fog"):
        corruption_errors(without_fog, ALEXNET_BASELINE)
    four = with_errors(0.1, ALEXNET)
    four.cells = [cell for cell in four.cells if cell.condition != "snow@4"]
    with pytest.raises(CossError, match="lacks snow"):
        baseline_of("four", [four])
    with pytest.raises(CossError, match="this is of 'clean'"):
        corruption_errors(simulate.clean(0.5), ALEXNET_BASELINE)
