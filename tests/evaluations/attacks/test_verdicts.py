"""The rules of verdicts: which images are attacked, and when one counts as broken."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers.attacked import FGSM, MI_FGSM, PGD, PGD_L2, at, rightly_classified, verdicts
from torch import Tensor, nn

from robustbench_coss.evaluations.attacks import run
from robustbench_coss.evaluations.attacks.names import ATTACKS
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, correct
from robustbench_coss.evaluations.suites.adversarial import Adversarial
from robustbench_coss.records.confidence import CONFIDENCES
from robustbench_coss.testing import CLASSES, pictures, tiny_subject

APGD = Condition("apgd-ce@2/255", "apgd-ce", 2.0)
NOISE = Condition("noise-linf@8/255", "noise-linf", 8.0)


@pytest.fixture
def passed(subject: Subject) -> Iterator[list[int]]:
    """How many images each call of the model was given."""
    counts: list[int] = []
    hook = subject.register_forward_hook(lambda module, args, out: counts.append(len(out)))
    yield counts
    hook.remove()


def test_images_misclassified_as_they_are_count_as_broken(
    subject: Subject, passed: list[int]
) -> None:
    batch = pictures(12)
    wrong = Batch(batch.images, (batch.labels + 3) % 6, batch.index)
    assert not correct(subject, wrong.images, wrong.labels).any()
    passed.clear()
    for condition in (FGSM, MI_FGSM, PGD, PGD_L2, APGD, NOISE):
        assert not Adversarial().measure(subject, wrong, condition, 0)["correct"].any()
    assert passed == [12] * 6  # nothing was attacked


def test_images_broken_at_a_smaller_budget_stay_broken_and_are_not_attacked(
    subject: Subject, passed: list[int]
) -> None:
    batch = rightly_classified(subject, 12)
    before = torch.arange(12) % 3 == 0
    earlier = {
        "pgd-linf@0.5/255": {"correct": torch.ones(12, dtype=torch.bool)},
        "pgd-linf@1/255": {
            "correct": before,
            **{name: torch.full((12,), 7, dtype=torch.int8) for name in CONFIDENCES},
        },
    }
    expected = verdicts(subject, batch, PGD) & before
    passed.clear()
    linked = Batch(batch.images, batch.labels, batch.index, earlier)
    found = Adversarial(attacks=["pgd-linf"], steps=10).measure(subject, linked, PGD, 3)
    assert torch.equal(found["correct"], expected)
    # Ten steps, the verdict and its probabilities, without a look at the clean images.
    assert passed == [4] * 12
    for name in CONFIDENCES:
        assert torch.all(found[name][~before] == 7)


def test_images_broken_on_the_way_leave_the_batch_of_apgd_but_not_of_pgd(
    subject: Subject, passed: list[int]
) -> None:
    batch = rightly_classified(subject, 12)
    passed.clear()
    broken = ~verdicts(subject, batch, at("apgd-ce", 4.0))
    assert broken.any()
    assert passed[:2] == [12, 12]  # the clean images and the random start
    assert passed[-1] == 12  # the probabilities of what all have become
    assert passed[1:-1] == sorted(passed[1:-1], reverse=True)
    assert len(passed) < 13 or passed[-2] < 12
    passed.clear()
    verdicts(subject, batch, at("pgd-linf", 4.0))
    assert passed == [12] * 13


def test_broken_images_do_not_shift_the_verdicts_of_the_others(subject: Subject) -> None:
    batch = rightly_classified(subject, 16)
    labels = batch.labels.clone()
    labels[::2] = (labels[::2] + 3) % 6
    alone = verdicts(subject, batch, PGD)
    mixed = verdicts(subject, Batch(batch.images, labels, batch.index), PGD)
    assert torch.equal(mixed[1::2], alone[1::2])
    assert not mixed[::2].any()
    assert alone[1::2].any()


class Fragile(nn.Module):
    """A classifier that gives NaN for pictures that are not 8-bit, if their corner is bright."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        lost = fragile(x) & ((x * 255 - (x * 255).round()).abs() > 1e-3).flatten(1).any(1)
        logits: Tensor = self.inside(x)
        return torch.where(lost[:, None], torch.nan, logits)


def fragile(x: Tensor) -> Tensor:
    return x[:, :, :4, :4].mean((1, 2, 3)) > 0.5


@pytest.mark.parametrize("name", ATTACKS)
def test_images_whose_outputs_become_nan_are_broken_and_the_others_go_on(
    subject: Subject, quick: None, name: str
) -> None:
    batch = rightly_classified(subject, 12)
    model = Fragile(subject)
    lost = fragile(batch.images)
    assert 0 < lost.sum() < 12
    assert correct(model, batch.images, batch.labels).all()  # type: ignore[arg-type]
    eps = 0.2 if ATTACKS[name].norm == "l2" else 1.5 / 255
    given = (batch.images, batch.labels, batch.index, run.Strength(eps, steps=4), CLASSES)
    found, broken = run.run_attack(model, name, *given, ("test",))
    _, otherwise = run.run_attack(subject, name, *given, ("test",))
    assert broken[lost].all()
    assert torch.equal(broken[~lost], otherwise[~lost])
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_that_cuts_gradients_off_can_be_attacked(quick: None, name: str) -> None:
    subject, batch = tiny_subject(), rightly_classified(tiny_subject(), 4)
    inside = subject.encoder.local
    subject.encoder.local = lambda x: inside(x.detach())  # type: ignore[method-assign]
    found = verdicts(subject, batch, at(name, 0.01), steps=2)
    assert found.all()


@pytest.mark.parametrize("name", ATTACKS)
def test_channels_last_encoders_and_images_can_be_attacked(
    subject: Subject, quick: None, name: str
) -> None:
    batch = pictures(6)
    condition = at(name, 0.25 if name.endswith("l2") else 2.0)
    expected = verdicts(subject, batch, condition, steps=3)
    other = tiny_subject().to(memory_format=torch.channels_last)
    images = batch.images.contiguous(memory_format=torch.channels_last)
    got = verdicts(other, Batch(images, batch.labels, batch.index), condition, steps=3)
    assert torch.equal(got, expected)


def test_control_noise_has_the_whole_budget_and_random_signs(subject: Subject) -> None:
    images, labels = torch.full((4, 3, 32, 32), 0.5), torch.zeros(4, dtype=torch.int64)
    noisy, _ = Adversarial().disturb(subject, images, labels, [0, 1, 2, 3], NOISE, 0)
    delta = noisy - images
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 8 / 255), rtol=0, atol=1e-6)
    # 3072 signs: s.d. of their mean is 0.018, five of it 0.09.
    signs = delta.sign().flatten(1)
    assert signs.mean(1).abs().max() < 0.09
    assert np.abs(np.corrcoef(signs.numpy()) - np.eye(4)).max() < 0.09


def test_attacks_print_nothing_and_leave_the_model_and_generators_alone(
    subject: Subject, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    batch, before = rightly_classified(subject, 3), torch.get_rng_state()
    suite = Adversarial("all", eps=2, eps_l2=0.3, steps=2)
    suite.prepare(subject, pictures(20), 32)
    for condition in suite.conditions(subject):
        suite.measure(subject, batch, condition, 0)
    assert capsys.readouterr().out == ""
    assert torch.equal(torch.get_rng_state(), before)
    assert not subject.training
    assert not any(p.requires_grad or p.grad is not None for p in subject.parameters())
