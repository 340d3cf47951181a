"""What the ranks of a distributed run tell each other. In a run of one process, nothing changes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.nn.functional import all_gather


def world_size() -> int:
    """Number of processes that share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks in order of rank, with gradient: [B, …] -> [ranks · B, …]."""
    if world_size() == 1:
        return rows
    return torch.cat(all_gather(rows.contiguous()))


@torch.no_grad()
def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over ranks, without gradient."""
    if world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world_size()
