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


def _each(values: Tensor, lanes: int) -> Tensor:
    """[C] -> [lanes · C], the same for each lane."""
    return torch.cat([values] * lanes)


class _Normalise(torch.autograd.Function):
    """(x - mean) · weight / sqrt(variance + eps) + bias, with the moments of the batch.

    x may be of half the parameters' precision, in which case sums and products are of the latter's.
    Returns the result, the mean and the (biased) variance; the latter two have no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, lanes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = _rows(x, lanes)
        none, one = weight.new_zeros(rows.shape[1]), weight.new_ones(rows.shape[1])
        means, variances = torch.batch_norm_update_stats(rows, none, one, 0.0)
        means, variances = means.view(lanes, -1), variances.view(lanes, -1)
        mean = means.mean(0)
        variance = variances.mean(0) + means.var(0, correction=0)
        inverse = (variance + eps).rsqrt()
        scale = weight * inverse
        shift = _each(torch.addcmul(bias, mean, scale, value=-1), lanes)
        scale = _each(scale, lanes)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.lanes = lanes
        ctx.mark_non_differentiable(mean, variance)
        result = torch.empty_like(x)
        out = _rows(result, lanes)
        if x.dtype == weight.dtype:
            torch.addcmul(shift, rows, scale, out=out)
        else:  # the kernel that takes two precisions
            kept = weight.new_empty(0)
            torch.native_batch_norm(
                rows, scale, shift, none, one, False, 0.0, 0.0, out=(out, kept, kept)
            )
        return result, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        lanes = ctx.lanes
        rows, given = _rows(x, lanes), _rows(gradient, lanes)
        moments = _each(mean, lanes), _each(inverse, lanes)
        _, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            given, rows, moments[0], None, None, *moments, True, 0.0, [False, True, True]
        )
        for_weight, for_bias = (g.view(lanes, -1).sum(0) for g in (for_weight, for_bias))
        # scale · (g - mean(g) - x̂ · mean(g · x̂)), as a weighted sum of g, x and 1
        scale = weight * inverse
        share = scale * (-len(weight) / rows.numel())
        on_x = share * inverse * for_weight
        constant = torch.addcmul(share * for_bias, on_x, mean, value=-1)
        for_x = torch.empty_like(x, dtype=weight.dtype)
        out = _rows(for_x, lanes)
        torch.addcmul(_each(constant, lanes), given, _each(scale, lanes), out=out)
        out.addcmul_(rows, _each(on_x, lanes))
        return for_x.to(x.dtype), for_weight, for_bias, None, None


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
            and x.dtype in (self.weight.dtype, torch.bfloat16)
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
