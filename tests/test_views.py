"""Augmented views held to torchvision: geometry, colour, distribution, determinism."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from scipy import stats

from pretrain.views import (
    CROP_DRAWS,
    Draws,
    ViewOptions,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    colour_jitter,
    crop_batch,
    crop_boxes,
    crop_image,
    cut_views,
    gaussian_blur,
    grey,
    make_views,
)
from robustbench_coss.seeds import uniform

OPTIONS = ViewOptions()


def pictures(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth random RGB images in [0, 1]: noise would make every resampling look alike."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)


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


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(8, 300),
    st.integers(8, 300),
    st.floats(0.05, 1.0),
)
def test_crop_boxes_lie_in_the_image(seed: int, height: int, width: int, low: float) -> None:
    draws = uniform(np.arange(20), CROP_DRAWS, seed)
    boxes = crop_boxes(draws, height, width, ViewOptions(min_crop=low))
    top, left, h, w = boxes.T
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


def test_crop_boxes_have_torchvisions_distribution() -> None:
    torch.manual_seed(0)
    image = torch.zeros(3, 96, 128)
    crop = T.RandomResizedCrop(32, scale=(0.2, 1.0))
    theirs = np.array([list(crop.make_params([image]).values()) for _ in range(4000)])
    boxes = crop_boxes(uniform(np.arange(4000), CROP_DRAWS, 1), 96, 128, ViewOptions(min_crop=0.2))
    for column in range(4):
        assert stats.ks_2samp(boxes[:, column], theirs[:, column]).pvalue > 1e-3
    area = boxes[:, 2] * boxes[:, 3]
    assert stats.ks_2samp(area, theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3


def test_impossible_aspect_falls_back_to_the_centre_as_torchvision_does() -> None:
    image = torch.zeros(3, 10, 200)
    crop = T.RandomResizedCrop(32, scale=(1.0, 1.0))
    expected = list(crop.make_params([image]).values())
    options = ViewOptions(min_crop=1.0)
    box = crop_boxes(uniform(np.arange(1), CROP_DRAWS, 0), 10, 200, options)[0]
    assert box.tolist() == expected


@pytest.mark.parametrize("flip", [False, True])
def test_batched_crops_equal_torchvisions_resized_crop(flip: bool) -> None:
    x = pictures(8)
    boxes = crop_boxes(uniform(np.arange(8), CROP_DRAWS, 3), 32, 32, OPTIONS)
    expected = torch.stack(
        [
            TF.resized_crop(image, *(int(v) for v in box), [32, 32], antialias=True)
            for image, box in zip(x, boxes, strict=True)
        ]
    )
    expected = expected.flip(3) if flip else expected
    ours = crop_batch(x, boxes, np.full(8, flip))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_crops_of_single_images_equal_pillow() -> None:
    image = (pictures(1, size=120)[0] * 255).to(torch.uint8)
    box = np.array([10, 20, 80, 60])
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    crop = picture.crop((20, 10, 80, 90))
    expected = crop.resize((32, 32), Image.Resampling.BILINEAR)
    ours = crop_image(image, box, False, 32).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - np.asarray(expected).astype(int)).max() <= 1


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
    x = pictures(1).expand(3000, -1, -1, -1)
    ours = colour_jitter(x, Draws(np.arange(3000), 0, 0).of("jitter", 0, 9), ViewOptions(jitter=1))
    torch.manual_seed(0)
    jitter = T.ColorJitter(0.4, 0.4, 0.2, 0.1)
    theirs = torch.stack([jitter(image) for image in x])
    for statistic in (
        lambda v: v.mean(dim=(1, 2, 3)),
        lambda v: v.std(dim=(1, 2, 3)),
        lambda v: (v[:, 0] - v[:, 2]).mean(dim=(1, 2)),
    ):
        assert stats.ks_2samp(statistic(ours), statistic(theirs)).pvalue > 1e-3


def test_a_sample_gets_the_same_view_in_any_batch() -> None:
    x = (pictures(6) * 255).to(torch.uint8)
    whole = make_views(x, range(10, 16), 3, 5, 2, OPTIONS)
    for chosen in ([4, 1], [5]):
        part = make_views(x[chosen], [10 + i for i in chosen], 3, 5, 2, OPTIONS)
        for view in range(2):
            torch.testing.assert_close(part[view], whole[view][chosen], rtol=0, atol=1e-6)


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"index": [1]}])
def test_seed_epoch_and_sample_each_change_the_view(change: dict) -> None:
    x = (pictures(1) * 255).to(torch.uint8)
    base = {"index": [0], "seed": 0, "epoch": 0}
    one = make_views(x, count=2, options=OPTIONS, **base)
    two = make_views(x, count=2, options=OPTIONS, **(base | change))
    assert not torch.equal(one[0], two[0])
    assert not torch.equal(one[0], one[1])


def test_views_stay_in_the_unit_range_and_keep_their_shape() -> None:
    x = (pictures(64) * 255).to(torch.uint8)
    for view in make_views(x, range(64), 0, 0, 2, OPTIONS):
        assert view.shape == (64, 3, 32, 32)
        assert view.dtype == torch.float32
        assert view.min() >= -1e-6  # interpolation may round past the ends
        assert view.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("options", "transform"),
    [
        ({"flip": 1.0}, lambda v: v.flip(3)),
        ({"grey": 1.0}, lambda v: grey(v).expand(-1, 3, -1, -1)),
        ({"solarize": (1.0, 1.0)}, lambda v: torch.where(v >= 0.5, 1 - v, v)),
        ({"blur": (1.0, 1.0), "blur_sigma": (1.0, 1.0)}, None),
        ({}, lambda v: v),
    ],
)
def test_each_option_does_what_its_name_says(options: dict, transform) -> None:
    off = {
        "min_crop": 1.0,
        "aspect": 1.0,
        "flip": 0.0,
        "jitter": 0.0,
        "grey": 0.0,
        "blur": (0.0, 0.0),
        "solarize": (0.0, 0.0),
    }
    x = (pictures(3) * 255).to(torch.uint8)
    pixels = x.float() / 255
    expected = gaussian_blur(pixels, torch.ones(3), 1.0) if transform is None else transform(pixels)
    for view in make_views(x, range(3), 0, 0, 2, ViewOptions(**(off | options))):
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


def test_probabilities_are_met() -> None:
    chance = Draws(np.arange(20000), 0, 0).of("photometric", 1, 4)
    applied = (chance[:, 3] < OPTIONS.solarize[1]).sum()
    assert stats.binomtest(int(applied), 20000, 0.2).pvalue > 1e-3


def test_crops_cut_by_a_worker_are_those_of_the_whole_batch() -> None:
    x = (pictures(2, size=64) * 255).to(torch.uint8)
    plain = ViewOptions(jitter=0, grey=0, blur=(0, 0), solarize=(0, 0))
    whole = make_views(x, [7, 8], 1, 2, 2, plain)
    cut = torch.stack([cut_views(x[i], 7 + i, 1, 2, 2, 64, plain) for i in range(2)])
    again = make_views(cut, [7, 8], 1, 2, 2, plain)
    for one, two in zip(whole, again, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1.01 / 255)  # one rounding to uint8


def test_a_smallest_crop_above_the_largest_is_refused() -> None:
    with pytest.raises(ValidationError, match="exceeds"):
        ViewOptions(min_crop=0.9, max_crop=0.5)


def test_draws_are_uniform_and_independent_between_names() -> None:
    a = uniform(np.arange(5000), 3, "a")
    b = uniform(np.arange(5000), 3, "b")
    for column in range(3):
        assert stats.kstest(a[:, column], "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(a[:, 0], b[:, 0])[0, 1]) < 0.06
    assert abs(np.corrcoef(a[:, 0], a[:, 1])[0, 1]) < 0.06
    assert abs(np.corrcoef(a[1:, 0], a[:-1, 0])[0, 1]) < 0.06
