"""The suite against its contract, torchvision, exact quarter turns, and options it refuses."""

import json

import pytest
import torch
from coss_bench_rotation import Rotation, rotate
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from robustbench_coss.errors import CossError
from robustbench_coss.testing import check_suite


def test_the_suite_keeps_the_contract_of_suites() -> None:
    check_suite(Rotation())


def images(size: int) -> torch.Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def disc(size: int) -> torch.Tensor:
    line = torch.arange(size) - (size - 1) / 2
    return (line[:, None] ** 2 + line**2).sqrt() <= (size - 1) / 2


@pytest.mark.parametrize("degrees", [15, 45, 135, -30, 0])
@pytest.mark.parametrize("size", [32, 33])
def test_a_rotation_is_torchvision_s_within_the_disc_and_grey_outside(
    size: int, degrees: float
) -> None:
    turned = rotate(images(size), degrees)
    expected = TF.rotate(images(size), degrees, InterpolationMode.BILINEAR)
    inside = disc(size)
    torch.testing.assert_close(turned[..., inside], expected[..., inside], atol=1e-4, rtol=0)
    assert (turned[..., ~inside] == 0.5).all()


def test_quarter_turns_move_pixels_exactly() -> None:
    inside = disc(32)
    for turns in (1, 2, -1):
        expected = torch.rot90(images(32), turns, (2, 3))
        turned = rotate(images(32), 90 * turns)
        torch.testing.assert_close(turned[..., inside], expected[..., inside], atol=1e-5, rtol=0)


def test_values_stay_in_range_and_do_not_depend_on_the_batch() -> None:
    turned = rotate(images(32), 20)
    assert 0 <= turned.min() <= turned.max() <= 1
    torch.testing.assert_close(rotate(images(32)[1:2], 20), turned[1:2], atol=1e-6, rtol=0)


def test_conditions_metrics_and_settings_follow_from_the_angles() -> None:
    suite = Rotation([90, 10])
    conditions = suite.conditions(None)  # type: ignore[arg-type]  # the model does not matter
    assert [c.name for c in conditions] == ["upright", "disc", "rotate@10", "rotate@90"]
    headline, control = suite.metrics(conditions)
    assert headline.conditions == ("rotate@10", "rotate@90")
    assert control.conditions == ("disc",)
    assert json.loads(json.dumps(suite.config())) == {"angles": [10.0, 90.0]}


@pytest.mark.parametrize("angles", [[], [0], [15, 360], "left"])
def test_angles_that_mean_nothing_are_refused(angles: list[float]) -> None:
    with pytest.raises(CossError, match="angles must be numbers above 0 and below 360"):
        Rotation(angles)
