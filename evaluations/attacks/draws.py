"""Random draws that depend on names, not on the batch: each sample has a generator on the CPU.

`uniform` and `normal` draw for code that takes generators. torchattacks knows torch's global one
alone and draws batch by batch, so that what an image gets would depend on the images beside it:
while one of the modes here is active, its draws come from generators that belong to samples, or to
the whole measurement, whichever batch a sample is in and on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_IN_PLACE = {torch.Tensor.uniform_, torch.Tensor.normal_}
_FRESH: dict[Any, tuple[Any, Any]] = {
    torch.rand: (torch.empty, torch.Tensor.uniform_),
    torch.randn: (torch.empty, torch.Tensor.normal_),
    torch.rand_like: (torch.empty_like, torch.Tensor.uniform_),
    torch.randn_like: (torch.empty_like, torch.Tensor.normal_),
}
IMAGE_DIMENSIONS = 4


class _Draws(TorchFunctionMode):
    """Hands every uniform or normal draw without a generator of its own to `drawn`."""

    def drawn(self, target: Tensor, fill: Any, bounds: Sequence[Any], options: Any) -> Tensor:
        """What `target` is to be filled with, on the CPU; its shape or one that expands to it."""
        raise NotImplementedError

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if (func not in _IN_PLACE and func not in _FRESH) or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        kwargs.pop("generator", None)
        if func in _FRESH:
            make, fill = _FRESH[func]
            target, bounds, kwargs = make(*args, **kwargs), [], {}
        else:
            fill, (target, *bounds) = func, args
        return target.copy_(self.drawn(target, fill, bounds, kwargs))


class PerSampleDraws(_Draws):
    """Row i of a draw over a batch comes from generator i.

    Row i is then what a batch of sample i alone would have drawn on the CPU after
    `torch.manual_seed` with that generator's seed.

    Raises:
        RuntimeError: a draw whose first dimension is not the batch.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.generators = generators

    def drawn(self, target: Tensor, fill: Any, bounds: Sequence[Any], options: Any) -> Tensor:
        if target.dim() == 0 or len(target) != len(self.generators):
            raise RuntimeError(
                f"a draw of shape {tuple(target.shape)} cannot be split over "
                f"{len(self.generators)} samples"
            )
        return _rows(self.generators, target, fill, *bounds, **options)


class SharedDraws(_Draws):
    """All samples share the draws of one generator, whatever batch they are in.

    For an attack that mixes draws over the batch with single ones and drops samples on its way:
    a draw with the four dimensions of images is made for one image and given to all, any other is
    made as it is. A sample then gets what it would get alone, after `torch.manual_seed` with the
    generator's seed.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def drawn(self, target: Tensor, fill: Any, bounds: Sequence[Any], options: Any) -> Tensor:
        over_images = target.dim() == IMAGE_DIMENSIONS
        shape = (1, *target.shape[1:]) if over_images else target.shape
        empty = torch.empty(shape, dtype=target.dtype)
        one: Tensor = fill(empty, *bounds, **options, generator=self.generator)
        return one


def uniform(generators: Sequence[torch.Generator], like: Tensor, low: float, high: float) -> Tensor:
    """Uniform draws of the shape of a batch, row i of generator i (on the CPU), on its device."""
    return _rows(generators, like, torch.Tensor.uniform_, low, high).to(like.device)


def normal(generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Standard normal draws, likewise."""
    return _rows(generators, like, torch.Tensor.normal_).to(like.device)


def _rows(
    generators: Sequence[torch.Generator], like: Tensor, fill: Any, *bounds: Any, **options: Any
) -> Tensor:
    row = (1, *like.shape[1:])
    return torch.cat(
        [
            fill(torch.empty(row, dtype=like.dtype), *bounds, **options, generator=g)
            for g in generators
        ]
    )


def streams(seeds: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator per seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
