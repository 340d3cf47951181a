"""Random fields of a batch by a counter-based hash; no generator and no state.

Every value is a function of (sample key, field, row, column) in integer arithmetic, so that a
sample draws the same whatever batch it is in, and the same bits on the CPU and on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustbench_coss import seeds

# Two's complement of constants above 2^31 and 2^63: torch's integers are signed and wrap around.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_SPLIT_A = 0xBF58476D1CE4E5B9 - 2**64
_SPLIT_B = 0x94D049BB133111EB - 2**64
_MIX_A, _MIX_B = 0x21F0AAAD, 0xD35A2D97 - 2**32


def sample_keys(index: Sequence[int], *names: seeds.Name) -> Tensor:
    """[B] int64: a 53-bit key for each data set index and what the draws are for."""
    draws = seeds.uniform(np.asarray(index, np.int64), 1, *names)[:, 0]
    return torch.from_numpy((draws * 2.0**53).astype(np.int64))


def _logical_shift(x: Tensor, bits: int, width: int) -> Tensor:
    """x >> bits with zeros moving in; torch's own shift copies the sign."""
    return (x >> bits).bitwise_and_((1 << (width - bits)) - 1)


def _mix64(x: Tensor) -> Tensor:
    """SplitMix64's output function, as in `seeds`, on int64."""
    x = (x ^ _logical_shift(x, 30, 64)) * _SPLIT_A
    x = (x ^ _logical_shift(x, 27, 64)) * _SPLIT_B
    return x ^ _logical_shift(x, 31, 64)


class Draws:
    """The draws of a batch under one condition.

    Each call of a method is a new field, numbered by the calls before it.

    Args:
        keys: [B] int64, what `sample_keys` gives, on the device that computes.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self._fields = 0

    def bits(self, *shape: int) -> Tensor:
        """[B, *shape] int32, all 32 bits random."""
        return self._bits(1, *shape)[:, 0]

    def _bits(self, fields: int, *shape: int) -> Tensor:
        """[B, fields, *shape] int32: several fields at once, the same as one after another.

        The last axis of a row runs through start + column · stride modulo 2³², start and odd
        stride from 64 hashed bits of (key, field, row), and each member is mixed by the
        32-bit permutation `lowbias32` of Wellons ("Prospecting for hash functions", 2018, with
        the multipliers found later, bias 0.107).
        """
        device = self.keys.device
        number = torch.arange(self._fields + 1, self._fields + fields + 1, device=device)
        self._fields += fields
        own = _mix64(self.keys[:, None] + number * _GOLDEN)
        row = torch.arange(1, math.prod(shape[:-1]) + 1, device=device)
        row_key = _mix64(own[:, :, None] + row * _GOLDEN)
        start = row_key.to(torch.int32)[..., None]
        stride = ((row_key >> 32) | 1).to(torch.int32)[..., None]
        x = torch.arange(shape[-1], dtype=torch.int32, device=device) * stride
        x += start
        x ^= _logical_shift(x, 16, 32)
        x *= _MIX_A
        x ^= _logical_shift(x, 15, 32)
        x *= _MIX_B
        x ^= _logical_shift(x, 15, 32)
        return x.view(-1, fields, *shape)

    def _signed(self, fields: int, *shape: int) -> Tensor:
        """[B, fields, *shape] float32, uniform on the 2²⁴ midpoints of (-1, 1)."""
        # 24 bits are what a float32 holds: no midpoint is rounded to an end.
        return (self._bits(fields, *shape) >> 8).float().add_(0.5).mul_(2.0**-23)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """[B, *shape] float32, uniform in (low, high)."""
        return self.uniforms(1, low, high, *shape)[:, 0]

    def uniforms(self, fields: int, low: float, high: float, *shape: int) -> Tensor:
        """[B, fields, *shape]: what as many calls of `uniform` give, in fewer steps of a GPU."""
        return self._signed(fields, *shape).mul_((high - low) / 2).add_((high + low) / 2)

    def normal(self, *shape: int) -> Tensor:
        """[B, *shape] float32, standard normal by the inverse distribution function, |z| < 5.5."""
        return self._signed(1, *shape)[:, 0].erfinv_().mul_(math.sqrt(2))

    def integers(self, low: int, high: int, *shape: int) -> tuple[Tensor, Tensor]:
        """Two independent fields [B, *shape] int32, uniform in low … high - 1.

        Each is made from 16 bits: a chance is off by up to 2⁻¹⁶.
        """
        bits, count = self.bits(*shape), high - low
        first = (_logical_shift(bits, 16, 32) * count >> 16) + low
        return first, ((bits & 0xFFFF) * count >> 16) + low
