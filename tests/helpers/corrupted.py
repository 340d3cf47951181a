"""Pictures corrupted by the fast backend, and the measure of how near two of them are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from typing import Any

import cv2
import imagecorruptions.corruptions as package
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_coss.evaluations.corruptions.fast import corrupt
from robustbench_coss.evaluations.corruptions.fast.draws import Draws, sample_keys

Pictures = NDArray[np.uint8]


def photographs(size: int, count: int) -> Pictures:
    """[B, size, size, 3]: squares cut from the photographs, at different places and scales."""
    found = []
    for i in range(count):
        name = ("frost1.png", "frost5.jpg", "frost6.jpg")[i % 3]
        with as_file(files("imagecorruptions") / "frost" / name) as path:
            picture = np.asarray(cv2.imread(str(path)))[..., ::-1]
        side = picture.shape[0] - 37 * i
        cut = picture[11 * i : 11 * i + side, 23 * i : 23 * i + side]
        found.append(cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA))
    return np.stack(found)


def fast(pictures: Pictures, name: str, severity: int, keys: Tensor, protocol: str) -> Pictures:
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    out = corrupt(pixels, name, severity, keys, protocol)
    return out.permute(0, 2, 3, 1).numpy()


def near(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Share of values that differ by at most one grey level."""
    return float((np.abs(a.astype(int) - b.astype(int)) <= 1).mean())


def alike(name: str, got: Pictures, expected: Pictures, pictures: Pictures) -> bool:
    """Equal up to a grey level in 99 % of the values, or nearly so for drops of water.

    Their shading uses distances that are exact here and approximate in OpenCV: there the mean
    difference has to be small beside what the corruption changes.
    """
    if name == "spatter":
        off = np.abs(got.astype(int) - expected.astype(int)).mean()
        return bool(off < 0.15 * np.abs(expected.astype(int) - pictures.astype(int)).mean())
    return near(got, expected) >= 0.99


def keys_of(count: int) -> Tensor:
    return sample_keys(range(count), "test")


class Replay:
    """Hands the draws of one image to the package, in place of numpy's."""

    def __init__(self, key: Tensor, patch: pytest.MonkeyPatch) -> None:
        self.draws = Draws(key)
        self.kept: list[Tensor] = []
        for name in ("normal", "uniform", "randint"):
            patch.setattr(np.random, name, getattr(self, name))
        patch.setattr(package, "_shuffle_pixels_njit_glass_blur", self.shuffle)

    def normal(
        self, loc: float = 0.0, scale: float = 1.0, size: Sequence[int] = ()
    ) -> NDArray[Any]:
        height, width, channels = (*size, 1)[:3]
        field = self.draws.normal(channels, height, width)[0].permute(1, 2, 0)
        return loc + scale * field.double().numpy().reshape(size)

    def uniform(self, low: float, high: float, size: Sequence[int] | None = None) -> Any:
        if size is None:
            return self.draws.uniform(low, high, 1).item()
        if sys._getframe(1).f_code.co_name != "elastic_transform":
            return self.draws.uniform(low, high, *size)[0].numpy()
        # Two fields of the package are one of ours.
        if not self.kept:
            self.kept = list(self.draws.uniform(low, high, 2, *size)[0])
        return self.kept.pop(0).numpy()

    def randint(self, low: int, high: int | None = None) -> int:
        if not self.kept:
            self.kept = list(self.draws.bits(3)[0].long() + 2**31)
        start, stop = (0, low) if high is None else (low, high)
        return start + (int(self.kept.pop(0)) * (stop - start) >> 32)

    def shuffle(self, d0: int, d1: int, x: Pictures, c: Any, seed: int) -> Pictures:
        _, reach, rounds = c
        for _ in range(rounds):
            down, right = (f[0].tolist() for f in self.draws.integers(-reach, reach, d0, d1))
            for h in range(d0 - reach, reach, -1):
                for w in range(d1 - reach, reach, -1):
                    x[h, w] = x[h + down[h][w], w + right[h][w]]
        return x
