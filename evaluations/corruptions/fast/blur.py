"""Blurs: defocus, glass, motion, zoom and Gaussian; for arguments and result see `noise`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robustbench_coss.evaluations.corruptions.fast import filters
from robustbench_coss.evaluations.corruptions.fast.draws import Draws


def gaussian_blur(x: Tensor, draws: Draws, c: float) -> Tensor:
    """A Gaussian of sigma c px."""
    return filters.gaussian(x, c)


def defocus_blur(x: Tensor, draws: Draws, c: tuple[float, float]) -> Tensor:
    """A disk of radius c[0] px with a rim softened by c[1] px."""
    kernel = filters.disk(*c).to(x.device)
    return filters.correlate(filters.pad(x, kernel.shape[0] // 2, "mirror"), kernel)


def motion_blur(x: Tensor, draws: Draws, c: tuple[int, float]) -> Tensor:
    """Motion along a line at an angle in (-45°, 45°)."""
    return filters.motion(x, c[0], c[1], draws.uniform(-45, 45, 1)[:, 0])


def zoom_blur(x: Tensor, draws: Draws, c: tuple[float, float], *, centred: bool) -> Tensor:
    """Mean of the picture, and of the picture enlarged by 1, 1 + step, … below the largest factor.

    Args:
        c: largest factor (not reached) and step.
        centred: cut the enlarged picture around its centre (the scripts) or at its upper left
            corner (imagecorruptions).
    """
    b, channels, size, _ = x.shape
    largest, step = c
    factors = np.arange(1, largest, step).tolist()  # its rounding decides about the last one
    stacked = x.reshape(1, b * channels, size, size).contiguous(memory_format=torch.channels_last)
    total = stacked.clone()
    for factor in factors:
        layer = filters.zoom(stacked, factor)
        trim = (layer.shape[-1] - size) // 2 if centred else 0
        total += layer[..., trim : trim + size, trim : trim + size]
    return total.contiguous().view_as(x).div_(len(factors) + 1)


def glass_blur(x: Tensor, draws: Draws, c: tuple[float, int, int]) -> Tensor:
    """Gaussian blur, pixels replaced by near ones, and the blur again.

    The reference walks over the picture from its lower right corner and overwrites each pixel
    with the one at a random offset in -reach … reach - 1, which may have been overwritten before
    (written as a swap, but its two sides are views of the same array, so nothing moves back). A
    pixel thus takes its value from the end of a chain of pixels; all chains are followed at once.

    Args:
        c: sigma in px, reach in px, rounds.
    """
    sigma, reach, rounds = c
    b, channels, size, _ = x.shape
    blurred = filters.gaussian(x, sigma).clamp_(0, 255).floor_()
    side = torch.arange(size, dtype=torch.int32, device=x.device)
    inside = (side > reach) & (side <= size - reach)
    moves = inside[:, None] & inside
    image = torch.arange(b, dtype=torch.int32, device=x.device)[:, None, None]
    place = (image * size + side[:, None]) * size + side
    origin = place.flatten()
    for _ in range(rounds):
        down, right = draws.integers(-reach, reach, size, size)
        target = (place + (down * size + right) * moves).flatten()
        # Overwritten before: later in the picture, and itself a pixel that is overwritten.
        row, column = down + side[:, None], right + side
        earlier = (down > 0) | ((down == 0) & (right > 0))
        within = (row <= size - reach) & (column > reach) & (column <= size - reach)
        chained = (moves & earlier & within).flatten()
        source, open_ends = target.clone(), chained.nonzero()[:, 0]
        while len(open_ends):
            link = source[open_ends]
            source[open_ends] = target.index_select(0, link)
            open_ends = open_ends[chained.index_select(0, link)]
        origin = origin.index_select(0, source)
    pixels = blurred.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, origin)
    moved = pixels.view(b, size, size, channels).permute(0, 3, 1, 2)
    return filters.gaussian(moved.contiguous(), sigma)
