"""Draws are per sample, and no perturbation leaves its ball."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.attacked import PGD, rightly_classified
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustbench_coss.evaluations.attacks import run
from robustbench_coss.evaluations.attacks.ball import verify
from robustbench_coss.evaluations.attacks.draws import PerSampleDraws, SharedDraws, streams
from robustbench_coss.evaluations.protocol import Subject
from robustbench_coss.evaluations.suites.adversarial import Adversarial

# ---- draws ----


@pytest.mark.parametrize(
    "draw",
    [
        lambda n: torch.empty(n, 3, 4, 5).uniform_(-2, 3),
        lambda n: torch.empty(n, 3, 4, 5).normal_(),
        lambda n: torch.zeros(n, 1, 1, 1).uniform_(0, 1),
        lambda n: torch.empty(n, 40).normal_(mean=1.0, std=2.0),
        lambda n: torch.rand(n, 20),
        lambda n: torch.randn((n, 20), dtype=torch.float64),
        lambda n: torch.rand_like(torch.zeros(n, 7)),
        lambda n: torch.randn_like(torch.zeros(n, 7)),
    ],
)
def test_rows_drawn_under_the_mode_are_those_of_a_batch_of_one(
    draw: Callable[[int], Tensor],
) -> None:
    with PerSampleDraws(streams([5, 6, 7])):
        first, second = draw(3), draw(3)
    for i, seed in enumerate([5, 6, 7]):
        torch.manual_seed(seed)
        assert torch.equal(draw(1)[0], first[i])
        assert torch.equal(draw(1)[0], second[i])


def test_a_draw_that_is_not_per_sample_is_refused() -> None:
    with PerSampleDraws(streams([5, 6, 7])), pytest.raises(RuntimeError, match=r"shape \(2, 4\)"):
        torch.rand(2, 4)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_shared_draws_do_not_depend_on_how_many_images_take_part(counts: list[int]) -> None:
    def draw(count: int) -> tuple[Tensor, Tensor]:
        return torch.rand(count, 3, 1, 2), torch.rand([3, 1, 1])

    with SharedDraws(torch.Generator().manual_seed(5)):
        found = [draw(count) for count in counts]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for over_images, single in found:
            expected = draw(1)
            assert torch.equal(over_images, expected[0].expand_as(over_images))
            assert torch.equal(single, expected[1])


# ---- the ball ----


@pytest.mark.parametrize(
    ("delta", "l2", "fails"),
    [
        (0.1, False, False),
        (0.1001, False, True),
        (float("nan"), False, True),
        (0.1 / 12**0.5, True, False),  # 12 pixel values: norm 0.1
        (0.1001 / 12**0.5, True, True),
    ],
)
def test_verify_refuses_perturbations_larger_than_eps(delta: float, l2: bool, fails: bool) -> None:
    images = torch.full((2, 3, 2, 2), 0.5)
    disturbed = images.clone()
    disturbed[1] += delta
    if fails:
        with pytest.raises(RuntimeError, match="exceeds eps"):
            verify(images, disturbed, 0.1, l2=l2)
    else:
        verify(images, disturbed, 0.1, l2=l2)


@pytest.mark.parametrize("value", [-0.05, 1.05])
def test_verify_refuses_pixels_outside_the_range(value: float) -> None:
    images = torch.full((1, 3, 2, 2), float(round(value)))
    with pytest.raises(RuntimeError, match="outside"):
        verify(images, torch.full_like(images, value), 0.1, l2=False)


def test_an_attack_that_leaves_the_ball_stops_the_measurement(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "pgd_linf", lambda model, x, *given: (x + 0.1).clamp(0, 1))
    with pytest.raises(RuntimeError, match="exceeds eps"):
        Adversarial().measure(subject, rightly_classified(subject, 4), PGD, 0)
