"""Pictures decoded once for all passes over them: kept in memory, or in files that are mapped.

What is kept are the uint8 pixels that an evaluation sees. Up to `MOST_MEMORY` bytes of them stay in
memory; more go, a block of images to a file, into a folder of the user's cache, where later
evaluations and other processes find them. A file is written whole or not at all, so several
processes may write the same one, and what a killed one leaves is never read. The folder's name is a
digest of all that determines the pixels: those of other data, sizes or versions are not looked at.
"""

from __future__ import annotations

import io
import os
import shutil
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_coss.datasets.arrays import read_array
from robustbench_coss.datasets.pictures import PictureSet
from robustbench_coss.errors import CossError
from robustbench_coss.files import cache_folder, sha256_of, slug, write_atomically

VERSION = 1  # of files and of what is done to pictures
MOST_MEMORY = 2 << 30  # bytes: 14,266 images of 224 px
BLOCK = 256  # images of a file: 38 MB at 224 px
OPEN = 2  # blocks at most that are held in memory until they are whole
LEFT_FREE = 1 << 30  # bytes of a disk that are no cache's


class Decoded:
    """Images of a `PictureSet`, each decoded once where there is room for it.

    Args:
        images: gives the pixels.
        order: indices of the images that will be asked for, in their usual order.
    """

    def __init__(self, images: PictureSet, order: Sequence[int]) -> None:
        self._images, self._order = images, np.asarray(order)
        self._place = {index: place for place, index in enumerate(self._order.tolist())}
        self._shape = (3, images.size, images.size)
        self._bytes = len(self._order) * 3 * images.size**2
        self._blocks: dict[int, NDArray[np.uint8]] = {}
        self._have: dict[int, NDArray[np.bool_]] = {}  # of blocks that are not whole yet
        self._lock = threading.Lock()
        self.folder = None if self._bytes <= MOST_MEMORY else _folder(images)
        self._anew = self.folder is not None and not self._room()

    def images(self, indices: Sequence[int]) -> Tensor:
        """[B, 3, S, S] uint8 of images of `order`.

        Raises:
            BadPicture: a picture is missing or damaged.
        """
        with self._lock:
            if self._anew:
                return self._images.images(indices)
            places = np.asarray([self._place[index] for index in indices], dtype=np.int64)
            out = np.empty((len(places), *self._shape), dtype=np.uint8)
            for number in dict.fromkeys((places // BLOCK).tolist()):
                mine = places // BLOCK == number
                out[mine] = self._rows(number, places[mine] % BLOCK)
            return torch.from_numpy(out)

    def _rows(self, number: int, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = self._blocks.get(number)
        if found is None and self.folder is not None:
            found = self._stored(number)
        if found is None:
            found = self._begun(number)
        if number in self._have:
            self._fill(number, rows)
            if self._have[number].all():
                self._keep(number)
        chosen: NDArray[np.uint8] = found[rows]
        return chosen

    def _count(self, number: int) -> int:
        return min(BLOCK, len(self._order) - number * BLOCK)

    def _stored(self, number: int) -> NDArray[np.uint8] | None:
        """A block mapped from its file; None where there is none, or no whole one."""
        try:
            found = read_array(self._path(number), mmap_mode="r")
        except CossError:
            return None
        whole = found.shape == (self._count(number), *self._shape) and found.dtype == np.uint8
        return found if whole else None

    def _begun(self, number: int) -> NDArray[np.uint8]:
        """An empty block; the oldest of too many is made whole before."""
        if self.folder is not None and len(self._have) >= OPEN:
            oldest = next(iter(self._have))
            self._fill(oldest, np.arange(self._count(oldest)))
            self._keep(oldest)
        self._blocks[number] = np.empty((self._count(number), *self._shape), dtype=np.uint8)
        self._have[number] = np.zeros(self._count(number), dtype=bool)
        return self._blocks[number]

    def _fill(self, number: int, rows: NDArray[np.int64]) -> None:
        missing = rows[~self._have[number][rows]]
        if len(missing):
            pixels = self._images.images(self._order[number * BLOCK + missing].tolist())
            self._blocks[number][missing] = pixels.numpy()
            self._have[number][missing] = True

    def _keep(self, number: int) -> None:
        """Move a block that is whole to a file, where it is not to stay in memory."""
        del self._have[number]
        if self.folder is None:
            return
        block, file = self._blocks.pop(number), io.BytesIO()
        np.save(file, block)
        try:
            write_atomically(self._path(number), file.getvalue())
        except CossError as error:
            self._give_up(str(error))

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        chosen = self._order[number * BLOCK : (number + 1) * BLOCK]
        return self.folder / f"{sha256_of(chosen.astype('<i8').tobytes())[:16]}.npy"

    def _room(self) -> bool:
        """Whether a disk can take what is not there yet; says so if not."""
        assert self.folder is not None
        there = next(p for p in (self.folder, *self.folder.parents) if os.path.exists(p))
        blocks = range(-(-len(self._order) // BLOCK))
        missing = sum(not os.path.exists(self._path(number)) for number in blocks) / len(blocks)
        free, needed = shutil.disk_usage(there).free, round(missing * self._bytes)
        if free >= needed + LEFT_FREE * (needed > 0):
            if needed:
                warnings.warn(
                    f"{len(self._order):,} decoded pictures, {_size(self._bytes)}, are kept in "
                    f"{self.folder} for the next pass; remove the folder when you are done",
                    stacklevel=1,
                )
            return True
        wanted = _size(needed + LEFT_FREE)
        return self._give_up(f"{there} has {_size(free)} free, and {wanted} are needed")

    def _give_up(self, reason: str) -> bool:
        warnings.warn(
            f"decoded pictures cannot be kept ({reason}); they are decoded anew for every "
            "condition, which is slower",
            stacklevel=1,
        )
        self._anew = True
        self._blocks.clear()
        self._have.clear()
        return False


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _folder(images: PictureSet) -> Path:
    """Where the pixels of a data set at a size are kept."""
    determined_by = {
        "version": VERSION,
        "fingerprint": images.fingerprint,
        "size": images.size,
        "geometry": images.geometry.stored(images.size),
        "reader": type(images).__name__,
        "pillow": PIL.__version__,
    }
    name = f"{slug(images.name)}-{images.role}-{images.size}px-{sha256_of(determined_by)[:16]}"
    return cache_folder() / "decoded" / name
