"""How much of the image a local representation really answers to: its effective receptive field.

After Luo et al. 2016, "Understanding the effective receptive field in deep convolutional neural
networks" (arXiv 1701.04128): a signal is placed on the central unit of a map, nothing on all
others, and carried back to the input. The theoretical field is `encoders.receptive_field`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss import seeds
from robustbench_coss.encoders.base import Encoder, Stage
from robustbench_coss.evaluations.answers import answers
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import Axis, Cell, Check, Metric

GROUP = "stages"
REFERENCE = "clean"
PIXELS_AT_ONCE = 16 * 224**2  # bounds the memory that a backward pass holds
NEGLIGIBLE = 1e-6  # of an image's largest gradient; below it some convolutions leave rounding
SILENT_AT_MOST = 0.01  # share of images whose gradient may be zero
MAP_SIDE = 64
PICTURED, PICTURED_LARGE = 256, 64  # training images in the picture: up to 64 px, and above


class EffectiveField(Suite):
    """Where the gradient of the central unit of each stage's map lies.

    Condition `clean`: column `correct` (top-1). Conditions `field@STAGE`, in px: columns `radius`,
    `side_50`, `side_95`, `extent`; see `field_columns`.
    """

    name = "rf"
    version = 1
    local = True
    full_precision = True
    axis = Axis(
        "stage", column="radius", column_label="effective field, r.m.s. radius (px)", percent=False
    )
    about = SuiteAbout(
        title="Receptive field",
        does="How much of the image a local representation answers to, from gradients.",
        order=70,
        panels={GROUP: "Effective receptive field"},
        pictures=("fields",),
        captions={
            "": "Radius of the effective receptive field of each stage.",
            "fields": "The effective receptive field of each stage. Square: the theoretical field; "
            "circle: the effective radius.",
        },
    )

    def __init__(self) -> None:
        self._fields: dict[str, int | None] = {}
        self._summary: dict[str, Any] = {}

    def config(self) -> dict[str, Any]:
        return {
            "unit": "the centre of each stage's map, row h // 2 and column w // 2",
            "signal": "a random sign per channel, drawn per image",
            "negligible": NEGLIGIBLE,
        }

    def conditions(self, subject: Subject) -> list[Condition]:
        self._fields = theoretical_fields(subject.encoder)  # for the checks
        return [
            Condition(REFERENCE, "", 0.0),
            *(
                Condition(condition_name(stage), GROUP, float(number), stage, "field")
                for number, stage in enumerate(subject.encoder.stages(), start=1)
            ),
        ]

    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        """Make the picture's maps, from reference images."""
        count = PICTURED if image_size <= 64 else PICTURED_LARGE
        images, index = reference.images[:count], reference.index[:count]
        steps = list(subject.encoder.stages().values())
        fields = theoretical_fields(subject.encoder)
        self._summary = {"fields": {}}
        for number, (stage, field) in enumerate(fields.items(), start=1):
            energy = gradient_energy(steps[:number], images, index, self.name, "picture", stage)
            self._summary["fields"][stage] = {
                "map": mean_field(energy).tolist(),
                "size": images.shape[-1],
                "centre": [  # [row, column] in px of the centroid
                    round(-float(along[0, 0]), 2)
                    for along in _about_centre(energy.mean(dim=0, keepdim=True))
                ],
                "field": field,
            }

    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        if not condition.group:
            return answers(subject, batch.images, batch.labels)
        steps = list(subject.encoder.stages().values())[: round(condition.level)]
        names = (seed, self.name, condition.name)
        return field_columns(gradient_energy(steps, batch.images, batch.index, *names))

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        last = (conditions[-1].name,)
        return [
            Metric("rf_radius", "Effective field radius (px)", "radius", last, "", False),
            *(
                Metric(f"rf_{column}", label, column, last, "", False, headline=False)
                for column, label in (
                    ("side_50", "Square with 50 % of the gradient (px)"),
                    ("side_95", "Square with 95 % of the gradient (px)"),
                    ("extent", "Extent of the gradient (px)"),
                )
            ),
        ]

    def checks(self, cells: Sequence[Cell]) -> list[Check]:
        """The gradient stays within the theoretical field, where that is known, and is there."""
        of = {cell.condition: cell for cell in cells}
        extents = {
            stage: of[condition_name(stage)].outcomes["extent"]
            for stage in self._fields
            if condition_name(stage) in of
        }
        found = []
        excess = {
            stage: (float(extent.max()), field)
            for stage, extent in extents.items()
            if (field := self._fields[stage]) is not None
        }
        if excess:
            worst = max(excess, key=lambda stage: excess[stage][0] - excess[stage][1])
            extent, field = excess[worst]
            found.append(
                Check(
                    "the gradient lies within the theoretical field",
                    extent <= field,
                    f"{worst}: extent {extent:g} px at most, field {field} px",
                )
            )
        if extents:
            silent = {stage: float(np.mean(extent == 0)) for stage, extent in extents.items()}
            worst = max(silent, key=lambda stage: silent[stage])
            found.append(
                Check(
                    "the gradient reaches the image",
                    silent[worst] <= SILENT_AT_MOST,
                    f"{worst}: no gradient at all for {silent[worst]:.1%} of the images, at most "
                    f"{SILENT_AT_MOST:.0%} expected",
                )
            )
        return found

    def summary(self) -> dict[str, Any]:
        """The picture of the fields: `{"fields": {stage: …}}`, JSON-able; needs `prepare` alone.

        For each stage `map`, the root mean square gradient over reference images as rows of
        numbers in 0 … 1, shrunk to 64×64 where the image is larger; `size`, the image's side in
        px; `centre`, its centroid, [row, column] in px; `field`, the theoretical field in px or
        None.
        """
        return self._summary


def condition_name(stage: str) -> str:
    """The condition under which a stage is measured."""
    return f"field@{stage}"


def theoretical_fields(encoder: Encoder) -> dict[str, int | None]:
    """The field in px after each stage, by the encoder's own account; None where it gives none."""
    names = list(encoder.stages())
    fields: dict[str, int | None] = dict.fromkeys(names)
    reach = getattr(encoder, "reach", None)
    if reach is not None:
        after = reach[-len(names) :]  # the ResNets' list starts before the first stage
        fields |= {name: field for name, (field, _) in zip(names, after, strict=True)}
    else:
        fields[names[-1]] = getattr(encoder, "field", None)
    return fields


def gradient_energy(
    steps: Sequence[Stage], images: Tensor, index: Sequence[int], *names: seeds.Name
) -> Tensor:
    """Squared input gradient of the central unit, summed over colours, as shares of each image's.

    A unit has many channels; each gets the signal +1 or -1, drawn per image. The expected energy
    of a pixel is then the sum over channels of the squared derivatives (Hutchinson's estimator).
    Ones on all channels, the plainest choice, would cancel behind a LayerNorm, whose outputs sum
    to a constant. With one channel the sign does not matter and this is Luo et al.'s gradient.

    Args:
        steps: the stages up to the map that is looked at.
        images: [B, 3, H, W] in [0, 1], not inference tensors.
        index: [B] data set indices.
        names: what the signs are drawn for.

    Returns:
        [B, H, W] float64, each image's sum being 1, or 0 where its gradient is zero or not finite.
    """
    count = max(1, PIXELS_AT_ONCE // (images.shape[-2] * images.shape[-1]))
    parts = []
    for start in range(0, len(images), count):
        x = images[start : start + count].detach().requires_grad_(True)
        own = np.asarray(index[start : start + count], dtype=np.int64)
        with torch.enable_grad():
            y = x
            for step in steps:
                y = step(y)
            unit = y[:, :, y.shape[2] // 2, y.shape[3] // 2]
            signs = np.where(seeds.uniform(own, unit.shape[1], *names) < 0.5, -1.0, 1.0)
            signal = torch.from_numpy(signs).to(unit)
            (gradient,) = torch.autograd.grad(unit, x, signal)
        parts.append(_shares(gradient))
    return torch.cat(parts)


def _shares(gradient: Tensor) -> Tensor:
    """[B, 3, H, W] to [B, H, W] float64: energy as shares, free of under- and overflow."""
    gradient = gradient.double()
    largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
    there = torch.isfinite(largest) & (largest > 0)
    energy = torch.where(there, gradient / largest, 0.0).square().sum(dim=1)
    return energy / energy.sum(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(energy.dtype).tiny)


def field_columns(energy: Tensor) -> dict[str, Tensor]:
    """Sizes in px of fields given by the energy of their pixels.

    With e_p the energy of pixel p, E their sum and c = Σ e_p p / E their centroid:

    - `radius`: √(Σ e_p ‖p − c‖² / E). σ√2 for a Gaussian of standard deviation σ along each axis.
    - `side_50`, `side_95`: side of the smallest square of whole pixels about c that holds this
      share of E: 2 d + 1 with d the smallest distance max(|Δx|, |Δy|) within which it lies.
    - `extent`: the longer side of the box around all pixels whose gradient is more than
      `NEGLIGIBLE` of the largest.

    Args:
        energy: [B, H, W] float64, not negative.

    Returns:
        Columns [B] float32; a field without energy counts 0 px in all.
    """
    total = energy.sum(dim=(1, 2))
    there = total > 0
    rows, columns = _about_centre(energy)
    radius = ((rows.square()[:, :, None] + columns.square()[:, None, :]) * energy).sum(dim=(1, 2))
    away = torch.maximum(rows.abs()[:, :, None], columns.abs()[:, None, :]).flatten(1)
    distance, order = away.sort(dim=1, stable=True)
    held = energy.flatten(1).gather(1, order).cumsum(dim=1)
    found = {"radius": (radius / total.where(there, 1.0)).sqrt()}
    for percent in (50, 95):
        # The small allowance keeps a square that holds the share exactly from rounding's mercy.
        enough = held >= (percent / 100 - 1e-6) * total[:, None]
        first = enough.to(torch.uint8).argmax(dim=1, keepdim=True)
        found[f"side_{percent}"] = 2 * distance.gather(1, first)[:, 0] + 1
    seen = energy > NEGLIGIBLE**2 * energy.amax(dim=(1, 2), keepdim=True)
    found["extent"] = torch.maximum(_span(seen.any(dim=1)), _span(seen.any(dim=2)))
    return {name: torch.where(there, column, 0.0).float() for name, column in found.items()}


def mean_field(energy: Tensor) -> Tensor:
    """[B, H, W] shares to [≤ 64, ≤ 64] in 0 … 1: the square root of their mean, 4 decimals."""
    mean = energy.mean(dim=0)
    height, width = (min(MAP_SIDE, length) for length in mean.shape)
    field = F.adaptive_avg_pool2d(mean[None, None], (height, width))[0, 0].sqrt()
    largest = field.max()
    return (field / largest.where(largest > 0, 1.0)).mul(10_000).round().div(10_000).cpu()


def _about_centre(energy: Tensor) -> tuple[Tensor, Tensor]:
    """[B, H] and [B, W]: coordinates in px of rows and columns from the centroid of [B, H, W]."""
    total = energy.sum(dim=(1, 2)).clamp_min(torch.finfo(energy.dtype).tiny)[:, None]
    found = []
    for profile in (energy.sum(dim=2), energy.sum(dim=1)):
        place = torch.arange(profile.shape[1], dtype=energy.dtype, device=energy.device)
        found.append(place - (profile * place).sum(dim=1, keepdim=True) / total)
    return found[0], found[1]


def _span(hits: Tensor) -> Tensor:
    """[B, N] bool to [B]: from the first to the last hit, both included; 0 without one."""
    place = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    last = torch.where(hits, place, 0).amax(dim=1)
    first = torch.where(hits, place, hits.shape[1] + 1).amin(dim=1)
    return torch.where(last > 0, last - first + 1, 0).double()
