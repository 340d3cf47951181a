"""Attacks against torchattacks called by hand, their bounds, and the sanity checks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchattacks
from tiny import pictures, tiny_subject
from torch import Tensor

from evaluations.adversarial import (
    ATTACKS,
    LINF_EPS,
    Adversarial,
    PerSampleDraws,
    disturb,
    verify,
)
from evaluations.protocol import Batch, Condition, Subject
from robustbench_coss.records import Cell
from robustbench_coss.seeds import seed_of

FGSM = Condition("fgsm@2/255", "fgsm", 2.0)
PGD = Condition("pgd-linf@2/255", "pgd-linf", 2.0)
PGD_L2 = Condition("pgd-l2@0.25", "pgd-l2", 0.25)
NOISE = Condition("noise-linf@8/255", "noise-linf", 8.0)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_subject()


def rightly_classified(subject: Subject, count: int) -> Batch:
    batch = pictures(2 * count)
    with torch.no_grad():
        right = (subject(batch.images).argmax(1) == batch.labels).nonzero().flatten()[:count]
    assert len(right) == count
    return Batch(batch.images[right], batch.labels[right], [batch.index[i] for i in right])


def test_fgsm_equals_torchattacks_on_the_whole_batch(subject: Subject) -> None:
    batch = rightly_classified(subject, 12)
    got = disturb(subject, batch.images, batch.labels, batch.index, FGSM, 3)
    expected = torchattacks.FGSM(subject, eps=2 / 255)(batch.images, batch.labels)
    assert torch.equal(got, expected)


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
    rows = []
    for i, index in enumerate(batch.index):
        torch.manual_seed(seed_of(3, "adversarial", condition.name, index))
        rows.append(attack(batch.images[i : i + 1], batch.labels[i : i + 1]))
    by_hand = torch.cat(rows)
    got = disturb(subject, batch.images, batch.labels, batch.index, condition, 3)
    torch.testing.assert_close(got, by_hand, rtol=0, atol=1e-5)
    with torch.no_grad():
        expected = subject(by_hand).argmax(1) == batch.labels
    measured = Adversarial().measure(subject, batch, condition, 3)["correct"]
    assert torch.equal(measured, expected)
    assert 0 < expected.float().mean() < 1


def test_pgd_l2_of_vanishing_gradients_does_not_depend_on_the_batch() -> None:
    subject, batch = tiny_subject(), rightly_classified(tiny_subject(), 16)
    with torch.no_grad():  # gradients near torchattacks' guard of 1e-10 against division by zero
        subject.classifier.weight *= 1e-9
        subject.classifier.bias *= 1e-9
    whole = disturb(subject, batch.images, batch.labels, batch.index, PGD_L2, 3)
    one = disturb(subject, batch.images[:1], batch.labels[:1], batch.index[:1], PGD_L2, 3)
    torch.testing.assert_close(whole[:1], one, rtol=0, atol=1e-4)


def test_images_misclassified_as_they_are_count_as_broken(subject: Subject) -> None:
    batch = pictures(12)
    wrong = Batch(batch.images, (batch.labels + 3) % 6, batch.index)
    with torch.no_grad():
        assert not (subject(wrong.images).argmax(1) == wrong.labels).any()
    for condition in (FGSM, PGD, PGD_L2, NOISE):
        assert not Adversarial().measure(subject, wrong, condition, 0)["correct"].any()


def test_broken_images_do_not_shift_the_verdicts_of_the_others(subject: Subject) -> None:
    batch = rightly_classified(subject, 16)
    labels = batch.labels.clone()
    labels[::2] = (labels[::2] + 3) % 6
    alone = Adversarial().measure(subject, batch, PGD, 0)["correct"]
    mixed = Adversarial().measure(subject, Batch(batch.images, labels, batch.index), PGD, 0)
    assert torch.equal(mixed["correct"][1::2], alone[1::2])
    assert not mixed["correct"][::2].any()
    assert alone[1::2].any()


def test_channels_last_encoders_and_images_can_be_attacked(subject: Subject) -> None:
    batch = pictures(12)
    expected = Adversarial().measure(subject, batch, PGD_L2, 0)["correct"]
    other = tiny_subject().to(memory_format=torch.channels_last)
    images = batch.images.contiguous(memory_format=torch.channels_last)
    got = Adversarial().measure(other, Batch(images, batch.labels, batch.index), PGD_L2, 0)
    assert torch.equal(got["correct"], expected)


def test_control_noise_has_the_whole_budget_and_random_signs(subject: Subject) -> None:
    images, labels = torch.full((4, 3, 32, 32), 0.5), torch.zeros(4, dtype=torch.int64)
    delta = disturb(subject, images, labels, [0, 1, 2, 3], NOISE, 0) - images
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 8 / 255), rtol=0, atol=1e-6)
    # 3072 signs: s.d. of their mean is 0.018, five of it 0.09.
    signs = delta.sign().flatten(1)
    assert signs.mean(1).abs().max() < 0.09
    assert np.abs(np.corrcoef(signs.numpy()) - np.eye(4)).max() < 0.09


def test_attacks_print_nothing_and_leave_the_model_and_generators_alone(
    subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    batch, before = pictures(6), torch.get_rng_state()
    for condition in (FGSM, PGD, PGD_L2, NOISE):
        Adversarial().measure(subject, batch, condition, 0)
    assert capsys.readouterr().out == ""
    assert torch.equal(torch.get_rng_state(), before)
    assert not subject.training
    assert not any(p.requires_grad or p.grad is not None for p in subject.parameters())


@pytest.mark.parametrize(
    "draw",
    [
        lambda n: torch.empty(n, 3, 4, 5).uniform_(-2, 3),
        lambda n: torch.empty(n, 3, 4, 5).normal_(),
        lambda n: torch.zeros(n, 1, 1, 1).uniform_(0, 1),
        lambda n: torch.empty(n, 40).normal_(mean=1.0, std=2.0),
        lambda n: torch.rand(n, 20),
        lambda n: torch.randn((n, 20), dtype=torch.float64),
        lambda n: torch.rand_like(torch.zeros(n, 7)),
        lambda n: torch.randn_like(torch.zeros(n, 7)),
    ],
)
def test_rows_drawn_under_the_mode_are_those_of_a_batch_of_one(
    draw: Callable[[int], Tensor],
) -> None:
    with PerSampleDraws([5, 6, 7]):
        first, second = draw(3), draw(3)
    for i, seed in enumerate([5, 6, 7]):
        torch.manual_seed(seed)
        assert torch.equal(draw(1)[0], first[i])
        assert torch.equal(draw(1)[0], second[i])


def test_a_draw_that_is_not_per_sample_is_refused() -> None:
    with PerSampleDraws([5, 6, 7]), pytest.raises(RuntimeError, match=r"shape \(2, 4\)"):
        torch.rand(2, 4)


@pytest.mark.parametrize(
    ("delta", "l2", "fails"),
    [
        (0.1, False, False),
        (0.1001, False, True),
        (float("nan"), False, True),
        (0.1 / 12**0.5, True, False),  # 12 pixel values: norm 0.1
        (0.1001 / 12**0.5, True, True),
    ],
)
def test_verify_refuses_perturbations_larger_than_eps(delta: float, l2: bool, fails: bool) -> None:
    images = torch.full((2, 3, 2, 2), 0.5)
    disturbed = images.clone()
    disturbed[1] += delta
    if fails:
        with pytest.raises(RuntimeError, match="exceeds eps"):
            verify(images, disturbed, 0.1, l2=l2)
    else:
        verify(images, disturbed, 0.1, l2=l2)


@pytest.mark.parametrize("value", [-0.05, 1.05])
def test_verify_refuses_pixels_outside_the_range(value: float) -> None:
    images = torch.full((1, 3, 2, 2), float(round(value)))
    with pytest.raises(RuntimeError, match="outside"):
        verify(images, torch.full_like(images, value), 0.1, l2=False)


def test_the_l2_ladder_grows_with_the_side_of_the_image() -> None:
    levels = {
        size: [c.level for c in Adversarial().conditions(tiny_subject(size)) if c.group == "pgd-l2"]
        for size in (32, 64)
    }
    assert levels[32] == [0.05, 0.1, 0.25, 0.5, 1.0, 2.0]
    assert levels[64] == [0.1, 0.2, 0.5, 1.0, 2.0, 4.0]


def cells(**accuracy: dict[float, float]) -> list[Cell]:
    """Cells of 100 samples with given accuracies, by group and level."""
    return [
        Cell(
            f"{group.replace('_', '-')}@{level:g}" + ("" if group == "pgd_l2" else "/255"),
            "sanity" if level == 64 else group.replace("_", "-"),
            level,
            {"correct": np.arange(100) < round(100 * share)},
        )
        for group, by_level in accuracy.items()
        for level, share in by_level.items()
    ]


HEALTHY = {
    "fgsm": {1.0: 0.6, 2.0: 0.4},
    "pgd_linf": {1.0: 0.5, 2.0: 0.2, 64.0: 0.0},
    "pgd_l2": {0.1: 0.5, 0.2: 0.3},
    "noise_linf": {1.0: 0.8, 2.0: 0.8},
}


def failed(**changed: dict[float, float]) -> list[str]:
    return [c.name for c in Adversarial().checks(cells(**HEALTHY | changed)) if not c.passed]


def test_a_healthy_measurement_passes_all_checks() -> None:
    checks = Adversarial().checks(cells(**HEALTHY))
    assert len(checks) == len(ATTACKS) + 2
    assert failed() == []


def test_accuracy_that_rises_with_epsilon_fails_beyond_the_margin() -> None:
    # n = 100, 50 % to 60 %: margin 1.96 √(0.25/100 + 0.24/100) = 13.7 points.
    assert failed(fgsm={1.0: 0.5, 2.0: 0.6}) == []
    # 50 % to 65 %: margin 1.96 √(0.25/100 + 0.2275/100) = 13.5 points.
    assert failed(fgsm={1.0: 0.5, 2.0: 0.65}) == ["fgsm accuracy falls with epsilon"]
    # The rise need not be between neighbours.
    slow = {1.0: 0.4, 2.0: 0.5, 4.0: 0.6}
    assert failed(pgd_l2=slow) == ["pgd-l2 accuracy falls with epsilon"]


def test_noise_that_harms_more_than_the_attack_fails() -> None:
    assert failed(noise_linf={1.0: 0.3, 2.0: 0.8}) == ["random noise harms no more than PGD-Linf"]


def test_accuracy_left_under_a_very_large_budget_fails() -> None:
    left = {1.0: 0.5, 2.0: 0.2, 64.0: 0.06}
    assert failed(pgd_linf=left) == ["a very large budget breaks the model"]
    assert failed(pgd_linf=left | {64.0: 0.05}) == []


def test_a_real_measurement_passes_its_own_checks(subject: Subject) -> None:
    suite, batch = Adversarial(), pictures(60)
    measured = [
        Cell(c.name, c.group, c.level, {k: v.numpy() for k, v in out.items()})
        for c in suite.conditions(subject)
        for out in [suite.measure(subject, batch, c, 0)]
    ]
    checks = suite.checks(measured)
    assert len(checks) == 5
    assert all(check.passed for check in checks), checks
    at = {c.condition: c.outcomes["correct"].mean() for c in measured}
    assert at["clean"] > 0.9
    assert at[f"pgd-linf@{max(LINF_EPS):g}/255"] < at["pgd-linf@1/255"] <= at["clean"]
