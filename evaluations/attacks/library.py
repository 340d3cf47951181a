"""APGD, FAB and Square as torchattacks has them, giving each image of a batch what it gets alone.

Each function takes images [B, 3, H, W], contiguous float32 in [0, 1], labels [B] int64 that the
model gives to them, and CPU generators, and returns the images as disturbed last and which of them
are broken, [B] bool. It calls the run itself: what surrounds it in torchattacks classifies the
images once more and seeds torch's global generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torchattacks
from torch import Tensor, nn

from robustbench_coss.evaluations.attacks.ball import limit, sizes
from robustbench_coss.evaluations.attacks.draws import PerSampleDraws, SharedDraws
from robustbench_coss.evaluations.attacks.gradient import differentiable, finite_rows
from robustbench_coss.evaluations.attacks.names import L2, LINF
from robustbench_coss.evaluations.protocol import correct

NORMS = {LINF: "Linf", L2: "L2"}
Verdict = tuple[Tensor, Tensor]


def apgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generators: Sequence[torch.Generator],
    *,
    norm: str,
    eps: float,
    steps: int,
    towards: str | int,
) -> Verdict:
    """PGD that sets its own step size (Croce and Hein 2020, arXiv 2003.01690).

    Args:
        generators: one per image.
        towards: a larger loss, "ce" or "dlr", or a class, k for that of the kth largest logit. With
            a class and L2, torchattacks takes the first image's step size for all: give it one.
    """
    watch = Watch(model, images, labels, norm, eps)
    with lent(watch), PerSampleDraws(generators):
        if isinstance(towards, str):
            run = torchattacks.APGD(watch, norm=NORMS[norm], eps=eps, steps=steps, loss=towards)
        else:
            run = torchattacks.APGDT(watch, norm=NORMS[norm], eps=eps, steps=steps)
            run.target_class = towards
        run.attack_single_run(images, labels)
        return watch.best, watch.broken


def fab(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generators: Sequence[torch.Generator],
    *,
    norm: str,
    eps: float,
    steps: int,
    target: int,
    random_start: bool,
) -> Verdict:
    """The nearest image across the boundary to the class with the `target`th largest logit (Croce
    and Hein 2020, arXiv 1907.02044).

    Args:
        generators: one per image with a random start, none otherwise.
    """
    watch = Watch(model, images, labels, norm, eps, any_step=False)
    with lent(watch), PerSampleDraws(generators), torch.no_grad():
        run = torchattacks.FAB(watch, norm=NORMS[norm], eps=eps, steps=steps, multi_targeted=True)
        run.target_class = target
        found = run.attack_single_run_targeted(images, None, use_rand_start=random_start).detach()
        seen, noted = watch.broken, watch.best
    # It looks for the nearest image across the boundary, wherever that is.
    inside = sizes(images, found, norm) <= eps
    found = torch.where(inside[:, None, None, None], found, images)
    found = torch.where(seen[:, None, None, None], noted, found)
    return found, seen | ~correct(model, found, labels)


def square(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generators: Sequence[torch.Generator],
    *,
    norm: str,
    eps: float,
    queries: int,
) -> Verdict:
    """Random search without gradients (Andriushchenko et al. 2020, arXiv 1912.00049).

    Args:
        generators: one, shared by all images.
    """
    finite = Finite(model)
    with lent(finite), SharedDraws(*generators), torch.no_grad():
        run = torchattacks.Square(finite, norm=NORMS[norm], eps=eps, n_queries=queries)
        run.init_hyperparam(images)
        found = run.attack_single_run(images, labels)[1]
    return found, ~correct(model, found, labels)


class Finite(nn.Module):
    """A classifier whose outputs that are not finite are zeros."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return finite_rows(self.model(x))[0]

    def forget(self) -> None:
        del self.model


class Watch(nn.Module):
    """The classifier as an attack sees it, which notes the images that break it on the way.

    Outputs that are not finite break an image under every attack. Wrong answers at any step do so
    where the attack itself counts them (`any_step`). A broken image is not passed through the
    classifier again; its logits are zeros from then on, without a gradient. Every call must be
    over the whole batch.

    Attributes:
        best: [B, 3, H, W] the images as given, or as they were when they broke.
        broken: [B] bool.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        norm: str,
        eps: float,
        *,
        any_step: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.norm, self.eps, self.any_step = model, norm, eps, any_step
        self.images, self.labels = images, labels
        self.best = images.clone()
        self.broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.classes = 0

    def forward(self, x: Tensor) -> Tensor:
        # Gives a contiguous gradient, as torchattacks' `.view` requires; an encoder in
        # channels_last returns gradients in that layout otherwise.
        x = x.flatten(1).view(x.shape)
        live = ~self.broken & torch.isfinite(x.detach()).flatten(1).all(dim=1)
        rows = live.nonzero().flatten()
        if not len(rows):
            return x.new_zeros(len(x), self.classes) + x.flatten(1)[:, :0].sum()
        chosen = x if len(rows) == len(x) else x[rows]
        logits, finite = finite_rows(differentiable(self.model, chosen))
        self.classes = logits.shape[1]
        self._note(x.detach(), rows, logits.detach(), finite)
        if len(rows) == len(x):
            return logits
        zeros = logits.new_zeros(len(x), self.classes)
        return zeros.index_copy(0, rows, logits)

    def _note(self, x: Tensor, rows: Tensor, logits: Tensor, finite: Tensor) -> None:
        hit = ~finite
        if self.any_step:
            hit |= logits.argmax(dim=1) != self.labels[rows]
        rows = rows[hit]
        inside = sizes(self.images[rows], x[rows], self.norm) <= limit(self.eps, self.norm)
        rows = rows[inside]
        self.best[rows] = x[rows]
        self.broken[rows] = True

    def forget(self) -> None:
        del self.model, self.images, self.labels, self.best, self.broken


@contextmanager
def lent(module: Finite | Watch) -> Iterator[None]:
    """Lets go of the model and the images in the end.

    An attack of torchattacks holds what it was given in a cycle, whose memory is free only at the
    next collection of garbage.
    """
    try:
        yield
    finally:
        module.forget()
