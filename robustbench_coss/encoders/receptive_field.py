"""The receptive field of local representations, by formula and by gradient."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.models.loan import Loan, ordinary_mode

Layer = tuple[int, int]
"""(kernel side, stride) of one convolution or pooling layer, in px of its own input."""


def field_of(layers: Iterable[Layer]) -> tuple[int, int]:
    """Receptive field and jump, in input px, of a chain of layers.

    For each layer r += (k - 1) * j, then j *= s, from r = j = 1 (Araujo, Norris and Sim 2019,
    "Computing receptive fields of convolutional neural networks", Distill).
    """
    field, jump = 1, 1
    for kernel, stride in layers:
        field += (kernel - 1) * jump
        jump *= stride
    return field, jump


def field_by_gradient(encoder: Encoder, at_most: int) -> int:
    """Receptive field in px, as the extent of the input gradient of one local unit.

    Measured while every convolution averages (positive weights) and normalisation is the identity,
    in double precision: then no path cancels or underflows and the extent is that of the
    architecture, whatever the weights. Max pooling passes the gradient of one winner only, so the
    extent is the union over several random images.

    Args:
        encoder: a convolutional encoder; it is left as it was.
        at_most: the largest field expected, in px; the probe image is made larger than that.
    """
    side = at_most + 64
    pools = any(isinstance(module, nn.MaxPool2d) for module in encoder.modules())
    with ordinary_mode(), Loan(encoder):
        _let_everything_through(encoder)
        draws = torch.Generator().manual_seed(0)
        reached = torch.zeros(side, side, dtype=torch.bool)
        for _ in range(3 if pools else 1):
            image = torch.rand(1, 3, side, side, generator=draws, dtype=torch.float64)
            image.requires_grad_(True)
            local = encoder.local(image)
            middle = local[0, :, local.shape[2] // 2, local.shape[3] // 2].sum()
            (gradient,) = torch.autograd.grad(middle, image)
            reached |= (gradient[0] != 0).any(dim=0)
    return max(_extent(reached.any(dim=0)), _extent(reached.any(dim=1)))


def _let_everything_through(encoder: Encoder) -> None:
    """Averaging convolutions, no normalisation; all in tensors of its own, so that a loan ends."""
    for module in encoder.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                parameter.data = parameter.data.to(torch.float64, copy=True)
        for key, buffer in module._buffers.items():
            if buffer is not None:
                wide = torch.float64 if buffer.is_floating_point() else buffer.dtype
                module._buffers[key] = buffer.to(wide, copy=True)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.in_channels)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.reset_parameters()
    encoder.mean.zero_()  # keeps activations positive, so that no ReLU stops the gradient


def _extent(line: Tensor) -> int:
    """Distance from the first to the last true element of a 1-d mask, both included."""
    hits = line.nonzero()
    return int(hits[-1] - hits[0]) + 1 if len(hits) else 0
