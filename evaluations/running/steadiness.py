"""Whether a model is a function of one image: asked twice, and in other company, it answers alike.

Noise at test time, dropout left on and statistics over the batch make it none; its numbers then
depend on chance and on the batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_coss.records.record import Check

NAME = "the model is a function of one image"
SAMPLE = 32
"""Images that are asked about three times; fewer in smaller batches."""

TWICE, ELSEWHERE = 1e-4, 1e-2
"""Largest change, relative to the spread of the logits, that is rounding: of a batch seen again,
and of an image in another batch, where kernels and half precision may differ by more."""


@torch.no_grad()
def steadiness(model: nn.Module, images: Tensor) -> Check | None:
    """A failed check where the logits of an image change; None where they do not.

    Args:
        model: pixels [B, 3, H, W] to logits [B, K].
        images: [B, 3, H, W] in [0, 1].
    """
    once, again = model(images), model(images)
    # Every second image first: each meets others, in batches of half the size.
    order = torch.cat([torch.arange(i, len(images), 2) for i in (0, 1)]).to(images.device)
    half = (len(images) + 1) // 2
    apart = torch.empty_like(once)
    apart[order] = torch.cat([model(part) for part in torch.split(images[order], half)])
    spread = float((once - once.mean()).abs().nan_to_num(posinf=0, neginf=0).max())
    for other, limit, how, remedy in (
        (again, TWICE, "asked twice", "switch off noise and dropout at test time"),
        (apart, ELSEWHERE, "in another batch", "give BatchNorm running statistics"),
    ):
        moved = float((other - once).abs().nan_to_num(posinf=0, neginf=0).max())
        if moved > limit * max(spread, 1e-30):
            changed = int((other.argmax(dim=1) != once.argmax(dim=1)).sum())
            return Check(
                NAME,
                False,
                f"{how}, logits move by up to {moved / max(spread, 1e-30):.2g} of their spread and "
                f"{changed} of {len(images)} answers change, so that numbers depend on chance or "
                f"batch size; {remedy}",
            )
    return None
