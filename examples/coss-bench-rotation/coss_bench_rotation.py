"""Accuracy under rotation: a suite for `coss-bench` from a package of its own."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.evaluations.answers import answers
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite
from robustbench_coss.evaluations.suites.options import levels
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import Axis, Metric


def rotate(images: Tensor, degrees: float) -> Tensor:
    """[B, 3, S, S] images in [0, 1] turned anticlockwise within their inscribed disc; grey around.

    The disc goes through the centres of the outermost pixels: no angle needs a pixel from outside.
    """
    size, angle = images.shape[-1], math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = images.new_tensor([[cos, -sin, 0], [sin, cos, 0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    turned = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    line = torch.arange(size, device=images.device) - (size - 1) / 2
    disc = line[:, None] ** 2 + line**2 <= ((size - 1) / 2) ** 2
    return torch.where(disc, turned, 0.5)


class Rotation(Suite):
    """Top-1 of rotated images. `angles`: degrees anticlockwise, above 0 and below 360."""

    name = "rotation"
    axis = Axis("rotation (degrees)")
    about = SuiteAbout(
        title="Rotation",
        does="The image is turned within its inscribed disc; the rest is grey at every angle.",
        captions={"": "Top-1 against the angle; at 0° only the disc is cut out."},
    )

    def __init__(self, angles: Sequence[float] = (15, 30, 45, 90, 135, 180)) -> None:
        self.angles = levels("rotation.angles", angles, below=360)

    def config(self) -> dict[str, Any]:
        return {"angles": list(self.angles)}

    def conditions(self, subject: Subject) -> list[Condition]:
        turned = (Condition(f"rotate@{angle:g}", "rotation", angle) for angle in self.angles)
        return [Condition("upright", "", 0.0), Condition("disc", "rotation", 0.0), *turned]

    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        images = rotate(batch.images, condition.level) if condition.group else batch.images
        return answers(subject, images, batch.labels)

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        turned = tuple(c.name for c in conditions if c.level)
        disc = Metric("rotation_disc", "Disc top-1", "correct", ("disc",), headline=False)
        return [Metric("rotation_top1", "Rotated top-1", "correct", turned), disc]
