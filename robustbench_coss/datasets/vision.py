"""The small public data sets: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100 and STL-10.

They are read from the layouts that torchvision downloads (MNIST and Fashion-MNIST also from
plain folders of IDX files) and held whole in memory. `test` is the official test set;
`validation` is a fixed tenth held out of the official training images.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_coss.datasets.base import ArraySet, held_out_of
from robustbench_coss.datasets.idx import read_idx
from robustbench_coss.errors import CossError, explain_os_errors, one_line
from robustbench_coss.reading import MIB, check_regular, read_bytes


@dataclass(frozen=True)
class Arrays:
    """Official training or test images.

    Attributes:
        pixels: [N, C, H, W] uint8, C = 1 or 3.
        labels: [N] int64.
        classes: class names.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True)
class VisionSource:
    """A data set of this module, as a `Source`.

    Attributes:
        name: registered name.
        default_size: side in px unless another is asked for.
        torchvision_name: its class in `torchvision.datasets`, which downloads it.
        folders: where it may lie, below the data root or absolute; the first that is whole wins.
        files: what must lie there (each may carry the ending .gz where `gzipped`).
        read: (folder, whether the training images are meant) to arrays.
        gzipped: whether files may be gzipped.
        pad: enlarge by a border of zeros instead of resampling.
        otherwise: another way to get the data, for messages.
    """

    name: str
    default_size: int
    torchvision_name: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    read: Callable[[Path, bool], Arrays]
    gzipped: bool = False
    pad: bool = False
    otherwise: str = ""

    def find(self, root: Path) -> Path | None:
        """The first folder that holds every file, None if there is none."""
        for name in self.folders:
            folder = root / name
            if all(self._is_there(folder / file) for file in self.files):
                return folder
        return None

    def _is_there(self, path: Path) -> bool:
        return path.is_file() or (self.gzipped and _idx_file(path).is_file())

    def missing(self, root: Path) -> str | None:
        """None if the data are there, else what to do to get them, in one line."""
        if self.find(root) is not None:
            return None
        return f"add --download{self.otherwise}, or pass --data-root"

    def open(self, role: str, size: int, root: Path, download: bool) -> ArraySet:
        """The images of a role.

        Raises:
            CossError: the data are missing or damaged, or cannot be downloaded.
        """
        folder = self.find(root)
        if folder is None and download:
            self._download(root)
            folder = self.find(root)
        if folder is None:
            looked_at = root / self.folders[0] if root.exists() else f"{root}, which does not exist"
            raise CossError(f"{self.name} is not in {looked_at}; {self.missing(root)}")
        arrays = self.read(folder, role != "test")
        pixels, labels = arrays.pixels, arrays.labels
        if role != "test":
            kept = held_out_of(len(labels), role)
            pixels, labels = pixels[kept], labels[kept]
        return ArraySet(self.name, role, pixels, labels, arrays.classes, size, self.pad)

    def _download(self, root: Path) -> None:
        with explain_os_errors("make folder", root):
            root.mkdir(parents=True, exist_ok=True)
        try:
            with ExitStack() as quiet:
                # torchvision reports with print and tqdm; only a person has use for a progress bar.
                quiet.enter_context(redirect_stdout(StringIO()))
                if not sys.stderr.isatty():
                    quiet.enter_context(redirect_stderr(StringIO()))
                _torchvision(self.torchvision_name)(str(root), download=True)
        except (OSError, RuntimeError, EOFError) as error:
            reason = one_line(error)
            raise CossError(
                f"cannot download {self.name} to {root}: {reason}; "
                f"check the network or the disk{self.otherwise}, or pass --data-root"
            ) from error


def _torchvision(name: str) -> Any:
    # Imported where it is needed: listing data sets must not cost torchvision's start-up time.
    import torchvision.datasets

    return getattr(torchvision.datasets, name)


def _idx_file(path: Path) -> Path:
    """A file of the IDX format under the name it has: gzipped or not, `-idx3` or `.idx3`."""
    dotted = path.with_name(path.name.replace("-idx", ".idx"))
    found = [p for plain in (path, dotted) for p in (plain, Path(f"{plain}.gz")) if p.is_file()]
    return found[0] if found else path


_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _idx_reader(classes: tuple[str, ...]) -> Callable[[Path, bool], Arrays]:
    def read(folder: Path, train: bool) -> Arrays:
        names = _IDX_FILES[:2] if train else _IDX_FILES[2:]
        images, labels = (_idx_file(folder / name) for name in names)
        x, y = read_idx(images, 3), read_idx(labels, 1)
        if len(x) != len(y):
            raise CossError(
                f"{images} has {len(x)} images and {labels} {len(y)} labels; download both again"
            )
        _check_labels(y, len(classes), labels)
        return Arrays(torch.from_numpy(x).unsqueeze(1), torch.from_numpy(y).long(), classes)

    return read


def _check_labels(labels: Any, classes: int, path: Path) -> None:
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise CossError(
            f"{path} has labels from {labels.min()} to {labels.max()}, expected 0 to "
            f"{classes - 1}; download or copy it again"
        )


def _cifar_reader(torchvision_name: str) -> Callable[[Path, bool], Arrays]:
    def read(folder: Path, train: bool) -> Arrays:
        from torchvision.datasets.utils import check_integrity

        cifar = _torchvision(torchvision_name)
        # The files are pickles, which execute what they hold: torchvision opens them only if
        # their checksums are those of the published files.
        try:
            data = cifar(str(folder.parent), train=train)
        except RuntimeError as error:
            known = [*cifar.train_list, *cifar.test_list]
            known.append([cifar.meta["filename"], cifar.meta["md5"]])
            bad = [name for name, md5 in known if not check_integrity(str(folder / name), md5)]
            raise CossError(
                f"{folder / bad[0] if bad else folder} is damaged (its MD5 differs from the "
                f"published one); delete {folder} and add --download"
            ) from error
        pixels = torch.from_numpy(np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)))
        return Arrays(pixels, torch.tensor(data.targets), tuple(data.classes))

    return read


_STL10_CLASSES = (
    *("airplane", "bird", "car", "cat", "deer"),
    *("dog", "horse", "monkey", "ship", "truck"),
)


def _read_stl10(folder: Path, train: bool) -> Arrays:
    """STL-10's binary files: images as bytes [N, 3, column, row], labels as bytes 1 to 10.

    Read here and not by torchvision, which takes the checksum of 2.8 GB of unlabelled images
    before it opens the labelled ones.
    """
    part = "train" if train else "test"
    images, labels = folder / f"{part}_X.bin", folder / f"{part}_y.bin"
    y = np.frombuffer(read_bytes(labels, MIB), np.uint8)
    held, stated = check_regular(images), len(y) * 3 * 96 * 96
    if held != stated:
        raise CossError(
            f"{images} is damaged ({held} bytes, {stated} expected for the {len(y)} labels of "
            f"{labels.name}); delete {folder} and add --download"
        )
    with explain_os_errors("read", images):
        x = np.fromfile(images, np.uint8)
    zero_based = y.astype(np.int64) - 1
    _check_labels(zero_based, len(_STL10_CLASSES), labels)
    pixels = np.ascontiguousarray(x.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2))
    return Arrays(torch.from_numpy(pixels), torch.from_numpy(zero_based), _STL10_CLASSES)


MNIST = VisionSource(
    name="mnist",
    default_size=32,
    torchvision_name="MNIST",
    folders=("mnist", "MNIST/raw"),
    files=_IDX_FILES,
    read=_idx_reader(tuple("0123456789")),
    gzipped=True,
    pad=True,
)
"""Digits, grey, 10 classes."""

FASHION_MNIST = VisionSource(
    name="fashion-mnist",
    default_size=32,
    torchvision_name="FashionMNIST",
    folders=(
        "fashion-mnist",
        "FashionMNIST/raw",
        "/usr/share/datasets/fashion-mnist",  # Debian's package dataset-fashion-mnist
    ),
    files=_IDX_FILES,
    # Names and order: the table "Labels" of the README of zalandoresearch/fashion-mnist.
    read=_idx_reader(
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        )
    ),
    gzipped=True,
    pad=True,
    otherwise=", or on Debian: apt-get install dataset-fashion-mnist",
)
"""Clothes, grey, 10 classes."""

CIFAR10 = VisionSource(
    name="cifar10",
    default_size=32,
    torchvision_name="CIFAR10",
    folders=("cifar-10-batches-py",),
    files=("batches.meta", *(f"data_batch_{k}" for k in range(1, 6)), "test_batch"),
    read=_cifar_reader("CIFAR10"),
)
"""Photographs, 10 classes."""

CIFAR100 = VisionSource(
    name="cifar100",
    default_size=32,
    torchvision_name="CIFAR100",
    folders=("cifar-100-python",),
    files=("meta", "train", "test"),
    read=_cifar_reader("CIFAR100"),
)
"""Photographs, 100 classes."""

STL10 = VisionSource(
    name="stl10",
    default_size=96,
    torchvision_name="STL10",
    folders=("stl10_binary",),
    files=("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
    read=_read_stl10,
)
"""Photographs of 96 px, 10 classes."""
