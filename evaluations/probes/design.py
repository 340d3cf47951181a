"""Features along their principal components: the coordinates in which probes are fitted.

Which coordinates are taken changes the way to an optimum, not the optimum.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

ROWS_AT_ONCE = {"cpu": 1_024, "cuda": 16_384}
"""Rows that a pass works on at once: on a CPU they stay in its cache, on a GPU they fill it."""

WIDEST = 4_096
"""Principal components are taken of up to so many features, or of up to so many images."""

KEPT_BYTES = 2**31
"""What is kept between passes if it takes no more than this, and made anew in each otherwise."""

NEGLIGIBLE = 1e-13  # share of the largest component's variance that is rounding in float64


def chunks(column: Tensor, rows: int = 65_536) -> Iterator[Tensor]:
    """A tensor's rows in order, some at a time, as views."""
    for start in range(0, len(column), rows):
        yield column[start : start + rows]


class Design:
    """Features along their principal components, scaled to unit variance.

    Args:
        parts: finite features [N, D] on the CPU, in several pieces that follow each other.
        device: where to compute, in float64.

    Attributes:
        dtype: of `rows`.
        variance: [R] of the standardised features along each coordinate. Directions without
            variance are left out: a penalised optimum has no weight there.
    """

    def __init__(self, parts: Sequence[Tensor], device: torch.device) -> None:
        self.parts, self.device, self.dtype = parts, device, torch.float64
        self.count = sum(len(part) for part in parts)
        self.mean, self.scale = (t.to(device) for t in standardisation(*parts))
        self._kept: Tensor | None = None
        self._basis, self.variance = self._components()
        if self.count * len(self.variance) * 8 <= KEPT_BYTES:
            self._kept = torch.cat([self.pull(z) for z in self._standardised(0, self.count)])

    def single(self) -> Design:
        """The same coordinates with rows in float32: half the memory traffic, twice the speed."""
        lighter = copy.copy(self)
        lighter.dtype = torch.float32
        lighter._kept = None if self._kept is None else self._kept.float()
        return lighter

    def rows(self, start: int, stop: int) -> Iterator[Tensor]:
        """The rows `start` … `stop`, some at a time: [n, R] if they are kept, else [n, D]."""
        if self._kept is None:
            yield from (z.to(self.dtype) for z in self._standardised(start, stop))
        else:
            yield from chunks(self._kept[start:stop], ROWS_AT_ONCE[self.device.type])

    def push(self, weight: Tensor) -> Tensor:
        """Weights [K, R] as they act on `rows`."""
        return weight if self._kept is not None or self._basis is None else weight @ self._basis.T

    def pull(self, values: Tensor) -> Tensor:
        """`rows`, or gradients of what `push` gives, in the coordinates: [n, R]."""
        if self._kept is not None or self._basis is None:
            return values
        return values @ self._basis.to(values.dtype)

    def unfold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """[K, D] and [K] float64 on the CPU: the same classifier on features as they come."""
        on_standardised = weight if self._basis is None else weight @ self._basis.T
        folded = on_standardised / self.scale
        return folded.cpu(), (bias - folded @ self.mean).cpu()

    def _standardised(self, start: int, stop: int) -> Iterator[Tensor]:
        for part in self.parts:
            rows = part[max(start, 0) : max(stop, 0)]
            for x in chunks(rows, ROWS_AT_ONCE[self.device.type]):
                yield (x.to(self.device).double() - self.mean).div_(self.scale)
            start, stop = start - len(part), stop - len(part)

    def _components(self) -> tuple[Tensor | None, Tensor]:
        """[D, R] from standardised features to the coordinates (None: they are the same), [R]."""
        width = len(self.mean)
        standardised = self._standardised(0, self.count)
        if width <= min(self.count, WIDEST):
            moment = torch.zeros(width, width, dtype=torch.float64, device=self.device)
            for z in standardised:
                moment.addmm_(z.T, z)
            values, vectors = _spectrum(moment / self.count)
            return vectors / values.sqrt(), values
        if self.count <= WIDEST:  # from the smaller product: Z = U S Vᵀ has V = Zᵀ U / S
            z = torch.cat(list(standardised))
            values, vectors = _spectrum(z @ z.T / self.count)
            return z.T @ vectors / (values * math.sqrt(self.count)), values
        return None, torch.ones(width, dtype=torch.float64, device=self.device)


def _spectrum(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues that are more than rounding, and their vectors as columns."""
    values, vectors = torch.linalg.eigh(moment)
    kept = values > values[-1].clamp_min(1e-300) * NEGLIGIBLE
    return values[kept], vectors[:, kept]


def standardisation(*parts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [D] in float64 of features [N, D]; dead ones keep scale 1.

    A feature that hardly varies beside its own size is rounding noise; dividing by its deviation
    would blow the noise up.
    """
    count = sum(len(part) for part in parts)
    total = torch.zeros(parts[0].shape[1], dtype=torch.float64)
    for chunk in (c for part in parts for c in chunks(part)):
        total += chunk.double().sum(dim=0)
    mean = total / count
    squares = torch.zeros_like(total)
    for chunk in (c for part in parts for c in chunks(part)):
        squares += (chunk.double() - mean).square_().sum(dim=0)
    std = (squares / count).sqrt()
    return mean, torch.where(std > 1e-6 * mean.abs().clamp_min(1e-6), std, torch.ones_like(std))
