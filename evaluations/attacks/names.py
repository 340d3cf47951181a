"""Which attacks can be asked for by name. Imports none of them, which takes seconds."""

from __future__ import annotations

from dataclasses import dataclass

LINF, L2 = "linf", "l2"


@dataclass(frozen=True)
class Attack:
    """An attack that can be asked for.

    Attributes:
        label: as metrics call it.
        norm: "linf" or "l2".
        draws: whether it has a random part, so that a restart can find more.
        classes: how many classes it needs.
    """

    label: str
    norm: str
    draws: bool = True
    classes: int = 2


ATTACKS = {
    "fgsm": Attack("FGSM", LINF, draws=False),
    "mi-fgsm": Attack("MI-FGSM", LINF, draws=False),
    "pgd-linf": Attack("PGD-ℓ∞", LINF),
    "pgd-l2": Attack("PGD-ℓ2", L2),
    "apgd-ce": Attack("APGD-CE", LINF),
    "apgd-ce-l2": Attack("APGD-CE-ℓ2", L2),
    # The loss divides by a difference of the first and the third largest logit.
    "apgd-dlr": Attack("APGD-DLR", LINF, classes=3),
    "apgd-dlr-l2": Attack("APGD-DLR-ℓ2", L2, classes=3),
    "fab": Attack("FAB-T", LINF),
    "fab-l2": Attack("FAB-T-ℓ2", L2),
    "square": Attack("Square", LINF),
    "square-l2": Attack("Square-ℓ2", L2),
    # The targeted loss looks at the four largest logits.
    "autoattack": Attack("AutoAttack", LINF, classes=4),
    "autoattack-l2": Attack("AutoAttack-ℓ2", L2, classes=4),
}

DOES = {
    "fgsm": "One step along the sign of the gradient.",
    "mi-fgsm": "Steps along the sign of an accumulated gradient.",
    "pgd": "Steps along the gradient, from random starts.",
    "apgd-ce": "PGD that chooses its own steps, on the cross-entropy.",
    "apgd-dlr": "PGD that chooses its own steps, on a ratio of differences of logits.",
    "fab": "The nearest point across the boundary to each of several classes.",
    "square": "Random squares, without gradients.",
    "autoattack": "APGD-CE, targeted APGD and FAB, and Square, one after the other.",
}
"""How attacks go about it, by their names without the norm."""
