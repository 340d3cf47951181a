"""Augmented views of a batch, computed in batches on the model's device.

The transforms are those of BYOL (Grill et al. 2020, table 6) with torchvision's definitions:
random resized crop, flip, colour jitter in random order, greyscale, Gaussian blur, solarisation.
Every sample has its own draws, keyed by (seed, epoch, sample, view).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from robustbench_coss.seeds import uniform

CROP_ATTEMPTS = 10  # torchvision's RandomResizedCrop.get_params
CROP_DRAWS = 4 * CROP_ATTEMPTS
GREY = (0.299, 0.587, 0.114)  # ITU-R 601 luma, as PIL and torchvision use


class ViewOptions(BaseModel):
    """Distribution of the two views; the defaults are BYOL's for ImageNet (table 6).

    `blur` and `solarize` are probabilities for the first and the second view. Sizes of crops are
    shares of the image's area.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_crop: float = Field(0.08, gt=0, le=1)
    max_crop: float = Field(1.0, gt=0, le=1)
    aspect: float = Field(4 / 3, ge=1)
    flip: float = Field(0.5, ge=0, le=1)
    jitter: float = Field(0.8, ge=0, le=1)
    brightness: float = Field(0.4, ge=0, le=1)
    contrast: float = Field(0.4, ge=0, le=1)
    saturation: float = Field(0.2, ge=0, le=1)
    hue: float = Field(0.1, ge=0, le=0.5)
    grey: float = Field(0.2, ge=0, le=1)
    blur: tuple[float, float] = (1.0, 0.1)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: tuple[float, float] = (0.0, 0.2)

    @model_validator(mode="after")
    def _ordered(self) -> ViewOptions:
        if self.min_crop > self.max_crop:
            raise ValueError(f"min_crop {self.min_crop} exceeds max_crop {self.max_crop}")
        return self


@dataclass(frozen=True)
class Draws:
    """Names that key the draws of a batch: row i belongs to sample `index[i]`."""

    index: NDArray[np.int64]
    seed: int
    epoch: int

    def of(self, what: str, view: int, count: int) -> NDArray[np.float64]:
        """[B, count] in [0, 1)."""
        return uniform(self.index, count, "view", self.seed, self.epoch, view, what)


def crop_boxes(
    draws: NDArray[np.float64], height: int, width: int, options: ViewOptions
) -> NDArray[np.int64]:
    """Random resized crop boxes, as torchvision draws them.

    Area is uniform in [min_crop, max_crop] of the image, log aspect ratio uniform; of ten tries the
    first that fits is taken, else the largest centred crop within the aspect limits.

    Args:
        draws: [B, CROP_DRAWS] in [0, 1).

    Returns:
        [B, 4] int64: top, left, height, width in px.
    """
    area_draw, aspect_draw, y_draw, x_draw = np.split(draws, 4, axis=1)
    area = height * width * (options.min_crop + area_draw * (options.max_crop - options.min_crop))
    ratio = np.exp((2 * aspect_draw - 1) * np.log(options.aspect))
    w = np.round(np.sqrt(area * ratio)).astype(np.int64)
    h = np.round(np.sqrt(area / ratio)).astype(np.int64)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.argmax(axis=1)
    rows = np.arange(len(draws))
    h, w = h[rows, first], w[rows, first]
    top = (y_draw[rows, first] * (height - h + 1)).astype(np.int64)
    left = (x_draw[rows, first] * (width - w + 1)).astype(np.int64)

    fallback_w = min(width, round(height * options.aspect))
    fallback_h = min(height, round(width * options.aspect))
    none = ~fits.any(axis=1)
    h[none], w[none] = fallback_h, fallback_w
    top[none], left[none] = (height - fallback_h) // 2, (width - fallback_w) // 2
    return np.stack([top, left, h, w], axis=1)


def crop_batch(images: Tensor, boxes: NDArray[np.int64], flip: NDArray[np.bool_]) -> Tensor:
    """Cut and resize a box from each image, bilinearly, back to the images' own size.

    Args:
        images: [B, 3, S, S] float.
        boxes: [B, 4] top, left, height, width in px.
        flip: [B] whether to mirror left and right.

    Returns:
        [B, 3, S, S] float. A crop is never larger than its result, so no antialiasing is needed.
    """
    size = images.shape[-1]
    box = torch.as_tensor(boxes, dtype=torch.float32, device=images.device)
    top, left, height, width = (column[:, None] for column in box.unbind(1))
    centre = (torch.arange(size, device=images.device, dtype=torch.float32) + 0.5) / size
    # Positions in px within the box, kept half a pixel inside it: the crop's own border repeats.
    y = (centre * height).clamp(min=torch.full_like(height, 0.5), max=height - 0.5) + top
    x = (centre * width).clamp(min=torch.full_like(width, 0.5), max=width - 0.5) + left
    mirrored = torch.as_tensor(flip, device=images.device)[:, None]
    x = torch.where(mirrored, x.flip(1), x)
    grid = torch.stack(
        [
            (x * 2 / size - 1)[:, None, :].expand(-1, size, -1),
            (y * 2 / size - 1)[:, :, None].expand(-1, -1, size),
        ],
        dim=3,
    )
    return F.grid_sample(images, grid, mode="bilinear", align_corners=False)


def crop_image(image: Tensor, box: NDArray[np.int64], flip: bool, size: int) -> Tensor:
    """The same for one uint8 image of any size, antialiased: [3, H, W] -> [3, size, size]."""
    top, left, height, width = (int(v) for v in box)
    crop: Tensor = TF.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    return crop.flip(2) if flip else crop


def _column(values: NDArray[np.float64], like: Tensor) -> Tensor:
    """[B] draws as [B, 1, 1, 1] on the images' device."""
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1, 1)


def grey(images: Tensor) -> Tensor:
    """[B, 3, H, W] to luma [B, 1, H, W]."""
    weights = images.new_tensor(GREY).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp_(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return (images * factor).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean luma."""
    return _blend(images, grey(images).mean(dim=(2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with luma."""
    return _blend(images, grey(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue of HSV by `shift` turns; images [B, 3, H, W] in [0, 1]."""
    value, which = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    r, g, b = images.unbind(1)
    hue = torch.where(
        which == 0, (g - b) / safe, torch.where(which == 1, 2 + (b - r) / safe, 4 + (r - g) / safe)
    )
    hue = (hue / 6 + shift.squeeze(1)) % 1
    # HSV to RGB in closed form: f(n) = v - c * max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6.
    n = images.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k = (n + 6 * hue.unsqueeze(1)) % 6
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp_(0, 1)


def colour_jitter(images: Tensor, draws: NDArray[np.float64], options: ViewOptions) -> Tensor:
    """Brightness, contrast, saturation and hue, each sample in its own random order.

    Args:
        images: [B, 3, H, W] in [0, 1].
        draws: [B, 9]: whether to jitter, four factors, four sort keys of the order.
    """
    chosen = draws[:, 0] < options.jitter
    spread = np.array([options.brightness, options.contrast, options.saturation])
    factors = np.empty((len(draws), 4))
    low = np.maximum(0, 1 - spread)
    factors[:, :3] = low + draws[:, 1:4] * (1 + spread - low)
    factors[:, 3] = (2 * draws[:, 4] - 1) * options.hue
    order = draws[:, 5:9].argsort(axis=1)
    adjust = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    strength = (*spread, options.hue)
    images = images.clone()
    for step in range(4):
        for which in range(4):
            rows = np.flatnonzero(chosen & (order[:, step] == which))
            if len(rows) and strength[which] > 0:
                at = torch.as_tensor(rows, device=images.device)
                images[at] = adjust[which](images[at], _column(factors[rows, which], images))
    return images


def gaussian_blur(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur each image with its own Gaussian, edges reflected.

    Args:
        images: [B, 3, H, W].
        sigma: [B] in px.
        largest: upper bound of sigma, which sets the kernel: 3 sigma, at most a third of the image.
    """
    batch, channels, height, width = images.shape
    radius = max(1, min(round(3 * largest), min(height, width) // 3))
    offset = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(offset**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    padded = F.pad(images, (radius,) * 4, mode="reflect").reshape(
        1, batch * channels, height + 2 * radius, width + 2 * radius
    )
    blurred = F.conv2d(padded, kernel[:, None, None, :], groups=batch * channels)
    blurred = F.conv2d(blurred, kernel[:, None, :, None], groups=batch * channels)
    return blurred.view(batch, channels, height, width)


def photometric(images: Tensor, draws: Draws, view: int, options: ViewOptions) -> Tensor:
    """Jitter, greyscale, blur and solarise [B, 3, H, W] images in [0, 1]."""
    images = colour_jitter(images, draws.of("jitter", view, 9), options)
    chance = draws.of("photometric", view, 4)

    rows = np.flatnonzero(chance[:, 0] < options.grey)
    at = torch.as_tensor(rows, device=images.device)
    images[at] = grey(images[at]).expand(-1, 3, -1, -1)

    rows = np.flatnonzero(chance[:, 1] < options.blur[view % 2])
    if len(rows):
        at = torch.as_tensor(rows, device=images.device)
        low, high = options.blur_sigma
        sigma = _column(low + chance[rows, 2] * (high - low), images).flatten()
        images[at] = gaussian_blur(images[at], sigma, high)

    rows = np.flatnonzero(chance[:, 3] < options.solarize[view % 2])
    at = torch.as_tensor(rows, device=images.device)
    selected = images[at]
    images[at] = torch.where(selected >= 0.5, 1 - selected, selected)
    return images


def cut_views(
    image: Tensor, key: int, seed: int, epoch: int, count: int, size: int, options: ViewOptions
) -> Tensor:
    """Crops of one decoded image, for data sets whose images differ in size.

    Args:
        image: [3, H, W] uint8.
        key: sample index.

    Returns:
        [count, 3, size, size] uint8.
    """
    draws = Draws(np.array([key]), seed, epoch)
    crops = []
    for view in range(count):
        box = crop_boxes(
            draws.of("crop", view, CROP_DRAWS), image.shape[1], image.shape[2], options
        )[0]
        flip = bool(draws.of("flip", view, 1)[0, 0] < options.flip)
        crops.append(crop_image(image, box, flip, size))
    return torch.stack(crops)


def make_views(
    images: Tensor, index: Sequence[int], seed: int, epoch: int, count: int, options: ViewOptions
) -> list[Tensor]:
    """Augmented views of a batch.

    Args:
        images: uint8 [B, 3, S, S] whole images, or [B, count, 3, S, S] crops from `cut_views`.
        index: data set index of each sample.
        count: number of views.

    Returns:
        `count` tensors [B, 3, S, S] float32 in [0, 1] up to rounding, on the images' device.
    """
    draws = Draws(np.asarray(index, dtype=np.int64), seed, epoch)
    pixels = images.float() / 255
    views = []
    for view in range(count):
        if pixels.dim() == 5:
            cropped = pixels[:, view]
        else:
            boxes = crop_boxes(
                draws.of("crop", view, CROP_DRAWS), pixels.shape[2], pixels.shape[3], options
            )
            cropped = crop_batch(pixels, boxes, draws.of("flip", view, 1)[:, 0] < options.flip)
        views.append(photometric(cropped, draws, view, options))
    return views
