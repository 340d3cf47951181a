"""Digital: contrast, saturation, elastic transform and pixelation; for arguments see `noise`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.evaluations.corruptions.fast import filters
from robustbench_coss.evaluations.corruptions.fast.draws import Draws
from robustbench_coss.evaluations.corruptions.fast.vector_code import nearest_source


def contrast(x: Tensor, draws: Draws, c: float) -> Tensor:
    """Distance of each channel from its own mean, times c."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * c + mean


def saturate(x: Tensor, draws: Draws, c: tuple[float, float]) -> Tensor:
    """HSV's saturation times c[0] plus c[1], within 0 … 1; hue and value stay.

    In HSV a channel is value · (1 - saturation · w), w in 0 … 1 given by hue. So distances from
    the largest channel grow by the factor of the saturation. Grey has hue 0: it turns red.
    """
    value = x.amax(1, keepdim=True)
    spread = value - x.amin(1, keepdim=True)
    saturation = spread / value.clamp_min(1)
    changed = (saturation * c[0] + c[1]).clamp_(0, 1)
    coloured = value - (value - x) * (changed / saturation.clamp_min(1e-6))
    below = value * (1 - changed)
    reddened = torch.cat([value, below, below], dim=1)
    return torch.where(spread > 0, coloured, reddened)


def pixelate(x: Tensor, draws: Draws, c: float, *, smooth: bool) -> Tensor:
    """Shrunk to int(c · S) px and enlarged again, as Pillow does it.

    Args:
        smooth: enlarge with the box filter (the scripts) or by repeating pixels (imagecorruptions).
    """
    size = x.shape[-1]
    small = int(size * c)
    shrunk = _box_resize(x, small)
    if smooth:
        return _box_resize(shrunk, size)
    source = torch.from_numpy(nearest_source(size, small)).to(x.device)
    return shrunk.index_select(3, source).index_select(2, source)


def _box_resize(x: Tensor, target: int) -> Tensor:
    """Pillow's `resize` with `BOX`: columns, then rows, each rounded to whole grey levels."""
    size = x.shape[-1]
    scale = size / target
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    reach = 0.5 * max(scale, 1.0)
    first = (centre - reach + 0.5).long().clamp_min(0)
    last = (centre + reach + 0.5).long().clamp_max(size)
    place = torch.arange(size, dtype=torch.float64)
    # A source pixel counts if its centre lies within half a target pixel, the left end excluded.
    away = (place + 0.5 - centre[:, None]) / max(scale, 1.0)
    counts = (place >= first[:, None]) & (place < last[:, None]) & (away > -0.5) & (away <= 0.5)
    weights = (counts / counts.sum(1, keepdim=True)).float().to(x.device)
    columns = (x @ weights.T).add_(0.5).floor_()
    return (weights @ columns).add_(0.5).floor_()


def elastic_transform(x: Tensor, draws: Draws, c: float) -> Tensor:
    """Pixels taken from nearby: smooth random displacements of strength c, linear interpolation.

    As imagecorruptions has it, which differs from ImageNet-C's own script. Displacements are
    uniform in ±S / 200, smoothed by a Gaussian of S / 100 px, times c.
    """
    size = x.shape[-1]
    reach = size * 0.005
    field = draws.uniform(-reach, reach, 2, size, size)
    field = filters.gaussian(field, size * 0.01, border="symmetric", truncate=3.0) * c
    return _displace(x, field[:, 0], field[:, 1])


def elastic_with_affine(x: Tensor, draws: Draws, c: tuple[float, float, float]) -> Tensor:
    """The elastic transform of the scripts that made ImageNet-C and CIFAR-10-C.

    A random affine map, then random displacements.
    The map moves three points around the centre by up to c[2] sides each; displacements are
    uniform in ±c[0] sides and smoothed by a Gaussian of c[1] sides.
    """
    size = x.shape[-1]
    strength, sigma, reach = (size * value for value in c)
    middle, arm = size // 2, size // 3
    near = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], device=x.device) * arm + middle
    moved = near + draws.uniform(-reach, reach, 3, 2)
    # The map takes `near` to `moved`; pixels are fetched by its inverse, [B, 3, 2] here.
    ones = torch.ones(*moved.shape[:2], 1, device=x.device)
    inverse = torch.linalg.solve(torch.cat([moved, ones], 2), near.expand_as(moved))
    place = torch.arange(size, dtype=torch.float32, device=x.device)
    down, right = torch.meshgrid(place, place, indexing="ij")
    grid = torch.stack([right, down, torch.ones_like(right)], 2)
    source = (grid.flatten(0, 1) @ inverse).view(-1, size, size, 2)
    x = F.grid_sample(
        x,
        source * (2 / (size - 1)) - 1,
        mode="bilinear",
        padding_mode="reflection",
        align_corners=True,
    )
    field = draws.uniform(-1, 1, 2, size, size)
    field = filters.gaussian(field, sigma, border="symmetric", truncate=3.0) * strength
    return _displace(x, field[:, 0], field[:, 1])


def _displace(x: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """x at (column + right, row + down) px, linear; beyond the border the picture is mirrored."""
    size = x.shape[-1]
    place = torch.arange(size, dtype=torch.float32, device=x.device)
    # grid_sample counts from -1 at the left side of the first pixel to 1 at the right of the last.
    columns = (place + right + 0.5) * (2 / size) - 1
    rows = (place[:, None] + down + 0.5) * (2 / size) - 1
    return F.grid_sample(
        x,
        torch.stack([columns, rows], 3),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
