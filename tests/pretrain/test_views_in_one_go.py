"""Views that go through an encoder in one piece, held to PyTorch's BatchNorm on one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from robustbench_coss.encoders import batchnorm
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain import distributed


def plain(encoder: Encoder) -> Encoder:
    """A copy with PyTorch's BatchNorm."""
    twin = copy.deepcopy(encoder)
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = nn.BatchNorm2d
    return twin


def learn(encoder: Encoder, views: list[Tensor], one_by_one: bool) -> list[Tensor]:
    """Maps, gradients and statistics after a loss on the last maps and on an early one."""
    each = Encoder.each_maps if one_by_one else type(encoder).each_maps
    maps = each(encoder, views)
    last = [encoder.pool(found["stage4"]) for found in maps]
    loss = sum((number + 1) * h.square().sum() for number, h in enumerate(last))
    (loss + maps[0]["stage2"].sin().sum()).backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert len(gradients) == len(list(encoder.parameters()))
    return [m for found in maps for m in found.values()] + gradients + list(encoder.buffers())


@pytest.mark.parametrize(
    ("width", "size", "count"),
    [(1 / 8, 16, 2), (1 / 16, 18, 3), (1 / 8, 9, 2), (1 / 4, 16, 2)],
)
def test_it_is_as_if_each_view_came_alone(width: float, size: int, count: int) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("rf29_resnet18", size=32, width=width).double()
    encoder = encoder.to(memory_format=torch.channels_last)
    views = [
        (torch.rand(3, 3, size, size).double() * (number + 1)).contiguous(
            memory_format=torch.channels_last
        )
        for number in range(count)
    ]
    reference = plain(encoder)
    found = learn(encoder, views, one_by_one=False)
    wanted = learn(reference, views, one_by_one=True)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)


def test_small_encoders_of_one_process_take_views_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, large = (build_encoder("rf29_resnet18", size=32, width=w) for w in (1 / 8, 1 / 4))
    synchronised = copy.deepcopy(small)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    distributed.synchronise_batchnorm(synchronised, torch.device("cpu"))
    views = [torch.rand(2, 3, 16, 16) for _ in range(2)]
    seen = []

    def look(_: nn.Module, given: tuple[Tensor]) -> None:
        seen.append(len(given[0]))
        raise KeyError  # the rest does not matter

    for encoder in (small, large, synchronised, copy.deepcopy(small).eval()):
        encoder.conv1.register_forward_pre_hook(look)
        with pytest.raises(KeyError):
            encoder.each_local(views)
    assert seen == [4, 2, 2, 2]
    assert batchnorm._parts == 1
