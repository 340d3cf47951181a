"""How alike local representations are: cosines, effective rank, CKA. Functions of tensors only."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.encoders.base import Encoder

CKA_SIDE = 4
"""Rows and columns of positions that are compared by CKA: 16 positions are 120 pairs."""


def mean_direction(local: Tensor) -> Tensor:
    """[B, C, h, w] to [B, C] float64: mean of the local representations scaled to unit length.

    A local representation of length zero stays zero.
    """
    return F.normalize(local.double(), dim=1).mean(dim=(2, 3))


def cosine_within(local: Tensor) -> Tensor:
    """Mean cosine over all unordered pairs of distinct local representations of an image.

    With unit vectors u_i, i = 1 … N: (‖Σ u_i‖² − Σ ‖u_i‖²) / (N (N − 1)), which costs N instead of
    N² products. A pair with a vector of length zero counts as cosine 0.

    Args:
        local: [B, C, h, w] with h·w ≥ 2.

    Returns:
        [B] float64 in [−1, 1].
    """
    unit = F.normalize(local.double().flatten(2), dim=1)
    count = unit.shape[2]
    total = unit.sum(dim=2).square().sum(dim=1)
    return (total - unit.square().sum(dim=(1, 2))) / (count * (count - 1))


def cosine_local_global(encoder: Encoder, local: Tensor) -> Tensor:
    """[B] float32: mean over positions of `each_local_global`."""
    batch, _, height, width = local.shape
    total = torch.zeros(batch, device=local.device)
    for cosine in each_local_global(encoder, local):
        total += cosine
    return total / (height * width)


def each_local_global(encoder: Encoder, local: Tensor) -> Iterator[Tensor]:
    """[B] float32 for each position, row by row: cosine of pool(that position) with pool(all)."""
    batch, _, height, width = local.shape
    whole = encoder.pool(local).float()
    for position in range(height * width):
        keep = torch.zeros(batch, height * width, dtype=torch.bool, device=local.device)
        keep[:, position] = True
        alone = encoder.pool(local, keep=keep.view(batch, height, width)).float()
        yield F.cosine_similarity(alone, whole, dim=1)


def effective_rank(local: Tensor) -> Tensor:
    """exp(entropy of the normalised singular values) of each image's n² × C matrix.

    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".

    Args:
        local: [B, C, h, w].

    Returns:
        [B] float64 in 1 … min(n², C); 1 for a matrix of zeros.
    """
    values = torch.linalg.svdvals(local.double().flatten(2))
    share = values / values.sum(dim=1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    entropy: Tensor = torch.special.entr(share).sum(dim=1)
    return entropy.exp()


def spread_positions(shape: tuple[int, int], side: int = CKA_SIDE) -> list[tuple[int, int]]:
    """(row, column) of at most side × side positions, evenly spread over a map (h, w)."""
    rows, columns = (
        [int((i + 0.5) * length / min(side, length)) for i in range(min(side, length))]
        for length in shape
    )
    return [(row, column) for row in rows for column in columns]


def cka_matrix(features: Tensor) -> Tensor:
    """Linear CKA of every pair of positions over the same images, corrected for their number.

    CKA (Kornblith et al. 2019, arXiv 1905.00414) is HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)) of the
    Gram matrices K = X Xᵀ, L = Y Yᵀ. With the estimator of HSIC used there, independent features
    of C equally strong channels over N images reach C / (C + N) instead of 0: 0.8 at C = 2048,
    N = 512. So HSIC is estimated without bias (Song et al. 2012, JMLR 13), as the inner product of
    U-centred Gram matrices (Székely and Rizzo 2014, arXiv 1310.2926).

    Args:
        features: [P, N, C], N ≥ 4 images.

    Returns:
        [P, P] float64, symmetric, at most 1 and 0 on average where positions are independent (so
        it may fall a little below); 0 for a position that is the same for all images.
    """
    positions, images, _ = features.shape
    if images < 4:
        raise ValueError(f"CKA without bias needs at least 4 images, got {images}")
    centred = torch.empty(positions, images * images, dtype=torch.float64)
    for i, x in enumerate(features.double()):
        x = x - x.mean(dim=0)  # changes nothing but rounding
        gram = (x @ x.T).fill_diagonal_(0)
        total = gram.sum(dim=0)
        gram -= (total[:, None] + total[None, :]) / (images - 2)
        gram += total.sum() / ((images - 1) * (images - 2))
        centred[i] = gram.fill_diagonal_(0).flatten()
    length = centred.norm(dim=1, keepdim=True)
    scale = length.amax().clamp_min(torch.finfo(torch.float64).tiny)
    unit = torch.where(length > 1e-12 * scale, centred / length, torch.zeros_like(centred))
    return unit @ unit.T
