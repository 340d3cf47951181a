"""Lists of pictures to measure on: a file with one name a line, as RobustBench's 5,000 of ImageNet.

A name is the end of a picture's path: `val/n01440764/x.JPEG`, `n01440764/x.JPEG` or `x.JPEG`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.errors import CossError, few
from robustbench_coss.reading import read_lines


def names_of(images: ImageSet, indices: Sequence[int]) -> str:
    """The list of some images, as `listed` reads it.

    Raises:
        CossError: they are no pictures with names.
    """
    paths = _paths(images)
    return "".join(f"{os.fsdecode(bytes(paths[index]))}\n" for index in indices)


def _paths(images: ImageSet) -> NDArray[np.bytes_]:
    found: NDArray[np.bytes_] | None = getattr(images, "paths", None)
    if found is None:
        raise CossError(
            f"--image-list names pictures, and those of {images.name!r} lie in arrays, without "
            "names; leave it out, or use --limit"
        )
    return found


def listed(images: ImageSet, path: Path) -> Tensor:
    """[n] int64: indices of the images that a file names, sorted.

    Empty lines and lines that begin with # are passed over.

    Raises:
        CossError: the file cannot be read or names nothing, something that is not there, an image
            twice, or a name that several pictures have; the images are no pictures with names.
    """
    paths = _paths(images)
    wanted = [line.removeprefix("./") for line in read_lines(path)]
    if not wanted:
        raise CossError(f"{path} names no picture; write one a line")
    lengths = {name.count("/") + 1 for name in wanted}
    found: dict[str, int] = {}
    shared: set[str] = set()
    for index, name in enumerate(paths.tolist()):
        parts = os.fsdecode(name).split("/")
        for length in lengths:
            if length <= len(parts):
                end = "/".join(parts[-length:])
                if end in found:
                    shared.add(end)
                found[end] = index
    for what, names in (
        ("that are not there", [name for name in wanted if name not in found]),
        ("that several pictures have", [name for name in wanted if name in shared]),
    ):
        if names:
            raise CossError(
                f"{path} has {len(names):,} names {what}: {few(names)}; write "
                f"more or less of paths such as {os.fsdecode(bytes(paths[0]))}"
            )
    indices = np.array([found[name] for name in wanted])
    if len(set(indices.tolist())) < len(indices):
        twice = Counter(indices.tolist()).most_common(1)[0][0]
        raise CossError(f"{path} names {os.fsdecode(bytes(paths[twice]))} twice; remove one")
    return torch.from_numpy(indices).sort().values
