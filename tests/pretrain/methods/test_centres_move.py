"""DINO's centres: each moves once a step, to the targets that its own branch was given."""

from __future__ import annotations

import pytest
import torch
from helpers.small_methods import build, encoded

from robustbench_coss import registry

MOMENTUM = 0.9  # of the centre: the published code's (arXiv 2104.14294, section 3.1)


@pytest.mark.parametrize("momentum", [None, 0.25])
@pytest.mark.parametrize("heads", ["separate", "shared"])
def test_a_step_moves_each_branch_s_centre_to_its_own_targets_once(
    heads: str, momentum: float | None
) -> None:
    options = {} if momentum is None else {"centre_momentum": momentum}
    method = build(registry.load("method", "co-dino"), heads=heads, **options)
    draws = torch.Generator().manual_seed(3)
    prefixes = ["", "local_"] if heads == "separate" else [""]
    centres = {prefix: method.branch(prefix)[2].centre for prefix in prefixes}
    with torch.no_grad():
        for _, target in method.momentum_pairs:
            for p in target.parameters():
                p.add_(0.2 * torch.randn(p.shape, generator=draws))
        for centre in centres.values():
            centre.add_(torch.randn(centre.shape, generator=draws))
    before = {prefix: centre.clone() for prefix, centre in centres.items()}
    outputs = encoded(method.train())
    wanted = {}
    with torch.no_grad():
        for prefix in prefixes:
            head = getattr(method, f"target_{prefix}projector")
            u = torch.stack([head(h) for h in outputs.target_pooled]).mean(dim=(0, 1))
            m = MOMENTUM if momentum is None else momentum
            wanted[prefix] = m * before[prefix] + (1 - m) * u
        method.losses(outputs)
    for prefix, centre in centres.items():
        torch.testing.assert_close(centre, wanted[prefix])
        assert not torch.allclose(centre, before[prefix], atol=1e-3)
