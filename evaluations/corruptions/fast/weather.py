"""Weather: snow, frost, fog and brightness; for arguments and result see `noise`."""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import as_file, files

import cv2
import numpy as np
import torch
from torch import Tensor

from robustbench_coss.evaluations.corruptions.fast import filters
from robustbench_coss.evaluations.corruptions.fast.draws import Draws


def brightness(x: Tensor, draws: Draws, c: float) -> Tensor:
    """HSV's value plus c, at most white.

    Hue and saturation stay, so the channels keep their ratios; black becomes grey.
    """
    value = x.amax(1, keepdim=True)
    raised = (value + 255 * c).clamp_max_(255)
    return torch.where(value > 0, x * (raised / value.clamp_min(1)), raised)


def snow(x: Tensor, draws: Draws, c: tuple[float, ...], *, centred: bool) -> Tensor:
    """A whitened picture with flakes, blurred along their fall, and the same flakes turned around.

    Args:
        c: mean and standard deviation of the layer, zoom, threshold, radius and sigma of the
            motion in px, weight of the picture.
        centred: see `blur.zoom_blur`; the protocols cut and round the layer in different order.
    """
    mean, deviation, factor, threshold, radius, sigma, weight = c
    size = x.shape[-1]
    layer = draws.normal(1, size, size).mul_(deviation).add_(mean)
    layer = filters.zoom(layer.transpose(0, 1), factor).transpose(0, 1)
    if centred:
        trim = (layer.shape[-1] - size) // 2
        layer = layer[..., trim : trim + size, trim : trim + size]
    layer = torch.where(layer < threshold, 0.0, layer.clamp(0, 1)) * 255
    if centred:
        layer = layer.floor()
    layer = filters.motion(layer, int(radius), sigma, draws.uniform(-135, -45, 1)[:, 0]).round()
    layer = layer[..., :size, :size]
    red, green, blue = torch.split(x, 1, dim=1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601, as OpenCV has it
    whitened = torch.maximum(x, 1.5 * grey + 127.5).lerp_(x, weight)
    return whitened.add_(layer + layer.flip(2, 3))


def frost(x: Tensor, draws: Draws, c: tuple[float, float], *, scale: float | None) -> Tensor:
    """Weighted sum of the picture and a random cut of a random photograph of frost.

    Args:
        scale: of the photographs, of which the scripts take the first five: 0.2 for CIFAR-10-C, 1
            for ImageNet-C; None for all six as imagecorruptions scales them.
    """
    size = x.shape[-1]
    photographs = _frost_pictures(size, scale, x.device)
    cuts = []
    # 32 bits times a count, without the lowest 32 bits of the product, is a draw below the count.
    for which, down, right in (draws.bits(3).cpu().long() + 2**31).tolist():
        picture = photographs[(which * len(photographs)) >> 32]
        top = (down * (picture.shape[1] - size)) >> 32
        left = (right * (picture.shape[2] - size)) >> 32
        cuts.append(picture[:, top : top + size, left : left + size])
    return c[0] * x + c[1] * torch.stack(cuts)


@cache
def _frost_pictures(size: int, wanted: float | None, device: torch.device) -> tuple[Tensor, ...]:
    """[3, h, w] uint8 each, larger than `size`: the photographs of imagecorruptions.

    imagecorruptions scales them by 1.1 (cubic), or by more where one is smaller than the picture;
    CIFAR-10-C by 0.2 (linear). A photograph that is too small for the picture is enlarged to fit.
    """
    found = []
    for name in (
        "frost1.png",
        "frost2.png",
        "frost3.png",
        "frost4.jpg",
        "frost5.jpg",
        "frost6.jpg",
    ):
        with as_file(files("imagecorruptions") / "frost" / name) as path:
            picture = np.asarray(cv2.imread(str(path)))
        height, width = picture.shape[:2]
        if wanted is not None:
            scale = max(wanted, (size + 1) / height, (size + 1) / width)
            shape, how = (round(width * scale), round(height * scale)), cv2.INTER_LINEAR
        else:
            scale = 1.1 * max(1, size / height, size / width)
            shape, how = (math.ceil(width * scale), math.ceil(height * scale)), cv2.INTER_CUBIC
        rgb = cv2.resize(picture, shape, interpolation=how)[..., ::-1]
        found.append(torch.from_numpy(rgb.transpose(2, 0, 1).copy()).to(device))
    return tuple(found if wanted is None else found[:5])


def fog(x: Tensor, draws: Draws, c: tuple[float, float]) -> Tensor:
    """A fractal cloud over the picture, scaled so that the brightest value stays."""
    strength, decay = c
    size = x.shape[-1]
    brightest = x.amax((1, 2, 3), keepdim=True)
    cloud = _plasma(draws, 1 << (size - 1).bit_length(), decay)[:, None, :size, :size]
    return (x + 255 * strength * cloud) * (brightest / (brightest + 255 * strength))


def _plasma(draws: Draws, side: int, decay: float) -> Tensor:
    """[B, side, side] float32 in [0, 1]: a height map by the diamond-square algorithm on a torus.

    Each new point is the mean of four neighbours plus a uniform draw in ±wibble², where wibble
    starts at 100 and is divided by `decay` from one octave to the next. `side` is a power of two.
    """
    points = torch.zeros(len(draws.keys), 1, 1, device=draws.keys.device)
    wibble = 100.0
    while points.shape[-1] < side:
        count = points.shape[-1]
        reach = wibble * wibble
        moved = draws.uniforms(3, -reach, reach, count, count).unbind(1)
        # Squares: the centre of four corners.
        across = points + points.roll(-1, 1)
        centre = (across + across.roll(-1, 2)) / 4 + moved[0]
        # Diamonds: the middle of each edge, between two corners and two centres.
        beside = centre + centre.roll(1, 1) + points + points.roll(-1, 2)
        below = centre + centre.roll(1, 2) + points + points.roll(-1, 1)
        beside = beside / 4 + moved[1]
        below = below / 4 + moved[2]
        even = torch.stack([points, beside], 3).flatten(2)
        odd = torch.stack([below, centre], 3).flatten(2)
        points = torch.stack([even, odd], 2).flatten(1, 2)
        wibble /= decay
    points = points - points.amin((1, 2), keepdim=True)
    return points / points.amax((1, 2), keepdim=True)
