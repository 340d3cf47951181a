"""Pictures in folders, one folder per class: your own (`imagefolder`), ImageNet-1K, ImageNet-100.

Pictures are read when they are asked for; only their paths and labels are held in memory. In place
of a folder train/ there may be tar shards train-*.tar (`shards`), and so for the others.

Which folder plays which role: of test/, val/ and validation/ the first that is there is the test
set and the next one the validation set; without a next one, validation is held out of train/:

    folders                train             validation        test
    train/ val/ test/      train             val               test
    train/ test/           9/10 of train     1/10 of train     test
    train/ val/            9/10 of train     1/10 of train     val

ImageNet and ImageNet-100 always test on val/ and hold 1/100 of train/ out. What is held out is a
fixed draw (`base.split_validation`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_coss.datasets.base import ImageSet, held_out_of
from robustbench_coss.datasets.listing import (
    LeftOut,
    broken_link,
    check_every_class,
    class_folders,
    filled_classes,
    pictures,
    same_name,
    say_order,
)
from robustbench_coss.datasets.pictures import ENDINGS, MOST_BYTES, PictureSet
from robustbench_coss.datasets.shards import (
    ShardIndex,
    ShardSet,
    class_names,
    find_shards,
    read_index,
)
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import sha256_of
from robustbench_coss.reading import open_regular, read_bytes


class FolderSet(PictureSet):
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

    def read(self, index: int, most: int | None = None) -> tuple[str, bytes]:
        """Path of a picture and its bytes."""
        path = self.path(index)
        if most is not None:
            with open_regular(path, "open") as file:
                return str(path), file.read(most)
        return str(path), read_bytes(path, MOST_BYTES, "open")


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
        if self._find(root) is not None:
            return None
        for folder in (root / name for name in self.inside):
            for part in ("train", *self.tests):
                broken_link(folder / part)
            there = [part for part in self.tests if _is_there(folder, part)]
            if there and not _is_there(folder, "train"):
                return (
                    f"{folder} has {there[0]}/ but no train/, which is enough for models with a "
                    "classifier of their own and the suites corruption, crop and shift alone; add "
                    "train/<class>/ for probes, training and other suites"
                )
        return self.remedy

    def _find(self, root: Path, role: str = "train") -> Path | None:
        """The folder that holds train/ and a test set; for the latter itself that will do."""
        for needed in ("train", "test")[: 2 if role == "test" else 1]:
            for folder in (root / name for name in self.inside):
                broken_link(folder / "train")  # which is not the same as none
                there = self._folders(folder)
                if "test" in there and _is_there(folder, there[needed]):
                    return folder
        return None

    def _folders(self, folder: Path) -> dict[str, str]:
        """Role to folder name, for the roles that have a folder (or shards) of their own."""
        there = [name for name in self.tests if _is_there(folder, name)]
        return {"train": "train"} | dict(zip(("test", "validation"), there, strict=False))

    def open(self, role: str, size: int, root: Path, download: bool) -> ImageSet:
        """The images of a role.

        Raises:
            CossError: the folders are missing, have no classes or no pictures, or a class of
                theirs does not occur in train/; shards are damaged (`shards.read_index`).
                `download` is refused by the same message: these data have to be brought.
        """
        folder = self._find(root, role)
        if folder is None:
            where = f"{root}, which does not exist" if not root.exists() else str(root)
            cannot = " and cannot be downloaded" if download else ""
            raise CossError(f"{self.name} is not in {where}{cannot}; {self.missing(root)}")
        folders = self._folders(folder)
        part = folders.get(role, "train")
        named = "train" if _is_there(folder, "train") else part  # what names the classes
        in_folders = (folder / part).is_dir()
        if (folder / named).is_dir() != in_folders:
            raise CossError(
                f"{folder} has a folder for one of train and {part} and shards for the other; "
                "use folders for both or shards for both"
            )
        held_out = "validation" not in folders and role != "test"
        images: FolderSet | ShardSet
        if not in_folders:
            index, classes = _index(folder, part, named)
            if held_out:
                index = index.take(self._split(role, len(index.labels)))
            images = ShardSet(self.name, role, index, classes, size)
        else:
            classes = filled_classes(folder / named)
            paths, sizes, labels = scan(folder, part, classes)
            if held_out:
                kept = self._split(role, len(labels))
                paths, sizes, labels = paths[kept], sizes[kept], labels[kept]
            known = torch.from_numpy(labels)
            images = FolderSet(self.name, role, folder, paths, sizes, known, classes, size)
            say_order(classes, folder / named)
        images.say_oddities(f"{folder / part}")
        return images

    def _split(self, role: str, count: int) -> NDArray[np.int64]:
        """Indices of train or validation images where the latter are held out of `count`."""
        return held_out_of(count, role, self.held_out).numpy()


def _is_there(folder: Path, part: str) -> bool:
    """Whether a part of a data set is in `folder`, as a folder or as shards."""
    return (folder / part).is_dir() or bool(find_shards(folder, part))


def _index(folder: Path, part: str, named: str) -> tuple[ShardIndex, tuple[str, ...]]:
    """The pictures in the shards of a part, and the classes of those of another, `named`."""
    train = read_index(find_shards(folder, named))
    classes = class_names(folder, int(train.labels.max()) + 1)
    index = train if part == named else read_index(find_shards(folder, part))
    if (largest := int(index.labels.max())) >= len(classes):
        raise CossError(
            f"the shards {folder / part}-*.tar hold class {largest}, which those of train do not; "
            "number the classes alike in both"
        )
    for role, found in {named: train, part: index}.items():
        occurring = [classes[label] for label in np.unique(found.labels)]
        counted = f"{len(classes):,}, numbered from 0 or as the lines of classes.txt,"
        check_every_class(classes, occurring, f"{folder / role}-*.tar", counted)
    return index, classes


def scan(
    folder: Path, part: str, classes: tuple[str, ...]
) -> tuple[NDArray[np.bytes_], NDArray[np.int64], NDArray[np.int64]]:
    """Paths relative to `folder`, sizes in bytes and labels of the pictures in folder/part.

    Raises:
        CossError: there are no class folders or no pictures, a class is not one of `classes`, or
            one of these has no pictures.
    """
    left_out = LeftOut()
    present = class_folders(folder / part, left_out)
    if not present:
        raise CossError(
            f"{folder / part} has no class folders; sort its pictures into one folder per class"
        )
    numbers = {same_name(name): label for label, name in enumerate(classes)}
    paths: list[bytes] = []
    sizes: list[int] = []
    labels: list[int] = []
    with explain_os_errors("read", folder / part):
        for name in present:
            label = numbers.get(same_name(name), -1)
            before = len(paths)
            for path, count in pictures(str(folder), f"{part}/{name}", left_out):
                paths.append(os.fsencode(path))
                sizes.append(count)
                labels.append(label)
            if len(paths) == before:
                left_out.empty.append(name)
            elif label < 0:
                raise CossError(
                    f"class folder {folder / part / name} has no counterpart with pictures in "
                    f"{folder / 'train'}; name the class folders alike in both"
                )
    left_out.say(folder / part)
    if not paths:
        raise CossError(
            f"{folder / part} has no pictures in its class folders ({', '.join(ENDINGS)}); "
            "convert them, or choose another --data-root"
        )
    occurring = [classes[label] for label in set(labels)]
    check_every_class(classes, occurring, str(folder / part), str(folder / "train"))
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
"""Your own pictures, a folder per class."""

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
"""ILSVRC 2012, 1,000 classes."""

IMAGENET100 = FolderSource(
    name="imagenet100",
    default_size=224,
    inside=("imagenet100", "imagenet-100", "."),
    tests=("val",),
    held_out=0.01,
    remedy=(
        "copy or link the class folders of your 100 classes from ImageNet to "
        "imagenet100/train/<wnid>/ and imagenet100/val/<wnid>/ and pass the folder above as "
        "--data-root"
    ),
)
"""100 classes of ImageNet."""
