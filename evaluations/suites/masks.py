"""Random masks over a grid of positions: scattered ones and single rectangles.

A mask is a function of names and data set index, never of the batch it is drawn in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustbench_coss import seeds


def random_mask(
    index: Sequence[int], shape: tuple[int, int], count: int, *names: seeds.Name
) -> Tensor:
    """`count` positions drawn without replacement, uniformly, for each sample.

    Args:
        index: [B] data set indices.
        shape: (h, w) of the grid.
        count: positions to set, 0 … h·w.
        names: what the draw is for.

    Returns:
        [B, h, w] bool on the CPU, true at the drawn positions.

    Raises:
        ValueError: `count` is not in 0 … h·w.
    """
    positions = shape[0] * shape[1]
    if not 0 <= count <= positions:
        raise ValueError(f"count must be in 0 … {positions}, got {count}")
    draws = seeds.uniform(np.asarray(index, dtype=np.int64), positions, *names)
    rank = draws.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return torch.from_numpy(rank < count).view(len(index), *shape)


def rectangles(shape: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """The (height, width) that a block of `count` positions may take on a grid.

    Of all rectangles that fit, the ones nearest to `count` in area; among those the smaller area,
    then the squarest. More than one is left only where they are turned copies of each other.
    A rectangle over the whole grid is a choice only where `count` asks for the whole grid.
    """
    height, width = shape
    if not 0 <= count <= height * width:
        raise ValueError(f"count must be in 0 … {height * width}, got {count}")
    if count == 0:
        return [(0, 0)]
    cost = {
        (a, b): (abs(a * b - count), a * b, abs(a - b))
        for a in range(1, height + 1)
        for b in range(1, width + 1)
        if a * b < height * width or count == height * width
    }
    best = min(cost.values())
    return [rectangle for rectangle, value in cost.items() if value == best]


def block_mask(
    index: Sequence[int], shape: tuple[int, int], count: int, *names: seeds.Name
) -> Tensor:
    """One axis-aligned rectangle of about `count` positions for each sample, placed uniformly.

    The rectangle is one of `rectangles(shape, count)`, so its area may differ from `count`.
    Arguments, result and errors are those of `random_mask`.
    """
    choices = np.array(rectangles(shape, count))
    draws = seeds.uniform(np.asarray(index, dtype=np.int64), 3, *names)
    size = choices[(draws[:, 0] * len(choices)).astype(np.int64)]
    start = np.floor(draws[:, 1:] * (np.array(shape) - size + 1)).astype(np.int64)
    rows, columns = np.arange(shape[0]), np.arange(shape[1])
    in_rows = (rows >= start[:, :1]) & (rows < start[:, :1] + size[:, :1])
    in_columns = (columns >= start[:, 1:]) & (columns < start[:, 1:] + size[:, 1:])
    return torch.from_numpy(in_rows[:, :, None] & in_columns[:, None, :])
