"""A linear probe on single local representations, beside one on global representations.

Both are ridge regressions of the classes, fitted to the same few training images in the same
way, one vector per image; so what sets their accuracies apart is what they read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_coss.evaluations.probes.linear import accuracy, fold

# In units of a standardised feature's sum of squares. Every fifth image chooses among them.
PENALTIES = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)
HELD_OUT = 5


@dataclass(frozen=True)
class Ridge:
    """A fitted probe.

    Attributes:
        classifier: [B, D] to [B, K], on the CPU.
        penalty: the one of `PENALTIES` that was chosen.
        held_out_top1: share of the held-out images it gets right with this penalty.
    """

    classifier: nn.Linear
    penalty: float
    held_out_top1: float


def fit_ridge(features: Tensor, labels: Tensor, classes: int) -> Ridge:
    """Fit a linear classifier by ridge regression of the one-hot labels.

    Every fifth row is held out to choose the penalty (the larger where two tie); the classifier is
    then fitted to all rows with it.

    Args:
        features: [N, D], N ≥ 2, finite, on the CPU.
        labels: [N] in 0 … classes - 1.
    """
    held_out = torch.arange(len(labels)) % HELD_OUT == min(HELD_OUT, len(labels)) - 1
    path = ridge_path(features[~held_out], labels[~held_out], classes)
    scores = [accuracy(fit, features[held_out], labels[held_out]) for fit in path]
    best = scores.index(max(scores))
    classifier = ridge_path(features, labels, classes)[best]
    return Ridge(classifier, PENALTIES[best], scores[best])


def ridge_path(features: Tensor, labels: Tensor, classes: int) -> list[nn.Linear]:
    """Ridge regressions of one-hot labels on standardised features, one for each of `PENALTIES`.

    Each minimises ‖Y − b − Z W‖² + λ N ‖W‖², Z the features standardised by their mean and
    standard deviation (features that do not vary are left out), so that W = (ZᵀZ + λ N)⁻¹ Zᵀ Y.

    Args:
        features: [N, D], labels: [N], both on the CPU.

    Returns:
        Classifiers on the features as they come, with the standardisation folded in.
    """
    x = features.double()
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    # Beside its own size a feature that varies by less is rounding noise.
    alive = std > 1e-6 * mean.abs().clamp_min(1e-6)
    z = torch.where(alive, (x - mean) / std, 0)
    targets = nn.functional.one_hot(labels, classes).double()
    bias = targets.mean(dim=0)
    # Features are centred, so the bias is the mean target and drops out of the rest. The same W is
    # Zᵀ (ZZᵀ + λ N)⁻¹ Y: the smaller of the two matrices is decomposed, once for all λ.
    wide = z.shape[1] > z.shape[0]
    values, vectors = torch.linalg.eigh(z @ z.T if wide else z.T @ z)
    rotated = vectors.T @ ((targets - bias) if wide else z.T @ (targets - bias))
    scale = torch.where(alive, std, 1)
    found = []
    for penalty in PENALTIES:
        shrunk = vectors @ (rotated / (values.clamp_min(0) + penalty * len(x))[:, None])
        weight = z.T @ shrunk if wide else shrunk
        found.append(fold(weight.T, bias, mean, scale).requires_grad_(False))
    return found


def local_channels(local: Tensor) -> Tensor:
    """[C] bool: channels of [B, C, h, w] that differ between positions of one image or more.

    What is the same everywhere, such as the class token that a ViT's map carries along, belongs
    to the image and to none of its positions.
    """
    flat = local.flatten(2)
    return (flat != flat[:, :, :1]).any(dim=2).any(dim=0)


def one_position(local: Tensor, position: Tensor) -> Tensor:
    """[B, C]: the local representation of each image at `position` [B], counted row by row."""
    flat = local.flatten(2)
    rows = torch.arange(len(flat), device=flat.device)
    return flat[rows, :, position.to(flat.device)]
