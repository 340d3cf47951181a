"""The attacks by gradients on a linear classifier, where the worst perturbation is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_coss.evaluations.attacks.draws import normal, streams, uniform
from robustbench_coss.evaluations.attacks.gradient import (
    fgsm,
    flat_gradient,
    into_l2_ball,
    mi_fgsm,
    pgd_l2,
    pgd_linf,
)

EPS, STEPS = 0.1, 20
STEP = 2.5 * EPS / STEPS


class Linear(nn.Module):
    """Two logits, 0 and w · x: for class 1, the loss rises along -w everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3 * 4 * 4, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(score), score], dim=1)


@pytest.fixture
def given() -> tuple[Linear, Tensor, Tensor]:
    """Images far enough from black and white that no pixel is clipped."""
    images = 0.4 + 0.2 * torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return Linear(), images, torch.ones(6, dtype=torch.int64)


def worst_linf(model: Linear, images: Tensor) -> Tensor:
    return images - EPS * model.w.detach().sign().view(1, 3, 4, 4)


def test_each_linf_attack_finds_the_worst_corner_of_a_linear_classifier(
    given: tuple[Linear, Tensor, Tensor],
) -> None:
    model, images, labels = given
    expected = worst_linf(model, images)
    own = streams(range(6))
    for found in (
        fgsm(model, images, labels, EPS),
        mi_fgsm(model, images, labels, EPS, STEP, STEPS),
        pgd_linf(model, images, labels, EPS, STEP, STEPS, own),  # 2.5 eps cross the whole ball
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_pgd_l2_ends_near_the_worst_point_of_the_sphere(
    given: tuple[Linear, Tensor, Tensor],
) -> None:
    model, images, labels = given
    direction = -(model.w / model.w.norm()).detach().view(1, 3, 4, 4)
    found = pgd_l2(model, images, labels, EPS, STEP, STEPS, streams(range(6)))
    reached = ((found - images) * direction).sum(dim=(1, 2, 3))
    assert (reached > 0.95 * EPS).all()
    assert ((found - images).flatten(1).norm(dim=1) <= EPS + 1e-6).all()


def test_pixels_at_the_end_of_their_range_are_not_moved_beyond_it(
    given: tuple[Linear, Tensor, Tensor],
) -> None:
    model, _, labels = given
    for value in (0.0, 1.0):
        images = torch.full((6, 3, 4, 4), value)
        found = fgsm(model, images, labels, EPS)
        torch.testing.assert_close(found, worst_linf(model, images).clamp(0, 1))


def test_an_image_whose_outputs_become_infinite_stays_there_and_the_others_go_on(
    given: tuple[Linear, Tensor, Tensor],
) -> None:
    model, images, labels = given
    seen: list[Tensor] = []

    class Breaking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            logits: Tensor = model(x)
            return torch.where((torch.arange(6) == 2)[:, None], torch.inf, logits)

    found = mi_fgsm(Breaking(), images, labels, EPS, STEP, STEPS)
    assert torch.equal(found[2], images[2])
    assert len(seen) == STEPS
    rest = torch.arange(6) != 2
    assert torch.equal(found[rest], mi_fgsm(model, images, labels, EPS, STEP, STEPS)[rest])


def test_a_gradient_of_zero_is_called_flat() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] * torch.tensor([[1.0], [0.0]])

    flat = flat_gradient(Constant(), torch.rand(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))
    assert flat.tolist() == [False, True]


def test_a_point_beyond_the_l2_ball_is_drawn_straight_back() -> None:
    images = torch.full((1, 3, 1, 1), 0.5)
    beyond = images + torch.tensor([0.3, 0.0, 0.4]).view(1, 3, 1, 1)  # at a distance of 0.5
    expected = images + torch.tensor([0.06, 0.0, 0.08]).view(1, 3, 1, 1)
    torch.testing.assert_close(into_l2_ball(images, beyond, 0.1), expected)
    torch.testing.assert_close(into_l2_ball(images, beyond, 0.6), beyond)


def test_draws_of_a_sample_do_not_depend_on_the_others() -> None:
    like = torch.empty(3, 3, 2, 2)
    whole = uniform(streams([5, 6, 7]), like, -2, 3), normal(streams([5, 6, 7]), like)
    for i, seed in enumerate([5, 6, 7]):
        torch.manual_seed(seed)
        assert torch.equal(torch.empty(1, 3, 2, 2).uniform_(-2, 3)[0], whole[0][i])
        torch.manual_seed(seed)
        assert torch.equal(torch.empty(1, 3, 2, 2).normal_()[0], whole[1][i])
