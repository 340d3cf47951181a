"""Every draw of a view goes by seed, epoch, sample and view; with each of them it is another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.view_cases import OFF
from PIL import Image
from torch import Tensor

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.pretrain.data import Samples
from robustbench_coss.pretrain.recipe import build_recipe
from robustbench_coss.pretrain.views import ViewOptions, make_views

COUNT = 24
STEPS = {
    "crop": {"min_crop": 0.2},
    "flip": {"flip": 0.5},
    "jitter": {"jitter": 1.0},
    "grey": {"grey": 0.5},
    "blur": {"blur": (1.0, 1.0)},
    "solarize": {"solarize": (0.5, 0.5)},
}


def images() -> Tensor:
    """The same picture many times, so that only draws tell samples apart."""
    picture = torch.randint(0, 256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    return picture.to(torch.uint8).expand(COUNT, -1, -1, -1)


def made(step: str, seed: int = 0, epoch: int = 0, first: int = 0) -> list[Tensor]:
    options = ViewOptions(**(OFF | STEPS[step]))
    return make_views(images(), range(first, first + COUNT), seed, epoch, 2, options)


def test_views_without_any_step_are_the_images() -> None:
    for view in make_views(images(), range(COUNT), 0, 0, 2, ViewOptions(**OFF)):
        torch.testing.assert_close(view, images().float() / 255)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_drawn_anew_for_each_seed_epoch_view_and_sample(step: str) -> None:
    one, two = made(step)
    assert all(torch.equal(a, b) for a, b in zip((one, two), made(step), strict=True))
    assert not torch.equal(one, two)
    assert not torch.equal(one, made(step, seed=1)[0])
    assert not torch.equal(one, made(step, epoch=1)[0])
    assert not torch.equal(one, made(step, first=COUNT)[0])
    assert len({view.numpy().tobytes() for view in one}) > 1
    # A sample's own draws, not those of its place in the batch.
    assert torch.equal(made(step, first=1)[0][: COUNT - 1], one[1:])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One picture of 40 × 30 px in each role of a folder of pictures, five times."""
    draws = np.random.default_rng(0)
    picture = Image.fromarray(draws.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    for role in ("train", "validation", "test"):
        for number in range(5):
            path = tmp_path / role / "kind" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return tmp_path


@pytest.mark.parametrize("what", ["epoch", "seed", "sample"])
def test_crops_of_pictures_go_by_epoch_seed_and_sample(folder: Path, what: str) -> None:
    found = open_dataset("imagefolder", "train", size=16, root=folder)

    def cut(seed: int = 0, epoch: int = 0, sample: int = 0) -> list[Tensor]:
        recipe = build_recipe({"dataset": "imagefolder", "seed": seed}, "test")
        samples = Samples(found, recipe, views=2, local_crops=2)
        (batch,) = [samples.__getitems__([(epoch, sample)])]
        assert not isinstance(batch, Exception)
        assert batch.small is not None
        return [*batch.images[0], *batch.small[0]]

    first, other = cut(), cut(**{what: 1})
    assert all(torch.equal(a, b) for a, b in zip(first, cut(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[2], first[3])
