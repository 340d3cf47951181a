"""Noise: independent draws at every value of a picture.

Every function here and in `blur`, `weather` and `digital` takes grey levels [B, 3, S, S] float32
in 0 … 255 (whole numbers), the draws of the batch and the constants of one severity, and gives
grey levels that are not rounded yet.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from robustbench_coss.evaluations.corruptions.fast.draws import Draws


def gaussian_noise(x: Tensor, draws: Draws, c: float) -> Tensor:
    """x + 255 · c · z, z standard normal."""
    return draws.normal(*x.shape[1:]).mul_(255 * c).add_(x)


def speckle_noise(x: Tensor, draws: Draws, c: float) -> Tensor:
    """x + c · x · z, z standard normal."""
    return draws.normal(*x.shape[1:]).mul_(c).add_(1).mul_(x)


def impulse_noise(x: Tensor, draws: Draws, c: float) -> Tensor:
    """A share c of the values becomes black or white, each with probability 1/2."""
    # One draw decides both: the lowest c/2 of its range mean black, the next c/2 white.
    bits = draws.bits(*x.shape[1:])
    black = round(c / 2 * 2**32) - 2**31
    white = round(c * 2**32) - 2**31
    return x.masked_fill(bits < white, 255.0).masked_fill_(bits < black, 0.0)


def shot_noise(x: Tensor, draws: Draws, c: int) -> Tensor:
    """Photon counts: Poisson with mean c · x / 255, as a share of c, at most 1.

    A grey level has one of 256 distributions, each drawn from by Walker's alias method: a column
    of a table at random, then the column's own count or its alias.
    """
    share, grey = (table.to(x.device) for table in _poisson_tables(c))
    columns = share.shape[0] // 256
    bits = draws.bits(*x.shape[1:])
    # High bits choose the column, the rest decides within it.
    width = 32 - (columns.bit_length() - 1)
    column = (bits >> width).bitwise_and_(columns - 1)
    cell = column.add_(x.to(torch.int32), alpha=columns).flatten()
    rest = bits.bitwise_and_((1 << width) - 1).flatten()
    to_alias = rest >= share.index_select(0, cell)
    return grey.index_select(0, cell.add_(to_alias, alpha=share.shape[0])).view_as(x)


@cache
def _poisson_tables(c: int) -> tuple[Tensor, Tensor]:
    """Alias tables of the 256 grey levels, m columns each and a power of two.

    Counts of c and more give white, so their probabilities are put together.

    Returns:
        [256 · m] int32, below which number of 2³² / m a draw stays in its column; [2 · 256 · m]
        float32, the grey levels of the columns and then of their aliases.
    """
    counts = np.arange(c + 1)
    mean = np.arange(256)[:, None] / 255 * c
    chance = stats.poisson.pmf(counts, mean)
    chance[:, c] = stats.poisson.sf(c - 1, mean[:, 0])
    columns = 1 << int(c).bit_length()
    scaled = np.zeros((256, columns))
    scaled[:, : c + 1] = chance * (columns / chance.sum(1, keepdims=True))
    alias = np.tile(np.arange(columns), (256, 1))
    share = np.ones((256, columns))
    for level in range(256):
        _fill_alias(scaled[level], share[level], alias[level])
    limit = np.round(share * (2**32 // columns)).astype(np.int32)
    # As the reference rounds: a product of floats, cut to a whole number.
    grey = np.floor(np.minimum(np.arange(columns) / float(c), 1) * 255)
    levels = np.concatenate([np.tile(grey, 256), grey[alias].ravel()])
    return torch.from_numpy(limit.ravel()), torch.from_numpy(levels).float()


def _fill_alias(scaled: Any, share: Any, alias: Any) -> None:
    """Vose's construction for one distribution: `scaled` are probabilities times columns."""
    rest = scaled.copy()
    small = [int(k) for k in np.flatnonzero(rest < 1)]
    large = [int(k) for k in np.flatnonzero(rest >= 1)]
    while small and large:
        low, high = small.pop(), large[-1]
        share[low], alias[low] = rest[low], high
        rest[high] -= 1 - rest[low]
        if rest[high] < 1:
            small.append(large.pop())
