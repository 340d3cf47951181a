"""Ready-made pictures of CIFAR-10-C and ImageNet-C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.corruption_roots import array_set
from PIL import Image

from robustbench_coss.datasets.base import ImageSet, open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.corruptions.reference import (
    GROUPS,
    NAMES,
    STANDARD,
)
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject
from robustbench_coss.evaluations.suites.corruption import Corruption
from robustbench_coss.records.confidence import CONFIDENCES


def save_arrays(folder: Path, test: ImageSet, names: tuple[str, ...] = NAMES) -> None:
    """In CIFAR-10-C's layout: the value of every pixel says corruption, severity and image."""
    folder.mkdir(exist_ok=True)
    count, size = len(test), test.size
    np.save(folder / "labels.npy", np.tile(test.labels.numpy(), 5).astype(np.uint8))
    for k, name in enumerate(names):
        value = 10 * k + np.arange(5 * count) // count + 40 * (np.arange(5 * count) % count)
        pixels = np.broadcast_to(value[:, None, None, None], (5 * count, size, size, 3))
        np.save(folder / f"{name}.npy", pixels.astype(np.uint8))


def open_root(folder: Path, test: ImageSet) -> Corruption:
    suite = Corruption(root=folder)
    suite.configure(test)
    return suite


def test_arrays_of_cifar_10_c_pair_row_by_row_and_block_by_block(
    tmp_path: Path, subject: Subject
) -> None:
    test = array_set(32)
    save_arrays(tmp_path, test)
    suite = open_root(tmp_path, test)
    conditions = suite.conditions(subject)
    assert len(conditions) == 96
    batch = Batch(test.images([2, 0]).float() / 255, test.labels[[2, 0]], [2, 0])
    for k, severity in ((0, 1), (7, 5), (18, 3)):
        condition = Condition(f"{NAMES[k]}@{severity}", "any", severity, kind=NAMES[k])
        got = suite.corrupt(batch.images, batch.index, condition, 0) * 255
        for row, i in enumerate([2, 0]):
            assert torch.all(got[row].round() == (10 * k + severity - 1 + 40 * i) % 256)
    assert set(suite.measure(subject, batch, conditions[5], 0)) == {"correct", *CONFIDENCES}
    assert suite.config()["backend"] == "ready-made"
    assert {m.name for m in suite.metrics(conditions)} >= {"corruption_top1", "corruption_extra"}


def test_arrays_of_another_test_set_are_refused(tmp_path: Path) -> None:
    save_arrays(tmp_path, array_set(32))
    with pytest.raises(CossError, match="has 20 labels, which are not five times those of the 5"):
        open_root(tmp_path, array_set(32, count=5))
    (tmp_path / "fog.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(CossError, match=r"fog\.npy is damaged"):
        open_root(tmp_path, array_set(32))
    np.save(tmp_path / "fog.npy", np.zeros((20, 32, 31, 3), np.uint8))
    with pytest.raises(
        CossError, match=r"fog.npy holds uint8 of shape \[20, 32, 31, 3\], expected"
    ):
        open_root(tmp_path, array_set(32))
    np.save(tmp_path / "fog.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(CossError, match=r"fog\.npy is damaged"):
        open_root(tmp_path, array_set(32))


def test_a_missing_standard_corruption_is_named_and_missing_extra_ones_are_left_out(
    tmp_path: Path, subject: Subject
) -> None:
    test = array_set(32)
    standard = tuple(name for group in STANDARD for name in GROUPS[group])
    save_arrays(tmp_path, test, standard)
    suite = open_root(tmp_path, test)
    conditions = suite.conditions(subject)
    assert len(conditions) == 76
    assert "corruption_extra" not in {m.name for m in suite.metrics(conditions)}
    (tmp_path / "frost.npy").unlink()
    with pytest.raises(CossError, match=r"lacks frost\.npy; "):
        open_root(tmp_path, test)
    (tmp_path / "snow.npy").unlink()
    with pytest.raises(CossError, match=r"lacks \w+\.npy and 1 more of the 15 standard"):
        open_root(tmp_path, test)
    with pytest.raises(CossError, match="is not a folder"):
        Corruption(root=tmp_path / "absent")


def image_folder(root: Path, size: int) -> ImageSet:
    """Clean pictures in two classes, and an `imagefolder` of them."""
    for part, names in (("train", "ab"), ("test", "abc")):
        for category in ("n01", "n02"):
            folder = root / "clean" / part / category
            folder.mkdir(parents=True)
            for name in names:
                Image.new("RGB", (48, 48), (9, 9, 9)).save(folder / f"{name}_{category}.png")
    return open_dataset("imagefolder", "test", size=size, root=root / "clean")


def save_folders(root: Path, side: int) -> Path:
    """In ImageNet-C's layout: a picture's red is its corruption, green severity, blue its name."""
    for k, name in enumerate(NAMES[:15]):
        for severity in range(1, 6):
            for category in ("n01", "n02"):
                folder = root / "C" / name / str(severity) / category
                folder.mkdir(parents=True)
                for j, picture in enumerate("abc"):
                    colour = (10 * k, 40 * severity, 100 * (category == "n02") + 30 * j)
                    Image.new("RGB", (side, side), colour).save(
                        folder / f"{picture}_{category}.JPEG", quality=100, subsampling=0
                    )
    return root / "C"


def test_folders_of_imagenet_c_pair_by_class_and_file_name(tmp_path: Path) -> None:
    test = image_folder(tmp_path, 32)
    suite = open_root(save_folders(tmp_path, 32), test)
    images = test.images(range(6)).float() / 255
    got = (
        suite.corrupt(
            images, [4, 0, 5], Condition("glass_blur@3", "blur", 3.0, kind="glass_blur"), 0
        )
        * 255
    )
    colours = got[:, :, 16, 16]
    k = NAMES.index("glass_blur")
    # Sorted: a, b, c of n01, then of n02.
    expected = torch.tensor([[10 * k, 120, 130], [10 * k, 120, 0], [10 * k, 120, 160]])
    torch.testing.assert_close(colours, expected.float(), atol=3, rtol=0)


def test_a_picture_at_the_model_s_size_is_not_resized(tmp_path: Path) -> None:
    test = image_folder(tmp_path, 40)
    root = save_folders(tmp_path, 40)
    path = root / "fog" / "1" / "n01" / "a_n01.JPEG"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(path, quality=90)
    suite = open_root(root, test)
    fog = Condition("fog@1", "weather", 1.0, kind="fog")
    got = suite.corrupt(test.images([0]).float(), [0], fog, 0)[0] * 255
    decoded = np.asarray(Image.open(path)).transpose(2, 0, 1)
    np.testing.assert_array_equal(got.round().numpy(), decoded)
    larger = open_root(root, open_dataset("imagefolder", "test", size=56, root=tmp_path / "clean"))
    assert larger.corrupt(test.images([0]).float(), [0], fog, 0).shape == (1, 3, 56, 56)


def test_a_missing_or_damaged_picture_and_a_data_set_without_file_names_are_explained(
    tmp_path: Path,
) -> None:
    test = image_folder(tmp_path, 32)
    root = save_folders(tmp_path, 32)
    suite = open_root(root, test)
    images, snow = test.images([1]).float() / 255, Condition("snow@2", "weather", 2.0, kind="snow")
    (root / "snow" / "2" / "n01" / "b_n01.JPEG").write_bytes(b"no picture")
    with pytest.raises(CossError, match="cannot be read"):
        suite.corrupt(images, [1], snow, 0)
    (root / "snow" / "2" / "n01" / "b_n01.JPEG").unlink()
    with pytest.raises(CossError, match="does not exist"):
        suite.corrupt(images, [1], snow, 0)
    (root / "snow" / "2" / "n01" / "a_n01.JPEG").unlink()
    with pytest.raises(CossError, match="must have the same class folders and file names"):
        open_root(root, test)
    with pytest.raises(CossError, match="mine has no file names to pair"):
        open_root(root, array_set(32))
