"""What a perturbation may be: its size in a norm, and the check that it stays in its ball."""

from __future__ import annotations

from torch import Tensor

from robustbench_coss.evaluations.attacks.names import L2, LINF

TOLERANCE = 1e-5


def sizes(images: Tensor, disturbed: Tensor, norm: str) -> Tensor:
    """[B]: the norm ("linf" or "l2") of each image's perturbation."""
    delta = (disturbed - images).flatten(1)
    return delta.norm(dim=1) if norm == L2 else delta.abs().amax(dim=1)


def limit(eps: float, norm: str) -> float:
    """The size that a perturbation may have: 1e-5 above `eps`, for L2 times the radius where that
    is above 1 (float32 rounding grows with the norm).
    """
    return eps + TOLERANCE * (max(1.0, eps) if norm == L2 else 1.0)


def verify(images: Tensor, disturbed: Tensor, eps: float, *, l2: bool) -> None:
    """Check that disturbed images lie in the ball of radius `eps` and in [0, 1], up to rounding.

    Raises:
        RuntimeError: they do not, or are not finite.
    """
    norm = L2 if l2 else LINF
    size = sizes(images, disturbed, norm)
    if not bool((size <= limit(eps, norm)).all()):
        raise RuntimeError(f"perturbation of size {size.max():g} exceeds eps = {eps:g}")
    if not bool(((disturbed >= -TOLERANCE) & (disturbed <= 1 + TOLERANCE)).all()):
        raise RuntimeError("adversarial pixels outside [0, 1]")
