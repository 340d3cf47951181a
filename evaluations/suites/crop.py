"""Accuracy and agreement on test-time crops: centre and random ones of falling area."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss import seeds
from robustbench_coss.evaluations.answers import answered
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite, top1
from robustbench_coss.evaluations.suites.options import levels
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import Axis, Metric

AREAS = (0.8, 0.6, 0.4, 0.2, 0.1, 0.05)
GROUPS = ("centre", "random")


class Crop(Suite):
    """Square crops resized back to full size.

    Columns: `correct` (top-1), `agrees` (same top-1 class as on the full image), `cosine`
    (of the global representations of crop and full image).

    Args:
        areas: shares of the image that crops show, above 0 and below 1; 1 is the condition `full`.

    Raises:
        CossError: an area is out of range.
    """

    name = "crop"
    needs_training = False
    version = 1
    axis = Axis("crop area (share of the image)")
    about = SuiteAbout(
        title="Crops",
        does="The classifier sees a crop of the image, down to 5 % of its area: top-1, agreement "
        "with the full image, and cosine of the two representations.",
        order=50,
        panels={"centre": "Centre crop", "random": "Random crop"},
        x_label="crop area",
        scale="log",
        also=(
            Axis("crop area", "agrees", "same class as full image (%)"),
            Axis("crop area", "cosine", "cosine with full image", percent=False),
        ),
        captions={
            "": "Top-1 against the area of the crop, logarithmic.",
            "agrees": "Agreement with the answer to the full image, against the area of the crop.",
            "cosine": "Cosine with the representation of the full image, against the area of the "
            "crop.",
        },
    )

    def __init__(self, areas: float | Sequence[float] = AREAS) -> None:
        self.areas = levels("crop.areas", areas, below=1)[::-1]

    def config(self) -> dict[str, Any]:
        return {"areas": list(self.areas), "resize": "bilinear, antialiased"}

    def conditions(self, subject: Subject) -> list[Condition]:
        return [
            Condition("full", "", 1.0),
            *(
                Condition(f"{group}@{area:g}", group, area)
                for group in GROUPS
                for area in self.areas
            ),
        ]

    def shares(self, condition: Condition) -> bool:
        """All crops are held against the whole image, which passes once for all."""
        return True

    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        return next(self.measure_together(subject, batch, [condition], seed))

    @torch.inference_mode()
    def measure_together(
        self, subject: Subject, batch: Batch, conditions: Sequence[Condition], seed: int
    ) -> Iterator[dict[str, Tensor]]:
        full: Tensor = subject.encoder(batch.images)
        for condition in conditions:
            cut = full
            if condition.group:
                names = (seed, self.name, condition.name)
                random = condition.group == "random"
                where = crop_corners(batch, condition.level, random, *names)
                side = crop_side(batch.images, condition.level)
                cut = subject.encoder(crop_and_resize(batch.images, where, side))
            logits = subject.classify(cut)
            answer = top1(logits)
            yield answered(logits, batch.labels) | {
                "agrees": (answer == top1(subject.classify(full))) & (answer >= 0),
                "cosine": F.cosine_similarity(cut.float(), full.float(), dim=1),
            }

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        cut = tuple(c.name for c in conditions if c.group)
        return [
            Metric("crop_top1", "Crop top-1", "correct", cut),
            Metric("crop_agreement", "Crop agreement", "agrees", cut, headline=False),
            Metric("crop_cosine", "Crop cosine", "cosine", cut, percent=False, headline=False),
        ]


def crop_side(images: Tensor, area: float) -> int:
    """Side in px of a square crop of a share `area` of [B, 3, S, S] images, at least 1."""
    return max(1, round(math.sqrt(area) * images.shape[-1]))


def crop_corners(
    batch: Batch, area: float, random: bool, *names: seeds.Name
) -> list[tuple[int, int]]:
    """Top-left corner (row, column) of each sample's crop: centred, or uniform over all places."""
    room = batch.images.shape[-1] - crop_side(batch.images, area)
    if not random:
        return [(room // 2, room // 2)] * len(batch.index)
    draws = seeds.uniform(np.asarray(batch.index, dtype=np.int64), 2, *names)
    return [(int(row), int(column)) for row, column in np.floor(draws * (room + 1))]


def crop_and_resize(images: Tensor, corners: Sequence[tuple[int, int]], side: int) -> Tensor:
    """[B, 3, S, S] images to crops of `side` px at `corners`, resized to [B, 3, S, S].

    A crop of the full side is returned unchanged.
    """
    size = images.shape[-1]
    crops = torch.stack(
        [
            image[:, row : row + side, column : column + side]
            for image, (row, column) in zip(images, corners, strict=True)
        ]
    )
    if side == size:
        return crops
    resized = F.interpolate(
        crops, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return resized.clamp(0, 1)  # rounding may step over the border of the range
