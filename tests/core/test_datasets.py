"""Data sets: the contract they share, the formats each reads, the bad input each refuses."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.simulate_shards import write_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from robustbench_coss import registry
from robustbench_coss.datasets import shards as shard_files
from robustbench_coss.datasets.base import ROLES, ImageSet, open_dataset
from robustbench_coss.datasets.folder import IMAGEFOLDER, IMAGENET
from robustbench_coss.datasets.idx import read_idx
from robustbench_coss.datasets.shards import tar_members
from robustbench_coss.datasets.vision import FASHION_MNIST
from robustbench_coss.errors import CossError
from robustbench_coss.testing import check_dataset, check_images

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
needs_fashion_mnist = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)


def one_line(error: pytest.ExceptionInfo[CossError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# ---- every registered data set ----


@pytest.mark.parametrize("name", registry.names("dataset"))
def test_every_available_data_set_keeps_the_contract(name: str, tmp_path: Path) -> None:
    if not check_dataset(name, tmp_path):
        pytest.skip(f"{name} is not on this machine")


# ---- IDX ----


def idx_bytes(array: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    gzipped=st.booleans(),
)
def test_idx_files_read_back_what_was_written(
    shape: list[int], gzipped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp("idx") / "file"
    data = idx_bytes(array)
    path.write_bytes(gzip.compress(data, mtime=0) if gzipped else data)
    read = read_idx(path, len(shape))
    assert read.dtype == np.uint8
    assert np.array_equal(read, array)


LABELS = idx_bytes(np.arange(10, dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "nothing"),
        (LABELS[:2], "0000"),
        (LABELS[:6], "header is truncated"),
        (LABELS[:-1], "only 9"),
        (LABELS + b"x", "holds more"),
        (b"\0\0\x0d\x01" + LABELS[4:], "00000d01"),
        (b"\0\0\x08\x03" + LABELS[4:], "00000803"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 2**32 - 1), "more than any data set"),
        (gzip.compress(LABELS, mtime=0)[:-12], "damaged"),
        (gzip.compress(LABELS, mtime=0)[:-8] + b"\0" * 8, "CRC"),
        (b"\x1f\x8b" + b"junk" * 9, "damaged"),
    ],
)
def test_damaged_idx_files_are_refused_by_name(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(data)
    with pytest.raises(CossError) as error:
        read_idx(path, 1)
    message = one_line(error)
    assert str(path) in message
    assert says in message
    assert "download" in message


def test_an_idx_file_that_is_not_there_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="does not exist"):
        read_idx(tmp_path / "none", 1)


# ---- MNIST and Fashion-MNIST ----


@needs_fashion_mnist
def test_fashion_mnist_roles_have_their_sizes_and_share_no_image(tmp_path: Path) -> None:
    with gzip.open(DEBIAN / "train-images-idx3-ubyte.gz") as file:
        official = np.frombuffer(file.read()[16:], np.uint8).reshape(60_000, 28, 28)
    sets: dict[str, Any] = {r: open_dataset("fashion-mnist", r, root=tmp_path) for r in ROLES}
    assert {r: len(s) for r, s in sets.items()} == {
        "train": 54_000,
        "validation": 6_000,
        "test": 10_000,
    }
    # The two roles together are the official training images, each once.
    both = np.concatenate([sets["train"].pixels[:, 0], sets["validation"].pixels[:, 0]])
    ours, theirs = (sorted(map(bytes, x.reshape(60_000, 784))) for x in (both, official))
    assert ours == theirs


@needs_fashion_mnist
def test_padded_fashion_mnist_pixels_equal_the_bytes_of_the_file(tmp_path: Path) -> None:
    with gzip.open(DEBIAN / "t10k-images-idx3-ubyte.gz") as file:
        data = file.read()
    with gzip.open(DEBIAN / "t10k-labels-idx1-ubyte.gz") as file:
        labels = file.read()[8:]
    images = open_dataset("fashion-mnist", "test", root=tmp_path)
    for index in (0, 1, 9_999):
        expected = np.zeros((32, 32), np.uint8)
        start = 16 + 784 * index
        expected[2:30, 2:30] = np.frombuffer(data[start : start + 784], np.uint8).reshape(28, 28)
        got = images.images([index])[0].numpy()
        assert all(np.array_equal(channel, expected) for channel in got)
        assert images.labels[index] == labels[index]
    assert images.classes[labels[0]] == "Ankle boot"


def write_idx_set(folder: Path, gzipped: bool, train: int = 30, test: int = 10) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        arrays = {
            f"{part}-images-idx3-ubyte": rng.integers(0, 256, (count, 28, 28), dtype=np.uint8),
            f"{part}-labels-idx1-ubyte": (np.arange(count) % 10).astype(np.uint8),
        }
        for name, array in arrays.items():
            data = idx_bytes(array)
            path = folder / (name + ".gz" * gzipped)
            path.write_bytes(gzip.compress(data, mtime=0) if gzipped else data)


@pytest.mark.parametrize(("layout", "gzipped"), [("mnist", True), ("MNIST/raw", False)])
def test_mnist_is_read_from_plain_and_torchvision_layouts(
    layout: str, gzipped: bool, tmp_path: Path
) -> None:
    write_idx_set(tmp_path / layout, gzipped)
    assert [len(open_dataset("mnist", r, root=tmp_path)) for r in ROLES] == [27, 3, 10]
    for role in ROLES:
        check_images(open_dataset("mnist", role, root=tmp_path), "mnist", role, 32)


def test_the_data_root_is_preferred_to_the_copy_of_the_system(tmp_path: Path) -> None:
    write_idx_set(tmp_path / "fashion-mnist", gzipped=True)
    assert FASHION_MNIST.find(tmp_path) == tmp_path / "fashion-mnist"
    assert len(open_dataset("fashion-mnist", "test", root=tmp_path)) == 10


def test_images_and_labels_of_unequal_number_are_refused(tmp_path: Path) -> None:
    write_idx_set(tmp_path / "mnist", gzipped=False)
    (tmp_path / "mnist/t10k-labels-idx1-ubyte").write_bytes(LABELS[:7] + b"\x09" + LABELS[8:-1])
    with pytest.raises(CossError, match=r"10 images and .* 9 labels"):
        open_dataset("mnist", "test", root=tmp_path)


def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    write_idx_set(tmp_path / "mnist", gzipped=False)
    path = tmp_path / "mnist/t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(CossError, match="labels from 0 to 10, expected 0 to 9"):
        open_dataset("mnist", "test", root=tmp_path)


# ---- CIFAR and STL-10 ----


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


# ---- missing data ----

ARRAYS = ("mnist", "cifar10", "cifar100", "stl10")


@pytest.mark.parametrize("name", [*ARRAYS, "imagefolder", "imagenet"])
def test_missing_data_are_an_error_that_names_path_and_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(CossError) as error:
        open_dataset(name, "train", root=tmp_path)
    message = one_line(error)
    assert str(tmp_path) in message
    assert registry.load("dataset", name).missing(tmp_path) in message
    assert "--data-root" in message


@pytest.mark.parametrize("name", [*ARRAYS, "imagefolder", "imagenet"])
def test_a_data_root_that_does_not_exist_is_said_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(CossError, match="does not exist"):
        open_dataset(name, "train", root=tmp_path / "typo")


@pytest.mark.parametrize("name", [*ARRAYS, "fashion-mnist", "imagefolder", "imagenet"])
def test_a_data_root_that_is_a_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(CossError, match="is a file"):
        open_dataset(name, "train", root=path, download=True)


def test_missing_fashion_mnist_names_the_debian_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = replace(FASHION_MNIST, folders=FASHION_MNIST.folders[:2])
    with pytest.raises(CossError) as error:
        without.open("test", 32, tmp_path, False)
    message = one_line(error)
    assert "apt-get install dataset-fashion-mnist" in message
    assert "--download" in message


@pytest.mark.parametrize("name", ARRAYS)
def test_a_failed_download_is_one_line_and_prints_nothing(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import urllib.request

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(CossError) as error:
        open_dataset(name, "train", root=tmp_path / "new", download=True)
    message = one_line(error)
    assert "cannot download" in message
    assert "no route to host" in message
    assert capsys.readouterr() == ("", "")


def test_imagenet_cannot_be_downloaded_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="cannot be downloaded"):
        open_dataset("imagenet", "train", root=tmp_path, download=True)


# ---- folders of pictures ----


def write_pictures(folder: Path, classes: tuple[str, ...], count: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for k in range(count):
            height, width = rng.integers(20, 60, 2)
            pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((int(width), int(height)))
            picture.save(folder / name / f"{k:03d}.{('png', 'jpg', 'JPEG')[k % 3]}")


CLASSES = ("cat", "dog", "eel")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for seed, (part, count) in enumerate((("train", 10), ("val", 3), ("test", 2))):
        write_pictures(tmp_path / part, CLASSES, count, seed)
    return tmp_path


def lengths(name: str, root: Path) -> list[int]:
    return [len(open_dataset(name, role, root=root)) for role in ROLES]


def test_an_image_folder_with_three_folders_uses_each_for_its_role(pictures: Path) -> None:
    assert lengths("imagefolder", pictures) == [30, 9, 6]
    for role in ROLES:
        check_images(open_dataset("imagefolder", role, root=pictures), "imagefolder", role, 224)


def test_without_a_test_folder_val_is_the_test_set(pictures: Path) -> None:
    (pictures / "test").rename(pictures / "unused")
    assert lengths("imagefolder", pictures) == [27, 3, 9]


def test_without_a_val_folder_validation_is_held_out_of_train(pictures: Path) -> None:
    (pictures / "val").rename(pictures / "unused")
    assert lengths("imagefolder", pictures) == [27, 3, 6]
    train, held = (open_dataset("imagefolder", r, root=pictures) for r in ROLES[:2])
    paths = {s.path(i) for s in (train, held) for i in range(len(s))}  # type: ignore[attr-defined]
    assert paths == set((pictures / "train").glob("*/*"))


def test_validation_is_another_name_for_val(pictures: Path) -> None:
    (pictures / "val").rename(pictures / "validation")
    assert lengths("imagefolder", pictures) == [30, 9, 6]


@pytest.mark.parametrize("inside", ["", "imagenet"])
def test_imagenet_tests_on_val_and_holds_a_hundredth_of_train_out(
    inside: str, tmp_path: Path
) -> None:
    write_pictures(tmp_path / inside / "train", ("n02", "n01"), 100)
    write_pictures(tmp_path / inside / "val", ("n01", "n02"), 2, seed=1)
    (tmp_path / inside / "test").mkdir()  # the unlabelled test images do not matter
    assert lengths("imagenet", tmp_path) == [198, 2, 4]
    test = open_dataset("imagenet", "test", root=tmp_path)
    assert test.classes == ("n01", "n02")
    assert test.labels.tolist() == [0, 0, 1, 1]


def test_images_equal_torchvisions_usual_evaluation_transform(pictures: Path) -> None:
    from torchvision import transforms

    images: Any = open_dataset("imagefolder", "test", size=56, root=pictures)
    usual = transforms.Compose(
        [transforms.Resize(64), transforms.CenterCrop(56), transforms.PILToTensor()]
    )
    for index in range(len(images)):
        picture = Image.open(images.path(index)).convert("RGB")
        assert torch.equal(images.images([index])[0], usual(picture))
        assert torch.equal(images.raw(index), transforms.PILToTensor()(picture))


def test_grey_palette_and_transparent_pictures_become_rgb(pictures: Path) -> None:
    for k, mode in enumerate(("L", "P", "RGBA", "CMYK")):
        ending = "jpg" if mode == "CMYK" else "png"
        Image.new(mode, (9, 7)).save(pictures / f"test/cat/x{k}.{ending}")
    images = open_dataset("imagefolder", "test", root=pictures)
    assert len(images) == 6 + 4
    assert all(images.raw(i).shape[0] == 3 for i in range(len(images)))


def test_hidden_and_foreign_files_are_passed_over(pictures: Path) -> None:
    (pictures / "test/cat/._000.png").write_bytes(b"x")
    (pictures / "test/cat/notes.txt").write_text("x")
    (pictures / "test/.cache").mkdir()
    assert len(open_dataset("imagefolder", "test", root=pictures)) == 6


def test_the_fingerprint_of_a_folder_sees_files_added_renamed_or_resized(pictures: Path) -> None:
    def fingerprint() -> str:
        return open_dataset("imagefolder", "test", root=pictures).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    seen = {first}
    path = pictures / "test/cat/000.png"
    path.rename(path.with_name("new.png"))
    seen.add(fingerprint())
    path.with_name("new.png").rename(path)
    assert fingerprint() == first
    path.write_bytes(path.read_bytes() + b"\0")
    seen.add(fingerprint())
    (pictures / "test/cat/001.jpg").unlink()
    seen.add(fingerprint())
    assert len(seen) == 4


def test_the_fingerprint_of_a_folder_does_not_depend_on_where_it_lies(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = open_dataset("imagefolder", "test", root=pictures).fingerprint
    moved = pictures.rename(tmp_path_factory.mktemp("elsewhere") / "data")
    assert open_dataset("imagefolder", "test", root=moved).fingerprint == first


def test_a_folder_set_is_read_by_worker_processes(pictures: Path) -> None:
    images = pickle.loads(pickle.dumps(open_dataset("imagefolder", "test", root=pictures)))
    loader: Any = DataLoader(
        Rows(images), batch_size=3, num_workers=1, multiprocessing_context="fork"
    )
    together = torch.cat(list(loader))
    assert torch.equal(together, images.images(range(6)))


class Rows(torch.utils.data.Dataset[Tensor]):
    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images.images([index])[0]


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "gone"])
def test_a_damaged_picture_is_named(damage: str, pictures: Path) -> None:
    images: Any = open_dataset("imagefolder", "test", root=pictures)
    path = images.path(0)
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(
            {"truncated": data[: len(data) // 2], "text": b"no picture", "empty": b""}[damage]
        )
    with pytest.raises(CossError) as error:
        images.images([0])
    assert str(path) in one_line(error)
    with pytest.raises(CossError) as error:
        images.raw(0)
    assert str(path) in one_line(error)


def test_a_class_that_train_does_not_have_is_refused(pictures: Path) -> None:
    write_pictures(pictures / "test", ("gnu",), 1)
    with pytest.raises(CossError, match="gnu has no counterpart"):
        open_dataset("imagefolder", "test", root=pictures)


def test_pictures_that_are_not_sorted_into_class_folders_are_refused(pictures: Path) -> None:
    for name in CLASSES:
        (pictures / "test" / name).rename(pictures / f"unused-{name}")
    with pytest.raises(CossError, match="has no class folders"):
        open_dataset("imagefolder", "test", root=pictures)


def test_class_folders_without_pictures_are_refused(pictures: Path) -> None:
    for path in (pictures / "test").glob("*/*"):
        path.unlink()
    with pytest.raises(CossError, match="has no pictures"):
        open_dataset("imagefolder", "test", root=pictures)


@pytest.mark.parametrize("source", [IMAGEFOLDER, IMAGENET], ids=lambda s: s.name)
def test_a_train_folder_alone_is_not_enough(source: Any, tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", CLASSES, 1)
    assert source.missing(tmp_path) is not None
    with pytest.raises(CossError, match=f"{source.name} is not in"):
        open_dataset(source.name, "train", root=tmp_path)


# ---- shards ----


@pytest.fixture
def shards(pictures: Path, tmp_path: Path) -> Path:
    """The pictures as shards of eight, named by class numbers."""
    write_shards(pictures, tmp_path / "shards", per_shard=8)
    return tmp_path / "shards"


@pytest.mark.parametrize(
    ("name", "roles"), [("imagefolder", ROLES), ("imagenet", ("train", "test"))]
)
def test_shards_give_the_images_of_the_folders_they_were_written_from(
    name: str, roles: tuple[str, ...], pictures: Path, shards: Path
) -> None:
    for role in roles:
        ours = open_dataset(name, role, size=32, root=shards)
        check_images(ours, name, role, 32)
        folders = open_dataset(name, role, size=32, root=pictures)
        assert torch.equal(ours.labels, folders.labels)
        every = range(len(folders))
        assert torch.equal(ours.images(every), folders.images(every))
        assert all(torch.equal(ours.raw(i), folders.raw(i)) for i in every)
        assert ours.classes == ("0", "1", "2")


def test_classes_of_shards_are_named_by_a_file(shards: Path) -> None:
    (shards / "classes.txt").write_text("\n".join((*CLASSES, "gnu")))
    assert open_dataset("imagefolder", "test", root=shards).classes == (*CLASSES, "gnu")
    for wrong in ("cat\ndog", "cat\ndog\ncat"):
        (shards / "classes.txt").write_text(wrong)
        with pytest.raises(CossError, match="2 different names for 3 classes"):
            open_dataset("imagefolder", "test", root=shards)


def test_the_fingerprint_of_shards_sees_labels_and_lengths_but_not_how_they_are_cut(
    pictures: Path, shards: Path, tmp_path: Path
) -> None:
    def fingerprint(folder: Path) -> str:
        return open_dataset("imagefolder", "train", root=folder).fingerprint

    write_shards(pictures, tmp_path / "large", per_shard=1000)
    assert fingerprint(tmp_path / "large") == fingerprint(shards)
    (pictures / "train/cat/003.png").rename(pictures / "train/dog/0025.png")
    write_shards(pictures, tmp_path / "label", per_shard=8)
    with (pictures / "train/cat/000.png").open("ab") as file:
        file.write(b"x")
    write_shards(pictures, tmp_path / "length", per_shard=8)
    found = [fingerprint(tmp_path / name) for name in ("shards", "label", "length")]
    assert len(set(found)) == 3


def test_a_shard_set_is_read_by_worker_processes(shards: Path) -> None:
    images = pickle.loads(pickle.dumps(open_dataset("imagefolder", "test", root=shards)))
    loader: Any = DataLoader(
        Rows(images), batch_size=3, num_workers=1, multiprocessing_context="fork"
    )
    assert torch.equal(torch.cat(list(loader)), images.images(range(6)))


def members(path: Path, **kinds: bytes) -> None:
    """Write a tar file of the given members; two underscores stand for a dot."""
    with tarfile.open(path, "w") as tar:
        for name, data in kinds.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"a__png": b"x"}, "a.png in .* has no class number; write a.cls"),
        ({"a__png": b"x", "a__cls": b"cat"}, "a.cls in .* holds 'cat', not the number"),
        ({"a__png": b"x", "a__cls": b"-1"}, "holds '-1'"),
        ({"a__png": b"x", "a__cls": b"9" * 30}, "holds '9999"),
        ({"a__png": b"x", "a__jpg": b"x", "a__cls": b"0"}, "two pictures with the key a"),
        ({"a__txt": b"x"}, "hold no pictures"),
        ({"a__png": b"x", "a__cls": b"3"}, "hold class 3, which those of train do not"),
    ],
)
def test_shards_that_do_not_say_what_is_in_them_are_refused(
    kinds: dict[str, bytes], message: str, shards: Path
) -> None:
    for path in shards.glob("test-*.tar"):
        path.unlink()
    members(shards / "test-0.tar", **kinds)
    with pytest.raises(CossError, match=message) as error:
        open_dataset("imagefolder", "test", root=shards)
    one_line(error)


def test_other_members_of_a_shard_are_passed_over(shards: Path, pictures: Path) -> None:
    data = (pictures / "test/cat/000.png").read_bytes()
    for path in shards.glob("test-*.tar"):
        path.unlink()
    extra = {"b__json": b"{}", "__DS_Store": b"x", "b__seg__png": b"x"}
    members(shards / "test-0.tar", **extra, b__cls=b" 2\n", b__png=data)
    images = open_dataset("imagefolder", "test", root=shards)
    assert images.labels.tolist() == [2]
    assert images.raw(0).shape[0] == 3


def test_folders_and_shards_together_are_refused(shards: Path, pictures: Path) -> None:
    (pictures / "test").rename(shards / "test")
    with pytest.raises(CossError, match="one of train and test and shards for the other"):
        open_dataset("imagefolder", "test", root=shards)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.sampled_from(["cut", "flip"]))
def test_a_damaged_shard_is_one_line_or_still_whole(share: float, damage: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pictures(root / "train", ("a",), 3)
        write_pictures(root / "val", ("a",), 1)
        write_shards(root, root / "shards", per_shard=9)
        path = root / "shards/train-000000.tar"
        data = bytearray(path.read_bytes())
        used = max(m.offset + m.length for m in tar_members(io.BytesIO(data)))
        at = min(int(share * used), used - 1)
        if damage == "cut":
            del data[at:]
        else:
            data[at] ^= 0x55
        path.write_bytes(data)
        message = ""
        try:
            images = IMAGEFOLDER.open("train", 32, root / "shards", False)
        except CossError as error:
            message = str(error)
        if message:
            assert str(path) in message
            assert "\n" not in message
        else:  # the bytes of a picture, or of a name, were hit
            assert damage == "flip"
            assert len(images) <= 3


@pytest.mark.parametrize("damage", ["gzip", "text", "empty"])
def test_a_shard_that_is_no_plain_tar_is_named(damage: str, shards: Path) -> None:
    path = next(shards.glob("train-*.tar"))
    whole = path.read_bytes()
    gone = {"gzip": gzip.compress(whole, mtime=0), "text": b"shard" * 999, "empty": b""}
    path.write_bytes(gone[damage])
    with pytest.raises(CossError, match="compressed or not a tar file") as error:
        open_dataset("imagefolder", "train", root=shards)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 2000)), min_size=1, max_size=5))
def test_members_have_the_names_and_bytes_that_were_written(
    style: int, wanted: list[tuple[int, int]]
) -> None:
    """Names of up to 240 characters in folders: longer than the header's first field."""
    archive = io.BytesIO()
    written: list[tuple[str, bytes]] = []
    with tarfile.open(fileobj=archive, mode="w", format=style) as tar:
        tar.addfile(_special("häuser", tarfile.DIRTYPE))
        for number, (length, size) in enumerate(wanted):
            info = tarfile.TarInfo("/".join(["häuser", *["word"] * length, f"{number}.png"]))
            info.size, info.mtime = size, 1.5  # type: ignore[assignment]
            written.append((info.name, bytes([number]) * size))
            tar.addfile(info, io.BytesIO(written[-1][1]))
    whole = archive.getvalue()
    archive.seek(0)
    found = [m for m in tar_members(archive) if not m.refused]
    assert [(m.name, whole[m.offset : m.offset + m.length]) for m in found] == written


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("count", [-512, -1, -(1 << 40)])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, b"Z"])
def test_a_member_of_negative_size_is_named_and_does_not_hang(
    count: int, kind: bytes, shards: Path
) -> None:
    path = next(shards.glob("train-*.tar"))
    wrong = _special("a.png", kind)
    wrong.size = count
    header = wrong.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(path.read_bytes()[: 4 * 512] + header + bytes(1024))
    with pytest.raises(CossError, match="damaged, compressed or not a tar file") as error:
        open_dataset("imagefolder", "train", root=shards)
    assert str(path) in one_line(error)


def test_a_shard_that_lost_its_end_at_a_border_of_members_is_damaged(shards: Path) -> None:
    path = next(shards.glob("train-*.tar"))
    with path.open("rb") as file:
        last = [m for m in tar_members(file) if not m.refused][-1]
    os.truncate(path, last.offset + -(-last.length // 512) * 512)
    with pytest.raises(CossError, match="it is cut off"):
        open_dataset("imagefolder", "train", root=shards)


def test_a_hard_link_in_a_shard_is_the_picture_that_it_names(shards: Path, pictures: Path) -> None:
    data = (pictures / "test/cat/000.png").read_bytes()
    for path in shards.glob("test-*.tar"):
        path.unlink()
    members(shards / "test-0.tar", a__png=data, a__cls=b"1", b__cls=b"2")
    with tarfile.open(shards / "test-0.tar", "a") as tar:
        tar.addfile(_special("b.png", tarfile.LNKTYPE, "./a.png"))
    images = open_dataset("imagefolder", "test", root=shards)
    assert images.labels.tolist() == [1, 2]
    assert torch.equal(images.raw(1), images.raw(0))


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        (tarfile.LNKTYPE, "c.png", "b.png in .* is a hard link to c.png, which is not before it"),
        (tarfile.SYMTYPE, "a.png", "b.png in .* is a symbolic link to a.png; write the shard"),
        (tarfile.FIFOTYPE, "", "b.png in .* is not a file"),
    ],
)
def test_pictures_that_are_no_files_are_refused_by_name(
    kind: bytes, target: str, message: str, shards: Path
) -> None:
    with tarfile.open(next(shards.glob("test-*.tar")), "a") as tar:
        tar.addfile(_special("b.png", kind, target))
    with pytest.raises(CossError, match=message) as error:
        open_dataset("imagefolder", "test", root=shards)
    one_line(error)


def test_the_index_of_large_shards_is_kept_and_made_again_after_a_change(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_files, "WORTH_KEEPING", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scans: list[int] = []
    scan = shard_files._scan
    monkeypatch.setattr(shard_files, "_scan", lambda s: scans.append(len(s)) or scan(s))

    def opened() -> Any:
        shard_files._read_index.cache_clear()  # as in another process
        return open_dataset("imagefolder", "test", root=shards)

    first, second = opened(), opened()
    read = len(scans)
    assert read == 2  # those of train and those of test, once each
    assert second.fingerprint == first.fingerprint
    assert torch.equal(second.images(range(6)), first.images(range(6)))
    os.utime(next(shards.glob("test-*.tar")), ns=(1, 1))
    opened()
    assert len(scans) == read + 1
    for kept in (tmp_path / "cache").rglob("*.npz"):
        kept.write_bytes(kept.read_bytes()[:-40])
    assert opened().fingerprint == first.fingerprint
    assert len(scans) == read + 3
