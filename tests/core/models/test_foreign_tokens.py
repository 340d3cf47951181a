"""Which token of a ViT is the feature is said with where its authors' code says so."""

from __future__ import annotations

from pathlib import Path

import torch
from helpers import layouts
from helpers.foreign_files import write
from helpers.layouts import assert_computes

from robustbench_coss.models.load import load_model


def test_mae_gives_the_token_of_its_linear_probe_and_says_so(tmp_path: Path) -> None:
    content, network = layouts.mae()
    path = write(tmp_path, content)
    loaded = load_model(path)
    assert_computes(loaded, network, 32)  # timm's, whose pooling is the class token
    assert (
        "its class token (by mae/main_linprobe.py, its default; --pooling" in loaded.preprocessing
    )
    mean = load_model(path, pooling="mean")
    assert "main_linprobe" not in mean.preprocessing

    def patches(x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = network.forward_features(x)[:, 1:].mean(dim=1)
        return found

    assert_computes(mean, patches, 32)
