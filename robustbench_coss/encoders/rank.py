"""How many directions a representation really uses."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 2_048
"""Rows that are enough where there are more features than these: the smaller product is taken."""


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the normalised singular values of centred features.

    Roy and Vetterli 2007, "The effective rank"; of representations: Garrido et al. 2023 (RankMe),
    arXiv 2210.02885. From 1 (one direction) to min(N - 1, D); 0 if the features do not vary.

    Args:
        features: [N, D], finite; of more than 2,048 features the first 2,048 rows count.
    """
    x = features if features.shape[1] <= ROWS else features[:ROWS]
    x = x.double()
    x = x - x.mean(dim=0)
    values = torch.linalg.eigvalsh(x.T @ x if len(x) > x.shape[1] else x @ x.T)
    # Squares that are rounding of the largest one have roots that are not small beside it.
    singular = values[values > values[-1] * 1e-13].clamp_min(0).sqrt()
    total = singular.sum()
    if not float(total) > 0:
        return 0.0
    shares = singular / total
    shares = shares[shares > 0]
    return float((-(shares * shares.log()).sum()).exp())
