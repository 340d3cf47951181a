"""Arrays of the host on their way to a device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNED = 16  # bytes: every type may begin there


def upload(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Tensors of the arrays' shapes and types on a device.

    To a GPU in one copy from page-locked memory: for any other copy the host waits until the GPU
    has done all that it was asked to before.
    """
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    staged = torch.empty(_ends(arrays)[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    pack(arrays, staged)
    return unpack(arrays, staged.to(device, non_blocking=True))


def _ends(arrays: Sequence[NDArray[Any]]) -> list[int]:
    """Where each array begins in bytes, and where the last one ends."""
    ends: list[int] = np.cumsum(
        [0, *(-(-a.nbytes // _ALIGNED) * _ALIGNED for a in arrays)]
    ).tolist()
    return ends


def pack(arrays: Sequence[NDArray[Any]], staged: Tensor) -> None:
    """Write arrays one after the other into [bytes] uint8 on the host."""
    room = staged.numpy()
    for array, start in zip(arrays, _ends(arrays), strict=False):
        room[start : start + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)


def unpack(arrays: Sequence[NDArray[Any]], sent: Tensor) -> list[Tensor]:
    """The packed arrays as parts of [bytes] uint8, wherever that is."""
    return [
        sent[start : start + array.nbytes]
        .view(torch.from_numpy(np.empty(0, array.dtype)).dtype)
        .view(array.shape)
        for array, start in zip(arrays, _ends(arrays), strict=False)
    ]


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """[len(values)] of the type and on the device of another tensor, sent there once."""
    return _constant(values, like.dtype, like.device)


@cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # whoever asks first
        return torch.tensor(values, dtype=dtype, device=device)
