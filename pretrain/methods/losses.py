"""Losses between predictions and targets, one per family of methods.

Each serves the global branch of a method and its local-global term alike: predictions may be one
per sample, or several that share the sample's target. All of it is in 32 bit, in mixed precision
too: bf16 holds a cosine near 1 to 0.004, which a temperature of 0.1 makes 0.04 of a logit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_coss.pretrain.distributed import gather, mean_over_ranks, rank


class Pairing(nn.Module):
    """A loss between predictions and targets, with the state that it keeps, if any."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Mean loss, a scalar.

        Args:
            predictions: [B, K], or [B, N, K] with N predictions of one target each.
            targets: [B, K].
        """
        raise TypeError(f"{type(self).__name__} must define forward()")

    def observe(self, targets: list[Tensor]) -> None:
        """See the targets of a step, one [B, K] per view, after its loss was computed."""


def _beside(targets: Tensor, predictions: Tensor) -> Tensor:
    """Targets [B, K] in a shape that broadcasts over the predictions of each sample."""
    return targets.unsqueeze(1) if predictions.dim() == 3 else targets


class BYOLLoss(Pairing):
    """BYOL's 2 - 2·cos (Grill et al. 2020, equation 2). No gradient goes into the targets."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        targets = _beside(targets.detach(), predictions)
        return 2 - 2 * F.cosine_similarity(predictions.float(), targets.float(), dim=-1).mean()


def _products(rows: Tensor, others: Tensor) -> Tensor:
    """[M, N] inner products of [M, K] and [N, K] in 32 bit, which autocast would round."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ others.T


class InfoNCE(Pairing):
    """Tell a sample's own target from those of all other samples, on all ranks.

    -log(exp(cos(p, u⁺) / T) / Σ_u exp(cos(p, u) / T)), times `scale` (van den Oord et al. 2018,
    equation 4). Gradient goes into the targets unless they come without.

    Args:
        temperature: T.
        scale: factor on the loss.
    """

    def __init__(self, temperature: float, scale: float = 1.0) -> None:
        super().__init__()
        self.temperature, self.scale = temperature, scale

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        batch = len(targets)
        own = rank() * batch + torch.arange(batch, device=targets.device)
        if predictions.dim() == 3:
            own = own.repeat_interleave(predictions.shape[1])
            predictions = predictions.flatten(0, 1)
        others = gather(F.normalize(targets.float(), dim=1))
        logits = _products(F.normalize(predictions.float(), dim=1), others) / self.temperature
        return self.scale * F.cross_entropy(logits, own)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Tell the other view of an image from both views of all others, on all ranks (NT-Xent).

    Chen et al. 2020, arXiv 2002.05709, equation 1; gradient goes into both.

    Args:
        first, second: projections of either view [B, K].
        temperature: T.
    """
    batch = len(first)
    views = [F.normalize(view.float(), dim=1) for view in (first, second)]
    every = torch.cat([gather(view) for view in views])
    logits = _products(torch.cat(views), every) / temperature
    own = rank() * batch + torch.arange(batch, device=first.device)
    places = torch.cat([own, own + len(every) // 2])
    itself = torch.arange(len(every), device=first.device) == places[:, None]
    return F.cross_entropy(logits.masked_fill(itself, -torch.inf), places.roll(batch))


class DINOLoss(Pairing):
    """DINO's cross-entropy between a sharpened, centred teacher and a student.

    -Σ_k softmax((t - c) / T_t)_k · log softmax(s / T_s)_k, where the centre c follows the mean of
    the teacher's outputs (Caron et al. 2021, arXiv 2104.14294, equations 1 and 4).

    Args:
        size: K, number of prototypes.
        student_temperature: T_s.
        centre_momentum: of the moving average c.

    Attributes:
        temperature: T_t, set by the method as training goes on.
    """

    centre: Tensor

    def __init__(self, size: int, student_temperature: float, centre_momentum: float) -> None:
        super().__init__()
        self.student_temperature, self.centre_momentum = student_temperature, centre_momentum
        self.temperature = student_temperature
        self.register_buffer("centre", torch.zeros(size))

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        wanted = F.softmax((targets.detach().float() - self.centre) / self.temperature, dim=-1)
        given = F.log_softmax(predictions.float() / self.student_temperature, dim=-1)
        return -(_beside(wanted, predictions) * given).sum(dim=-1).mean()

    @torch.no_grad()
    def observe(self, targets: list[Tensor]) -> None:
        """Move the centre towards the mean over views, samples and ranks."""
        mean = mean_over_ranks(torch.stack([t.float().mean(dim=0) for t in targets]).mean(dim=0))
        self.centre.lerp_(mean, 1 - self.centre_momentum)


def across_views(predictions: list[Tensor], targets: list[Tensor], pairing: Pairing) -> Tensor:
    """Sum over the targets of the mean loss of all *other* views' predictions.

    Args:
        predictions: [B, K] per view; views without a target follow those that have one.
        targets: [B, K] per view.
    """
    total = targets[0].new_zeros(())
    for view, target in enumerate(targets):
        others = [p for number, p in enumerate(predictions) if number != view]
        total = total + pairing(others[0] if len(others) == 1 else torch.stack(others, 1), target)
    return total
