"""Colour, blur and jitter held to torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from helpers.view_cases import pictures
from scipy import stats

from robustbench_coss.pretrain.colours import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
)
from robustbench_coss.pretrain.views import (
    Draws,
    ViewOptions,
    changed,
    plan_jitter,
)


def factor(value: float, count: int) -> torch.Tensor:
    return torch.full((count, 1, 1, 1), value)


@pytest.mark.parametrize("value", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (adjust_brightness, TF.adjust_brightness),
        (adjust_contrast, TF.adjust_contrast),
        (adjust_saturation, TF.adjust_saturation),
    ],
)
def test_colour_blends_equal_torchvision(ours, reference, value: float) -> None:
    x = pictures(4)
    expected = torch.stack([reference(image, value) for image in x])
    # torchvision rounds the luma weights to four digits: 0.2989, 0.587, 0.114.
    torch.testing.assert_close(ours(x, factor(value, 4)), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.07, 0.5])
def test_hue_rotation_equals_torchvision(shift: float) -> None:
    x = pictures(4)
    expected = torch.stack([TF.adjust_hue(image, shift) for image in x])
    torch.testing.assert_close(adjust_hue(x, factor(shift, 4)), expected, rtol=0, atol=1e-5)


def test_hue_leaves_grey_images_alone() -> None:
    x = pictures(2)[:, :1].expand(-1, 3, -1, -1).contiguous()
    torch.testing.assert_close(adjust_hue(x, factor(0.3, 2)), x, rtol=0, atol=1e-6)


def test_each_sample_is_adjusted_by_its_own_factor() -> None:
    x = pictures(3)
    factors = torch.tensor([0.5, 1.0, 1.3]).view(-1, 1, 1, 1)
    whole = adjust_contrast(x, factors)
    for i in range(3):
        torch.testing.assert_close(
            whole[i : i + 1], adjust_contrast(x[i : i + 1], factors[i : i + 1])
        )


def test_blur_equals_torchvisions_gaussian_blur() -> None:
    x = pictures(2, size=48)
    ours = gaussian_blur(x, torch.tensor([0.7, 1.9]), 2.0)
    for image, blurred, sigma in zip(x, ours, (0.7, 1.9), strict=True):
        expected = TF.gaussian_blur(image, [13, 13], [sigma, sigma])
        torch.testing.assert_close(blurred, expected, rtol=0, atol=1e-5)


def test_jitter_order_is_uniform_over_all_orders() -> None:
    keys = Draws(np.arange(24000), 0, 0).of("jitter", 0, 9)[:, 5:9]
    codes = (keys.argsort(axis=1) * [64, 16, 4, 1]).sum(axis=1)
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_jitter_has_torchvisions_image_statistics() -> None:
    x = pictures(1, size=16).expand(1000, -1, -1, -1)
    draws = Draws(np.arange(1000), 0, 0).of("jitter", 0, 9)
    ours = changed(x, plan_jitter(draws, ViewOptions(jitter=1)))
    torch.manual_seed(0)
    jitter = T.ColorJitter(0.4, 0.4, 0.2, 0.1)
    theirs = torch.stack([jitter(image) for image in x])
    for statistic in (
        lambda v: v.mean(dim=(1, 2, 3)),
        lambda v: v.std(dim=(1, 2, 3)),
        lambda v: (v[:, 0] - v[:, 2]).mean(dim=(1, 2)),
    ):
        assert stats.ks_2samp(statistic(ours), statistic(theirs)).pvalue > 1e-3
