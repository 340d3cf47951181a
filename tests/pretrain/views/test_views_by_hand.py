"""Views made once more with torchvision from the same draws; local crops."""

from __future__ import annotations

import hashlib

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from helpers.view_cases import AREA, LOCAL_AREA, OFF, OPTIONS, pictures

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError
from robustbench_coss.pretrain.views import (
    ViewOptions,
    cut_views,
    make_views,
    plan_views,
    refuse_empty_maps,
)
from robustbench_coss.testing import TinyEncoder

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
