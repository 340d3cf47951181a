"""What the groups named `block` hide in the network is one solid rectangle for each image."""

from __future__ import annotations

import pytest
import torch
from helpers.occluded import in_stages
from torch import Tensor

from robustbench_coss.evaluations.protocol import Condition
from robustbench_coss.evaluations.suites.occlusion import Occlusion
from robustbench_coss.testing import pictures


def is_solid(mask: Tensor) -> bool:
    """Whether what an [h, w] mask sets fills its bounding box."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    return bool(mask.sum() == height * width)


def hidden(monkeypatch: pytest.MonkeyPatch, group: str) -> Tensor:
    """[B, h, w] positions that do not reach the classifier's features as they were."""
    suite, batch, subject = Occlusion(), pictures(40), in_stages()
    suite.prepare(subject, pictures(60, first=900), 32)
    pool, seen = subject.encoder.pool, []

    def spy(local: Tensor, keep: Tensor | None = None) -> Tensor:
        seen.append((local, keep))
        return pool(local, keep)

    monkeypatch.setattr(subject.encoder, "pool", spy)
    suite.measure(subject, batch, Condition(f"{group}@0.5", group, 0.5), 0)
    ((local, keep),) = seen
    if keep is not None:
        return ~keep
    return (local == 0).all(1)


def test_dropped_blocks_are_solid_and_random_positions_are_scattered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert all(map(is_solid, hidden(monkeypatch, "block-drop")))
    # Of 12,870 ways to choose 8 of 16 positions few are rectangles: 40 scattered draws.
    assert not any(map(is_solid, hidden(monkeypatch, "random-drop")))


def test_zeroed_blocks_are_solid(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        clean = (in_stages().encoder.local(pictures(40).images) == 0).all(1)
    zero = hidden(monkeypatch, "block-zero")
    usable = ~clean.any((1, 2))  # images without a position that is zero by itself
    assert usable.sum() >= 10
    assert all(map(is_solid, zero[usable]))


def test_a_rectangle_with_one_more_position_is_not_solid() -> None:
    solid = torch.zeros(4, 4, dtype=torch.bool)
    solid[1:3, 0:4] = True
    assert is_solid(solid)
    solid[0, 0] = True
    assert not is_solid(solid)
