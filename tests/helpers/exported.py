"""Runs whose encoders are as if trained, and their features in another library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.models.checkpoint import (
    build_encoder,
    save_encoder,
)


def as_if_trained(encoder: Encoder) -> Encoder:
    """Scales, shifts and running statistics drawn at random: initial ones would hide a mix-up."""
    draw = torch.Generator().manual_seed(5)
    for part in encoder.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for value, low, high in (
                (part.weight, 0.5, 1.5),
                (part.bias, -0.5, 0.5),
                (part.running_mean, -0.5, 0.5),
                (part.running_var, 0.5, 1.5),
            ):
                assert value is not None
                value.data.uniform_(low, high, generator=draw)
    return encoder.eval()


def make_run(folder: Path, arch: str, size: int, width: float = 1.0, **more: Any) -> Encoder:
    """A run folder's encoder file, without the training."""
    encoder = as_if_trained(build_encoder(arch, size=size, width=width))
    stated = {"arch": arch, "size": size, "width": width, "method": "co-byol", "encoder": "online"}
    save_encoder(folder / "encoder.safetensors", encoder, stated | more)
    return encoder


def pictures(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def run_lines(lines: str, images: Tensor) -> dict[str, Any]:
    """What the printed lines define, given images."""
    names: dict[str, Any] = {"images": images}
    exec(lines, names)
    return names


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of the largest value, and not trivially so: images differ."""
    scale = float(expected.abs().max())
    assert float((expected[0] - expected[-1]).abs().max()) > 1e-3 * scale
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)
