"""Shipped recipes train a step, at a small size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers.shipped import METHODS, SMALL, build, shipped
from PIL import Image

from robustbench_coss.datasets.base import ImageSet, open_dataset
from robustbench_coss.models.checkpoint import load_checkpoint
from robustbench_coss.pretrain.data import training_loader
from robustbench_coss.pretrain.dry_run import measure
from robustbench_coss.pretrain.train import pretrain


@pytest.fixture(scope="module")
def parts() -> ImageSet:
    return open_dataset("parts", "train")


@pytest.mark.parametrize("name", [f"{method}/cifar10-rf29-resnet18" for method in METHODS])
def test_a_narrow_version_of_each_small_recipe_trains_a_step(name: str, parts: ImageSet) -> None:
    # The first step of the warm-up would be too small to see.
    recipe = shipped(name, dataset="parts", optimizer={"warmup_epochs": 0}, **SMALL)
    method = build(recipe, 32)
    before = method.encoder.conv1.weight.detach().clone()  # type: ignore[union-attr, operator]
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, training_loader(parts, recipe, method.views))
    assert trainer.global_step == 1
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert not torch.equal(method.encoder.conv1.weight, before)  # type: ignore[arg-type]


def test_an_imagenet_recipe_trains_on_folders_of_pictures(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for part, count in (("train", 100), ("val", 1)):
        for wnid in ("n01", "n02"):
            folder = tmp_path / "imagenet" / part / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")
    small = SMALL | {"batch_size": 4, "limit": 4, "size": 64, "workers": 0}
    recipe = shipped("co-byol/imagenet1k-rf99-resnet50", **small)
    pretrain(recipe, tmp_path / "run", device="cpu", data_root=tmp_path)
    loaded = load_checkpoint(tmp_path / "run")
    assert loaded.metadata["training"]["steps"] == 1
    assert loaded.encoder.field == 99


@pytest.mark.slow
@pytest.mark.parametrize("method", ["byol-mc", "dino-mc"])
def test_the_multi_crop_recipes_train_at_a_small_size(method: str) -> None:
    options = {"hidden": 16} | ({"prototypes": 32} if "dino" in method else {})
    recipe = shipped(f"{method}/imagenet1k-resnet50", options=options, size=64, **SMALL)
    small, large = measure(build(recipe, 64), 64, 10, 4, cuda=False)
    assert 0 < small.macs < large.macs
