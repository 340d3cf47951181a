"""Crops held to torchvision and Pillow: their boxes and their pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from helpers.view_cases import AREA, ASPECT, LOCAL_AREA, pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from scipy import stats

from robustbench_coss.pretrain.crops import (
    CROP_DRAWS,
    crop_batch,
    crop_batch_antialiased,
    crop_boxes,
    crop_image,
)
from robustbench_coss.pretrain.views import (
    ViewOptions,
    cut_views,
    make_views,
    plan_views,
)
from robustbench_coss.seeds import uniform


def resized_crops(x: torch.Tensor, boxes: np.ndarray, size: int) -> torch.Tensor:
    """torchvision's crops, image by image."""
    return torch.stack(
        [
            TF.resized_crop(image, *(int(v) for v in box), [size, size], antialias=True)
            for image, box in zip(x, boxes, strict=True)
        ]
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
    boxes = crop_boxes(draws, height, width, (low, 1.0), ASPECT)
    top, left, h, w = boxes.T
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


@pytest.mark.parametrize("share", [(0.2, 1.0), AREA, LOCAL_AREA])
def test_crop_boxes_have_torchvisions_distribution(share: tuple[float, float]) -> None:
    torch.manual_seed(0)
    image = torch.zeros(3, 96, 128)
    crop = T.RandomResizedCrop(32, scale=share)
    theirs = np.array([list(crop.make_params([image]).values()) for _ in range(4000)])
    ours = crop_boxes(uniform(np.arange(4000), CROP_DRAWS, 1), 96, 128, share, ASPECT)
    measures = [lambda box, k=k: box[:, k] for k in range(4)]
    measures += [lambda box: box[:, 2] * box[:, 3], lambda box: box[:, 3] / box[:, 2]]
    for measure in measures:
        assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-3


def test_impossible_aspect_falls_back_to_the_centre_as_torchvision_does() -> None:
    image = torch.zeros(3, 10, 200)
    crop = T.RandomResizedCrop(32, scale=(1.0, 1.0))
    expected = list(crop.make_params([image]).values())
    box = crop_boxes(uniform(np.arange(1), CROP_DRAWS, 0), 10, 200, (1.0, 1.0), ASPECT)[0]
    assert box.tolist() == expected


@pytest.mark.parametrize("flip", [False, True])
def test_batched_crops_equal_torchvisions_resized_crop(flip: bool) -> None:
    x = pictures(8)
    boxes = crop_boxes(uniform(np.arange(8), CROP_DRAWS, 3), 32, 32, AREA, ASPECT)
    expected = resized_crops(x, boxes, 32)
    expected = expected.flip(3) if flip else expected
    ours = crop_batch(x, torch.from_numpy(boxes), torch.full((8,), flip))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("side", "share", "size"), [(32, (0.05, 0.14), 16), (96, (0.1, 1), 40)])
def test_antialiased_crops_equal_torchvisions_larger_and_smaller(
    side: int, share: tuple[float, float], size: int, flip: bool
) -> None:
    # Noise: whatever is not smoothed before it shrinks shows at once.
    x = torch.rand(32, 3, side, side, generator=torch.Generator().manual_seed(0))
    boxes = crop_boxes(uniform(np.arange(32), CROP_DRAWS, 3), side, side, share, ASPECT)
    expected = resized_crops(x, boxes, size)
    expected = expected.flip(3) if flip else expected
    ours = crop_batch_antialiased(x, torch.from_numpy(boxes), torch.full((32,), flip), size)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 64), st.integers(1, 64))
def test_antialiased_crops_keep_constant_images_constant(seed: int, side: int, size: int) -> None:
    drawn = crop_boxes(uniform(np.arange(4), CROP_DRAWS, seed), side, side, (0.01, 1), ASPECT)
    boxes = torch.from_numpy(drawn)
    x = torch.full((4, 3, side, side), 0.7)
    crops = crop_batch_antialiased(x, boxes, boxes[:, 0] % 2 == 0, size)
    torch.testing.assert_close(crops, torch.full((4, 3, size, size), 0.7))


def test_crops_of_single_images_equal_pillow() -> None:
    image = (pictures(1, size=120)[0] * 255).to(torch.uint8)
    box = np.array([10, 20, 80, 60])
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    crop = picture.crop((20, 10, 80, 90))
    expected = crop.resize((32, 32), Image.Resampling.BILINEAR)
    ours = crop_image(image, box, False, 32).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - np.asarray(expected).astype(int)).max() <= 1


def test_crops_cut_by_a_worker_are_those_of_the_whole_batch() -> None:
    x = (pictures(2, size=64) * 255).to(torch.uint8)
    plain = ViewOptions(jitter=0, grey=0, blur=(0, 0), solarize=(0, 0))
    whole = make_views(x, [7, 8], 1, 2, 2, plain)
    views, _ = plan_views(64, 2, 0, plain)
    cut = torch.stack([cut_views(x[i], 7 + i, 1, 2, views, plain) for i in range(2)])
    again = make_views(cut, [7, 8], 1, 2, 2, plain)
    for one, two in zip(whole, again, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1.01 / 255)  # one rounding to uint8


def test_a_smallest_crop_above_the_largest_is_refused() -> None:
    for prefix in ("", "local_"):
        with pytest.raises(ValidationError, match=f"{prefix}min_crop 0.9 exceeds"):
            ViewOptions(**{f"{prefix}min_crop": 0.9, f"{prefix}max_crop": 0.5})
