"""Random resized crops: their boxes, and cutting them from batches or from one picture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

CROP_ATTEMPTS = 10  # torchvision's RandomResizedCrop.get_params
CROP_DRAWS = 4 * CROP_ATTEMPTS


def crop_boxes(
    draws: NDArray[np.float64], height: int, width: int, share: tuple[float, float], aspect: float
) -> NDArray[np.int64]:
    """Random resized crop boxes, as torchvision draws them.

    Area is uniform in `share` of the image, log aspect ratio uniform between 1 / `aspect` and
    `aspect`; of ten tries the first that fits is taken, else the largest centred crop within the
    aspect limits.

    Args:
        draws: [B, CROP_DRAWS] in [0, 1).

    Returns:
        [B, 4] int64: top, left, height, width in px.
    """
    area_draw, aspect_draw, y_draw, x_draw = np.split(draws, 4, axis=1)
    smallest, largest = share
    area = height * width * (smallest + area_draw * (largest - smallest))
    ratio = np.exp((2 * aspect_draw - 1) * np.log(aspect))
    w = np.round(np.sqrt(area * ratio)).astype(np.int64)
    h = np.round(np.sqrt(area / ratio)).astype(np.int64)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.argmax(axis=1)
    rows = np.arange(len(draws))
    h, w = h[rows, first], w[rows, first]
    top = (y_draw[rows, first] * (height - h + 1)).astype(np.int64)
    left = (x_draw[rows, first] * (width - w + 1)).astype(np.int64)

    fallback_w = min(width, round(height * aspect))
    fallback_h = min(height, round(width * aspect))
    none = ~fits.any(axis=1)
    h[none], w[none] = fallback_h, fallback_w
    top[none], left[none] = (height - fallback_h) // 2, (width - fallback_w) // 2
    return np.stack([top, left, h, w], axis=1)


def crop_batch(images: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
    """Cut and resize a box from each image, bilinearly, back to the images' own size.

    Args:
        images: [B, 3, S, S] float.
        boxes: [B, 4] top, left, height, width in px, on the images' device.
        flip: [B] bool, whether to mirror left and right.

    Returns:
        [B, 3, S, S] float. A crop is never larger than its result, so no antialiasing is needed.
    """
    size = images.shape[-1]
    top, left, height, width = (column[:, None] for column in boxes.float().unbind(1))
    centre = (torch.arange(size, device=images.device, dtype=torch.float32) + 0.5) / size
    # Positions in px within the box, kept half a pixel inside it: the crop's own border repeats.
    y = (centre * height).clamp(min=torch.full_like(height, 0.5), max=height - 0.5) + top
    x = (centre * width).clamp(min=torch.full_like(width, 0.5), max=width - 0.5) + left
    x = torch.where(flip[:, None], x.flip(1), x)
    grid = torch.stack(
        [
            (x * 2 / size - 1)[:, None, :].expand(-1, size, -1),
            (y * 2 / size - 1)[:, :, None].expand(-1, -1, size),
        ],
        dim=3,
    )
    return F.grid_sample(images, grid, mode="bilinear", align_corners=False)


def crop_batch_antialiased(images: Tensor, boxes: Tensor, flip: Tensor, size: int) -> Tensor:
    """The same to any size: a crop that is larger than its result is smoothed as it shrinks.

    Resampling is linear along either axis, so it is two matrix products. Slower than `crop_batch`
    for results of the images' own size, where both give the same.

    Returns:
        [B, 3, size, size] float.
    """
    top, left, height, width = boxes.to(images.dtype).unbind(1)
    rows = _resampling(top, height, images.shape[-2], size)
    columns = _resampling(left, width, images.shape[-1], size)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _resampling(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """[B, size, side]: weights of `side` pixels in each of `size` samples of [start, start+length).

    A triangle about each sample's centre, as wide as two samples and at least two pixels, cut off
    at the ends of the box: bilinear resampling with antialiasing as in Pillow and torchvision.
    """
    step = (length / size)[:, None, None]
    sample = (torch.arange(size, device=start.device)[:, None] + 0.5) * step
    pixel = torch.arange(side, device=start.device) + 0.5 - start[:, None, None]
    weight = (1 - (pixel - sample).abs() / step.clamp(min=1)).clamp_(min=0)
    weight = weight * ((pixel > 0) & (pixel < length[:, None, None]))
    return weight / weight.sum(dim=2, keepdim=True)


def crop_image(image: Tensor, box: NDArray[np.int64], flip: bool, size: int) -> Tensor:
    """The same for one uint8 image of any shape: [3, H, W] -> [3, size, size]."""
    top, left, height, width = (int(v) for v in box)
    crop: Tensor = TF.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    return crop.flip(2) if flip else crop
