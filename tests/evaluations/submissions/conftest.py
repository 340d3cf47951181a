"""What tests of verification share: a tiny run, measured and bundled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.bundles import measure

from robustbench_coss.models.checkpoint import build_encoder, save_encoder


@pytest.fixture(scope="module", autouse=True)
def always_few(few_pictures: object) -> None:
    """No test here needs more."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, few_pictures: object) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "runs" / "tiny"
    torch.manual_seed(0)
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    metadata = {
        "arch": "rf29_resnet18",
        "width": 1 / 16,
        "size": 32,
        "dataset": "parts",
        "method": "byol",
        "encoder": "online",
        "training": {"seed": 0, "epochs": 0},
    }
    save_encoder(folder / "encoder.safetensors", encoder, metadata)
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    return measure(run, run.parent / "few", "clean", "crop")
