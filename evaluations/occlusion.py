"""Accuracy when local representations are hidden or disturbed between `local` and `pool`.

The external control hides patches of the input image instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evaluations.masks import block_mask, random_mask
from evaluations.protocol import BaseSuite, Batch, Condition, Subject, top1
from robustbench_coss import seeds
from robustbench_coss.errors import CossError
from robustbench_coss.records import Axis, Metric

RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SIGMAS = (0.25, 0.5, 1.0, 2.0, 4.0)
KINDS = ("random-zero", "random-drop", "block-zero", "block-drop")
GRID = 8  # patches per side of the external control
GREY = 0.5
CHUNK = 256


class Occlusion(BaseSuite):
    """Masks and noise on local representations, grey patches on the input.

    Column: `correct` (top-1). The level of a mask is its ratio, of noise its sigma in units of
    each channel's standard deviation over the reference images.
    """

    name = "occlusion"
    version = 1
    axis = Axis("masked share (noise: sigma in channel s.d.)")

    def __init__(self) -> None:
        self._std: Tensor | None = None

    def config(self) -> dict[str, Any]:
        return {
            "ratios": list(RATIOS),
            "sigmas": list(SIGMAS),
            "input_patches_per_side": GRID,
            "input_fill": GREY,
        }

    def conditions(self, subject: Subject) -> list[Condition]:
        return [
            Condition("clean", "", 0.0),
            *(Condition(f"{kind}@{ratio:g}", kind, ratio) for kind in KINDS for ratio in RATIOS),
            *(Condition(f"noise@{sigma:g}", "noise", sigma) for sigma in SIGMAS),
            *(Condition(f"input-patches@{ratio:g}", "input-patches", ratio) for ratio in RATIOS),
        ]

    @torch.inference_mode()
    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        """Measure each channel's standard deviation over the reference images and positions.

        Raises:
            CossError: the encoder has a single local representation.
        """
        height, width = subject.encoder.local(reference.images[:1]).shape[-2:]
        if height * width < 2:
            raise CossError(
                f"occlusion needs several local representations and this model has one at "
                f"{image_size} px; use larger images or an encoder with a smaller stride"
            )
        self._std = channel_std(subject, reference.images)

    @torch.inference_mode()
    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        names = (seed, self.name, condition.name)
        images, encoder = batch.images, subject.encoder
        if condition.group == "input-patches":
            images = hide_patches(images, batch.index, condition.level, *names)
        local = encoder.local(images)
        if condition.group == "noise":
            if self._std is None:
                raise RuntimeError("prepare() must be called before measure()")
            scale = condition.level * self._std
            features = encoder.pool(local + scale * normal(local, batch.index, *names))
        elif condition.group in KINDS:
            shape, fate = condition.group.split("-")
            height, width = local.shape[-2:]
            count = masked_count(condition.level, height * width, leave_one=fate == "drop")
            draw = random_mask if shape == "random" else block_mask
            mask = draw(batch.index, (height, width), count, *names).to(local.device)
            if fate == "zero":
                features = encoder.pool(local.masked_fill(mask[:, None], 0))
            else:
                features = encoder.pool(local, keep=~mask)
        else:
            features = encoder.pool(local)
        return {"correct": top1(subject.classify(features)) == batch.labels}

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        def of(group: str) -> tuple[str, ...]:
            return tuple(c.name for c in conditions if c.group == group)

        rest = {
            "random-drop": "Random drop top-1",
            "block-zero": "Block zero top-1",
            "block-drop": "Block drop top-1",
            "input-patches": "Input patches top-1",
        }
        return [
            Metric("occlusion_internal", "Internal occlusion top-1", "correct", of("random-zero")),
            Metric("internal_noise", "Internal noise top-1", "correct", of("noise")),
            *(
                Metric(
                    f"occlusion_{group.replace('-', '_')}",
                    label,
                    "correct",
                    of(group),
                    headline=False,
                )
                for group, label in rest.items()
            ),
        ]


def masked_count(ratio: float, positions: int, *, leave_one: bool) -> int:
    """Positions that a ratio in [0, 1] masks: rounded half up, at least one left if asked."""
    count = int(ratio * positions + 0.5)
    return min(count, positions - 1) if leave_one else count


def normal(like: Tensor, index: Sequence[int], *names: seeds.Name) -> Tensor:
    """Standard normal draws of the shape and device of `like`, [B, …], keyed by sample."""
    rows = [torch.randn(like.shape[1:], generator=seeds.generator(*names, int(i))) for i in index]
    return torch.stack(rows).to(like)


def hide_patches(images: Tensor, index: Sequence[int], ratio: float, *names: seeds.Name) -> Tensor:
    """Images with a share of their square patches painted grey (0.5).

    Patches are size // 8 px wide (at least 1); where that does not divide the size, the last row
    and column of patches are cut by the border.

    Args:
        images: [B, 3, S, S] in [0, 1].
        index: [B] data set indices.
        ratio: share of the patches to hide, in [0, 1].
        names: what the draw is for.
    """
    size = images.shape[-1]
    side = max(1, size // GRID)
    cells = -(-size // side)
    count = masked_count(ratio, cells * cells, leave_one=False)
    mask = random_mask(index, (cells, cells), count, *names).to(images.device)
    mask = mask.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, :size, :size]
    return images.masked_fill(mask[:, None], GREY)


def channel_std(subject: Subject, images: Tensor) -> Tensor:
    """[1, C, 1, 1]: standard deviation of each local channel over images and positions.

    Chunks are joined by the law of total variance: mean of variances + variance of means.
    """
    parts = [
        torch.var_mean(subject.encoder.local(chunk), dim=(0, 2, 3), correction=0)
        for chunk in torch.split(images, CHUNK)
    ]
    weight = torch.tensor([len(chunk) / len(images) for chunk in torch.split(images, CHUNK)])
    weight = weight.to(images.device)[:, None]
    variances, means = (torch.stack(part) for part in zip(*parts, strict=True))
    mean = (weight * means).sum(0)
    variance = (weight * (variances + (means - mean).square())).sum(0)
    return variance.sqrt().view(1, -1, 1, 1)
