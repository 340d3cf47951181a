"""How many directions a representation really uses."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS, WIDEST = 16_384, 2_048
"""Rows that count at most, and features above which no more rows than these do: what is decomposed
is the smaller product."""


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the normalised singular values of centred features.

    Roy and Vetterli 2007, "The effective rank"; of representations: Garrido et al. 2023 (RankMe),
    arXiv 2210.02885. From 1 (one direction) to min(N - 1, D); 0 if the features do not vary.

    Args:
        features: [N, D], finite. Of more rows than 16,384 (with over 2,048 features: than 2,048),
            some are taken, spread evenly.
    """
    most = ROWS if features.shape[1] <= WIDEST else WIDEST
    x = features[:: -(-len(features) // most)].double()
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
