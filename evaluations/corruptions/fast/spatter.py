"""Spatter: drops of water, shaded by the distance to their edges, or of mud.

For arguments and result see `noise`. The picture processing that the reference leaves to OpenCV
(edges, distances, histogram equalisation) is written out here for a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.evaluations.corruptions.fast import filters
from robustbench_coss.evaluations.corruptions.fast.draws import Draws

_WATER = (175.0, 238.0, 238.0)  # pale turquoise
_MUD = (63.0, 42.0, 20.0)  # brown
_FAR = 20  # distances in px are cut off here


def spatter(x: Tensor, draws: Draws, c: tuple[float, float, float, float, float, bool]) -> Tensor:
    """Smoothed normal noise above a threshold is liquid.

    Args:
        c: mean, standard deviation, sigma in px, threshold; for water its strength, for mud the
            sigma in px of its rim; whether it is mud.
    """
    mean, deviation, sigma, threshold, extent, mud = c
    size = x.shape[-1]
    liquid = filters.gaussian(draws.normal(1, size, size).mul_(deviation).add_(mean), sigma)
    if mud:
        cover = filters.gaussian((liquid > threshold).float(), extent)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return x * (1 - cover) + _colour(_MUD, x) * cover
    liquid = torch.where(liquid < threshold, 0.0, (liquid * 255).floor_())
    shade = liquid * _relief(_distance(_edges(liquid[:, 0])))[:, None]
    most = shade.amax((1, 2, 3), keepdim=True)
    covered = x + shade / most.clamp_min(1) * extent * _colour(_WATER, x)
    # Without a drop the reference divides 0 by 0 and gives black.
    return torch.where(most > 0, covered, 0.0)


def _colour(levels: tuple[float, float, float], x: Tensor) -> Tensor:
    return torch.tensor(levels, device=x.device).view(1, 3, 1, 1)


def _edges(grey: Tensor) -> Tensor:
    """[B, S, S] bool: edges of [B, S, S] grey levels by Canny 1986, as `cv2.Canny(x, 50, 150)`.

    Sobel gradients with the border repeated, |gx| + |gy| as their size, thinned to local maxima
    along the gradient; then what is above 150 or, above 50, touches an edge.
    """
    gx, gy = _sobel(grey)
    ax, ay = gx.abs(), gy.abs()
    size = ax + ay
    around = F.pad(size, (1, 1, 1, 1))

    def neighbour(down: int, right: int) -> Tensor:
        height, width = size.shape[1:]
        return around[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    # The direction decides by tan 22.5° and tan 67.5°; of two equal neighbours one is kept.
    tangent = 0.4142135623730951
    level = ay < tangent * ax
    steep = ay > (tangent + 2) * ax
    peak = torch.where(
        level,
        (size > neighbour(0, -1)) & (size >= neighbour(0, 1)),
        torch.where(
            steep,
            (size > neighbour(-1, 0)) & (size >= neighbour(1, 0)),
            torch.where(
                (gx < 0) != (gy < 0),
                (size > neighbour(-1, 1)) & (size > neighbour(1, -1)),
                (size > neighbour(-1, -1)) & (size > neighbour(1, 1)),
            ),
        ),
    )
    weak = peak & (size > 50)
    found = weak & (size > 150)
    while True:
        around = F.pad(found, (1, 1, 1, 1))
        tall = around[:, :-2] | around[:, 1:-1] | around[:, 2:]
        grown = weak & (tall[:, :, :-2] | tall[:, :, 1:-1] | tall[:, :, 2:])
        if torch.equal(grown, found):
            return found
        found = grown


def _sobel(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical 3 x 3 Sobel derivatives [B, S, S]."""
    around = filters.pad(grey[:, None], 1, "edge")[:, 0]
    smooth_rows = around[:, :-2] + 2 * around[:, 1:-1] + around[:, 2:]
    smooth_columns = around[:, :, :-2] + 2 * around[:, :, 1:-1] + around[:, :, 2:]
    return (
        smooth_rows[:, :, 2:] - smooth_rows[:, :, :-2],
        smooth_columns[:, 2:] - smooth_columns[:, :-2],
    )


def _distance(edges: Tensor) -> Tensor:
    """[B, S, S] float32: distance in px to the nearest edge, at most `_FAR`.

    Exact, where `cv2.distanceTransform` with its 5 x 5 mask is off by up to 2 %. First along
    columns, then the nearest of the columns to both sides (Saito and Toriwaki 1994).
    """
    far = _FAR + 1
    # Steps along a column: each pass reaches twice as far as all before it together.
    column = torch.where(edges, 0, far).to(torch.int16)
    reach = 1
    while reach < far:
        around = F.pad(column, (0, 0, reach, reach), value=far)
        nearer = torch.minimum(around[:, : -2 * reach], around[:, 2 * reach :]) + reach
        column = torch.minimum(column, nearer)
        reach *= 2
    square = column * column
    width = edges.shape[-1]
    around = F.pad(square, (_FAR, _FAR), value=far * far)
    for k in range(1, _FAR + 1):
        left = around[..., _FAR - k : _FAR - k + width]
        right = around[..., _FAR + k : _FAR + k + width]
        square = torch.minimum(square, torch.minimum(left, right) + k * k)
    return square.float().sqrt_().clamp_max_(_FAR)


def _relief(distance: Tensor) -> Tensor:
    """[B, S, S] float32 in 0 … 255: distances smoothed, equalised and lit from one side."""
    smooth = _box(distance).floor_()
    level = _equalise(smooth)
    slope = torch.tensor([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]], device=distance.device)
    lit = filters.correlate(filters.pad(level[:, None], 1, "mirror"), slope)[:, 0].clamp_(0, 255)
    return _box(lit).round_()


def _box(x: Tensor) -> Tensor:
    """Mean of 3 x 3, mirrored at the border."""
    around = filters.pad(x[:, None], 1, "mirror")[:, 0]
    tall = around[:, :-2] + around[:, 1:-1] + around[:, 2:]
    return (tall[:, :, :-2] + tall[:, :, 1:-1] + tall[:, :, 2:]).div_(9)


def _equalise(x: Tensor) -> Tensor:
    """Histogram equalisation of whole grey levels, per image, as `cv2.equalizeHist`.

    A level becomes 255 times the share of pixels at or below it, the lowest level present left
    out of the count; an image of one level stays.
    """
    b, height, width = x.shape
    level = x.long().flatten(1)
    offset = torch.arange(b, device=x.device)[:, None] * 256
    counts = torch.bincount((level + offset).flatten(), minlength=b * 256).view(b, 256)
    lowest = level.amin(1, keepdim=True)
    total = height * width - counts.gather(1, lowest)
    below = counts.cumsum(1) - counts.gather(1, lowest)
    table = (below.clamp_min(0).float() * (255 / total.clamp_min(1).float())).round_()
    table = torch.where(total > 0, table, torch.arange(256, device=x.device).float())
    return table.gather(1, level).view_as(x)
