"""What every export says: where it comes from, and the lines that use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robustbench_coss.models.checkpoint import Checkpoint

SOURCE = "robustbench-coss"
"""Key of what an exported file says about where it comes from."""


def source(checkpoint: Checkpoint) -> dict[str, Any]:
    """Where an export comes from, as plain values; what the checkpoint does not say is left out.

    `sha256` is that of the encoder file; `mean` and `std` are the normalisation of pixels in
    [0, 1] that the encoder was trained with.
    """
    keys = ("arch", "width", "mlp", "size", "method", "encoder", "dataset")
    stated = {key: checkpoint.metadata[key] for key in keys if key in checkpoint.metadata}
    contract = checkpoint.encoder.input
    return stated | {
        "sha256": checkpoint.sha256,
        "mean": list(contract.mean),
        "std": list(contract.std),
    }


def use(checkpoint: Checkpoint) -> list[str]:
    """Lines that compute the features of `images` with a loaded `model`."""
    encoder = checkpoint.encoder
    size, (mean, std) = encoder.input.size, (encoder.input.mean, encoder.input.std)
    return [
        "model.eval()",
        f"normalise = Normalize(mean={list(mean)}, std={list(std)})",
        f"# images: RGB in [0, 1], [B, 3, {size}, {size}]; features: [B, {encoder.dim}]",
        "with torch.inference_mode():",
        "    features = model(normalise(images))",
    ]


def quoted(path: Path) -> str:
    """A path as a Python string in double quotes."""
    return json.dumps(str(path), ensure_ascii=False)
