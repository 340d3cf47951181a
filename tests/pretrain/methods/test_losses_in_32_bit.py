"""In mixed precision, losses are what their formulas give of the same projections."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustbench_coss.pretrain.methods.losses import BYOLLoss, DINOLoss, InfoNCE, nt_xent

Loss = Callable[[Tensor, Tensor], Tensor]
K, T = 64, 0.1


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def contrast(similar: Tensor, own: Tensor) -> Tensor:
    """-log of the share that each row's own column has."""
    logits = similar / T
    return (logits.logsumexp(dim=1) - logits[torch.arange(len(own)), own]).mean()


def both_views(p: Tensor, t: Tensor) -> Tensor:
    every = torch.cat([unit(p[:, 0]), unit(t)])
    similar = (every @ every.T).masked_fill(torch.eye(len(every), dtype=torch.bool), -torch.inf)
    return contrast(similar, torch.arange(len(every)).roll(len(t)))


LOSSES: dict[str, tuple[Loss, Loss]] = {
    "BYOL": (BYOLLoss(), lambda p, t: (2 - 2 * (unit(p) * unit(t)[:, None]).sum(-1)).mean()),
    "MoCo v3": (
        InfoNCE(T, 2 * T),
        lambda p, t: (
            2
            * T
            * contrast(
                unit(p).flatten(0, 1) @ unit(t).T,
                torch.arange(len(t)).repeat_interleave(p.shape[1]),
            )
        ),
    ),
    "SimCLR": (lambda p, t: nt_xent(p[:, 0], t, T), both_views),
    "DINO": (
        DINOLoss(K, T, 0.9),
        lambda p, t: -((t / T).softmax(-1)[:, None] * (p / T).log_softmax(-1)).sum(-1).mean(),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_of_a_loss_is_rounded_to_bf16(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    targets = torch.randn(32, K, generator=draw)
    # Nearly aligned, as late in training: 2 - 2 cos is about 0.01, less than bf16 tells apart.
    predictions = targets[:, None] + 0.1 * torch.randn(32, 3, K, generator=draw)
    given = [x.bfloat16().requires_grad_() for x in (predictions, targets)]
    plain = [x.detach().double().requires_grad_() for x in given]
    loss, formula = LOSSES[name]
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(*given)
    expected = formula(*plain)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    # Towards the predictions; the gradient of bf16 inputs comes in bf16.
    (mine,), (theirs,) = (
        torch.autograd.grad(x, y[:1]) for x, y in ((found, given), (expected, plain))
    )
    assert (mine.double() - theirs).norm() < 2**-8 * theirs.norm()
