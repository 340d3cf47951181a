"""Accuracy under small adversarial perturbations: white-box and black-box attacks, their worst
case, and the checks that tell a robust model from a broken attack.

`evaluations.attacks.run` runs an attack, `evaluations.attacks.sanity_checks` asks whether to
believe it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_coss.errors import CossError, did_you_mean
from robustbench_coss.evaluations.answers import answers
from robustbench_coss.evaluations.attacks.ball import verify
from robustbench_coss.evaluations.attacks.draws import streams
from robustbench_coss.evaluations.attacks.gradient import flat_gradient
from robustbench_coss.evaluations.attacks.names import ATTACKS, L2, LINF
from robustbench_coss.evaluations.attacks.run import (
    AUTOATTACK_STEPS,
    QUERIES,
    STEP_SHARE,
    TARGETS,
    Strength,
    run_attack,
    sign_noise,
)
from robustbench_coss.evaluations.attacks.sanity_checks import (
    CONTROL,
    GRADIENT,
    MORE,
    MORE_STEPS,
    SANITY,
    SCRATCH,
    TRANSFER,
    UNBOUNDED_EPS,
    at,
    run_checks,
)
from robustbench_coss.evaluations.attacks.surrogate import Surrogate, train_surrogate
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite, correct
from robustbench_coss.evaluations.suites.options import levels
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.columns import Column
from robustbench_coss.records.confidence import CONFIDENCE, CONFIDENCES, TRUE_CLASS
from robustbench_coss.records.record import Axis, Cell, Check, Metric
from robustbench_coss.seeds import seed_of

MOST_STEPS = 10_000  # of an attack, and restarts: more is a slip, or meant to stall
LINF_EPS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # in 1/255
L2_EPS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)  # Euclidean norm of pixels in [0, 1], at 32 px
L2_SIZE = 32
STANDARD = ("fgsm", "mi-fgsm", "pgd-linf", "apgd-ce", "pgd-l2")
WORST = {LINF: "worst-linf", L2: "worst-l2"}
NORM_LABEL = {LINF: "ℓ∞", L2: "ℓ2"}
PGD = "pgd-linf"
PANELS = {
    LINF: {
        WORST[LINF]: "Worst case, ℓ∞",
        "fgsm": "FGSM",
        "mi-fgsm": "MI-FGSM",
        PGD: "PGD, ℓ∞",
        "apgd-ce": "APGD-CE",
        "apgd-dlr": "APGD-DLR",
        "fab": "FAB",
        "square": "Square",
        "autoattack": "AutoAttack",
    },
    L2: {
        WORST[L2]: "Worst case, ℓ2",
        "pgd-l2": "PGD, ℓ2",
        "apgd-ce-l2": "APGD-CE, ℓ2",
        "apgd-dlr-l2": "APGD-DLR, ℓ2",
        "fab-l2": "FAB, ℓ2",
        "square-l2": "Square, ℓ2",
        "autoattack-l2": "AutoAttack, ℓ2",
    },
}
# Attacks Dong et al. 2018 made to transfer; the surrogate's own gradients lead it.
TRANSFERRED = "mi-fgsm"


class Adversarial(Suite):
    """Attacks over ladders of small budgets, and the worst of them.

    Column: `correct`: right on the clean image and under the attack at this budget and at every
    smaller one. The level is epsilon in 1/255 for ℓ∞ and the norm itself for ℓ2. The condition
    "gradient" also has `flat`: the clean image's input gradient is zero.

    Args:
        attacks: names of `evaluations.attacks.names.ATTACKS`; "standard" or "all" of them.
        eps: ℓ∞ budgets in 1/255, below 64.
        eps_l2: L2 budgets for images of 32 px, multiplied by size / 32 for others.
        steps: gradient steps of the iterated attacks; AutoAttack has its own number.
        restarts: random starts of the attacks that draw.
        full_precision: take gradients and verdicts in 32 bit whatever `--precision` is: rounded
            gradients hide attacks. Otherwise both are as asked for.

    Raises:
        CossError: an option is not of these.
    """

    name = "adversarial"
    version = 2
    axis = Axis("epsilon (/255; ℓ2: norm)", column_label="robust top-1 (%)")
    about = SuiteAbout(
        title="Adversarial attacks",
        does="Attacks on the whole classifier with small budgets: what they leave is an upper "
        "bound of robust accuracy. The control is random noise of the same size.",
        order=40,
        panels=PANELS[LINF] | PANELS[L2],
        x_label="ε (/255)",
        x_labels=dict.fromkeys(PANELS[L2], "ε (ℓ2 norm)"),
        scale="symlog",
        hidden=(SANITY,),
        controls={CONTROL: (WORST[LINF], "fgsm", PGD)},
        control="random noise of the same size",
        captions={
            "": "Top-1 against the budget of the attack. Thin lines: random noise of that size."
        },
    )
    linked = True
    trains_for: ClassVar = (TRANSFER,)

    def __init__(
        self,
        attacks: str | Sequence[str] = "standard",
        eps: float | Sequence[float] = LINF_EPS,
        eps_l2: float | Sequence[float] = L2_EPS,
        steps: int = 10,
        restarts: int = 1,
        full_precision: bool = True,
    ) -> None:
        self.attacks = choose(attacks)
        self.eps = levels("adversarial.eps", eps, below=UNBOUNDED_EPS)
        self.eps_l2 = levels("adversarial.eps_l2", eps_l2)
        self.steps = _count("adversarial.steps", steps)
        self.restarts = _count("adversarial.restarts", restarts)
        if not isinstance(full_precision, bool):
            raise CossError("adversarial.full_precision must be true or false")
        self.full_precision = full_precision
        self._surrogate: Surrogate | None = None
        self._agreement = 0.0

    def config(self) -> dict[str, Any]:
        auto = any(name.startswith("autoattack") for name in self.attacks)
        square = auto or any(name.startswith("square") for name in self.attacks)
        return {
            "attacks": list(self.attacks),
            "linf_eps_255": list(self.eps),
            "l2_eps_at_32_px": list(self.eps_l2),
            "l2_eps_scaled_by": "size / 32",
            "steps": self.steps,
            "step_size": f"{STEP_SHARE} * eps / steps",
            "restarts": self.restarts,
            "random_start": True,
            "targets": TARGETS,
            **({"autoattack_steps": AUTOATTACK_STEPS} if auto else {}),
            **({"square_queries": QUERIES} if square else {}),
            "verdict": "broken at a smaller eps counts at every larger one",
            "sanity_eps_255": UNBOUNDED_EPS,
            "sanity_steps": MORE * self.steps,
            "torchattacks": version("torchattacks"),
        }

    def conditions(self, subject: Subject) -> list[Condition]:
        scale = subject.encoder.input.size / L2_SIZE
        ladder = []
        for name in self.attacks:
            if ATTACKS[name].norm == LINF:
                ladder += [Condition(at(name, e), name, e, kind=name) for e in self.eps]
            else:
                budgets = [e * scale for e in self.eps_l2]
                ladder += [Condition(f"{name}@{e:g}", name, e, kind=name) for e in budgets]
        return [Condition("clean", "", 0.0), *ladder, *self._sanity()]

    def _sanity(self) -> list[Condition]:
        """The control and what else only the checks need; most of it is held against PGD-ℓ∞."""

        def own(kind: str, eps: float) -> Condition:
            return Condition(at(kind, eps), SANITY, eps, kind=kind)

        found = [Condition(GRADIENT, SANITY, 0.0, kind=GRADIENT)]
        control = []
        if PGD in self.attacks:
            middle, largest = self.eps[(len(self.eps) - 1) // 2], self.eps[-1]
            found += [own(MORE_STEPS, middle), own(SCRATCH, largest), own(TRANSFER, largest)]
            control = [Condition(at(CONTROL, e), CONTROL, e, kind=CONTROL) for e in self.eps]
        return [*control, *found, own(SCRATCH, UNBOUNDED_EPS)]

    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        for name in self.attacks:
            if subject.classes < ATTACKS[name].classes:
                raise CossError(
                    f"attack {name!r} needs at least {ATTACKS[name].classes} classes and this "
                    f"model has {subject.classes}; leave it out of adversarial.attacks"
                )
        if PGD in self.attacks:
            self._surrogate, self._agreement = train_surrogate(subject, reference)

    def summary(self) -> dict[str, Any]:
        """The share of training images on which the surrogate agrees with the model."""
        return {"surrogate_agreement": self._agreement} if self._surrogate is not None else {}

    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        earlier = list(batch.earlier.values()) if condition.group in self.attacks else []
        known = earlier[-1] if earlier else {}
        if CONFIDENCE not in known:  # else what a smaller budget broke stays as it is
            known = answers(subject, batch.images, batch.labels)
        columns = {name: column.clone() for name, column in known.items()}
        if earlier:
            columns["correct"] = torch.stack([found["correct"] for found in earlier]).all(dim=0)
        right = columns["correct"]
        if condition.name == GRADIENT:
            columns["flat"] = torch.zeros_like(columns["correct"])
        rows = right.nonzero().flatten()
        if not condition.group or not len(rows):
            return columns
        own = [int(batch.index[i]) for i in rows.tolist()]
        images, labels = batch.images[rows].contiguous(), batch.labels[rows]
        if condition.name == GRADIENT:
            columns["flat"][rows] = flat_gradient(subject, images, labels)
        else:
            found, broken = self.disturb(subject, images, labels, own, condition, seed)
            for name, column in (answers(subject, found, labels) | {"correct": ~broken}).items():
                columns[name][rows] = column
        return columns

    def disturb(
        self,
        subject: Subject,
        images: Tensor,
        labels: Tensor,
        own: Sequence[int],
        condition: Condition,
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        """Adversarial (or, for the control, noisy) versions of rightly classified images.

        Args:
            images: [B, 3, H, W] float32 in [0, 1], contiguous; B >= 1.
            labels: [B] int64.
            own: [B] data set indices.
            condition: one of `conditions` with a budget.

        Returns:
            The images in the end, [B, 3, H, W], and which of them are broken, [B] bool.

        Raises:
            RuntimeError: a result leaves the ball or the range of pixels.
        """
        key = (seed, self.name, condition.name)
        kind = condition.kind
        l2 = kind in ATTACKS and ATTACKS[kind].norm == L2
        eps = condition.level if l2 else condition.level / 255
        model: torch.nn.Module = subject
        if kind == CONTROL:
            noisy = sign_noise(images, eps, streams([seed_of(*key, i) for i in own]))
            verify(images, noisy, eps, l2=False)
            return noisy, ~correct(subject, noisy, labels)
        attack, strength = kind, Strength(eps, self.steps, self.restarts)
        if kind in (SCRATCH, MORE_STEPS):
            attack = PGD
            steps = self.steps * (MORE if kind == MORE_STEPS else 1)
            strength = Strength(eps, steps, self.restarts)
        elif kind == TRANSFER:
            if self._surrogate is None:
                raise RuntimeError("prepare() must be called before a transferred attack")
            attack, model = TRANSFERRED, self._surrogate
            strength = Strength(eps, self.steps)
        found, broken = run_attack(
            model, attack, images, labels, own, strength, subject.classes, key
        )
        return found, broken if model is subject else ~correct(subject, found, labels)

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        worst = []
        for norm, group in WORST.items():
            rungs = dict.fromkeys(
                _worst_name(norm, c.level)
                for c in conditions
                if c.group in self.attacks and ATTACKS[c.group].norm == norm
            )
            if rungs:
                label = f"Worst-case {NORM_LABEL[norm]} top-1"
                worst.append(_metric(group, label, tuple(rungs), headline=norm == LINF))
        labels = {name: ATTACKS[name].label for name in self.attacks} | {CONTROL: "ℓ∞ noise"}
        return worst + [
            _metric(group, f"{label} top-1", names, headline=group == PGD)
            for group, label in labels.items()
            if (names := tuple(c.name for c in conditions if c.group == group))
        ]

    def derived(self, cells: Sequence[Cell]) -> list[Cell]:
        """Right under every attack of a norm at a budget: `worst-linf@2/255`, `worst-l2@0.5`."""
        found = []
        for norm, group in WORST.items():
            names = {name for name in self.attacks if ATTACKS[name].norm == norm}
            parts = [cell for cell in cells if cell.group in names]
            for level in dict.fromkeys(cell.level for cell in parts):
                rung = [cell for cell in parts if cell.level == level]
                problem = "; ".join(dict.fromkeys(c.problem for c in rung if c.problem))
                name = _worst_name(norm, level)
                cell = Cell(name, group, level, _worst(rung), problem=problem, kind=group)
                found.append(cell)
        return found

    def checks(self, cells: Sequence[Cell]) -> list[Check]:
        return run_checks(cells)

    def close(self) -> None:
        self._surrogate = None


def choose(attacks: str | Sequence[str]) -> tuple[str, ...]:
    """The attacks asked for, each once, in the order of `ATTACKS`.

    Raises:
        CossError: none is named, or one is unknown.
    """
    asked = attacks.split(",") if isinstance(attacks, str) else attacks
    several = list(asked) if isinstance(asked, (list, tuple)) else [asked]
    wanted: set[str] = set()
    for name in (part.strip() if isinstance(part, str) else part for part in several):
        if name in ("standard", "all"):
            wanted |= set(STANDARD if name == "standard" else ATTACKS)
        elif isinstance(name, str) and name in ATTACKS:
            wanted.add(name)
        else:
            hint = did_you_mean(str(name), ATTACKS) or f"known: {', '.join(ATTACKS)}"
            raise CossError(f"unknown attack {name!r} in adversarial.attacks; {hint}")
    if not wanted:
        raise CossError("adversarial.attacks names no attack; give standard, all or some names")
    return tuple(name for name in ATTACKS if name in wanted)


def _count(option: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_STEPS:
        got = repr(value)[:20]
        raise CossError(f"{option} must be a whole number from 1 to {MOST_STEPS:,}, got {got}")
    return value


def _worst(rung: Sequence[Cell]) -> dict[str, Column]:
    """Outcomes of each image under the attack that did most: one that broke it, and of several, or
    if none did, the one that left the true class the least probability."""
    right = np.stack([cell.outcomes["correct"] for cell in rung])
    if not all(TRUE_CLASS in cell.outcomes for cell in rung):
        return {"correct": np.asarray(right.all(axis=0))}
    left = np.stack([cell.outcomes[TRUE_CLASS] for cell in rung]).astype(np.int16)
    most = np.argmin(left + 1000 * right, axis=0)
    names = ("correct", *CONFIDENCES)
    return {k: np.choose(most, [cell.outcomes[k] for cell in rung]) for k in names}


def _worst_name(norm: str, level: float) -> str:
    return at(WORST[LINF], level) if norm == LINF else f"{WORST[L2]}@{level:g}"


def _metric(group: str, label: str, names: tuple[str, ...], *, headline: bool) -> Metric:
    return Metric(f"adv_{group.replace('-', '_')}", label, "correct", names, headline=headline)
