"""The quick BatchNorm held to PyTorch's, in results, gradients and running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_coss.encoders import batchnorm
from robustbench_coss.encoders.batchnorm import BatchNorm2d


def pair(channels: int, dtype: torch.dtype = torch.float64) -> tuple[BatchNorm2d, nn.BatchNorm2d]:
    torch.manual_seed(channels)
    ours, theirs = BatchNorm2d(channels, dtype=dtype), nn.BatchNorm2d(channels, dtype=dtype)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2)
        ours.bias.normal_()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def images(shape: tuple[int, ...], mean: float = 0.0, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(shape, dtype=dtype) + mean
    return x.contiguous(memory_format=torch.channels_last)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    channels=st.integers(1, 15),
    height=st.integers(1, 6),
    width=st.integers(2, 6),
    mean=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_results_gradients_and_running_statistics_equal_pytorchs(
    n: int, channels: int, height: int, width: int, mean: float
) -> None:
    ours, theirs = pair(channels)
    for _ in range(2):
        x = images((n, channels, height, width), mean)
        x_ours, x_theirs = (x.clone(memory_format=torch.preserve_format) for _ in range(2))
        weights = torch.randn_like(x)
        y_ours, y_theirs = (
            nn.functional.relu(module(x.requires_grad_()), inplace=True)  # as in a ResNet
            for module, x in ((ours, x_ours), (theirs, x_theirs))
        )
        torch.testing.assert_close(y_ours, y_theirs, rtol=1e-9, atol=1e-9)
        for module, y in ((ours, y_ours), (theirs, y_theirs)):
            module.zero_grad()
            (y * weights).sum().backward()
        torch.testing.assert_close(x_ours.grad, x_theirs.grad, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-9)


def test_single_precision_rounds_as_pytorch_does_with_a_mean_far_from_zero() -> None:
    exact, _ = pair(8)
    ours, theirs = pair(8, torch.float32)
    x = images((16, 8, 16, 16), mean=30.0, dtype=torch.float32)
    truth = exact(x.double())
    error, reference = ((module(x).double() - truth).abs().max() for module in (ours, theirs))
    assert error <= 4 * reference


def test_in_mixed_precision_errors_are_those_of_pytorch() -> None:
    exact, _ = pair(8)
    ours, theirs = pair(8, torch.float32)
    x = images((16, 8, 16, 16), mean=1.0, dtype=torch.bfloat16)
    weights = torch.randn_like(x)
    found = []
    for module in (exact, ours, theirs):
        own = x.to(torch.float64 if module is exact else x.dtype).requires_grad_()
        y = module(own)
        (y * weights).sum().backward()
        assert own.grad is not None
        assert y.dtype == own.dtype == own.grad.dtype
        found.append([y, own.grad, module.weight.grad, module.bias.grad, module.running_var])
    for truth, mine, reference in zip(*found, strict=True):
        error, usual = ((side.double() - truth).abs().max() for side in (mine, reference))
        assert error <= 1.5 * usual + 1e-6, (error, usual)


def test_the_second_way_is_taken_only_where_it_is_the_quicker_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    real = batchnorm._Normalise.apply
    monkeypatch.setattr(batchnorm._Normalise, "apply", lambda *a: calls.append(a[-1]) or real(*a))
    x = images((4, 8, 8, 8), dtype=torch.float32)
    module = BatchNorm2d(8)
    module(x)
    assert calls == [8]  # lanes of 8 channels each
    for other in (
        lambda: module(x.contiguous()),
        lambda: copy.deepcopy(module).eval()(x),
        lambda: BatchNorm2d(16)(images((4, 16, 8, 8), dtype=torch.float32)),
        lambda: module(x.half()),
        lambda: BatchNorm2d(8, momentum=None)(x),
    ):
        other()
    assert calls == [8]


def test_a_constant_channel_gives_its_bias() -> None:
    ours, _ = pair(4)
    y = ours(torch.full((2, 4, 4, 4), 3.0, dtype=torch.float64))
    torch.testing.assert_close(y, ours.bias.view(1, 4, 1, 1).expand_as(y))
