"""Where gradient goes: into the targets of a contrast, and into no other target."""

from __future__ import annotations

import pytest
import torch
from helpers.small_methods import build, encoded
from lightly.loss import NTXentLoss
from torch import Tensor

from robustbench_coss import registry
from robustbench_coss.pretrain.methods.losses import BYOLLoss, DINOLoss, InfoNCE, Pairing, nt_xent


def pair(places: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(places)
    shape = (5, places, 8) if places else (5, 8)
    p, u = torch.randn(shape, generator=draws), torch.randn(5, 8, generator=draws)
    return p.requires_grad_(), u.requires_grad_()


@pytest.mark.parametrize("places", [0, 3])
@pytest.mark.parametrize("pairing", [BYOLLoss(), DINOLoss(8, 0.1, 0.9)])
def test_no_gradient_goes_into_what_is_to_be_predicted(pairing: Pairing, places: int) -> None:
    p, u = pair(places)
    pairing(p, u).backward()  # type: ignore[no-untyped-call]
    assert u.grad is None or not u.grad.any()
    assert p.grad is not None
    assert p.grad.any()


@pytest.mark.parametrize("places", [0, 3])
def test_gradient_goes_into_both_sides_of_a_contrast(places: int) -> None:
    p, u = pair(places)
    InfoNCE(0.2)(p, u).backward()  # type: ignore[no-untyped-call]
    q, v = (x.detach().clone().requires_grad_() for x in (p, u))
    total = torch.zeros(())
    rows = q.unsqueeze(1) if q.dim() == 2 else q
    for i in range(5):
        for place in rows[i]:
            similar = torch.stack([torch.cosine_similarity(place, w, dim=0) for w in v]) / 0.2
            total = total - similar[i] + similar.exp().sum().log()
    (total / (5 * max(1, places))).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(p.grad, q.grad)
    torch.testing.assert_close(u.grad, v.grad)
    assert u.grad is not None
    assert u.grad.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["byol", "co-byol", "dino", "co-dino", "mocov3", "co-mocov3"])
def test_the_networks_of_targets_get_no_gradient(name: str) -> None:
    method = build(registry.load("method", name))
    method.losses(encoded(method))["loss"].backward()  # type: ignore[no-untyped-call]
    for online, target in method.momentum_pairs:
        assert all(p.grad is None for p in target.parameters())
        assert any(p.grad is not None and p.grad.any() for p in online.parameters())


@pytest.mark.parametrize("batch", [2, 7])
def test_nt_xent_and_its_gradients_are_those_of_lightly(batch: int) -> None:
    draws = torch.Generator().manual_seed(batch)
    sides = []
    for loss in (lambda a, b: nt_xent(a, b, 0.3), NTXentLoss(0.3)):
        draws.manual_seed(batch)
        views = [torch.randn(batch, 8, generator=draws).requires_grad_() for _ in range(2)]
        value = loss(*views)
        value.backward()
        sides.append([value.detach(), *(view.grad for view in views)])
    for mine, theirs in zip(*sides, strict=True):
        torch.testing.assert_close(mine, theirs)
