"""Pictures of a data set that cannot be read, and the data set without them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import PIL
from torch import Tensor

from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.datasets.geometry import USUAL, Geometry
from robustbench_coss.datasets.pictures import PictureSet
from robustbench_coss.errors import CossError
from robustbench_coss.files import cache_folder, sha256_of, write_atomically
from robustbench_coss.machine.environment import cores
from robustbench_coss.reading import MOST_TEXT, parse_json, read_bytes

AT_ONCE = 1024  # pictures that are handed to the threads


class Subset:
    """An `ImageSet` of some of the images of another one.

    Args:
        images: the other one.
        kept: [N] int64 indices into it.
    """

    def __init__(self, images: ImageSet, kept: Tensor) -> None:
        self.whole, self.kept = images, kept
        self.name, self.role, self.size = images.name, images.role, images.size
        self.classes, self.labels = images.classes, images.labels[kept]
        self.geometry: Geometry = getattr(images, "geometry", USUAL)
        self.fingerprint = sha256_of(images.fingerprint.encode() + kept.numpy().tobytes())

    def __len__(self) -> int:
        return len(self.kept)

    def images(self, indices: Sequence[int]) -> Tensor:
        return self.whole.images(self.kept[list(indices)].tolist())

    def raw(self, index: int) -> Tensor:
        return self.whole.raw(int(self.kept[index]))


def whole_of(images: ImageSet) -> ImageSet:
    """What an image set with other labels, or of some images of another, is made of."""
    while (whole := getattr(images, "whole", None)) is not None:
        images = whole
    return images


def without_bad(images: ImageSet, told: Callable[[int], object] = lambda count: None) -> int:
    """Take the labels from pictures that cannot be read, so that they are not measured.

    Args:
        images: pictures, all of a set, or other images, of which nothing is unreadable.
        told: as `unreadable`.

    Returns:
        How many labelled ones there are.

    Raises:
        CossError: there are no others.
    """
    pictures = whole_of(images)
    if not isinstance(pictures, PictureSet) or not (bad := unreadable(pictures, told)):
        return 0
    count, labels = int((images.labels[bad] >= 0).sum()), images.labels.clone()
    labels[bad] = -1
    if not bool((labels >= 0).any()):
        raise CossError(
            f"none of the {images.role} pictures of {images.name!r} can be read; check the files"
        )
    images.labels = labels
    return count


def forget(images: ImageSet) -> None:
    """Have `unreadable` look again: a picture was damaged since, in a file of the same size."""
    if isinstance(pictures := whole_of(images), PictureSet):
        with suppress(OSError):
            _place(pictures).unlink(missing_ok=True)


def _place(images: PictureSet) -> Path:
    key = sha256_of({"fingerprint": images.fingerprint, "pillow": PIL.__version__})
    return cache_folder() / "unreadable" / f"{key}.json"


def unreadable(images: PictureSet, told: Callable[[int], object] = lambda count: None) -> list[int]:
    """Indices of the pictures that cannot be read, ascending: all are decoded, once per data set.

    What was found is kept in the user's cache, by the fingerprint of the data set.

    Args:
        told: of how many more were looked at.
    """
    place = _place(images)
    try:
        known = parse_json(read_bytes(place, MOST_TEXT))
        assert all(type(i) is int and 0 <= i < len(images) for i in known)
        told(len(images))
        return list(known)
    except (CossError, ValueError, TypeError, AssertionError):
        pass  # not there, or not whole

    found = list(complaints(images, range(len(images)), told))
    with suppress(CossError):  # where nothing can be kept, they are looked for again
        write_atomically(place, json.dumps(found))
    return found


def complaints(
    images: ImageSet | PictureSet,
    indices: range,
    told: Callable[[int], object] = lambda count: None,
) -> dict[int, str]:
    """Each of the images that cannot be read to what is wrong with it, in order; all are decoded.

    Args:
        told: of how many more were looked at.
    """

    def wrong(index: int) -> str:
        try:
            images.raw(index)
        except CossError as error:
            return str(error)
        return ""

    found: dict[int, str] = {}
    threads = images.workers or cores() if isinstance(images, PictureSet) else 1
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(indices), AT_ONCE):
            chunk = indices[start : start + AT_ONCE]
            said = zip(chunk, pool.map(wrong, chunk), strict=True)
            found |= {index: reason for index, reason in said if reason}
            told(len(chunk))
    return found
