"""Crops of picture folders: drawn anew in each epoch, and what each picture is cut to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.pretrain.data import Samples, training_loader
from robustbench_coss.pretrain.recipe import build_recipe

SIDE = 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures whose level tells the place: red grows with the column, green with the row."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    levels = np.stack([x * 4, y * 4, np.zeros_like(x)], axis=2).astype(np.uint8)
    for part in ("train", "test"):
        for k in range(12):
            (tmp_path / part / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(levels).save(tmp_path / part / "ab"[k % 2] / f"{k}.png")
    return tmp_path


def samples(folder: Path, seed: int = 0) -> Samples:
    values = {"method": "byol", "dataset": "imagefolder", "size": 32, "batch_size": 4}
    recipe = build_recipe(values | {"seed": seed, "workers": 0}, "test")
    return Samples(open_dataset("imagefolder", "train", size=32, root=folder), recipe, 2, 1)


def boxes(views: Tensor) -> Tensor:
    """[N, 2] the middle of each view's crop, in px, from the levels in it."""
    return views.float().mean(dim=(-2, -1))[..., :2].reshape(-1, 2) / 4


def test_each_epoch_cuts_other_crops_of_a_picture(folder: Path) -> None:
    found = samples(folder)
    batches = [found.__getitems__([(epoch, i) for i in range(6)]) for epoch in range(4)]
    middles = torch.stack([boxes(batch.images) for batch in batches])  # type: ignore[union-attr]
    small = torch.stack([boxes(batch.small) for batch in batches])  # type: ignore[union-attr, arg-type]
    for of_epoch in (middles, small):
        for one in range(4):
            for two in range(one):
                moved = (of_epoch[one] - of_epoch[two]).abs().amax(dim=1) > 0.5
                assert float(moved.float().mean()) > 0.8
    # Over many draws, the middle of a crop lies in the middle of the picture.
    assert float((middles.reshape(-1, 2).mean(dim=0) - SIDE / 2).abs().max()) < 6


def test_each_seed_cuts_other_crops_of_a_picture(folder: Path) -> None:
    keys = [(0, i) for i in range(6)]
    one, two = (boxes(samples(folder, s).__getitems__(keys).images) for s in (0, 1))  # type: ignore[union-attr]
    assert float(((one - two).abs().amax(dim=1) > 0.5).float().mean()) > 0.8


def test_the_loader_passes_the_epoch_on(folder: Path) -> None:
    found = samples(folder)
    loader = training_loader(found.images, found.recipe, 2, 1)
    seen = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch in loader:
            again = found.__getitems__([(epoch, i) for i in batch.index])
            assert torch.equal(batch.images, again.images)  # type: ignore[union-attr]
            seen.append(batch.images)
    assert not torch.equal(torch.cat(seen[: len(seen) // 2]), torch.cat(seen[len(seen) // 2 :]))
