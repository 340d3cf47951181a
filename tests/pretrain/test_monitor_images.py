"""The kNN accuracy that training shows is that on validation images, from training images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from robustbench_coss.datasets.base import ArraySet, open_dataset
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint
from robustbench_coss.pretrain import monitors, train
from robustbench_coss.pretrain.data import subset
from robustbench_coss.pretrain.monitors import last_metrics, look_at
from robustbench_coss.pretrain.recipe import build_recipe

CPU = torch.device("cpu")


def set_of(role: str, labels: torch.Tensor) -> ArraySet:
    """Red and green images in turn, whatever their labels."""
    pixels = torch.zeros(len(labels), 3, 16, 16, dtype=torch.uint8)
    pixels[::2, 0], pixels[1::2, 1] = 200, 200
    return ArraySet("made", role, pixels, labels, ("a", "b"), 16)


def test_validation_images_are_asked_about_and_training_images_answer() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("rf29_resnet18", size=16, width=1 / 16)
    labels = torch.arange(60) % 2
    train_set = set_of("train", labels)
    look = partial(look_at, encoder, CPU, train_set, bank=60, queries=60)
    assert look(set_of("validation", labels)).knn_top1 == 1.0
    assert look(set_of("validation", 1 - labels)).knn_top1 == 0.0


def test_the_accuracy_of_a_run_is_that_worked_out_on_validation_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, queries = 300, 200
    monkeypatch.setattr(monitors, "look_at", partial(look_at, bank=bank, queries=queries))
    values: dict[str, Any] = {
        "method": "byol",
        "width": 1 / 16,
        "size": 16,
        "limit": 64,
        "batch_size": 32,
        "epochs": 1,
        "options": {"hidden": 16, "dim": 8},
    }
    exported = train.pretrain(build_recipe(values, "test"), tmp_path / "run", device="cpu")
    encoder = load_checkpoint(exported).encoder.eval()
    features, labels = {}, {}
    for role, count in (("train", bank), ("validation", queries)):
        images = open_dataset("parts", role, size=16)
        chosen = subset(len(images), count)
        with torch.no_grad():
            pixels = images.images(chosen.tolist()).float() / 255
            features[role] = F.normalize(encoder(pixels), dim=1)
        labels[role] = images.labels[chosen]
    near = (features["validation"] @ features["train"].T).topk(20, dim=1)
    votes = torch.zeros(queries, int(labels["train"].max()) + 1)
    votes.scatter_add_(1, labels["train"][near.indices], (near.values / 0.07).exp())
    right = (votes.argmax(dim=1) == labels["validation"]).double().mean()
    shown = last_metrics(tmp_path / "run/metrics.csv")["validation/knn_top1"]
    assert shown == pytest.approx(float(right), abs=1.01 / queries)  # one near-tie by rounding
