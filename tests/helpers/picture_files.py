"""Pictures in folders and shards, and what is damaged about them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.errors import CossError


def one_line(error: pytest.ExceptionInfo[CossError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


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


class Rows(torch.utils.data.Dataset[Tensor]):
    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images.images([index])[0]


def members(path: Path, **kinds: bytes) -> None:
    """Write a tar file of the given members; two underscores stand for a dot."""
    with tarfile.open(path, "w") as tar:
        for name, data in kinds.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
