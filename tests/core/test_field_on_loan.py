"""The field by gradient of encoders that cannot be copied, and what is left of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from robustbench_coss.encoders.receptive_field import field_by_gradient
from robustbench_coss.models.checkpoint import build_encoder


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_encoder_that_cannot_be_copied_is_measured_and_left_as_it_was(
    mode: Callable[[], AbstractContextManager[None]], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16).to(dtype).train()
    encoder.lock = threading.Lock()  # type: ignore[assignment]
    encoder.layer1.eval()  # type: ignore[union-attr]
    encoder.conv1.weight.requires_grad_(False)  # type: ignore[union-attr]
    with mode():
        encoder.local(torch.rand(2, 3, 32, 32, dtype=dtype))  # moves the statistics
    parameters = dict(encoder.named_parameters())
    buffers = {k: (b.data_ptr(), b.clone()) for k, b in encoder.named_buffers()}
    before = {k: (p.data_ptr(), p.detach().clone(), p.requires_grad) for k, p in parameters.items()}
    flags = [m.training for m in encoder.modules()]
    with mode():
        assert field_by_gradient(encoder, 29) == 29  # Araujo's formula, see test_encoders
    assert dict(encoder.named_parameters()) == parameters
    for key, parameter in parameters.items():
        where, value, wanted = before[key]
        assert (parameter.data_ptr(), parameter.requires_grad) == (where, wanted), key
        assert torch.equal(parameter, value), key
    for key, buffer in encoder.named_buffers():
        assert buffer.data_ptr() == buffers[key][0], key
        assert torch.equal(buffer, buffers[key][1]), key
    assert [m.training for m in encoder.modules()] == flags
