"""Corrupted pictures made before: ImageNet-C, Tiny-ImageNet-C and CIFAR-10-C as published.

Only read and paired with the clean test set; `corruption` measures on them. Two layouts:

    CORRUPTION/SEVERITY/CLASS/PICTURE    (ImageNet-C, Tiny-ImageNet-C)
    CORRUPTION.npy and labels.npy        (CIFAR-10-C: severities 1 to 5 one after the other)
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_coss.datasets.arrays import read_array
from robustbench_coss.datasets.base import ImageSet, fit
from robustbench_coss.datasets.folder import FolderSet
from robustbench_coss.datasets.listing import LeftOut, class_folders, pictures, same_name
from robustbench_coss.datasets.pictures import MOST_BYTES, BadPicture, as_tensor, decode
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.evaluations.corruptions.reference import GROUPS, NAMES, SEVERITIES, STANDARD
from robustbench_coss.files import sha256_of
from robustbench_coss.reading import check_regular, read_bytes

PICTURES = 64
"""Of an array, about: so many are in the fingerprint, spread evenly."""


class ReadyMade(Protocol):
    """Corrupted pictures of a test set.

    Attributes:
        names: the corruptions that are there, in the order of `NAMES`.
        fingerprint: hex digest of names, labels and of some of the pictures.
    """

    names: tuple[str, ...]
    fingerprint: str

    def images(self, name: str, severity: int, index: Sequence[int]) -> Tensor:
        """[B, 3, S, S] uint8: the pictures of these clean test images, at the model's size S.

        Raises:
            CossError: a picture is missing or damaged.
        """
        ...


def open_ready_made(folder: Path, test: ImageSet) -> ReadyMade:
    """Open a folder of corrupted pictures and pair it with the clean test set.

    Args:
        test: the clean test set at the model's size. Its image i is paired with row i of each
            severity's block of a CORRUPTION.npy, whose labels must be those of the test set, or
            with the picture of the same class folder and file name, endings aside.

    Raises:
        CossError: the folder has neither layout, lacks one of the 15 standard
            corruptions, or does not fit the test set.
    """
    arrays = (folder / "labels.npy").is_file()
    names = tuple(
        name
        for name in NAMES
        if ((folder / f"{name}.npy").is_file() if arrays else (folder / name).is_dir())
    )
    missing = [name for group in STANDARD for name in GROUPS[group] if name not in names]
    if missing:
        what = f"{missing[0]}.npy" if arrays else f"{missing[0]}/"
        others = len(missing) - 1
        more = f" and {others} more of the 15 standard corruptions" if others else ""
        raise CossError(
            f"{folder} lacks {what}{more}; "
            "--corruption-root takes a folder of CORRUPTION/SEVERITY/CLASS/PICTURE, or of "
            "CORRUPTION.npy and labels.npy"
        )
    return open_pairs(folder, names, test)


def open_pairs(folder: Path, names: tuple[str, ...], test: ImageSet) -> ReadyMade:
    """Pictures under disturbances of any names, paired with the clean test set; as above.

    Raises:
        CossError: one of them is not there, or they do not fit the test set.
    """
    if (folder / "labels.npy").is_file():
        return _Arrays(folder, names, test)
    for name in names:
        if not (folder / name).is_dir():
            raise CossError(f"{folder} lacks {name}/; unpack the archive again")
    return _Folders(folder, names, test)


class _Arrays:
    """CORRUPTION.npy: [5 · N, H, W, 3] uint8, the N test images in order, severity by severity."""

    def __init__(self, folder: Path, names: tuple[str, ...], test: ImageSet) -> None:
        self.folder, self.names, self.size, self.count = folder, names, test.size, len(test)
        labels = _load(folder / "labels.npy", ndim=1)
        expected = np.tile(test.labels.numpy(), len(SEVERITIES))
        if labels.shape != expected.shape or ((labels != expected) & (expected >= 0)).any():
            raise CossError(
                f"{folder / 'labels.npy'} has {len(labels)} labels, which are not five times those "
                f"of the {len(test)} test images in their order; measure on the data set that "
                "these pictures were made from"
            )
        some = {}
        for name in names:
            path = folder / f"{name}.npy"
            pixels = _load(path, ndim=4)
            count, height, width, channels = pixels.shape
            if (count, width, channels) != (len(labels), height, 3) or pixels.dtype != np.uint8:
                raise CossError(
                    f"{path} holds {pixels.dtype} of shape {list(pixels.shape)}, expected uint8 of "
                    f"shape [{len(labels)}, side, side, 3]; download it again"
                )
            some[name] = sha256_of(pixels[:: -(-count // PICTURES)].tobytes())
        self.fingerprint = sha256_of({"labels": labels.tolist(), "pixels": some})

    def images(self, name: str, severity: int, index: Sequence[int]) -> Tensor:
        rows = np.asarray(index) + (severity - 1) * self.count
        pixels = _load(self.folder / f"{name}.npy", ndim=4)[rows]
        return fit(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), self.size, pad=False)


def _load(path: Path, ndim: int) -> NDArray[Any]:
    """An array of whole numbers, mapped and not read."""
    array = read_array(path, mmap_mode="r")
    if array.ndim != ndim or array.dtype.kind not in "ui":
        raise CossError(f"{path} does not hold {ndim}-dimensional whole numbers; download it again")
    return array


class _Folders:
    """CORRUPTION/SEVERITY/CLASS/PICTURE, paired by class folder and file name."""

    def __init__(self, folder: Path, names: tuple[str, ...], test: ImageSet) -> None:
        if not isinstance(test, FolderSet):
            raise CossError(
                f"{folder} holds pictures in folders, and {test.name} has no file names to pair "
                "them with; measure on imagenet, tiny-imagenet or imagefolder"
            )
        self.folder, self.names, self.size = folder, names, test.size
        # What has no label cannot be read, and is not measured.
        self.keys: dict[int, tuple[str, str]] = {
            i: (same_name(test.classes[label]), same_name(test.path(i).stem))
            for i, label in enumerate(test.labels.tolist())
            if label >= 0
        }
        paired = list(self.keys.values())
        if len(set(paired)) < len(paired):
            category, stem = Counter(paired).most_common(1)[0][0]
            raise CossError(
                f"class {category} has two test pictures named {stem}, endings aside, so that "
                f"neither can be paired with a picture in {folder}; rename one"
            )
        first, contents = next(iter(self.keys)), {}
        for name in names:
            for severity in SEVERITIES:
                path = self._path(name, severity, first)
                check_regular(path)
                contents[f"{name}@{severity}"] = sha256_of(path)
        self.fingerprint = sha256_of({"pictures": paired, "the first": contents})

    def _path(self, name: str, severity: int, index: int) -> Path:
        category, stem = self.keys[index]
        folder = _of_level(self.folder / name, severity)
        found = _by_stem(str(folder), category).get(stem)
        if found is None or not os.path.lexists(folder / found):
            raise CossError(
                f"{folder / category / stem} does not exist, with any ending; the test set and "
                "--corruption-root must have the same class folders and file names"
            )
        return folder / found

    def images(self, name: str, severity: int, index: Sequence[int]) -> Tensor:
        def read(i: int) -> Tensor:
            path = self._path(name, severity, i)
            try:
                picture = as_tensor(decode(read_bytes(path, MOST_BYTES, "open"), str(path)))
            except BadPicture as error:  # the image, not only this copy of it, would be left out
                raise CossError(f"{error} from the test images as well") from error
            return fit(picture[None], self.size, pad=False)

        # Pillow decodes outside the interpreter's lock.
        with ThreadPoolExecutor() as pool:
            return torch.cat(list(pool.map(read, index)))


@lru_cache(maxsize=1024)
def _of_level(folder: Path, severity: int) -> Path:
    """The folder of a severity: called so, or by its strength (2.35), of which it is the n-th."""
    if not (folder / str(severity)).is_dir() and folder.is_dir():
        named = [each for each in folder.iterdir() if re.fullmatch(r"\d+(\.\d+)?", each.name)]
        if len(named) == len(SEVERITIES):
            return sorted(named, key=lambda each: float(each.name))[severity - 1]
    return folder / str(severity)


@lru_cache(maxsize=4096)  # the class folders of a few conditions
def _by_stem(folder: str, category: str) -> dict[str, str]:
    """Pictures of a class in a folder: file name without ending to the path below the folder."""
    left_out = LeftOut()
    with explain_os_errors("read", folder):
        names = [n for n in class_folders(Path(folder), left_out) if same_name(n) == category]
        found = [path for path, _ in pictures(folder, names[0], left_out)] if names else []
    stems = {same_name(Path(path).stem): path for path in found}
    if len(stems) < len(found):
        twice = Counter(same_name(Path(path).stem) for path in found).most_common(1)[0][0]
        raise CossError(
            f"{folder}/{names[0]} has two pictures named {twice}, endings aside; remove one"
        )
    return stems
