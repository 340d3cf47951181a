"""JPEG compression and decompression as libjpeg does them by default, on a batch.

No entropy coding: it loses nothing. Standard tables, 4:2:0 chroma, triangle-filtered upsampling and
libjpeg's integer cosine transform, rounding by rounding.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.evaluations.corruptions.fast.draws import Draws

# ITU-T T.81, annex K, tables K.1 (luminance) and K.2 (chrominance), row by row.
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99),
)


def jpeg_compression(x: Tensor, draws: Draws, c: int) -> Tensor:
    """The picture after JPEG compression at quality c; see `noise` for arguments and result."""
    size = x.shape[-1]
    # Whole blocks of 16 px, which hold 8 x 8 chroma values: the last column and row repeat.
    margin = -size % 16
    x = F.pad(x, (0, margin, 0, margin), mode="replicate")
    luma, chroma = _to_ycc(x)
    luma = _code(luma, _LUMINANCE, c)
    chroma = _code(_halve(chroma), _CHROMINANCE, c)
    # libjpeg repeats at the picture's own border, not at that of the blocks.
    half = (size + 1) // 2
    return _to_rgb(luma[..., :size, :size], _double(chroma[..., :half, :half])[..., :size, :size])


# ITU-R BT.601, full range, in units of 2^-16 as in libjpeg's tables: all sums below are whole
# numbers of at most 2^24, which float32 holds exactly.
_LUMA = (19595.0, 38470.0, 7471.0)
_BLUENESS = (-11059.0, -21709.0, 32768.0)
_REDNESS = (32768.0, -27439.0, -5329.0)


def _to_ycc(x: Tensor) -> tuple[Tensor, Tensor]:
    """RGB to luma [B, 1, S, S] and chroma [B, 2, S, S], rounded (halves up in luma, else down)."""
    red, green, blue = x.unbind(1)
    planes = [
        (r * red).add_(green, alpha=g).add_(blue, alpha=b).add_(half)
        for (r, g, b), half in ((_LUMA, 0x8000), (_BLUENESS, 0x807FFF), (_REDNESS, 0x807FFF))
    ]
    ycc = torch.stack(planes, 1).mul_(2.0**-16).floor_()
    return ycc[:, :1], ycc[:, 1:]


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """The inverse; the chroma part of each channel is rounded before luma is added."""
    blueness, redness = torch.split(chroma - 128, 1, dim=1)
    parts = [91881 * redness, -22554 * blueness - 46802 * redness, 116130 * blueness]
    return (torch.cat(parts, 1) + 0x8000).mul_(2.0**-16).floor_().add_(luma).clamp_(0, 255)


def _halve(chroma: Tensor) -> Tensor:
    """Means of 2 x 2 values, halves rounded down in even and up in odd columns."""
    total = F.avg_pool2d(chroma, 2, divisor_override=1)
    bias = torch.tensor([1.0, 2.0], device=chroma.device).repeat(total.shape[-1] // 2)
    return (total + bias).mul_(0.25).floor_()


def _double(chroma: Tensor) -> Tensor:
    """Twice as wide and high: each new value is 9/16, 3/16, 3/16, 1/16 of the nearest four."""
    height = chroma.shape[-2]
    around = F.pad(chroma, (1, 1, 1, 1), mode="replicate")
    middle = 3 * around[..., 1 : height + 1, :]
    tall = torch.stack([middle + around[..., :height, :], middle + around[..., 2:, :]], 3)
    tall = tall.flatten(2, 3)
    width = chroma.shape[-1]
    middle = 3 * tall[..., 1 : width + 1]
    # Halves are rounded up on the left, down on the right.
    left = middle + tall[..., :width] + 8
    right = middle + tall[..., 2:] + 7
    return torch.stack([left, right], 4).flatten(3).mul_(1 / 16).floor_()


def _code(plane: Tensor, table: tuple[int, ...], quality: int) -> Tensor:
    """Blocks of 8 x 8 through the cosine transform, rounded to multiples of the steps, and back.

    All values are whole numbers that their type holds exactly, so nothing but the stated shifts
    is rounded: below 2⁵³ in float64, and below 2²⁴ in float32.
    """
    matrix = _matrix().to(plane.device)
    steps = _steps(table, quality).to(plane.device)
    width = plane.shape[-1]
    signal = ((plane.double() - 128).view(-1, 8) @ matrix.T).view(-1, 8, width)
    coefficients = _shift(matrix @ _shift(signal, 11), 15).float().view(-1, 8, width // 8, 8)
    # Eight times the coefficients, so far. Halves are rounded away from zero.
    halves = torch.copysign(torch.full_like(coefficients, 0.5), coefficients)
    levels = halves.addcdiv_(coefficients, 8 * steps).trunc_()
    signal = matrix.T @ levels.mul_(steps).double().view(-1, 8, width)
    signal = _shift(signal, 11).view(-1, 8) @ matrix
    return _shift(signal, 18).add_(128).clamp_(0, 255).float().view_as(plane)


def _shift(x: Tensor, bits: int) -> Tensor:
    """x / 2^bits, rounded to whole numbers, halves up."""
    return x.mul_(2.0**-bits).add_(0.5).floor_()


@cache
def _steps(table: tuple[int, ...], quality: int) -> Tensor:
    """[8, 1, 8] float32: the quantisation steps of a quality, as `jpeg_quality_scaling` has it."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = [min(max((t * scale + 50) // 100, 1), 255) for t in table]
    return torch.tensor(steps).float().view(8, 1, 8)


@cache
def _matrix() -> Tensor:
    """[8, 8] float64: 2¹³ · √8 times the orthonormal cosine transform, as whole numbers.

    Those that result from the rounded constants of libjpeg's accurate integer transform
    (`jfdctint.c`, after Loeffler, Ligtenberg and Moschytz 1989); they differ by up to 1 from the
    rounded products themselves.
    """
    left = torch.tensor(
        [
            [8192, 8192, 8192, 8192],
            [11363, 9633, 6437, 2260],
            [10703, 4433, -4433, -10703],
            [9633, -2259, -11362, -6436],
            [8192, -8192, -8192, 8192],
            [6437, -11362, 2261, 9633],
            [4433, -10704, 10704, -4433],
            [2260, -6436, 9633, -11363],
        ],
        dtype=torch.float64,
    )
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4)
    return torch.cat([left, left.flip(1) * sign[:, None]], dim=1)
