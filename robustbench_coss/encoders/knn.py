"""Weighted k-nearest-neighbour classification, the one used while training and in `clean`."""

from __future__ import annotations

from lightly.utils.benchmarking import knn_predict
from torch import Tensor

# Caron et al. 2021 (DINO): weighted kNN with temperature 0.07; k = 20 is their best of 10 … 200.
NEIGHBOURS = 20
TEMPERATURE = 0.07


def nearest_class(features: Tensor, bank: Tensor, labels: Tensor, classes: int) -> Tensor:
    """[B] int64: class with the largest vote of the nearest bank entries.

    Args:
        features: [B, D] of unit length.
        bank: [D, N] of unit length; with N below k, all entries vote.
        labels: [N] int64.
        classes: number of classes.
    """
    ranked: Tensor = knn_predict(
        features,
        bank,
        labels,
        num_classes=classes,
        knn_k=min(NEIGHBOURS, len(labels)),
        knn_t=TEMPERATURE,
    )
    return ranked[:, 0]
