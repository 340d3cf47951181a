"""Augmented views of a batch, computed in batches on the model's device.

The transforms are those of BYOL (Grill et al. 2020, table 6) with torchvision's definitions:
random resized crop, flip, colour jitter in random order, greyscale, Gaussian blur, solarisation.
Multi-crop adds small views of small crops (Caron et al. 2020, SwAV; constants as in DINO).
Every sample has its own draws, keyed by (seed, epoch, sample, view).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

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
from robustbench_coss.pretrain.upload import upload
from robustbench_coss.seeds import uniform

Chance = Annotated[float, Field(ge=0, le=1)]
Sigma = Annotated[float, Field(gt=0, le=100)]


class ViewOptions(BaseModel):
    """Distribution of the views; the defaults are BYOL's for ImageNet (table 6).

    `blur` and `solarize` are probabilities for the first and the second view. Sizes of crops are
    shares of the image's area. The keys `local_…` are those of the small views that multi-crop
    methods add: DINO's crops and blur, 6 of them as in lightly's DINO; never solarised.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_crop: float = Field(0.08, gt=0, le=1)
    max_crop: float = Field(1.0, gt=0, le=1)
    aspect: float = Field(4 / 3, ge=1, le=100)
    flip: Chance = 0.5
    jitter: Chance = 0.8
    brightness: float = Field(0.4, ge=0, le=1)
    contrast: float = Field(0.4, ge=0, le=1)
    saturation: float = Field(0.2, ge=0, le=1)
    hue: float = Field(0.1, ge=0, le=0.5)
    grey: Chance = 0.2
    blur: tuple[Chance, Chance] = (1.0, 0.1)
    blur_sigma: tuple[Sigma, Sigma] = (0.1, 2.0)
    solarize: tuple[Chance, Chance] = (0.0, 0.2)
    local_crops: int = Field(6, ge=0, le=1024)
    local_min_crop: float = Field(0.05, gt=0, le=1)
    local_max_crop: float = Field(0.14, gt=0, le=1)
    local_size: int | None = Field(None, ge=8, le=4096)
    local_blur: Chance = 0.5

    @model_validator(mode="after")
    def _ordered(self) -> ViewOptions:
        for low, high in (("min_crop", "max_crop"), ("local_min_crop", "local_max_crop")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} exceeds {high} {getattr(self, high)}")
        if self.blur_sigma[0] > self.blur_sigma[1]:
            raise ValueError(f"blur_sigma starts at {self.blur_sigma[0]}, above its end")
        return self

    def local_side(self, side: int) -> int:
        """Side in px of the local views of images of a side in px.

        Unless `local_size` says otherwise 96 to 224 (DINO), rounded to a multiple of 8, at least
        16: 16 px at 32 px, 40 at 96, 96 at 224.
        """
        return self.local_size or max(16, round(side * 96 / 224 / 8) * 8)


@dataclass(frozen=True)
class View:
    """What sets one view of an image apart from the others.

    Attributes:
        number: keys its draws.
        size: side in px.
        area: smallest and largest share of the image's area.
        blur, solarize: probabilities.
    """

    number: int
    size: int
    area: tuple[float, float]
    blur: float
    solarize: float


def plan_views(
    side: int, count: int, local_count: int, options: ViewOptions
) -> tuple[list[View], list[View]]:
    """`count` global and `local_count` local views of images of a side in px."""
    area, local_area = (
        (options.min_crop, options.max_crop),
        (options.local_min_crop, options.local_max_crop),
    )
    small = options.local_side(side)
    return (
        [View(n, side, area, options.blur[n % 2], options.solarize[n % 2]) for n in range(count)],
        [
            View(count + n, small, local_area, options.local_blur, solarize=0)
            for n in range(local_count)
        ],
    )


@dataclass(frozen=True)
class Draws:
    """Names that key the draws of a batch: row i belongs to sample `index[i]`."""

    index: NDArray[np.int64]
    seed: int
    epoch: int

    def of(self, what: str, view: int, count: int) -> NDArray[np.float64]:
        """[B, count] in [0, 1)."""
        return uniform(self.index, count, "view", self.seed, self.epoch, view, what)


@torch.no_grad()
def refuse_empty_maps(encoder: Encoder, sides: Iterable[int]) -> None:
    """Raise CossError unless an encoder gives local representations of images of each side in px.

    Views that are too small would fail, or be pooled to NaN, in the middle of the first step.
    """
    was_training = encoder.training
    encoder.eval()
    for side in sides:
        blank = torch.zeros(1, 3, side, side, device=encoder.mean.device)
        try:
            positions = encoder.local(blank)[0, 0].numel()
        except RuntimeError:  # a kernel that is larger than the map it slides over
            positions = 0
        if positions == 0:
            raise CossError(
                f"views of {side} px are too small for this encoder, its map of local "
                "representations is empty; raise --image-size, or --set views.local_size=… where "
                "the local views are meant"
            )
    encoder.train(was_training)


def jitter_factors(draws: NDArray[np.float64], options: ViewOptions) -> NDArray[np.float64]:
    """[B, 4] factors of brightness, contrast and saturation and shifts of hue, of [B, 4] draws."""
    spread = np.array([options.brightness, options.contrast, options.saturation])
    factors = np.empty((len(draws), 4))
    low = np.maximum(0, 1 - spread)
    factors[:, :3] = low + draws[:, :3] * (1 + spread - low)
    factors[:, 3] = (2 * draws[:, 3] - 1) * options.hue
    return factors


@dataclass(frozen=True)
class Change:
    """What some images of a batch undergo.

    Attributes:
        rows: which images.
        values: [rows] float32, a factor of each; unused by some changes.
        apply: [R, 3, H, W] in [0, 1] and values [R, 1, 1, 1] to the images changed.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float32]
    apply: Callable[[Tensor, Tensor], Tensor]


def plan_jitter(draws: NDArray[np.float64], options: ViewOptions) -> list[Change]:
    """Brightness, contrast, saturation and hue, each sample in its own random order.

    Args:
        draws: [B, 9]: whether to jitter, four factors, four sort keys of the order.
    """
    chosen = draws[:, 0] < options.jitter
    factors = jitter_factors(draws[:, 1:5], options).astype(np.float32)
    order = draws[:, 5:9].argsort(axis=1)
    adjustments = (
        (adjust_brightness, options.brightness),
        (adjust_contrast, options.contrast),
        (adjust_saturation, options.saturation),
        (adjust_hue, options.hue),
    )
    changes = []
    for step in range(4):
        for which, (adjust, strength) in enumerate(adjustments):
            if strength > 0:
                rows = np.flatnonzero(chosen & (order[:, step] == which))
                changes.append(Change(rows, factors[rows, which], adjust))
    return changes


def plan_changes(draws: Draws, views: Sequence[View], options: ViewOptions) -> list[Change]:
    """Jitter, greyscale, blur and solarisation of [V·B] images, view after view.

    All views in one go: many small steps, whose fixed costs count with small images.
    """

    def of(what: str, count: int) -> NDArray[np.float64]:
        return np.concatenate([draws.of(what, view.number, count) for view in views])

    chance = of("photometric", 4)

    def below(column: int, chances: Sequence[float]) -> NDArray[np.int64]:
        return np.flatnonzero(chance[:, column] < np.repeat(chances, len(draws.index)))

    greyed = below(0, [options.grey] * len(views))
    blurred = below(1, [view.blur for view in views])
    solarized = below(3, [view.solarize for view in views])
    low, high = options.blur_sigma
    sigma = (low + chance[blurred, 2] * (high - low)).astype(np.float32)

    def blur(images: Tensor, sigma: Tensor) -> Tensor:
        return gaussian_blur(images, sigma.flatten(), high)

    return [
        *plan_jitter(of("jitter", 9), options),
        Change(greyed, _ones(greyed), lambda x, _: grey(x).expand(-1, 3, -1, -1)),
        Change(blurred, sigma, blur),
        Change(solarized, _ones(solarized), lambda x, _: torch.where(x >= 0.5, 1 - x, x)),
    ]


def _ones(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.ones(len(rows), np.float32)


def changed(images: Tensor, changes: Sequence[Change]) -> Tensor:
    """[N, 3, H, W] images in [0, 1] after some changes, one after the other."""
    changes = [change for change in changes if len(change.rows)]
    sent = upload([a for c in changes for a in (c.rows, c.values)], images.device)
    images = images.clone()
    for change, rows, values in zip(changes, sent[::2], sent[1::2], strict=True):
        # Copying whole images is faster than advanced indexing.
        some = change.apply(images.index_select(0, rows), values.view(-1, 1, 1, 1))
        images.index_copy_(0, rows, some)
    return images


def _boxes_and_flips(
    draws: Draws, view: View, height: int, width: int, options: ViewOptions
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """[B, 4] crop boxes and [B] whether to mirror, of images of one shape."""
    boxes = crop_boxes(
        draws.of("crop", view.number, CROP_DRAWS), height, width, view.area, options.aspect
    )
    return boxes, draws.of("flip", view.number, 1)[:, 0] < options.flip


def cut_views(
    image: Tensor, key: int, seed: int, epoch: int, views: Sequence[View], options: ViewOptions
) -> Tensor:
    """Crops of one decoded image, for data sets whose images differ in size.

    Args:
        image: [3, H, W] uint8.
        key: sample index.
        views: at least one, all of one size.

    Returns:
        [views, 3, size, size] uint8.
    """
    draws = Draws(np.array([key]), seed, epoch)
    crops = []
    for view in views:
        boxes, flips = _boxes_and_flips(draws, view, image.shape[1], image.shape[2], options)
        crops.append(crop_image(image, boxes[0], bool(flips[0]), view.size))
    return torch.stack(crops)


def make_views(
    images: Tensor,
    index: Sequence[int],
    seed: int,
    epoch: int,
    count: int,
    options: ViewOptions,
    local_count: int = 0,
    small: Tensor | None = None,
) -> list[Tensor]:
    """Augmented views of a batch: `count` global ones, then `local_count` local ones.

    Args:
        images: uint8 [B, 3, S, S] whole images, or [B, count, 3, S, S] crops from `cut_views`.
        index: data set index of each sample.
        count, local_count: numbers of views.
        small: uint8 [B, local_count, 3, s, s] local crops from `cut_views`, where `images` are
            crops and `local_count` is not 0.

    Returns:
        `count` tensors [B, 3, S, S], then `local_count` tensors [B, 3, s, s] with
        s = `options.local_side(S)`; float32 in [0, 1] up to rounding, on the images' device, in
        mixed precision too.
    """
    draws = Draws(np.asarray(index, dtype=np.int64), seed, epoch)
    pixels = images.float() / 255 if images.dim() == 4 else None
    made: list[Tensor] = []
    plans = plan_views(images.shape[-1], count, local_count, options)
    for views, cut in zip(plans, (images, small), strict=True):
        if not views:
            continue
        with torch.autocast(images.device.type, enabled=False):
            if pixels is not None:
                crops = _crop(pixels, draws, views, options)
            else:
                assert cut is not None  # `cut_views` gives local crops where there are local views
                crops = [crop.float() / 255 for crop in cut.unbind(1)]
            changes = plan_changes(draws, views, options)
            made += changed(torch.cat(crops), changes).chunk(len(views))
    return made


def _crop(
    pixels: Tensor, draws: Draws, views: Sequence[View], options: ViewOptions
) -> list[Tensor]:
    """The crop of each view, [B, 3, size, size], of [B, 3, S, S] whole images in [0, 1]."""
    side = pixels.shape[-1]
    drawn = [_boxes_and_flips(draws, view, side, side, options) for view in views]
    sent = upload([array for pair in drawn for array in pair], pixels.device)
    crops = []
    for view, boxes, flips in zip(views, sent[::2], sent[1::2], strict=True):
        if view.size == side:
            crops.append(crop_batch(pixels, boxes, flips))
        else:
            crops.append(crop_batch_antialiased(pixels, boxes, flips, view.size))
    return crops
