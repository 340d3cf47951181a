"""Layouts that people bring the public data sets in, and roles that must not be mixed up."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_coss.datasets.base import ArraySet, fingerprint_arrays, fit, open_dataset
from robustbench_coss.errors import CossError

WNIDS = ("n01443537", "n01629819")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Tiny ImageNet as published, with two classes of 12 and 3 pictures."""
    folder = tmp_path / "tiny-imagenet-200"
    rng = np.random.default_rng(0)

    def picture(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(path)

    lines = []
    for w in WNIDS:
        for k in range(12):
            picture(folder / "train" / w / "images" / f"{w}_{k}.JPEG")
    for k in range(6):
        picture(folder / "val" / "images" / f"val_{k}.JPEG")
        lines.append(f"val_{k}.JPEG\t{WNIDS[k % 2]}\t0\t0\t9\t9\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


@pytest.mark.parametrize("below", ["", "images"])
@pytest.mark.parametrize("annotations", [True, False])
def test_tiny_imagenet_with_its_test_pictures_sorted_into_classes_is_read(
    below: str, annotations: bool, tiny: Path
) -> None:
    before = open_dataset("tiny-imagenet", "test", root=tiny)
    expected = {
        (int(label), before.images([i]).numpy().tobytes())
        for i, label in enumerate(before.labels.tolist())
    }
    val = tiny / "tiny-imagenet-200" / "val"
    for k in range(6):
        place = val / WNIDS[k % 2] / below / f"val_{k}.JPEG"
        place.parent.mkdir(parents=True, exist_ok=True)
        (val / "images" / f"val_{k}.JPEG").rename(place)
    (val / "images").rmdir()
    if not annotations:
        (val / "val_annotations.txt").unlink()
    after = open_dataset("tiny-imagenet", "test", root=tiny)
    assert after.classes == WNIDS
    assert expected == {
        (int(label), after.images([i]).numpy().tobytes())
        for i, label in enumerate(after.labels.tolist())
    }


@pytest.mark.parametrize("gzipped", [True, False])
def test_mnist_is_read_under_the_names_with_a_dot(gzipped: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "mnist").mkdir()
    pixels = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        for kind, array in (("images.idx3", pixels), ("labels.idx1", np.arange(20) % 10)):
            data = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            data += array.astype(np.uint8).tobytes()
            path = tmp_path / "mnist" / f"{part}-{kind}-ubyte{'.gz' * gzipped}"
            path.write_bytes(gzip.compress(data) if gzipped else data)
    images = open_dataset("mnist", "test", size=28, root=tmp_path)
    assert images.labels.tolist() == (np.arange(20) % 10).tolist()
    assert np.array_equal(images.images(range(20))[:, 0].numpy(), pixels)


def test_an_array_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    from robustbench_coss.datasets.idx import read_idx

    head = struct.pack(">BBBB3I", 0, 0, 8, 3, 1 << 20, 28, 28)
    (tmp_path / "x.gz").write_bytes(gzip.compress(head + bytes(1 << 24)))
    with pytest.raises(CossError, match=r"822,?083,?584 bytes, more than any"):
        read_idx(tmp_path / "x.gz", 3)


# ---- what a fingerprint and an image depend on ----


def array_set(pixels: torch.Tensor, labels: list[int]) -> ArraySet:
    return ArraySet("x", "test", pixels, torch.tensor(labels), ("a", "b"), 8)


def test_a_fingerprint_sees_each_label_each_pixel_and_the_order() -> None:
    pixels = torch.arange(3 * 64, dtype=torch.uint8).view(3, 1, 8, 8)
    other = pixels.clone()
    other[2, 0, 7, 7] += 1
    found = [
        array_set(pixels, [0, 1, 1]).fingerprint,
        array_set(pixels, [0, 1, 0]).fingerprint,
        array_set(pixels, [1, 0, 1]).fingerprint,
        array_set(other, [0, 1, 1]).fingerprint,
        array_set(pixels[[1, 0, 2]], [0, 1, 1]).fingerprint,
        fingerprint_arrays(pixels.view(3, 1, 4, 16), torch.tensor([0, 1, 1])),
    ]
    assert len(set(found)) == len(found)
    assert found[0] == array_set(pixels.clone(), [0, 1, 1]).fingerprint


def test_a_fingerprint_of_a_folder_sees_which_class_a_picture_is_in(tmp_path: Path) -> None:
    def fingerprint(moved: bool) -> Any:
        root = tmp_path / str(moved)
        for part in ("train", "test"):
            for k, name in enumerate(("a", "b")):
                for j in range(3):
                    swapped = moved and part == "test" and j == 2
                    place = root / part / ("b" if (k == 0) == swapped else "a")
                    place.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (9, 9)).save(place / f"{name}{j}.png")
        return open_dataset("imagefolder", "test", root=root).fingerprint

    assert fingerprint(False) != fingerprint(True)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_images_that_shrink_are_antialiased(factor: int) -> None:
    # Columns of black and white, one pixel wide, are grey when seen from afar; without a filter,
    # they stay black or white by where samples fall. A triangle filter of even width averages
    # them exactly, away from the borders.
    side = 8 * factor
    stripes = (torch.arange(side) % 2 * 255).to(torch.uint8)
    pixels = stripes.expand(1, 3, side, side).contiguous()
    inner = fit(pixels, 8, pad=False)[..., 1:-1].float()
    assert float((inner - 127.5).abs().max()) <= 1
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    reference = np.asarray(picture.resize((8, 8), Image.Resampling.BILINEAR)).astype(int)
    found = fit(pixels, 8, pad=False)[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - reference).max() <= 1


@pytest.mark.parametrize("layout", ["imagefolder", "tiny"])
def test_pictures_of_folders_that_shrink_are_antialiased(layout: str, tmp_path: Path) -> None:
    stripes = np.broadcast_to((np.arange(256) % 2 * 255)[None, :, None], (256, 256, 3))
    picture = Image.fromarray(stripes.astype(np.uint8))
    if layout == "imagefolder":
        for part in ("train", "test"):
            (tmp_path / part / "a").mkdir(parents=True)
            picture.save(tmp_path / part / "a" / "x.png")
        images = open_dataset("imagefolder", "test", size=28, root=tmp_path)
    else:
        for k in range(10):
            place = tmp_path / "train/n01/images"
            place.mkdir(parents=True, exist_ok=True)
            picture.save(place / f"{k}.JPEG", "PNG")
        (tmp_path / "val/images").mkdir(parents=True)
        picture.save(tmp_path / "val/images/v.JPEG", "PNG")
        (tmp_path / "val/val_annotations.txt").write_text("v.JPEG\tn01\n")
        images = open_dataset("tiny-imagenet", "test", size=32, root=tmp_path)
    inner = images.images([0])[..., 2:-2].float()
    assert float((inner - 127.5).abs().max()) <= 4
