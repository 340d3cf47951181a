"""Augmented views held to torchvision and lightly: distribution and determinism."""

from __future__ import annotations

import lightly.transforms.gaussian_blur
import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
from helpers.view_cases import AREA, ASPECT, OFF, OPTIONS, pictures
from lightly.transforms import BYOLTransform
from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform
from PIL import Image, ImageFilter
from pydantic import ValidationError
from scipy import stats
from torchvision import transforms as v1

import robustbench_coss.pretrain.views
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.pretrain.colours import (
    gaussian_blur,
    grey,
)
from robustbench_coss.pretrain.views import (
    ViewOptions,
    jitter_factors,
    make_views,
)
from robustbench_coss.seeds import uniform


def test_a_sample_gets_the_same_view_in_any_batch() -> None:
    x = (pictures(6) * 255).to(torch.uint8)
    whole = make_views(x, range(10, 16), 3, 5, 2, OPTIONS)
    for chosen in ([4, 1], [5]):
        part = make_views(x[chosen], [10 + i for i in chosen], 3, 5, 2, OPTIONS)
        for view in range(2):
            torch.testing.assert_close(part[view], whole[view][chosen], rtol=0, atol=1e-6)


def test_views_are_the_same_in_mixed_precision() -> None:
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    full = make_views(images, range(8), 0, 0, 2, OPTIONS, 1)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = make_views(images, range(8), 0, 0, 2, OPTIONS, 1)
    for one, other in zip(full, mixed, strict=True):
        assert torch.equal(one, other)


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
    x = (pictures(3) * 255).to(torch.uint8)
    pixels = x.float() / 255
    expected = gaussian_blur(pixels, torch.ones(3), 1.0) if transform is None else transform(pixels)
    for view in make_views(x, range(3), 0, 0, 2, ViewOptions(**(OFF | options))):
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("view", range(4))
@pytest.mark.parametrize("key", ["flip", "jitter", "grey", "blur", "solarize"])
def test_each_transform_is_applied_as_often_as_stated(key: str, view: int) -> None:
    """Views 0 and 1 are global, 2 and 3 local ones, made as large as these."""
    x = (pictures(1, size=16) * 255).to(torch.uint8).expand(4000, -1, -1, -1)
    same = {"local_size": 16, "local_min_crop": 1.0, "local_max_crop": 1.0}
    defaults = OPTIONS.model_dump()
    wanted = {key: defaults[key]}
    if key == "blur":  # the smallest sigmas of the default change nothing to speak of
        wanted |= {"local_blur": defaults["local_blur"], "blur_sigma": (1.0, 2.0)}
    options = ViewOptions(**(OFF | same | wanted))
    made = make_views(x, range(4000), 0, 0, 2, options, 2)[view]
    changed = ((made - x.float() / 255).abs().amax(dim=(1, 2, 3)) > 1e-3).sum()
    # BYOL, table 6, and DINO's local crops.
    stated = {"flip": 0.5, "jitter": 0.8, "grey": 0.2}.get(key)
    if stated is None:
        stated = {"blur": (1.0, 0.1, 0.5, 0.5), "solarize": (0.0, 0.2, 0.0, 0.0)}[key][view]
    assert stats.binomtest(int(changed), 4000, stated).pvalue > 1e-3


def test_jitter_factors_have_torchvisions_distribution() -> None:
    torch.manual_seed(0)
    ranges = [(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]
    drawn = [v1.ColorJitter.get_params(*ranges) for _ in range(4000)]
    ours = jitter_factors(uniform(np.arange(4000), 4, "jitter"), OPTIONS)
    for k in range(4):
        theirs = np.array([params[1 + k] for params in drawn])
        assert stats.ks_2samp(ours[:, k], theirs).pvalue > 1e-3


def test_jitter_with_a_strength_above_its_middle_is_cut_off_at_zero_as_in_torchvision() -> None:
    strong = ViewOptions(brightness=1.0)
    ours = jitter_factors(uniform(np.arange(4000), 4, "jitter"), strong)[:, 0]
    assert T.ColorJitter(1.0).brightness == (0.0, 2.0)
    assert stats.kstest(ours, stats.uniform(0, 2).cdf).pvalue > 1e-3


def test_blur_has_lightlys_distribution_of_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = [], []

    class Recorder(ImageFilter.GaussianBlur):
        def __init__(self, radius: float) -> None:
            theirs.append(radius)
            super().__init__(radius)

    def record(images: torch.Tensor, sigma: torch.Tensor, largest: float) -> torch.Tensor:
        ours.extend(sigma.tolist())
        return images

    monkeypatch.setattr(lightly.transforms.gaussian_blur.ImageFilter, "GaussianBlur", Recorder)
    monkeypatch.setattr(robustbench_coss.pretrain.views, "gaussian_blur", record)
    np.random.seed(0)  # noqa: NPY002 - lightly draws from it
    blur = BYOLView1Transform().transform.transforms[6]
    picture = Image.new("RGB", (4, 4))
    for _ in range(3000):
        blur(picture)
    make_views(torch.zeros(3000, 3, 4, 4, dtype=torch.uint8), range(3000), 0, 0, 1, OPTIONS)
    assert len(ours) == len(theirs) == 3000
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_the_defaults_are_those_of_lightlys_byol_transform() -> None:
    for view, theirs in enumerate(BYOLTransform().transforms):
        steps = theirs.transform.transforms
        crop, flip, upside_down, _, jitter, to_grey, blur, solarize = steps[:8]
        assert tuple(crop.scale) == AREA
        assert tuple(crop.ratio) == pytest.approx((1 / ASPECT, ASPECT))
        assert (flip.p, upside_down.p) == (OPTIONS.flip, 0)
        assert jitter.p == OPTIONS.jitter
        spread = (OPTIONS.brightness, OPTIONS.contrast, OPTIONS.saturation)
        (change,) = jitter.transforms
        for key, strength in zip(("brightness", "contrast", "saturation"), spread, strict=True):
            assert getattr(change, key) == pytest.approx((1 - strength, 1 + strength))
        assert change.hue == pytest.approx((-OPTIONS.hue, OPTIONS.hue))
        assert to_grey.p == OPTIONS.grey
        assert (blur.prob, tuple(blur.sigmas)) == (OPTIONS.blur[view], OPTIONS.blur_sigma)
        assert solarize.prob == OPTIONS.solarize[view]


@pytest.mark.slow
@pytest.mark.parametrize("view", [0, 1])
def test_views_have_the_image_statistics_of_lightlys(view: int) -> None:
    """Brightness, contrast, colour and spectrum over 100 views of each of ten pictures."""
    pixels = open_dataset("parts", "test").images(range(10))
    index = range(1000)
    ours = make_views(pixels.repeat(100, 1, 1, 1), index, 0, 0, 2, OPTIONS)[view]
    one = (BYOLView1Transform, BYOLView2Transform)[view](input_size=32, normalize=None)
    pictures = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pixels]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - lightly draws from it
    theirs = torch.stack([one(pictures[i % 10]) for i in index])
    for statistic in (
        lambda v: v.mean(dim=(1, 2, 3)),
        lambda v: v.std(dim=(1, 2, 3)),
        lambda v: (v[:, 0] - v[:, 2]).mean(dim=(1, 2)),
    ):
        assert stats.ks_2samp(statistic(ours), statistic(theirs)).pvalue > 1e-3
    # Octaves of spatial frequency up to 8 cycles per picture, which hold nearly all power. Above,
    # 8-bit rounding and Pillow's blur, a sum of box filters, differ from ours.
    for low in (1, 2, 4):
        mine, other = (band_power(views, low, 2 * low) for views in (ours, theirs))
        assert stats.ks_2samp(mine, other).pvalue > 1e-3
        # One of 1,000 views weighs enough to move the mean by several percent.
        assert float(mine.mean() / other.mean()) == pytest.approx(1, abs=0.15)


def band_power(views: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """[B] mean power of each view's luma between two spatial frequencies in cycles per picture."""
    power = torch.fft.fft2(grey(views)[:, 0]).abs().square()
    cycles = torch.fft.fftfreq(views.shape[-1]) * views.shape[-1]
    radius = (cycles[:, None] ** 2 + cycles**2).sqrt()
    return power[:, (radius >= low) & (radius < high)].mean(dim=1)


@pytest.mark.parametrize(
    "wrong", [{"blur": (1.2, 0)}, {"blur_sigma": (0, 1)}, {"blur_sigma": (2, 1)}]
)
def test_values_that_no_transform_can_take_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ViewOptions(**wrong)


def test_draws_are_uniform_and_independent_between_names() -> None:
    a = uniform(np.arange(5000), 3, "a")
    b = uniform(np.arange(5000), 3, "b")
    for column in range(3):
        assert stats.kstest(a[:, column], "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(a[:, 0], b[:, 0])[0, 1]) < 0.06
    assert abs(np.corrcoef(a[:, 0], a[:, 1])[0, 1]) < 0.06
    assert abs(np.corrcoef(a[1:, 0], a[:-1, 0])[0, 1]) < 0.06
