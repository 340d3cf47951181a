"""Tiny ImageNet (Le and Yang 2015): 200 classes of 64 px pictures, as its archive is unpacked.

    tiny-imagenet-200/train/<wnid>/images/<wnid>_0.JPEG
    tiny-imagenet-200/val/images/val_0.JPEG
    tiny-imagenet-200/val/val_annotations.txt    name, wnid and a box, separated by tabs

or with val/ sorted into class folders: val/<wnid>/val_0.JPEG or val/<wnid>/images/val_0.JPEG.
val/ is the test set, the unlabelled test/ is not used, and a fixed tenth of train/ is held out for
validation (`base.split_validation`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustbench_coss.datasets.base import fit, held_out_of
from robustbench_coss.datasets.folder import FolderSet, scan
from robustbench_coss.datasets.listing import (
    LeftOut,
    check_every_class,
    class_folders,
)
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import sha256_of
from robustbench_coss.reading import read_text

ANNOTATIONS = Path("val", "val_annotations.txt")


class WholePictures(FolderSet):
    """A `FolderSet` whose pictures are small: evaluation sees them whole, not their centres."""

    cuts = False

    def image(self, index: int) -> Tensor:
        """[3, size, size] uint8, resampled only if `size` is not the pictures' own."""
        return fit(self.raw(index)[None], self.size, pad=False)[0]


@dataclass(frozen=True)
class TinyImageNet:
    """Tiny ImageNet as a `Source`.

    Attributes:
        name: registered name.
        default_size: side in px unless another is asked for.
        inside: folders below the data root where it may lie; the first that has it wins.
        remedy: how to get the data.
    """

    name: str = "tiny-imagenet"
    default_size: int = 64
    inside: tuple[str, ...] = ("tiny-imagenet-200", "tiny-imagenet", ".")
    remedy: str = (
        "unpack tiny-imagenet-200.zip (cs231n.stanford.edu/tiny-imagenet-200.zip), which holds "
        "tiny-imagenet-200/, and pass the folder above as --data-root"
    )

    def _find(self, root: Path) -> Path | None:
        for name in self.inside:
            folder = root / name
            if (folder / "train").is_dir() and (
                (folder / ANNOTATIONS).is_file() or _is_sorted(folder)
            ):
                return folder
        return None

    def missing(self, root: Path) -> str | None:
        """None if the data are there, else what to do to get them, in one line."""
        return None if self._find(root) is not None else self.remedy

    def open(self, role: str, size: int, root: Path, download: bool) -> WholePictures:
        """The images of a role.

        Raises:
            CossError: the data are missing or incomplete, or the annotations name a class or a
                picture that is not there. `download` is refused by the same message.
        """
        folder = self._find(root)
        if folder is None:
            where = f"{root}, which does not exist" if not root.exists() else str(root)
            cannot = " and cannot be downloaded" if download else ""
            raise CossError(f"{self.name} is not in {where}{cannot}; {self.remedy}")
        part = folder / ("val" if role == "test" else "train")
        with explain_os_errors("read", folder):
            classes = class_folders(folder / "train", LeftOut())
            if role == "test" and _is_sorted(folder):
                names, sizes, numbers = scan(folder, "val", classes)
            else:
                read = _test if role == "test" else _train
                paths, labels = read(folder, classes)
                sizes = np.array([path.stat().st_size for path in paths], np.int64)
                names = np.array([os.fsencode(path.relative_to(folder)) for path in paths])
                numbers = np.array(labels, np.int64)
        if not len(names):
            inside = "val/images" if role == "test" else "train/<wnid>/images"
            raise CossError(f"{folder} has no pictures in {inside}; unpack the archive again")
        present = {classes[label] for label in numbers}
        check_every_class(classes, present, str(part), str(folder / "train"))
        if role != "test":
            kept = held_out_of(len(paths), role).numpy()
            names, sizes, numbers = names[kept], sizes[kept], numbers[kept]
        known = torch.from_numpy(numbers)
        images = WholePictures(self.name, role, folder, names, sizes, known, classes, size)
        if role == "test" and not _is_sorted(folder):  # then paths do not name the class
            images.fingerprint = sha256_of([images.fingerprint, numbers.tolist()])
        images.say_oddities(str(part))
        return images


def _is_sorted(folder: Path) -> bool:
    """Whether val/ holds class folders, as many people sort it."""
    val = folder / "val"
    if not val.is_dir() or (val / "images").is_dir():
        return False
    return bool(class_folders(val, LeftOut()))


def _train(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    """Training pictures by class and name, and their labels."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted((folder / "train" / name / "images").glob("*.JPEG"))
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a line that is no name, but some thousand characters
        return False


def _test(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    """Pictures of val/ in the order of the annotations, and their labels."""
    known = {name: label for label, name in enumerate(classes)}
    paths: list[Path] = []
    labels: list[int] = []
    text = read_text(folder / ANNOTATIONS)
    for number, line in enumerate(text.splitlines(), start=1):
        picture, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        path = folder / "val" / "images" / picture
        if wnid not in known or not _is_file(path):
            what = f"class {wnid[:80]!r}" if wnid not in known else f"picture {picture[:80]!r}"
            raise CossError(
                f"{folder / ANNOTATIONS}, line {number}, names {what}, which is not there; "
                "unpack the archive again"
            )
        paths.append(path)
        labels.append(known[wnid])
    return paths, labels


TINY_IMAGENET = TinyImageNet()
"""Photographs of 64 px, 200 classes."""
