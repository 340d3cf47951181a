"""The sanity checks: on made-up outcomes, on an honest model, and on models that mask gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from statsmodels.stats.weightstats import DescrStatsW
from torch import Tensor

from robustbench_coss.evaluations.attacks.sanity_checks import excess
from robustbench_coss.evaluations.attacks.surrogate import train_surrogate
from robustbench_coss.evaluations.protocol import Batch, Subject, correct
from robustbench_coss.evaluations.suites.adversarial import Adversarial
from robustbench_coss.records.record import Cell, Check
from robustbench_coss.testing import pictures, tiny_subject

SCRATCH = "PGD-ℓ∞ finds no less with a larger budget"
UNBOUNDED = "a very large budget breaks the model"
NOISE = "random noise breaks no more than PGD-ℓ∞"
SINGLE = "a single step breaks no more than PGD-ℓ∞"
TRANSFER = "a transferred attack breaks no more than PGD-ℓ∞"
MORE = "5 times the steps break hardly more"
HELP = "5 times the steps do not help the model"
FLAT = "input gradients do not vanish"

HEALTHY = {
    "fgsm@1/255": 0.6,
    "fgsm@2/255": 0.5,
    "pgd-linf@1/255": 0.5,
    "pgd-linf@2/255": 0.3,
    "noise-linf@1/255": 0.8,
    "noise-linf@2/255": 0.8,
    "more-steps@1/255": 0.5,
    "from-scratch@2/255": 0.3,
    "transfer@2/255": 0.7,
    "from-scratch@64/255": 0.0,
}


def cells(**changed: float) -> list[Cell]:
    """Cells of 1,000 images; the first ones are those that stay right."""
    accuracy = HEALTHY | changed
    made = [
        Cell(
            name,
            kind if kind in ("fgsm", "pgd-linf", "noise-linf") else "sanity",
            float(level.removesuffix("/255")),
            {"correct": np.arange(1000) < round(1000 * share)},
        )
        for name, share in accuracy.items()
        for kind, _, level in [name.partition("@")]
        if kind != "flat"
    ]
    right = np.arange(1000) < 800
    flat = np.arange(1000) < accuracy.get("flat", 0)
    return [*made, Cell("gradient", "sanity", 0.0, {"correct": right, "flat": flat})]


def failed(**changed: float) -> list[str]:
    return [c.name for c in Adversarial().checks(cells(**changed)) if not c.passed]


def test_a_healthy_measurement_passes_all_checks() -> None:
    checks = Adversarial().checks(cells())
    assert [c.name for c in checks] == [
        SCRATCH,
        UNBOUNDED,
        NOISE,
        SINGLE,
        TRANSFER,
        MORE,
        HELP,
        FLAT,
    ]
    assert failed() == []


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"from-scratch@2/255": 0.55}, [SCRATCH]),
        ({"from-scratch@64/255": 0.06}, [UNBOUNDED]),
        ({"from-scratch@64/255": 0.05}, []),
        ({"noise-linf@1/255": 0.4}, [NOISE]),
        ({"fgsm@2/255": 0.25}, [SINGLE]),
        ({"transfer@2/255": 0.25}, [TRANSFER]),
        ({"more-steps@1/255": 0.4}, [MORE]),
        ({"more-steps@1/255": 0.6}, [HELP]),
        ({"flat": 9}, [FLAT]),  # of 800
        ({"flat": 8}, []),
    ],
)
def test_each_check_fails_for_what_it_is_about(changed: dict[str, float], names: list[str]) -> None:
    assert failed(**changed) == names


def test_differences_within_the_margin_and_a_point_do_not_fail() -> None:
    # 20 of 1,000 images: mean .02, margin 1.96 √(.02 · .98 / 1000) = .0087, beyond it .0113.
    assert failed(**{"transfer@2/255": 0.28}) == [TRANSFER]
    # 18 of 1,000: margin 1.96 √(.018 · .982 / 1000) = .0082, beyond it .0098.
    assert failed(**{"transfer@2/255": 0.282}) == []


def test_checks_without_their_conditions_are_left_out() -> None:
    kept = [c for c in cells() if c.group == "sanity" and c.condition != "more-steps@1/255"]
    assert [c.name for c in Adversarial("fgsm").checks(kept)] == [UNBOUNDED, FLAT]


def test_the_excess_is_the_lower_end_of_the_normal_interval_of_paired_differences() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.random(400) < 0.6, draw.random(400) < 0.5
    difference = DescrStatsW(a.astype(float) - b, ddof=0)
    # statsmodels divides by n - 1 on the way from the variance of a value to that of a mean.
    error = difference.std_mean * math.sqrt(399 / 400)
    assert excess(a, b) == pytest.approx(difference.mean - 1.96 * error)


# ---- models ----


class Shattered(torch.autograd.Function):
    """The identity, with a gradient whose signs depend on digits of the input nobody sees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * torch.sin(1e5 * x).sign()


def behind(gate: Callable[[Tensor], Tensor]) -> Subject:
    """The tiny classifier, seeing its input through a gate."""
    subject = tiny_subject()
    inside = subject.encoder.local
    subject.encoder.local = lambda x: inside(gate(x))  # type: ignore[method-assign]
    return subject


def saturated() -> Subject:
    """The tiny classifier with logits 10,000 times as large: the softmax is 0 or 1."""
    subject = tiny_subject()
    with torch.no_grad():
        subject.classifier.weight *= 1e4
        subject.classifier.bias *= 1e4
    return subject


def measured(subject: Subject) -> tuple[list[Cell], dict[str, Check]]:
    suite = Adversarial(["fgsm", "pgd-linf"], eps=[0.5, 1, 2, 8])
    suite.prepare(subject, pictures(300, first=50_000), 32)
    batch, known = pictures(90), dict[str, dict[str, dict[str, Tensor]]]()
    found = []
    for c in suite.conditions(subject):
        earlier = known.setdefault(c.group, {})
        given = Batch(batch.images, batch.labels, batch.index, dict(earlier))
        earlier[c.name] = suite.measure(subject, given, c, 0)
        columns = {name: column.numpy() for name, column in earlier[c.name].items()}
        found.append(Cell(c.name, c.group, c.level, columns))
    found += suite.derived(found)
    return found, {check.name: check for check in suite.checks(found)}


@pytest.mark.slow
def test_an_honest_model_passes_every_check_and_its_accuracy_falls() -> None:
    found, checks = measured(tiny_subject())
    assert len(checks) == 8
    assert all(check.passed for check in checks.values()), checks
    at = {c.condition: float(c.outcomes["correct"].mean()) for c in found}
    assert at["clean"] > 0.9
    assert at["clean"] >= at["pgd-linf@1/255"] > at["pgd-linf@2/255"] > at["pgd-linf@8/255"]
    assert at["worst-linf@2/255"] <= min(at["pgd-linf@2/255"], at["fgsm@2/255"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: behind(lambda x: (x * 15).round() / 15), {UNBOUNDED, FLAT}),
        (saturated, {UNBOUNDED, FLAT}),
        (lambda: behind(Shattered.apply), {UNBOUNDED}),
    ],
    ids=["quantised input", "saturated logits", "shattered gradients"],
)
def test_a_model_that_masks_its_gradients_is_caught(
    make: Callable[[], Subject], expected: set[str]
) -> None:
    subject = make()
    batch = pictures(90)
    assert correct(subject, batch.images, batch.labels).float().mean() > 0.9
    found, checks = measured(subject)
    at = {c.condition: float(c.outcomes["correct"].mean()) for c in found}
    assert at["pgd-linf@8/255"] > 0.8  # an honest one of the same weights has none left
    assert expected <= {name for name, check in checks.items() if not check.passed}


def test_the_surrogate_learns_the_answers_and_is_the_same_each_time() -> None:
    subject, reference = tiny_subject(), pictures(300, first=50_000)
    before = torch.get_rng_state()
    model, agreement = train_surrogate(subject, reference)
    again, _ = train_surrogate(subject, reference)
    assert torch.equal(torch.get_rng_state(), before)
    images = pictures(60).images
    assert torch.equal(model(images), again(images))
    answers = subject(images).argmax(1)
    assert (model(images).argmax(1) == answers).float().mean() > 0.8
    assert agreement > 0.8
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
