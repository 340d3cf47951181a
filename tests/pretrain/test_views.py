"""Augmented views held to torchvision and lightly: geometry, colour, distribution, determinism."""

from __future__ import annotations

import hashlib

import lightly.transforms.gaussian_blur
import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.transforms import BYOLTransform
from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform
from PIL import Image, ImageFilter
from pydantic import ValidationError
from scipy import stats
from torchvision import transforms as v1

import robustbench_coss.pretrain.views
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError
from robustbench_coss.pretrain.colours import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
    grey,
)
from robustbench_coss.pretrain.crops import (
    CROP_DRAWS,
    crop_batch,
    crop_batch_antialiased,
    crop_boxes,
    crop_image,
)
from robustbench_coss.pretrain.views import (
    Draws,
    ViewOptions,
    colour_jitter,
    cut_views,
    jitter_factors,
    make_views,
    plan_views,
    refuse_empty_maps,
)
from robustbench_coss.seeds import uniform
from robustbench_coss.testing import TinyEncoder

OPTIONS = ViewOptions()
AREA, ASPECT = (OPTIONS.min_crop, OPTIONS.max_crop), OPTIONS.aspect
LOCAL_AREA = (OPTIONS.local_min_crop, OPTIONS.local_max_crop)
OFF = {
    "min_crop": 1.0,
    "aspect": 1.0,
    "flip": 0.0,
    "jitter": 0.0,
    "grey": 0.0,
    "blur": (0.0, 0.0),
    "solarize": (0.0, 0.0),
    "local_blur": 0.0,
}


def pictures(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth random RGB images in [0, 1]: noise would make every resampling look alike."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)


def resized_crops(x: torch.Tensor, boxes: np.ndarray, size: int) -> torch.Tensor:
    """torchvision's crops, image by image."""
    return torch.stack(
        [
            TF.resized_crop(image, *(int(v) for v in box), [size, size], antialias=True)
            for image, box in zip(x, boxes, strict=True)
        ]
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
    ours = crop_batch(x, boxes, np.full(8, flip))
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
    ours = crop_batch_antialiased(x, boxes, np.full(32, flip), size)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 64), st.integers(1, 64))
def test_antialiased_crops_keep_constant_images_constant(seed: int, side: int, size: int) -> None:
    boxes = crop_boxes(uniform(np.arange(4), CROP_DRAWS, seed), side, side, (0.01, 1), ASPECT)
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
    ours = colour_jitter(x, Draws(np.arange(1000), 0, 0).of("jitter", 0, 9), ViewOptions(jitter=1))
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


# ---- the same seed gives the same pixels ----


def splitmix(index: int, count: int, *names: str | int) -> list[float]:
    """`seeds.uniform` for one sample in plain integers (Steele, Lea and Flood 2014)."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15
    text = "\x1f".join(f"{type(name).__name__}:{name!r}" for name in names)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little") >> 1

    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
        return x ^ x >> 31

    key = mix((index * golden + seed) & mask)
    return [(mix((key + n * golden) & mask) >> 11) / 2**53 for n in range(1, count + 1)]


def plain_view(
    image: torch.Tensor,
    draw,
    size: int,
    share: tuple[float, float],
    blur: float,
    solarize: float,
) -> torch.Tensor:
    """A view of one image [3, S, S] by torchvision's functions, straight from the draws."""
    side = image.shape[-1]
    box = draw("crop", 40)
    for k in range(10):
        area = side**2 * (share[0] + box[k] * (share[1] - share[0]))
        ratio = (4 / 3) ** (2 * box[10 + k] - 1)
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= side and 0 < h <= side:
            top, left = int(box[20 + k] * (side - h + 1)), int(box[30 + k] * (side - w + 1))
            break
    else:
        top, left, h, w = 0, 0, side, side
    image = TF.resized_crop(image, top, left, h, w, [size, size], antialias=True)
    if draw("flip", 1)[0] < 0.5:
        image = TF.hflip(image)
    chosen, *jitter = draw("jitter", 9)
    if chosen < 0.8:
        adjust = [
            lambda x: TF.adjust_brightness(x, 0.6 + 0.8 * jitter[0]),
            lambda x: TF.adjust_contrast(x, 0.6 + 0.8 * jitter[1]),
            lambda x: TF.adjust_saturation(x, 0.8 + 0.4 * jitter[2]),
            lambda x: TF.adjust_hue(x, 0.2 * jitter[3] - 0.1),
        ]
        for which in sorted(range(4), key=lambda k: jitter[4 + k]):
            image = adjust[which](image)
    grey_chance, blur_chance, sigma, solarize_chance = draw("photometric", 4)
    if grey_chance < 0.2:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    if blur_chance < blur:
        kernel = 2 * min(6, size // 3) + 1
        image = TF.gaussian_blur(image, [kernel, kernel], [0.1 + 1.9 * sigma] * 2)
    return TF.solarize(image, 0.5) if solarize_chance < solarize else image


@pytest.mark.parametrize("side", [32, 96])
def test_views_are_what_torchvision_makes_of_the_same_draws(side: int) -> None:
    """The draws, bit by bit: other names, another order or another count give other pixels."""
    x = (pictures(24, size=side) * 255).to(torch.uint8)
    made = make_views(x, range(100, 124), 7, 3, 2, OPTIONS, local_count=2)
    small = {32: 16, 96: 40}[side]
    kinds = [(side, AREA, 1.0, 0.0), (side, AREA, 0.1, 0.2), *[(small, LOCAL_AREA, 0.5, 0.0)] * 2]
    for view, kind in enumerate(kinds):
        for i in range(24):

            def draw(what: str, count: int, view: int = view, i: int = i) -> list[float]:
                return splitmix(100 + i, count, "view", 7, 3, view, what)

            expected = plain_view(x[i].float() / 255, draw, *kind)
            off = (made[view][i] - expected).abs()
            # 1e-3: torchvision's luma weights have four digits, and contrast scales the difference.
            # A pixel within that of 0.5 may be solarised in one and not in the other.
            assert (off > 1e-3).float().mean() < 1e-2
            assert off.median() < 1e-4


# ---- multi-crop ----


def test_local_crops_follow_the_global_ones_and_leave_them_as_they_are() -> None:
    x = (pictures(5, size=96) * 255).to(torch.uint8)
    alone = make_views(x, range(5), 0, 0, 2, OPTIONS)
    together = make_views(x, range(5), 0, 0, 2, OPTIONS, local_count=3)
    assert [view.shape[-1] for view in together] == [96, 96, 40, 40, 40]
    assert all(torch.equal(a, b) for a, b in zip(alone, together[:2], strict=True))
    assert not torch.equal(together[2], together[3])


@pytest.mark.parametrize(("side", "small"), [(32, 16), (64, 24), (96, 40), (224, 96)])
def test_local_crops_have_dinos_proportion(side: int, small: int) -> None:
    # 96 / 224 of the side in multiples of 8: 13.7 (at least 16), 27.4, 41.1 and 96.
    assert OPTIONS.local_side(side) == small
    assert ViewOptions(local_size=48).local_side(side) == 48


def test_local_crops_cut_by_a_worker_are_those_of_the_whole_batch() -> None:
    x = (pictures(2, size=96) * 255).to(torch.uint8)
    plain = ViewOptions(**(OFF | {"flip": 0.5, "aspect": 4 / 3}))
    whole = make_views(x, [7, 8], 1, 2, 2, plain, local_count=3)
    large, small = plan_views(96, 2, 3, plain)
    cut, small_cut = (
        torch.stack([cut_views(x[i], 7 + i, 1, 2, views, plain) for i in range(2)])
        for views in (large, small)
    )
    assert small_cut.shape == (2, 3, 3, 40, 40)
    again = make_views(cut, [7, 8], 1, 2, 2, plain, 3, small_cut)
    for one, two in zip(whole, again, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1.01 / 255)  # one rounding to uint8


@pytest.mark.parametrize("narrow", [False, True])
def test_views_too_small_for_an_encoder_are_refused(narrow: bool) -> None:
    class Narrow(TinyEncoder):
        def local(self, x: torch.Tensor) -> torch.Tensor:
            return super().local(x)[..., 1:, 1:]  # unpadded, as if: the map of 8 px is empty

    class Unpadded(Encoder):
        def __init__(self) -> None:
            super().__init__(TinyEncoder().input, 4, 4)
            self.layer = torch.nn.Conv2d(3, 4, 9)

        def local(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    encoder = Narrow() if narrow else Unpadded()
    refuse_empty_maps(encoder, [32, 16])
    assert encoder.training
    with pytest.raises(CossError, match="views of 8 px are too small") as error:
        refuse_empty_maps(encoder, [32, 8])
    assert "\n" not in str(error.value)


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
