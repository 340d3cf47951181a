"""Attacks by name, and the verdicts of torchattacks called by hand."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustbench_coss.evaluations.attacks.names import ATTACKS
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, correct
from robustbench_coss.evaluations.suites.adversarial import Adversarial
from robustbench_coss.testing import pictures, split

FGSM = Condition("fgsm@2/255", "fgsm", 2.0)
MI_FGSM = Condition("mi-fgsm@2/255", "mi-fgsm", 2.0)
PGD = Condition("pgd-linf@2/255", "pgd-linf", 2.0)
PGD_L2 = Condition("pgd-l2@0.25", "pgd-l2", 0.25)


def rightly_classified(subject: Subject, count: int) -> Batch:
    batch = pictures(2 * count)
    right = correct(subject, batch.images, batch.labels).nonzero().flatten()[:count].tolist()
    assert len(right) == count
    return split(batch, right)


def at(name: str, eps: float) -> Condition:
    l2 = ATTACKS[name].norm == "l2"
    return Condition(f"{name}@{eps:g}" + ("" if l2 else "/255"), name, eps)


def verdicts(
    subject: Subject, batch: Batch, condition: Condition, seed: int = 3, **options: Any
) -> Tensor:
    suite = Adversarial(attacks=[condition.group], **options)
    return suite.measure(subject, batch, condition, seed)["correct"]
