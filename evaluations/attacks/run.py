"""Adversarial attacks on the images that are still classified rightly.

The runs that each attack consists of, which generators feed them, and what is
checked of their results. Verdicts are those that torchattacks reaches on each image alone: a batch
saves time and changes nothing but rounding. The attacks are in `gradient` and `library`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_coss.evaluations.attacks.ball import verify
from robustbench_coss.evaluations.attacks.draws import streams, uniform
from robustbench_coss.evaluations.attacks.gradient import fgsm, mi_fgsm, pgd_l2, pgd_linf
from robustbench_coss.evaluations.attacks.library import Verdict, apgd, fab, square
from robustbench_coss.evaluations.attacks.names import ATTACKS, L2, LINF
from robustbench_coss.evaluations.protocol import correct
from robustbench_coss.seeds import Name, seed_of

STEP_SHARE = 2.5  # Madry et al. 2018: step = 2.5 · eps / steps reaches any point of the ball
# Croce and Hein 2020 (arXiv 2003.01690), the "standard" version of AutoAttack. torchattacks' own
# class runs 10 steps and as many targets as there are wrong classes.
AUTOATTACK_STEPS = 100
TARGETS = 9
QUERIES = 5_000


@dataclass(frozen=True)
class Strength:
    """How hard an attack tries.

    Attributes:
        eps: radius of the ball, in pixels of [0, 1].
        steps: gradient steps of an iterated attack; AutoAttack has its own.
        restarts: random starts of an attack that has a random part.
    """

    eps: float
    steps: int = 10
    restarts: int = 1


Call = Callable[[nn.Module, Tensor, Tensor, Sequence[torch.Generator]], Verdict]


@dataclass(frozen=True)
class AttackRun:
    """One run over the images that are not broken yet.

    Attributes:
        call: model, images, labels and generators to the images as disturbed last and which of
            them are broken.
        stream: runs of one stream continue each other's draws.
        restart: number of the random start, from 0.
        draws: "" for no generator, "sample" for one per image, "shared" for one for all.
        alone: images are attacked one by one.
    """

    call: Call
    stream: str
    restart: int
    draws: str = "sample"
    alone: bool = False


def runs_of(name: str, strength: Strength, classes: int) -> list[AttackRun]:
    """The runs that an attack consists of, for a model of so many classes."""
    starts = range(strength.restarts if ATTACKS[name].draws else 1)
    return [run for start in starts for run in _runs_of(name, strength, classes, start)]


def _runs_of(name: str, strength: Strength, classes: int, start: int) -> list[AttackRun]:
    norm, eps, steps = ATTACKS[name].norm, strength.eps, strength.steps
    kind = name.removesuffix("-l2").removesuffix("-linf")
    step = STEP_SHARE * eps / steps
    if kind == "fgsm":
        call = judged(lambda model, x, y, _: fgsm(model, x, y, eps))
        return [AttackRun(call, kind, start, draws="")]
    if kind == "mi-fgsm":
        call = judged(lambda model, x, y, _: mi_fgsm(model, x, y, eps, step, steps))
        return [AttackRun(call, kind, start, draws="")]
    if kind == "pgd":
        pgd = pgd_linf if norm == LINF else pgd_l2
        call = judged(lambda model, x, y, own: pgd(model, x, y, eps, step, steps, own))
        return [AttackRun(call, kind, start)]
    if kind in ("apgd-ce", "apgd-dlr"):
        return [_apgd(kind.removeprefix("apgd-"), norm, eps, steps, start)]
    if kind == "fab":
        return list(_fab(norm, eps, steps, classes, start))
    if kind == "square":
        return [_square(norm, eps, start)]
    return [
        _apgd("ce", norm, eps, AUTOATTACK_STEPS, start),
        *_apgd_targeted(norm, eps, AUTOATTACK_STEPS, classes, start),
        *_fab(norm, eps, AUTOATTACK_STEPS, classes, start),
        _square(norm, eps, start),
    ]


def judged(climb: Callable[[nn.Module, Tensor, Tensor, Any], Tensor]) -> Call:
    """An attack judged by the image that it ends with; one that became NaN has found nothing."""

    def call(
        model: nn.Module, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator]
    ) -> Verdict:
        found = climb(model, images, labels, generators)
        usable = torch.isfinite(found).flatten(1).all(dim=1)
        found = torch.where(usable[:, None, None, None], found, images)
        return found, ~correct(model, found, labels)

    return call


def _apgd(loss: str, norm: str, eps: float, steps: int, start: int) -> AttackRun:
    call = partial(apgd, norm=norm, eps=eps, steps=steps, towards=loss)
    return AttackRun(call, f"apgd-{loss}", start)


def _apgd_targeted(
    norm: str, eps: float, steps: int, classes: int, start: int
) -> Iterator[AttackRun]:
    for target in _targets(classes):
        call = partial(apgd, norm=norm, eps=eps, steps=steps, towards=target)
        yield AttackRun(call, "apgd-t", start, alone=norm == L2)


def _fab(norm: str, eps: float, steps: int, classes: int, start: int) -> Iterator[AttackRun]:
    for target in _targets(classes):
        call = partial(fab, norm=norm, eps=eps, steps=steps, target=target, random_start=start > 0)
        yield AttackRun(call, "fab", start, draws="sample" if start else "")


def _square(norm: str, eps: float, start: int) -> AttackRun:
    call = partial(square, norm=norm, eps=eps, queries=QUERIES)
    return AttackRun(call, "square", start, draws="shared")


def _targets(classes: int) -> range:
    return range(2, min(classes, TARGETS + 1) + 1)  # 2 stands for the second largest logit


def run_attack(
    model: nn.Module,
    name: str,
    images: Tensor,
    labels: Tensor,
    own: Sequence[int],
    strength: Strength,
    classes: int,
    key: Sequence[Name],
) -> Verdict:
    """Attack images until they are broken or the attack is at its end.

    Args:
        model: pixels in [0, 1] to logits, in eval mode.
        name: of `names.ATTACKS`.
        images: [B, 3, H, W] float32 in [0, 1], contiguous, not inference tensors; B >= 1.
        labels: [B] int64, the answers that the model gives to `images`.
        own: [B] what each image's draws are keyed by, besides `key`.
        classes: outputs of the model.
        key: what the draws are for.

    Returns:
        The images as disturbed last, [B, 3, H, W], and which of them are broken, [B] bool.

    Raises:
        RuntimeError: a result leaves the ball or the range of pixels.
    """
    disturbed, broken = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    generators: dict[tuple[str, int], list[torch.Generator]] = {}
    for run in runs_of(name, strength, classes):
        rows = (~broken).nonzero().flatten()
        if not len(rows):
            break
        again: tuple[Name, ...] = ("restart", run.restart) if run.restart else ()
        seeds = {
            "": [],
            "shared": [seed_of(*key, *again)],
            "sample": [seed_of(*key, i, *again) for i in own],
        }[run.draws]
        place = (run.stream, run.restart)
        if place not in generators:
            generators[place] = streams(seeds)
        for some in torch.split(rows, 1) if run.alone else [rows]:
            drawn = generators[place]
            if run.draws == "sample":
                drawn = [drawn[i] for i in some.tolist()]
            disturbed[some], broken[some] = run.call(model, images[some], labels[some], drawn)
    verify(images, disturbed, strength.eps, l2=ATTACKS[name].norm == L2)
    return disturbed, broken


def sign_noise(images: Tensor, eps: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Images [B, 3, H, W] with `eps` added or taken away from each value at random, in [0, 1]."""
    return (images + eps * (uniform(generators, images, 0, 1) - 0.5).sign()).clamp(0, 1)
