"""Ready-made corruptions are told apart by their pixels, and paired where pictures are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.corruption_roots import array_set
from PIL import Image

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.evaluations.corruptions.published import ReadyMade, open_pairs


def arrays(folder: Path, level: int, at: int = 0) -> ReadyMade:
    test = array_set(32)
    folder.mkdir()
    pixels = np.zeros((20, 32, 32, 3), np.uint8)
    pixels[at] = level
    np.save(folder / "fog.npy", pixels)
    np.save(folder / "labels.npy", np.tile(test.labels.numpy(), 5))
    return open_pairs(folder, ("fog",), test)


@pytest.mark.parametrize("at", [0, 7, 19])
def test_arrays_of_other_pixels_are_other_pictures(tmp_path: Path, at: int) -> None:
    found = [arrays(tmp_path / str(n), level, at) for n, level in enumerate((1, 1, 2))]
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint


def folders(root: Path, level: int) -> Path:
    """Two pictures of the same names in either class; bitmaps of one size are as long."""
    for part in ("train", "test", *(f"C/fog/{severity}" for severity in range(1, 6))):
        for k, name in enumerate("ab"):
            for stem in (0, 1):
                place = root / part / name / f"{stem}.bmp"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (level, k, stem)).save(place)
    return root


def test_folders_of_other_pixels_are_other_pictures(tmp_path: Path) -> None:
    test = open_dataset("imagefolder", "test", size=32, root=folders(tmp_path / "0", 0))
    roots = [folders(tmp_path / str(n), level) / "C" for n, level in ((0, 0), (1, 0), (2, 9))]
    found = [open_pairs(root, ("fog",), test).fingerprint for root in roots]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("lost", [0, 1])
def test_pictures_that_are_left_out_need_no_partner(tmp_path: Path, lost: int) -> None:
    root = folders(tmp_path, 0)
    test = open_dataset("imagefolder", "test", size=32, root=root)
    test.labels = test.labels.clone()
    test.labels[lost] = -1  # as of a picture that cannot be read
    kept = [i for i in range(4) if i != lost]
    found = open_pairs(root / "C", ("fog",), test).images("fog", 5, kept)
    assert found[:, 1:, 0, 0].tolist() == [[i // 2, i % 2] for i in kept]  # class and name


def test_arrays_are_paired_where_a_test_image_has_no_label(tmp_path: Path) -> None:
    test = array_set(32)
    np.save(tmp_path / "fog.npy", np.zeros((20, 32, 32, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.tile(test.labels.numpy(), 5))
    test.labels = torch.where(torch.arange(4) == 2, -1, test.labels)
    assert open_pairs(tmp_path, ("fog",), test).images("fog", 5, [3]).shape == (1, 3, 32, 32)
