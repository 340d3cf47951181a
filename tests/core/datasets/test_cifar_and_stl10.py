"""CIFAR and STL-10 in their published layouts."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.picture_files import one_line

from robustbench_coss.datasets.base import ROLES, open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.testing import check_images


def write_cifar(
    root: Path, monkeypatch: pytest.MonkeyPatch, fine: bool
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A tiny CIFAR in the published layout, its checksums made known to torchvision."""
    import torchvision.datasets as tv

    cifar = tv.CIFAR100 if fine else tv.CIFAR10
    folder = root / cifar.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def put(name: str, value: dict[str, Any]) -> list[str]:
        data = pickle.dumps(value)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    count, key = (100, "fine_labels") if fine else (10, "labels")
    batches = []
    for names in ([n for n, _ in cifar.train_list], [n for n, _ in cifar.test_list]):
        listed = []
        for name in names:
            pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
            listed.append(put(name, {"data": pixels, key: list(range(count))}))
        batches.append(listed)
    meta = put(cifar.meta["filename"], {cifar.meta["key"]: [f"class {k}" for k in range(count)]})
    monkeypatch.setattr(cifar, "train_list", batches[0])
    monkeypatch.setattr(cifar, "test_list", batches[1])
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": meta[1]})
    return pixels


@pytest.mark.parametrize(("name", "fine"), [("cifar10", False), ("cifar100", True)])
def test_cifar_is_read_from_its_published_layout(
    name: str, fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_pixels = write_cifar(tmp_path, monkeypatch, fine)
    sets = [open_dataset(name, role, root=tmp_path) for role in ROLES]
    assert [len(s) for s in sets] == ([90, 10, 100] if fine else [45, 5, 10])
    for images, role in zip(sets, ROLES, strict=True):
        check_images(images, name, role, 32)
    # A row is the red, green and blue plane, each row by row.
    assert np.array_equal(sets[2].raw(3).numpy(), test_pixels[3].reshape(3, 32, 32))
    assert sets[2].classes[3] == "class 3"
    assert sets[2].labels.tolist() == list(range(len(test_pixels)))


def test_a_damaged_cifar_batch_is_named_and_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, monkeypatch, fine=False)
    path = tmp_path / "cifar-10-batches-py/data_batch_3"
    path.write_bytes(b"cposix\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(CossError) as error:
        open_dataset("cifar10", "train", root=tmp_path)
    assert str(path) in one_line(error)
    assert not (tmp_path / "ran").exists()


def write_stl10(root: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 10)):
        pixels = rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        # On disk each plane runs column by column, and labels run from 1 to 10.
        pixels.transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")
        (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    return pixels


def test_stl10_is_read_from_its_published_layout(tmp_path: Path) -> None:
    test_pixels = write_stl10(tmp_path)
    sets = [open_dataset("stl10", role, root=tmp_path) for role in ROLES]
    assert [len(s) for s in sets] == [18, 2, 10]
    check_images(sets[2], "stl10", "test", 96)
    assert np.array_equal(sets[2].images(range(10)).numpy(), test_pixels)
    assert sets[2].labels.tolist() == list(range(10))
    assert sets[2].classes[9] == "truck"


def test_a_truncated_stl10_file_is_named(tmp_path: Path) -> None:
    write_stl10(tmp_path)
    path = tmp_path / "stl10_binary/test_X.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CossError) as error:
        open_dataset("stl10", "test", root=tmp_path)
    assert str(path) in one_line(error)


def test_stl10_labels_of_zero_are_refused(tmp_path: Path) -> None:
    write_stl10(tmp_path)
    path = tmp_path / "stl10_binary/test_y.bin"
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    with pytest.raises(CossError, match="labels from -1 to 9"):
        open_dataset("stl10", "test", root=tmp_path)
