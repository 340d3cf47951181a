"""Optimisers of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustbench_coss.pretrain.recipe import OptimizerOptions


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose gradients are scaled layer by layer (You et al. 2017, equation 6).

    The update of a parameter w with gradient g and weight decay d is r · (g + d · w), with
    r = trust · ‖w‖ / (‖g‖ + d · ‖w‖ + 1e-8); 1 where ‖w‖ is 0, and 0 where ‖g‖ is. Parameters
    without weight decay are not scaled, as in SimCLR and BYOL. That is lightly's LARS, without its
    two questions to a GPU for each parameter, each of which waits until all work before is done.

    Args:
        groups: of parameters; a group may have a weight decay of its own.
        trust: the trust coefficient.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        momentum: float,
        weight_decay: float,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; `closure` computes loss and gradients before it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(weights, [p.grad for p in weights], group)
        return loss

    def _update(self, weights: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
        decay, momentum = group["weight_decay"], group["momentum"]
        if decay:
            size, slope = (torch.stack(torch._foreach_norm(x)) for x in (weights, updates))
            ratio = group["trust"] * size / (slope + decay * size + 1e-8)
            ratio = torch.where(slope == 0, 0.0, torch.where(size == 0, 1.0, ratio))
            updates = list(torch._foreach_add(updates, weights, alpha=decay))
            torch._foreach_mul_(updates, list(ratio.unbind()))
        if momentum:
            states = [self.state[p] for p in weights]
            for state, weight in zip(states, weights, strict=True):
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
            kept = [state["momentum_buffer"] for state in states]
            torch._foreach_mul_(kept, momentum)
            torch._foreach_add_(kept, updates)
            updates = kept
        torch._foreach_add_(weights, updates, alpha=-group["lr"])


def build_optimizer(
    options: OptimizerOptions, groups: list[dict[str, Any]], lr: float, fused: bool
) -> torch.optim.Optimizer:
    """The optimiser of a recipe at a scaled learning rate; LARS has no fused form."""
    decay = options.weight_decay
    if options.name == "lars":
        return LARS(groups, lr=lr, momentum=options.momentum, weight_decay=decay)
    if options.name == "sgd":
        return torch.optim.SGD(
            groups, lr=lr, momentum=options.momentum, weight_decay=decay, fused=fused
        )
    return torch.optim.AdamW(groups, lr=lr, weight_decay=decay, fused=fused)
