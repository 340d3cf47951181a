"""Test images for suites that corrupt them."""

from __future__ import annotations

import torch

from robustbench_coss.datasets.base import ArraySet


def array_set(size: int, count: int = 4) -> ArraySet:
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=draw)
    return ArraySet("mine", "test", pixels, torch.arange(count) % 3, ("a", "b", "c"), size)
