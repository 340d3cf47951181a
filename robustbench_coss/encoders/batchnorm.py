"""BatchNorm that is quick with few channels on a CPU; otherwise PyTorch's own.

In channels_last the threads of PyTorch's kernel sum into buffers of one float per channel. With
fewer than 16 channels two threads' buffers share a cache line, and a vector register is not filled:
the layer takes up to five times as long as it need. Here neighbouring pixels are taken as further
channels ("lanes") for the sums, and the lanes' moments are put together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEW = 16  # channels of four bytes that fill a cache line of 64 bytes
COLUMNS = 64  # lanes × channels that are summed side by side; more gains nothing


def _rows(x: Tensor, lanes: int) -> Tensor:
    """[N, C, H, W] in channels_last -> [N·H·W / lanes, lanes · C], the same memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, lanes * x.shape[1])


class _Normalise(torch.autograd.Function):
    """(x - mean) · weight / sqrt(variance + eps) + bias, with the moments of the batch.

    Returns the result, the mean and the (biased) variance; the latter two have no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, lanes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = _rows(x, lanes)
        # The kernel's result is not used: it is the quickest that gives a column's mean and 1/sd.
        _, means, inverse = torch.native_batch_norm(rows, None, None, None, None, True, 0.0, 0.0)
        means, variances = means.view(lanes, -1), inverse.view(lanes, -1) ** -2
        mean = means.mean(0)
        variance = (variances + (means - mean) ** 2).mean(0)
        inverse = (variance + eps).rsqrt()
        scale = weight * inverse
        shift = bias - mean * scale
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.lanes = lanes
        ctx.mark_non_differentiable(mean, variance)
        result = torch.empty_like(x)
        torch.addcmul(shift.repeat(lanes), rows, scale.repeat(lanes), out=_rows(result, lanes))
        return result, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        lanes = ctx.lanes
        rows = _rows(x, lanes)
        given = _rows(gradient.contiguous(memory_format=torch.channels_last), lanes)
        _, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            given,
            rows,
            weight.repeat(lanes),
            None,
            None,
            mean.repeat(lanes),
            inverse.repeat(lanes),
            True,
            0.0,
            [False, True, True],
        )
        for_weight, for_bias = (g.view(lanes, -1).sum(0) for g in (for_weight, for_bias))
        # scale · (g - mean(g) - x̂ · mean(g · x̂)), as a weighted sum of g, x and 1
        count = rows.numel() // len(weight)
        scale = weight * inverse
        on_x = -scale * inverse * for_weight / count
        constant = -scale * for_bias / count - on_x * mean
        for_x = torch.empty_like(x)
        out = _rows(for_x, lanes)
        torch.addcmul(constant.repeat(lanes), given, scale.repeat(lanes), out=out)
        out.addcmul_(rows, on_x.repeat(lanes))
        return for_x, for_weight, for_bias, None, None


class BatchNorm2d(nn.BatchNorm2d):
    """torch.nn.BatchNorm2d, quicker in training with fewer than 16 channels on a CPU.

    Parameters, buffers and results are the same up to rounding.
    """

    def forward(self, input: Tensor) -> Tensor:
        lanes = self._lanes(input)
        if lanes < 2:
            return super().forward(input)
        result: Tensor
        result, mean, variance = _Normalise.apply(input, self.weight, self.bias, self.eps, lanes)
        with torch.no_grad():
            assert self.num_batches_tracked is not None  # `_lanes` has asked for all of them
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.momentum is not None
            count = input.numel() // len(mean)
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return result

    def _lanes(self, x: Tensor) -> int:
        """Lanes to sum in; 1 for what PyTorch's kernel is to do."""
        few = (
            self.training
            and x.device.type == "cpu"
            and self.num_features < FEW
            and x.dtype == self.weight.dtype
            and x.is_contiguous(memory_format=torch.channels_last)
            and self.momentum is not None
            and self.running_mean is not None
        )
        if not few:
            return 1
        lanes = 1 << ((COLUMNS // self.num_features).bit_length() - 1)  # a power of two
        pixels = x.numel() // self.num_features
        while pixels % lanes or pixels // lanes < 2:
            lanes //= 2
            if lanes < 2:
                return 1
        return lanes
