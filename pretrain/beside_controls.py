"""What a finished run says of itself: kNN beside pixels and the encoder that it began with."""

from __future__ import annotations

from pathlib import Path

import torch

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.models import controls
from robustbench_coss.models.checkpoint import load_checkpoint
from robustbench_coss.pretrain.data import subset
from robustbench_coss.pretrain.monitors import Look, look_at
from robustbench_coss.records.training import recipe_in

BANK, QUERIES = 5_000, 2_000
BANK_LARGE, QUERIES_LARGE = 1_000, 500
"""The same for images of more than 64 px."""


def beside_controls(exported: Path, *, device: torch.device, data_root: Path) -> str:
    """One line: kNN of an exported encoder on validation images beside both controls.

    The same images and the same bank for all three, fixed random subsets. "" if the training images
    have no labels.
    """
    checkpoint = load_checkpoint(exported)
    about, size = checkpoint.metadata, checkpoint.encoder.input.size
    train, validation = (
        open_dataset(about["dataset"], role, size=size, root=data_root)
        for role in ("train", "validation")
    )
    if bool((train.labels < 0).any()):
        return ""
    bank, queries = (BANK, QUERIES) if size <= 64 else (BANK_LARGE, QUERIES_LARGE)

    def look(encoder: Encoder) -> Look:
        return look_at(encoder.to(device), device, train, validation, bank, queries, alone=True)

    recipe = recipe_in(about)
    began = controls.untrained(
        about["arch"],
        size=size,
        width=about["width"],
        mlp=recipe.get("mlp"),
        seed=recipe["seed"],
    )
    trained = look(checkpoint.encoder)
    others = {"pixels": look(controls.pixels(size).encoder), "untrained": look(began.encoder)}
    count = len(subset(len(validation), queries))
    line = f"kNN on {count:,} validation images: {trained.knn_top1:.1%} ("
    line += ", ".join(f"{name} {other.knn_top1:.1%}" for name, other in others.items())
    line += f"); effective rank {trained.effective_rank:.1f} of {checkpoint.encoder.dim}"
    ahead = [name for name, other in others.items() if other.knn_top1 >= trained.knn_top1]
    if ahead:
        line += (
            f"; NOT ABOVE {' AND '.join(ahead).upper()}: this encoder is not trained enough to say "
            "anything of its method"
        )
    return line
