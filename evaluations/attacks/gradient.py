"""Attacks that climb the cross-entropy by its gradient: FGSM, MI-FGSM, and PGD in two norms.

All take images [B, 3, H, W], contiguous float32 in [0, 1], and labels [B], and give images within
`eps` of them and in [0, 1]. The loss is averaged over the batch, as in torchattacks, to whose
results these are held. An image at which the model's outputs are not finite stays there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robustbench_coss.evaluations.attacks.draws import normal, uniform

# Keeps a vanishing gradient from being divided by zero; torchattacks' value for one image.
SMALLEST_NORM = 1e-10


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """The fast gradient sign method (Goodfellow et al. 2015, arXiv 1412.6572)."""

    def move(x: Tensor, gradient: Tensor) -> Tensor:
        return (x + eps * gradient.sign()).clamp(0, 1)

    return _climb(model, images, labels, 1, move)


def mi_fgsm(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float, step: float, steps: int
) -> Tensor:
    """The iterated method with momentum (Dong et al. 2018, arXiv 1710.06081), decay 1.

    An image whose gradient is zero becomes NaN: the paper divides by the gradient's L1 norm.
    """
    momentum = torch.zeros_like(images)

    def move(x: Tensor, gradient: Tensor) -> Tensor:
        momentum.add_(gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True))
        return into_linf_ball(images, x + step * momentum.sign(), eps)

    return _climb(model, images, labels, steps, move)


def pgd_linf(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    step: float,
    steps: int,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Projected gradient descent (Madry et al. 2018, arXiv 1706.06083) from a uniform start.

    `generators`: one per image, on the CPU.
    """
    start = (images + uniform(generators, images, -eps, eps)).clamp(0, 1)

    def move(x: Tensor, gradient: Tensor) -> Tensor:
        return into_linf_ball(images, x + step * gradient.sign(), eps)

    return _climb(model, start, labels, steps, move)


def pgd_l2(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    step: float,
    steps: int,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """The same in the L2 norm, from a start of random direction and uniform length."""
    direction = normal(generators, images)
    length = uniform(generators, images[:, :1, :1, :1], 0, 1)
    start = (images + direction * (length / norms(direction) * eps)).clamp(0, 1)
    # The gradient shrinks with the batch that its loss is averaged over; so must its guard.
    smallest = SMALLEST_NORM / len(images)

    def move(x: Tensor, gradient: Tensor) -> Tensor:
        gradient = gradient / (norms(gradient) + smallest)
        return into_l2_ball(images, x + step * gradient, eps)

    return _climb(model, start, labels, steps, move)


def _climb(
    model: nn.Module,
    start: Tensor,
    labels: Tensor,
    steps: int,
    move: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    x = start
    for _ in range(steps):
        gradient, finite = loss_gradient(model, x, labels)
        x = torch.where(finite[:, None, None, None], move(x, gradient), x)
    return x


def loss_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, reduction: str = "mean"
) -> tuple[Tensor, Tensor]:
    """The cross-entropy's gradient at images, [B, 3, H, W], and which outputs are finite, [B] bool.

    The gradient is contiguous whatever layout the model computes in.
    """
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        logits, finite = finite_rows(differentiable(model, x))
        loss = cross_entropy(logits, labels, reduction=reduction)
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient.contiguous(), finite


def flat_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """[B] bool: whether the cross-entropy's gradient at an image is zero throughout or not finite.

    Such an image gives an attack by gradients no direction.
    """
    gradient, finite = loss_gradient(model, images, labels, reduction="sum")
    gradient = gradient.flatten(1)
    return (gradient == 0).all(dim=1) | ~torch.isfinite(gradient).all(dim=1) | ~finite


def differentiable(model: nn.Module, x: Tensor) -> Tensor:
    """Logits [B, K] of images whose gradient is zero, not missing, where a model cuts it off."""
    logits: Tensor = model(x)
    return logits + x.flatten(1)[:, :0].sum() if x.requires_grad else logits


def finite_rows(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits with rows that are not finite set to zero, and which rows are finite, [B] bool."""
    finite = torch.isfinite(logits.detach()).all(dim=1)
    return torch.where(finite[:, None], logits, torch.zeros_like(logits)), finite


def norms(x: Tensor) -> Tensor:
    """Euclidean norms [B, 1, 1, 1] of [B, 3, H, W]."""
    found: Tensor = x.flatten(1).norm(dim=1)
    return found.view(-1, 1, 1, 1)


def into_linf_ball(images: Tensor, x: Tensor, eps: float) -> Tensor:
    """The nearest to `x` of what is within `eps` of the images in every value, and in [0, 1]."""
    return (images + (x - images).clamp(-eps, eps)).clamp(0, 1)


def into_l2_ball(images: Tensor, x: Tensor, eps: float) -> Tensor:
    """`x` drawn back to within a distance of `eps` of the images, then into [0, 1]."""
    delta = x - images
    return (images + delta * (eps / norms(delta)).clamp(max=1)).clamp(0, 1)
