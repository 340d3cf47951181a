"""Accuracy under small adversarial perturbations: FGSM and PGD through torchattacks.

Attacks see the whole classifier in eval mode. Random sign noise of the same size is the control.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from evaluations.protocol import BaseSuite, Batch, Condition, Subject, correct
from robustbench_coss import seeds
from robustbench_coss.records import Axis, Cell, Check, Metric

LINF_EPS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # in 1/255
L2_EPS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)  # Euclidean norm of pixels in [0, 1], at 32 px
L2_SIZE = 32
STEPS = 10
STEP_SHARE = 2.5  # Madry et al. 2018: step = 2.5 · eps / steps reaches any point of the ball
LINF_ATTACKS = ("fgsm", "pgd-linf")
ATTACKS = (*LINF_ATTACKS, "pgd-l2")
CONTROL = "noise-linf"
SANITY_EPS = 64.0
SANITY = f"pgd-linf@{SANITY_EPS:g}/255"
SANITY_LIMIT = 0.05  # accuracy above this under SANITY means that the attack does not work
TOLERANCE = 1e-5
NORMAL_95 = 1.96


class Adversarial(BaseSuite):
    """FGSM, PGD-L∞ and PGD-L2 over ladders of small budgets.

    Column: `correct`: right on the clean image and still right on the disturbed one. The level is
    epsilon in 1/255 for L∞ and the norm itself for L2.
    """

    name = "adversarial"
    version = 1
    axis = Axis("epsilon (/255; L2: norm)", column_label="robust top-1 (%)")

    def config(self) -> dict[str, Any]:
        return {
            "linf_eps_255": list(LINF_EPS),
            "l2_eps_at_32_px": list(L2_EPS),
            "l2_eps_scaled_by": "size / 32",
            "steps": STEPS,
            "step_size": f"{STEP_SHARE} * eps / steps",
            "random_start": True,
            "sanity_eps_255": SANITY_EPS,
            "torchattacks": version("torchattacks"),
        }

    def conditions(self, subject: Subject) -> list[Condition]:
        scale = subject.encoder.input.size / L2_SIZE
        return [
            Condition("clean", "", 0.0),
            *(
                Condition(f"{group}@{eps:g}/255", group, eps)
                for group in (*LINF_ATTACKS, CONTROL)
                for eps in LINF_EPS
            ),
            *(Condition(f"pgd-l2@{eps * scale:g}", "pgd-l2", eps * scale) for eps in L2_EPS),
            Condition(SANITY, "sanity", SANITY_EPS),
        ]

    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        right = correct(subject, batch.images, batch.labels)
        # An image that is misclassified as it is counts as broken and is not attacked.
        chosen = right.nonzero().flatten()
        if condition.group and len(chosen):
            index = [int(batch.index[i]) for i in chosen.tolist()]
            images, labels = batch.images[chosen].contiguous(), batch.labels[chosen]
            disturbed = disturb(subject, images, labels, index, condition, seed)
            right = right.index_put((chosen,), correct(subject, disturbed, labels))
        return {"correct": right}

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        labels = {
            "pgd-linf": "PGD-Linf top-1",
            "fgsm": "FGSM top-1",
            "pgd-l2": "PGD-L2 top-1",
            CONTROL: "Linf noise top-1",
        }
        return [
            Metric(
                f"adv_{group.replace('-', '_')}",
                label,
                "correct",
                tuple(c.name for c in conditions if c.group == group),
                headline=group == "pgd-linf",
            )
            for group, label in labels.items()
        ]

    def checks(self, cells: Sequence[Cell]) -> list[Check]:
        """Signs of a broken attack, after Carlini et al. 2019, "On Evaluating Adversarial
        Robustness": accuracy that rises with the budget, noise that harms more than the attack,
        accuracy left under a very large budget.
        """
        of = {cell.condition: cell for cell in cells}
        found = [
            _no_rise(attack, sorted((c for c in cells if c.group == attack), key=lambda c: c.level))
            for attack in ATTACKS
        ]
        pairs = [
            (of[f"{CONTROL}@{eps:g}/255"], of[f"pgd-linf@{eps:g}/255"])
            for eps in LINF_EPS
            if {f"{CONTROL}@{eps:g}/255", f"pgd-linf@{eps:g}/255"} <= of.keys()
        ]
        worst = max((_rise(noise, attack) for noise, attack in pairs), default=None)
        if worst is not None:
            found.append(
                Check(
                    "random noise harms no more than PGD-Linf",
                    worst <= 0,
                    f"PGD-Linf minus noise accuracy beyond the 95 % margin: {worst:+.4f} at worst",
                )
            )
        if SANITY in of:
            left = _accuracy(of[SANITY])
            found.append(
                Check(
                    "a very large budget breaks the model",
                    left <= SANITY_LIMIT,
                    f"{left:.1%} right under {SANITY}, at most {SANITY_LIMIT:.0%} expected",
                )
            )
        return [check for check in found if check is not None]


def disturb(
    subject: Subject,
    images: Tensor,
    labels: Tensor,
    index: Sequence[int],
    condition: Condition,
    seed: int,
) -> Tensor:
    """Adversarial (or, for the control, noisy) versions of images.

    The result for a sample is the one that torchattacks gives on the CPU for a batch of that
    sample alone after `torch.manual_seed(seed_of(seed, "adversarial", condition, index))`.

    Args:
        images: [B, 3, H, W] float32 in [0, 1], contiguous, not inference tensors.
        labels: [B] int64.
        index: [B] data set indices.
        condition: one of `Adversarial.conditions`, other than the reference.

    Returns:
        [B, 3, H, W] float32 in [0, 1].

    Raises:
        RuntimeError: the result leaves the ball or the range of pixels.
    """
    own = [seeds.seed_of(seed, Adversarial.name, condition.name, i) for i in index]
    l2 = condition.group == "pgd-l2"
    eps = condition.level if l2 else condition.level / 255
    with torch.enable_grad(), PerSampleDraws(own):
        if condition.group == CONTROL:
            result = (images + eps * (torch.rand_like(images) - 0.5).sign()).clamp(0, 1)
        else:
            result = _attack(subject, condition.group, eps, len(images))(images, labels)
    verify(images, result, eps, l2=l2)
    return result.detach()


def _attack(subject: Subject, group: str, eps: float, batch: int) -> Callable[..., Tensor]:
    model = _ContiguousGradient(subject).eval()
    step = STEP_SHARE * eps / STEPS
    attack: Callable[..., Tensor]
    if group == "fgsm":
        attack = torchattacks.FGSM(model, eps=eps)
    elif group == "pgd-l2":
        # torchattacks averages the loss over the batch, which shrinks each gradient by its size;
        # the guard against division by zero must shrink with it or the step would depend on it.
        guard = 1e-10 / batch
        attack = torchattacks.PGDL2(model, eps=eps, alpha=step, steps=STEPS, eps_for_division=guard)
    else:
        attack = torchattacks.PGD(model, eps=eps, alpha=step, steps=STEPS)
    return attack


class _ContiguousGradient(nn.Module):
    """A classifier whose input gradient is contiguous, as torchattacks' `.view` requires.

    An encoder in channels_last returns gradients in that layout otherwise.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.subject(x.flatten(1).view(x.shape))
        return logits


_IN_PLACE = {torch.Tensor.uniform_, torch.Tensor.normal_}
_FRESH: dict[Any, tuple[Any, Any]] = {
    torch.rand: (torch.empty, torch.Tensor.uniform_),
    torch.randn: (torch.empty, torch.Tensor.normal_),
    torch.rand_like: (torch.empty_like, torch.Tensor.uniform_),
    torch.randn_like: (torch.empty_like, torch.Tensor.normal_),
}


class PerSampleDraws(TorchFunctionMode):
    """While active, uniform and normal draws over a batch come from one generator per sample.

    A library that draws from torch's global generator then gives a sample the same draws
    whichever batch it is in, and the same on every device: row i is what a batch of one would
    have drawn on the CPU after `torch.manual_seed(own_seeds[i])`.

    Raises:
        RuntimeError: a draw whose first dimension is not the batch.
    """

    def __init__(self, own_seeds: Sequence[int]) -> None:
        super().__init__()
        self.generators = [torch.Generator().manual_seed(seed) for seed in own_seeds]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if (func not in _IN_PLACE and func not in _FRESH) or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        kwargs.pop("generator", None)
        if func in _FRESH:
            make, fill = _FRESH[func]
            target, bounds, kwargs = make(*args, **kwargs), [], {}
        else:
            fill, (target, *bounds) = func, args
        if target.dim() == 0 or len(target) != len(self.generators):
            raise RuntimeError(
                f"a draw of shape {tuple(target.shape)} cannot be split over "
                f"{len(self.generators)} samples"
            )
        rows = [
            fill(
                torch.empty(1, *target.shape[1:], dtype=target.dtype),
                *bounds,
                **kwargs,
                generator=g,
            )
            for g in self.generators
        ]
        return target.copy_(torch.cat(rows))


def verify(images: Tensor, disturbed: Tensor, eps: float, *, l2: bool) -> None:
    """Check that disturbed images lie in the ball of radius `eps` and in [0, 1].

    The tolerance is 1e-5, for L2 times the radius where that is above 1 (float32 rounding grows
    with the norm).

    Raises:
        RuntimeError: they do not, or are not finite.
    """
    delta = (disturbed - images).flatten(1)
    size = delta.norm(dim=1) if l2 else delta.abs().amax(dim=1)
    slack = TOLERANCE * max(1.0, eps) if l2 else TOLERANCE
    if not bool((size <= eps + slack).all()):
        raise RuntimeError(f"perturbation of size {size.max():g} exceeds eps = {eps:g}")
    if not bool(((disturbed >= -TOLERANCE) & (disturbed <= 1 + TOLERANCE)).all()):
        raise RuntimeError("adversarial pixels outside [0, 1]")


def _accuracy(cell: Cell) -> float:
    return float(cell.outcomes["correct"].mean())


def _rise(low: Cell, high: Cell) -> float:
    """How far the accuracy of `high` exceeds that of `low`, beyond the 95 % binomial margin."""
    p, q = _accuracy(low), _accuracy(high)
    n = len(low.outcomes["correct"])
    return q - p - NORMAL_95 * math.sqrt((p * (1 - p) + q * (1 - q)) / n)


def _no_rise(attack: str, ladder: Sequence[Cell]) -> Check | None:
    """Check that accuracy does not rise from any budget to a larger one; None below two."""
    steps = [(_rise(a, b), a, b) for i, a in enumerate(ladder) for b in ladder[i + 1 :]]
    if not steps:
        return None
    worst, a, b = max(steps, key=lambda step: step[0])
    return Check(
        f"{attack} accuracy falls with epsilon",
        worst <= 0,
        f"largest rise beyond the 95 % margin: {worst:+.4f}, {a.condition} to {b.condition}",
    )
