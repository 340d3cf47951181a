"""IDX files, MNIST and Fashion-MNIST: what is read, and what is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.picture_files import one_line
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_coss.datasets.base import ROLES, open_dataset
from robustbench_coss.datasets.idx import read_idx
from robustbench_coss.datasets.vision import FASHION_MNIST
from robustbench_coss.errors import CossError
from robustbench_coss.testing import check_images

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
needs_fashion_mnist = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)


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


@pytest.mark.slow
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
