"""Tiny ImageNet and ImageNet-100 on small folders in their published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_coss.datasets.base import ROLES, open_dataset
from robustbench_coss.datasets.geometry import Geometry, geometry_of
from robustbench_coss.errors import CossError

WNIDS = ("n02", "n01")


def write_picture(path: Path, seed: int, size: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-imagenet-200"
    for wnid in WNIDS:
        for k in range(10):
            write_picture(folder / "train" / wnid / "images" / f"{wnid}_{k}.JPEG", k)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("0\t0\t9\t9\n")
    lines = []
    for k, wnid in enumerate(("n02", "n01", "n01")):
        write_picture(folder / "val" / "images" / f"val_{k}.JPEG", 100 + k)
        lines.append(f"val_{k}.JPEG\t{wnid}\t0\t0\t9\t9\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "test" / "images").mkdir(parents=True)
    return tmp_path


def test_tiny_imagenet_is_read_from_its_published_layout(tiny: Path) -> None:
    train, validation, test = (open_dataset("tiny-imagenet", r, root=tiny) for r in ROLES)
    assert [len(train), len(validation), len(test)] == [18, 2, 3]
    assert train.classes == test.classes == ("n01", "n02")
    assert test.labels.tolist() == [1, 0, 0]
    assert sorted([*train.labels.tolist(), *validation.labels.tolist()]) == [0] * 10 + [1] * 10
    for images in (train, validation):
        for index in range(len(images)):
            path = images.path(index)  # type: ignore[attr-defined]
            assert path.parent.parent.name == images.classes[images.labels[index]]
    fingerprints = {images.fingerprint for images in (train, validation, test)}
    assert len(fingerprints) == 3
    assert open_dataset("tiny-imagenet", "test", root=tiny).fingerprint in fingerprints


def test_pictures_of_tiny_imagenet_are_seen_whole(tiny: Path) -> None:
    images = open_dataset("tiny-imagenet", "test", root=tiny)
    assert images.size == 64
    path = tiny / "tiny-imagenet-200" / "val" / "images" / "val_1.JPEG"
    pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    assert torch.equal(images.images([1])[0], pixels)
    assert torch.equal(images.raw(1), pixels)
    assert images.images([]).shape == (0, 3, 64, 64)
    smaller = open_dataset("tiny-imagenet", "test", size=32, root=tiny)
    means = pixels.float().view(3, 32, 2, 32, 2).mean((2, 4))
    got = smaller.images([1])[0].float()
    assert got.shape == (3, 32, 32)
    assert (got - means).abs().mean() < 20  # a triangle of twice the width, not a box
    assert abs(got.mean() - means.mean()) < 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val_0.JPEG\tn99\t0\t0\t9\t9\n", "line 1, names class 'n99'"),
        ("val_9.JPEG\tn01\t0\t0\t9\t9\n", "line 1, names picture 'val_9.JPEG'"),
        ("val_0.JPEG n01\n", "line 1, names class ''"),
        ("", "has no pictures in val/images"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(tiny: Path, line: str, message: str) -> None:
    path = tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    path.write_text(line)
    with pytest.raises(CossError, match=message) as error:
        open_dataset("tiny-imagenet", "test", root=tiny)
    assert "\n" not in str(error.value)


def test_tiny_imagenet_without_training_pictures_is_refused(tiny: Path) -> None:
    for path in tiny.glob("tiny-imagenet-200/train/*/images/*"):
        path.unlink()
    with pytest.raises(CossError, match="no pictures in train/<wnid>/images"):
        open_dataset("tiny-imagenet", "train", root=tiny)


@pytest.mark.parametrize("name", ["tiny-imagenet", "imagenet100"])
def test_missing_pictures_are_an_error_that_says_where_to_put_them(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(CossError, match=f"{name} is not in .*cannot be downloaded; .*--data-root"):
        open_dataset(name, "train", root=tmp_path, download=True)
    with pytest.raises(CossError, match="does not exist"):
        open_dataset(name, "train", root=tmp_path / "typo")
    (tmp_path / "file").write_text("")
    with pytest.raises(CossError, match="is a file"):
        open_dataset(name, "train", root=tmp_path / "file")


def test_imagenet100_takes_whatever_classes_are_there(tmp_path: Path) -> None:
    for part, count in (("train", 100), ("val", 2)):
        for wnid in WNIDS:
            for k in range(count):
                write_picture(tmp_path / "imagenet100" / part / wnid / f"{k}.JPEG", k, size=8)
    sets = [open_dataset("imagenet100", role, root=tmp_path) for role in ROLES]
    assert [len(images) for images in sets] == [198, 2, 4]
    assert sets[0].classes == ("n01", "n02")
    assert sets[2].size == 224


def test_whole_pictures_are_not_said_to_be_cut(tiny: Path) -> None:
    asked = Geometry(72, "bicubic")
    plain, told = (
        open_dataset("tiny-imagenet", "test", root=tiny, geometry=g) for g in (None, asked)
    )
    assert torch.equal(plain.images([0, 1, 2]), told.images([0, 1, 2]))
    assert geometry_of(told) == {}


def test_other_annotations_are_another_data_set(tiny: Path) -> None:
    before = open_dataset("tiny-imagenet", "test", root=tiny)
    path = tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    first, second, third = path.read_text().splitlines(keepends=True)
    path.write_text(first + second.replace("n01", "n02") + third)
    after = open_dataset("tiny-imagenet", "test", root=tiny)
    assert before.labels.tolist() != after.labels.tolist()
    assert before.fingerprint != after.fingerprint
