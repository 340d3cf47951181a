"""Tensors of files as weights: made ordinary where that changes no value, else refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from robustbench_coss.errors import CossError

LARGEST_SPARSE = 2**30
"""Values of a sparse tensor written out: 4 GiB, more than any layer that is measured here."""


def ordinary(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors as dense arrays of real numbers with values.

    Sparse ones are written out, which is exact. Half and double precision stay: float32 weights
    take them in when they are loaded.

    Raises:
        CossError: a tensor has no values, or its values are no weights by themselves.
    """
    return {key: _ordinary(key, value.detach(), path) for key, value in state.items()}


def _ordinary(key: str, value: Tensor, path: Path) -> Tensor:
    kind = str(value.dtype).removeprefix("torch.")
    if value.is_meta:
        raise CossError(
            f"{path}: {key} lies on the device 'meta', so the file holds none of its values; save "
            "it again from a model whose weights were loaded"
        )
    if value.is_quantized or (value.is_floating_point() and value.element_size() < 2):
        raise CossError(
            f"{path}: {key} is quantised ({kind}); save the weights from before they were quantised"
        )
    if value.is_complex():
        raise CossError(
            f"{path}: {key} holds complex numbers ({kind}), which no encoder here computes with; "
            "measure the module itself from Python"
        )
    if value.is_nested:
        raise CossError(f"{path}: {key} is a nested tensor; save it as an ordinary one")
    if value.layout == torch.strided:
        return value
    if value.numel() > LARGEST_SPARSE:
        raise CossError(
            f"{path}: {key} is sparse and has {value.numel():,} values written out, more than "
            f"{LARGEST_SPARSE:,}; save it as an ordinary tensor"
        )
    return value.to_dense()


def check_kinds(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Refuse whole numbers where an architecture has weights: their scale is not in the file.

    Raises:
        CossError: a tensor of `state` holds whole numbers, and that of this name in `expected`
            does not.
    """
    for key, value in state.items():
        there = expected.get(key)
        if there is not None and there.is_floating_point() and not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise CossError(
                f"{path}: {key} holds {kind} in place of weights: without the scale that they were "
                "quantised by, nothing follows from them; save the weights as float32"
            )
