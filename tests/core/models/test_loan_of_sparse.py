"""Modules with sparse weights are measured or refused, and given back as any other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.models.wrap import wrap_module


class Sparse(nn.Module):
    """Logits [B, 5] of mean colours by a sparse matrix, in a way that torch has or has not."""

    def __init__(self, works: bool) -> None:
        super().__init__()
        weight = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [0, 0, 0], [1, 1, 0]])
        self.weight = nn.Parameter(weight.to_sparse())
        self.works = works

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3))
        return (
            (self.weight @ mean.T).T
            if self.works
            else nn.functional.linear(mean, self.weight, torch.zeros(5))
        )


def wrapped(module: nn.Module) -> Checkpoint:
    return wrap_module(module, name="s", size=8, mean=(0, 0, 0), std=(1, 1, 1), output="logits")


@pytest.mark.parametrize("works", [True, False])
def test_a_sparse_module_is_measured_or_refused_and_given_back(works: bool) -> None:
    module = Sparse(works).train()
    before = module.weight.detach().to_dense().clone()
    if works:
        found = wrapped(module)
        x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            features = found.encoder(x)
            logits = features if found.head is None else found.head(features)
        torch.testing.assert_close(logits, x.mean(dim=(2, 3)) @ before.T)
    else:
        with pytest.raises(CossError, match="does not take images"):
            wrapped(module)
    assert module.training
    assert module.weight.requires_grad
    assert module.weight.layout == torch.sparse_coo
    assert torch.equal(module.weight.detach().to_dense(), before)
