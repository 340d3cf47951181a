"""Attacks against torchattacks called by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torchattacks
from helpers.attacked import FGSM, MI_FGSM, PGD, PGD_L2, at, rightly_classified, verdicts
from torch import Tensor

from robustbench_coss.evaluations.attacks import run
from robustbench_coss.evaluations.attacks.names import ATTACKS
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, correct
from robustbench_coss.evaluations.suites.adversarial import STANDARD, Adversarial
from robustbench_coss.seeds import seed_of
from robustbench_coss.testing import CLASSES, split, tiny_subject


def by_hand(
    subject: Subject, batch: Batch, make: Callable[[int], Any], seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """What torchattacks makes of each image alone, and which are then still right."""
    rows = []
    with torch.random.fork_rng():
        for i, seed in enumerate(seeds):
            torch.manual_seed(seed)
            rows.append(make(seed)(batch.images[i : i + 1], batch.labels[i : i + 1]))
    images = torch.cat(rows)
    return images, correct(subject, images, batch.labels)


def sample_seeds(batch: Batch, condition: Condition, *more: str | int) -> list[int]:
    return [seed_of(3, "adversarial", condition.name, i, *more) for i in batch.index]


# ---- what torchattacks does ----


@pytest.mark.parametrize(
    ("condition", "make"),
    [
        (FGSM, lambda m: torchattacks.FGSM(m, eps=2 / 255)),
        (MI_FGSM, lambda m: torchattacks.MIFGSM(m, eps=2 / 255, alpha=0.5 / 255, steps=10)),
    ],
)
def test_attacks_without_draws_equal_torchattacks_on_the_whole_batch(
    subject: Subject, condition: Condition, make: Callable[[Subject], Any]
) -> None:
    batch = rightly_classified(subject, 12)
    got, _ = Adversarial().disturb(subject, batch.images, batch.labels, batch.index, condition, 3)
    assert torch.equal(got, make(subject)(batch.images, batch.labels))


@pytest.mark.parametrize(
    ("condition", "make"),
    [
        (PGD, lambda m: torchattacks.PGD(m, eps=2 / 255, alpha=0.5 / 255, steps=10)),
        (PGD_L2, lambda m: torchattacks.PGDL2(m, eps=0.25, alpha=0.0625, steps=10)),
    ],
)
def test_pgd_equals_torchattacks_on_each_sample_alone(
    subject: Subject, condition: Condition, make: Callable[[Subject], torchattacks.PGD]
) -> None:
    batch = rightly_classified(subject, 16)
    attack = make(subject)
    images, expected = by_hand(subject, batch, lambda _: attack, sample_seeds(batch, condition))
    got, broken = Adversarial().disturb(
        subject, batch.images, batch.labels, batch.index, condition, 3
    )
    torch.testing.assert_close(got, images, rtol=0, atol=1e-5)
    assert torch.equal(~broken, expected)
    assert torch.equal(verdicts(subject, batch, condition), expected)
    assert 0 < expected.float().mean() < 1


def apgd(loss: str, norm: str) -> Callable[..., Any]:
    return lambda m, eps, seed: torchattacks.APGD(
        m, norm=norm, eps=eps, steps=10, seed=seed, loss=loss
    )


def fab(norm: str) -> Callable[..., Any]:
    return lambda m, eps, seed: torchattacks.FAB(
        m, norm=norm, eps=eps, steps=10, multi_targeted=True, n_classes=CLASSES
    )


@pytest.mark.parametrize(
    ("name", "eps", "make"),
    [
        ("apgd-ce", 2.0, apgd("ce", "Linf")),
        ("apgd-dlr", 2.0, apgd("dlr", "Linf")),
        ("apgd-ce-l2", 0.3, apgd("ce", "L2")),
        ("apgd-dlr-l2", 0.3, apgd("dlr", "L2")),
        ("fab", 2.0, fab("Linf")),
        ("fab-l2", 0.3, fab("L2")),
    ],
)
def test_verdicts_are_those_of_torchattacks_on_each_sample_alone(
    subject: Subject, name: str, eps: float, make: Callable[..., Any]
) -> None:
    batch, condition = rightly_classified(subject, 10), at(name, eps)
    radius = eps if name.endswith("l2") else eps / 255
    _, expected = by_hand(
        subject, batch, lambda s: make(subject, radius, s), sample_seeds(batch, condition)
    )
    assert torch.equal(verdicts(subject, batch, condition), expected)
    assert 0 < expected.float().mean() < 1


@pytest.mark.parametrize(("name", "eps"), [("square", 5.0), ("square-l2", 0.8)])
def test_square_gives_each_sample_what_it_gets_alone_under_one_seed(
    subject: Subject, quick: None, name: str, eps: float
) -> None:
    batch, condition = rightly_classified(subject, 8), at(name, eps)
    seed = seed_of(3, "adversarial", condition.name)
    norm, radius = ("L2", eps) if name.endswith("l2") else ("Linf", eps / 255)
    attack = torchattacks.Square(subject, norm=norm, eps=radius, n_queries=40, seed=seed)
    _, expected = by_hand(subject, batch, lambda _: attack, [seed] * 8)
    assert torch.equal(verdicts(subject, batch, condition), expected)
    assert 0 < expected.float().mean() < 1


@pytest.mark.parametrize(("name", "eps"), [("autoattack", 1.5), ("autoattack-l2", 0.2)])
def test_autoattack_is_the_chain_of_torchattacks(
    subject: Subject, quick: None, name: str, eps: float
) -> None:
    batch, condition = rightly_classified(subject, 8), at(name, eps)
    norm, radius = ("L2", eps) if name.endswith("l2") else ("Linf", eps / 255)

    def make(seed: int) -> Any:
        chain = torchattacks.AutoAttack(
            subject, norm=norm, eps=radius, seed=seed, n_classes=CLASSES
        )
        *by_gradients, square = chain._autoattack.attacks
        for part in by_gradients:
            part.steps = 3
        square.n_queries, square.seed = 40, seed_of(3, "adversarial", condition.name)
        return chain

    _, expected = by_hand(subject, batch, make, sample_seeds(batch, condition))
    assert torch.equal(verdicts(subject, batch, condition), expected)
    assert 0 < expected.float().mean() < 1


def test_autoattack_has_the_length_of_the_published_one() -> None:
    # Croce and Hein 2020: APGD-CE, 9 targets of APGD-T, 9 of FAB-T, 100 steps each; 5,000 queries.
    assert len(run.runs_of("autoattack", run.Strength(0.1), classes=1000)) == 1 + 9 + 9 + 1
    assert (run.AUTOATTACK_STEPS, run.QUERIES) == (100, 5_000)


def test_pgd_l2_of_vanishing_gradients_does_not_depend_on_the_batch() -> None:
    subject, batch = tiny_subject(), rightly_classified(tiny_subject(), 16)
    with torch.no_grad():  # gradients near torchattacks' guard of 1e-10 against division by zero
        subject.classifier.weight *= 1e-9
        subject.classifier.bias *= 1e-9
    suite = Adversarial()
    whole, _ = suite.disturb(subject, batch.images, batch.labels, batch.index, PGD_L2, 3)
    one = split(batch, [0])
    alone, _ = suite.disturb(subject, one.images, one.labels, one.index, PGD_L2, 3)
    torch.testing.assert_close(whole[:1], alone, rtol=0, atol=1e-4)


# ---- verdicts ----


@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in STANDARD])
def test_verdicts_do_not_depend_on_batch_or_order(subject: Subject, quick: None, name: str) -> None:
    # The contract test of all suites does this for the attacks that are on by default.
    batch = rightly_classified(subject, 6)
    strong = {"square": 6.0, "square-l2": 1.6}
    condition = at(name, strong.get(name, 0.3 if name.endswith("l2") else 2.0))
    options = {"steps": 4, "restarts": 1 if name.startswith("autoattack") else 2}
    whole = verdicts(subject, batch, condition, **options)
    order = [4, 1, 5, 0, 3, 2]
    parts = [
        verdicts(subject, split(batch, order[i : i + 2]), condition, **options) for i in (0, 2, 4)
    ]
    assert torch.equal(torch.cat(parts), whole[order])
    assert 0 < whole.float().mean() < 1


def test_every_image_has_its_own_step_size_under_the_targeted_attack(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "AUTOATTACK_STEPS", 20)
    every = run.runs_of
    monkeypatch.setattr(
        run, "runs_of", lambda *given: [r for r in every(*given) if r.stream == "apgd-t"]
    )
    batch, suite = rightly_classified(subject, 3), Adversarial("autoattack-l2")

    def steps(some: Batch) -> Tensor:
        """What the model is shown of each image, step by step; none is broken, so all are."""
        seen: list[Tensor] = []
        hook = subject.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
        given = (some.images, some.labels, some.index, at("autoattack-l2", 0.03), 3)
        broken = suite.disturb(subject, *given)[1]
        hook.remove()
        assert not broken.any()
        # Five targets, for each the images one by one: the clean one, the start, twenty steps.
        assert [len(x) for x in seen] == [1] * (5 * len(some.index) * 22)
        return torch.cat(seen).view(5, len(some.index), 22, -1)

    alone = torch.cat([steps(split(batch, [i])) for i in range(3)], dim=1)
    torch.testing.assert_close(steps(batch), alone, rtol=0, atol=1e-4)


def test_a_restart_breaks_what_torchattacks_breaks_from_either_start(subject: Subject) -> None:
    batch = rightly_classified(subject, 24)
    attack = torchattacks.PGD(subject, eps=2 / 255, alpha=2.5 / 255, steps=2)
    right = [
        by_hand(subject, batch, lambda _: attack, sample_seeds(batch, PGD, *more))[1]
        for more in ((), ("restart", 1))
    ]
    assert torch.equal(verdicts(subject, batch, PGD, steps=2, restarts=2), right[0] & right[1])
    assert torch.equal(verdicts(subject, batch, PGD, steps=2), right[0])
