"""Pictures in folders, one folder per class: your own (`imagefolder`) and ImageNet-1K (`imagenet`).

Pictures are read when they are asked for; only their paths and labels are held in memory.

Which folder plays which role: of test/, val/ and validation/ the first that is there is the test
set and the next one the validation set; without a next one, validation is held out of train/:

    folders                train             validation        test
    train/ val/ test/      train             val               test
    train/ test/           9/10 of train     1/10 of train     test
    train/ val/            9/10 of train     1/10 of train     val

ImageNet always tests on val/ and holds 1/100 of train/ out. What is held out is a fixed draw
(`base.split_validation`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from robustbench_coss.datasets.base import split_validation
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import sha256_of

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class FolderSet:
    """An `ImageSet` of picture files, read lazily; can be pickled for data loader workers.

    The fingerprint covers the sorted relative paths, the file sizes and the class list. It does
    not cover the pixels: a picture altered without a change of its file's size goes unnoticed.

    Args:
        folder: what `paths` are relative to.
        paths: [N] bytes, as the file system spells them.
        sizes: [N] int64, of the files in bytes.
        labels: [N] int64.
    """

    def __init__(
        self,
        name: str,
        role: str,
        folder: Path,
        paths: NDArray[np.bytes_],
        sizes: NDArray[np.int64],
        labels: Tensor,
        classes: tuple[str, ...],
        size: int,
    ) -> None:
        self.name, self.role, self.classes, self.size = name, role, classes, size
        self.folder, self.paths, self.labels = folder, paths, labels
        listing = b"\0".join([*paths.tolist(), sizes.astype("<i8").tobytes()])
        self.fingerprint = sha256_of(
            "\0".join(classes).encode("utf-8", "surrogateescape") + listing
        )

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.folder / os.fsdecode(bytes(self.paths[index]))

    def images(self, indices: Sequence[int]) -> Tensor:
        """[B, 3, size, size] uint8: shorter side to size * 256 / 224, then the centre is cut out.

        The usual evaluation of ImageNet models (256 and 224 px), bilinear with antialiasing.

        Raises:
            CossError: a picture is missing or damaged.
        """
        # Imported here: listing data sets must not cost torchvision's start-up time.
        from torchvision.transforms import functional as transforms

        shorter = round(self.size * 256 / 224)
        cut = [
            transforms.center_crop(transforms.resize(self._picture(i), shorter), self.size)
            for i in indices
        ]
        if not cut:
            return torch.zeros((0, 3, self.size, self.size), dtype=torch.uint8)
        return torch.stack([_tensor(picture) for picture in cut])

    def raw(self, index: int) -> Tensor:
        """[3, H, W] uint8: the whole picture.

        Raises:
            CossError: the picture is missing or damaged.
        """
        return _tensor(self._picture(index))

    def _picture(self, index: int) -> Image.Image:
        path = self.path(index)
        with explain_os_errors("open", path), path.open("rb") as file:
            try:
                return Image.open(file).convert("RGB")
            except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
                raise _damaged(path, error) from error
            except Image.DecompressionBombError as error:
                raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CossError:
    reason = " ".join(str(error).split())
    return CossError(f"picture {path} cannot be read ({reason}); copy it again or remove it")


def _tensor(picture: Image.Image) -> Tensor:
    """[3, H, W] uint8 of an RGB picture."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _classes(folder: Path) -> tuple[str, ...]:
    """Names of the class folders, sorted; hidden ones do not count."""
    with explain_os_errors("read", folder), os.scandir(folder) as entries:
        return tuple(sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")))


def _pictures(folder: str, below: str) -> Iterator[tuple[str, int]]:
    """(path relative to `folder`, bytes) of every picture below folder/below, sorted by path."""
    with os.scandir(os.path.join(folder, below)) as entries:
        found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in found:
        path = f"{below}/{entry.name}"
        if entry.is_dir():
            yield from _pictures(folder, path)
        elif entry.name.lower().endswith(ENDINGS):
            yield path, entry.stat().st_size


@dataclass(frozen=True)
class FolderSource:
    """Folders of pictures, as a `Source`.

    Attributes:
        name: registered name.
        default_size: side in px unless another is asked for.
        inside: folders below the data root where train/ may lie; the first that has it wins.
        tests: folders that may hold the test set, see the top of this module.
        held_out: share of the training images that become the validation images where these have
            no folder of their own.
        remedy: how to get the data.
    """

    name: str
    default_size: int
    inside: tuple[str, ...]
    tests: tuple[str, ...]
    held_out: float
    remedy: str

    def missing(self, root: Path) -> str | None:
        """None if the data are there, else what to do to get them, in one line."""
        return None if self._find(root) is not None else self.remedy

    def _find(self, root: Path) -> Path | None:
        for name in self.inside:
            folder = root / name
            if (folder / "train").is_dir() and "test" in self._folders(folder):
                return folder
        return None

    def _folders(self, folder: Path) -> dict[str, str]:
        """Role to folder name, for the roles that have a folder of their own."""
        there = [name for name in self.tests if (folder / name).is_dir()]
        return {"train": "train"} | dict(zip(("test", "validation"), there, strict=False))

    def open(self, role: str, size: int, root: Path, download: bool) -> FolderSet:
        """The images of a role.

        Raises:
            CossError: the folders are missing, have no classes or no pictures, or a class of
                theirs does not occur in train/. `download` is refused by the same message: these
                data have to be brought.
        """
        if root.exists() and not root.is_dir():
            raise CossError(f"data root {root} is a file; pass a folder as --data-root")
        folder = self._find(root)
        if folder is None:
            where = f"{root}, which does not exist" if not root.exists() else str(root)
            cannot = " and cannot be downloaded" if download else ""
            raise CossError(f"{self.name} is not in {where}{cannot}; {self.remedy}")
        folders = self._folders(folder)
        splits = role not in folders
        part = "train" if splits else folders[role]
        classes = _classes(folder / "train")
        paths, sizes, labels = _scan(folder, part, classes)
        if splits or (role == "train" and "validation" not in folders):
            train, validation = split_validation(len(labels), self.held_out)
            kept = (train if role == "train" else validation).numpy()
            paths, sizes, labels = paths[kept], sizes[kept], labels[kept]
        return FolderSet(
            self.name, role, folder, paths, sizes, torch.from_numpy(labels), classes, size
        )


def _scan(
    folder: Path, part: str, classes: tuple[str, ...]
) -> tuple[NDArray[np.bytes_], NDArray[np.int64], NDArray[np.int64]]:
    """Paths relative to `folder`, sizes in bytes and labels of the pictures in folder/part."""
    present = _classes(folder / part)
    if not present:
        raise CossError(
            f"{folder / part} has no class folders; sort its pictures into one folder per class"
        )
    if unknown := sorted(set(present) - set(classes)):
        raise CossError(
            f"class folder {folder / part / unknown[0]} has no counterpart in {folder / 'train'}; "
            "name the class folders alike in both"
        )
    paths: list[bytes] = []
    sizes: list[int] = []
    labels: list[int] = []
    with explain_os_errors("read", folder / part):
        for name in present:
            label = classes.index(name)
            for path, count in _pictures(str(folder), f"{part}/{name}"):
                paths.append(os.fsencode(path))
                sizes.append(count)
                labels.append(label)
    if not paths:
        raise CossError(
            f"{folder / part} has no pictures in its class folders ({', '.join(ENDINGS)}); "
            "check --data-root"
        )
    # One array of bytes: a tenth of the memory of a list of paths, and shared by worker processes.
    return np.array(paths), np.array(sizes, np.int64), np.array(labels, np.int64)


IMAGEFOLDER = FolderSource(
    name="imagefolder",
    default_size=224,
    inside=(".",),
    tests=("test", "val", "validation"),
    held_out=0.1,
    remedy=(
        "pass as --data-root a folder that has train/<class>/ and test/<class>/ or val/<class>/ "
        "with pictures in them"
    ),
)

IMAGENET = FolderSource(
    name="imagenet",
    default_size=224,
    inside=("imagenet", "."),
    tests=("val",),
    held_out=0.01,
    remedy=(
        "get ILSVRC 2012 from image-net.org (registration needed), unpack it to "
        "imagenet/train/<wnid>/ and imagenet/val/<wnid>/ and pass the folder above as --data-root"
    ),
)
