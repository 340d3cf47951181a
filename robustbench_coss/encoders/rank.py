"""How many directions a representation really uses."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-7  # of Garrido et al. 2023, for 32 bit
ROWS, WIDEST = 16_384, 2_048
"""Rows that count at most, and features above which no more rows than these do: what is decomposed
is the smaller product."""


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the normalised singular values of centred features.

    Roy and Vetterli 2007, "The effective rank". From 1 (one direction) to min(N - 1, D); 0 if the
    features do not vary.

    Args:
        features: [N, D], finite. Of more rows than 16,384 (with over 2,048 features: than 2,048),
            some are taken, spread evenly.
    """
    x = _rows(features).double()
    shares = _shares(x - x.mean(dim=0))
    return 0.0 if shares is None else _perplexity(shares[shares > 0])


def rankme(features: Tensor) -> float:
    """RankMe (Garrido et al. 2023, arXiv 2210.02885): exp(-sum p_k ln p_k) with
    p_k = s_k / sum s + 1e-7, s the singular values of features as they are, not centred.

    From 1 to min(N, D), but for the 1e-7; 0 if the features are all 0.

    Args:
        features: as `effective_rank`.
    """
    x = _rows(features).double()
    shares = _shares(x)
    if shares is None:
        return 0.0
    every = torch.zeros(min(x.shape), dtype=torch.float64, device=x.device)
    every[: len(shares)] = shares
    return _perplexity(every + EPSILON)


def _rows(features: Tensor) -> Tensor:
    most = ROWS if features.shape[1] <= WIDEST else WIDEST
    return features[:: -(-len(features) // most)]


def _shares(x: Tensor) -> Tensor | None:
    """The singular values of [N, D] that are no rounding, over their sum; None if that is 0."""
    values = torch.linalg.eigvalsh(x.T @ x if len(x) > x.shape[1] else x @ x.T)
    # Squares that are rounding of the largest one have roots that are not small beside it.
    singular = values[values > values[-1] * 1e-13].clamp_min(0).sqrt()
    total = singular.sum()
    return singular / total if float(total) > 0 else None


def _perplexity(shares: Tensor) -> float:
    return float((-(shares * shares.log()).sum()).exp())
