"""Nearest neighbours: weighted classification, as while training and in `clean`, and distance."""

from __future__ import annotations

import torch
from torch import Tensor

# Caron et al. 2021 (DINO): weighted kNN with temperature 0.07; k = 20 is their best of 10 … 200.
NEIGHBOURS = 20
TEMPERATURE = 0.07
AT_ONCE = 65_536
"""Bank entries that similarities are taken to at once, which bounds the memory of a batch."""


def nearest_class(features: Tensor, bank: Tensor, labels: Tensor, classes: int) -> Tensor:
    """[B] int64: class with the largest vote of the nearest bank entries.

    Each of the k nearest votes with exp(cosine / T) (Wu et al. 2018, arXiv 1805.01978).

    Args:
        features: [B, D] of unit length.
        bank: [N, D] of unit length, of any float type and on any device: it goes to that of
            `features` a part at a time. With N below k, all entries vote.
        labels: [N] int64.
        classes: number of classes.
    """
    near, which = _nearest(features, bank, NEIGHBOURS)
    votes = features.new_zeros(len(features), classes)
    theirs = labels.to(features.device)[which]
    return votes.scatter_add_(1, theirs, (near / TEMPERATURE).exp()).argmax(dim=1)


def distance_to(features: Tensor, bank: Tensor, k: int) -> Tensor:
    """[B] distance of each to its k-th nearest bank entry (Sun et al. 2022, arXiv 2204.06507).

    Args:
        features, bank: as `nearest_class`; the bank has at least k entries.
    """
    near, _ = _nearest(features, bank, k)
    # Of unit vectors: |a - b|^2 = 2 - 2 a b.
    return (2 - 2 * near[:, -1]).clamp_min(0).sqrt()


def _nearest(features: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """[B, min(k, N)] cosines with the nearest entries of a bank, falling, and which these are."""
    near = features.new_empty(len(features), 0)
    which = torch.empty_like(near, dtype=torch.int64)
    for start in range(0, len(bank), AT_ONCE):
        part = bank[start : start + AT_ONCE].to(features.device, features.dtype)
        best = (features @ part.T).topk(min(k, len(part)), dim=1)
        near = torch.cat([near, best.values], dim=1)
        which = torch.cat([which, start + best.indices], dim=1)
        kept = near.topk(min(k, near.shape[1]), dim=1)
        near, which = kept.values, which.gather(1, kept.indices)
    return near, which
