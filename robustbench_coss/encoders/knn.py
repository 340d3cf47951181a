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
    near = features.new_empty(len(features), 0)
    near_labels = torch.empty_like(near, dtype=torch.int64)
    for start in range(0, len(bank), AT_ONCE):
        part = bank[start : start + AT_ONCE].to(features.device, features.dtype)
        there = labels[start : start + AT_ONCE].to(features.device)
        best = (features @ part.T).topk(min(NEIGHBOURS, len(part)), dim=1)
        near = torch.cat([near, best.values], dim=1)
        near_labels = torch.cat([near_labels, there[best.indices]], dim=1)
        kept = near.topk(min(NEIGHBOURS, near.shape[1]), dim=1)
        near, near_labels = kept.values, near_labels.gather(1, kept.indices)
    votes = features.new_zeros(len(features), classes)
    return votes.scatter_add_(1, near_labels, (near / TEMPERATURE).exp()).argmax(dim=1)


def distance_to(features: Tensor, bank: Tensor, k: int) -> Tensor:
    """[B] distance of each to its k-th nearest bank entry (Sun et al. 2022, arXiv 2204.06507).

    Args:
        features, bank: as `nearest_class`; the bank has at least k entries.
    """
    near = features.new_empty(len(features), 0)
    for start in range(0, len(bank), AT_ONCE):
        part = bank[start : start + AT_ONCE].to(features.device, features.dtype)
        near = torch.cat([near, features @ part.T], dim=1)
        near = near.topk(min(k, near.shape[1]), dim=1).values
    # Of unit vectors: |a - b|^2 = 2 - 2 a b.
    return (2 - 2 * near[:, -1]).clamp_min(0).sqrt()
