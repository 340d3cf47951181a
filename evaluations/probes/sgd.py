"""Linear evaluation by stochastic gradient descent, as published: a budget, not an optimum."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.evaluations.probes.design import chunks
from robustbench_coss.seeds import generator

# SimCLR's linear evaluation (Chen et al. 2020, arXiv 2002.05709, appendix B.6): SGD at
# 0.1 · batch / 256 for 90 epochs without any regularisation; its code decays the rate along a
# cosine to zero, without warm-up for this stage.
BASE_LR = 0.1
MOMENTUM = 0.9


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    standardisation: tuple[Tensor, Tensor],
    *,
    batch_size: int,
    epochs: int,
    nesterov: bool,
    seed: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Train on features [N, D] and labels [N], both on the CPU.

    Args:
        standardisation: mean and scale [D] that features are standardised by.
        seed: of the order of the batches.

    Returns:
        Weight [K, D] and bias [K] on the standardised features, on the CPU.
    """
    # The objective is convex, so zero is as good a start as any and needs no draw.
    weight = torch.zeros(classes, features.shape[1], device=device)
    bias = torch.zeros(classes, device=device)
    peak = BASE_LR * batch_size / 256
    optimiser = torch.optim.SGD([weight, bias], lr=peak, momentum=MOMENTUM, nesterov=nesterov)
    mean, scale = (t.float().to(device) for t in standardisation)
    steps = epochs * math.ceil(len(labels) / batch_size)
    step = 0
    for epoch in range(epochs):
        order = torch.randperm(len(labels), generator=generator("probe order", seed, epoch))
        for chosen in chunks(order, batch_size):
            optimiser.param_groups[0]["lr"] = peak * 0.5 * (1 + math.cos(math.pi * step / steps))
            x = (features[chosen].to(device) - mean) / scale
            # The gradient of mean cross-entropy in the logits, written out: with layers this
            # small, autograd costs more than the arithmetic.
            error = F.linear(x, weight, bias).softmax(dim=1)
            error[torch.arange(len(x), device=device), labels[chosen].to(device)] -= 1
            error /= len(x)
            weight.grad, bias.grad = error.T @ x, error.sum(dim=0)
            optimiser.step()
            step += 1
    return weight.detach().cpu(), bias.detach().cpu()
