"""Attacks against torchattacks called by hand, the rules of their verdicts, and the options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
import yaml
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.attacks import run
from robustbench_coss.evaluations.attacks.ball import verify
from robustbench_coss.evaluations.attacks.draws import PerSampleDraws, SharedDraws, streams
from robustbench_coss.evaluations.attacks.run import ATTACKS
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, correct
from robustbench_coss.evaluations.suites.adversarial import STANDARD, Adversarial
from robustbench_coss.records.record import Cell
from robustbench_coss.seeds import seed_of
from robustbench_coss.testing import CLASSES, pictures, split, tiny_subject

FGSM = Condition("fgsm@2/255", "fgsm", 2.0)
MI_FGSM = Condition("mi-fgsm@2/255", "mi-fgsm", 2.0)
PGD = Condition("pgd-linf@2/255", "pgd-linf", 2.0)
PGD_L2 = Condition("pgd-l2@0.25", "pgd-l2", 0.25)
APGD = Condition("apgd-ce@2/255", "apgd-ce", 2.0)
NOISE = Condition("noise-linf@8/255", "noise-linf", 8.0)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_subject()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacks whose length is fixed, shortened."""
    monkeypatch.setattr(run, "QUERIES", 40)
    monkeypatch.setattr(run, "AUTOATTACK_STEPS", 3)


@pytest.fixture
def passed(subject: Subject) -> Iterator[list[int]]:
    """How many images each call of the model was given."""
    counts: list[int] = []
    hook = subject.register_forward_hook(lambda module, args, out: counts.append(len(out)))
    yield counts
    hook.remove()


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
        "pgd-linf@1/255": {"correct": before},
    }
    expected = verdicts(subject, batch, PGD) & before
    passed.clear()
    found = verdicts(
        subject, Batch(batch.images, batch.labels, batch.index, earlier), PGD, steps=10
    )
    assert torch.equal(found, expected)
    assert passed == [4] * 11  # ten steps and the verdict, without a look at the clean images


def test_images_broken_on_the_way_leave_the_batch_of_apgd_but_not_of_pgd(
    subject: Subject, passed: list[int]
) -> None:
    batch = rightly_classified(subject, 12)
    passed.clear()
    broken = ~verdicts(subject, batch, at("apgd-ce", 4.0))
    assert broken.any()
    assert passed[:2] == [12, 12]  # the clean images and the random start
    assert passed[1:] == sorted(passed[1:], reverse=True)
    assert len(passed) < 12 or passed[-1] < 12
    passed.clear()
    verdicts(subject, batch, at("pgd-linf", 4.0))
    assert passed == [12] * 12


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


# ---- draws ----


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
    with PerSampleDraws(streams([5, 6, 7])):
        first, second = draw(3), draw(3)
    for i, seed in enumerate([5, 6, 7]):
        torch.manual_seed(seed)
        assert torch.equal(draw(1)[0], first[i])
        assert torch.equal(draw(1)[0], second[i])


def test_a_draw_that_is_not_per_sample_is_refused() -> None:
    with PerSampleDraws(streams([5, 6, 7])), pytest.raises(RuntimeError, match=r"shape \(2, 4\)"):
        torch.rand(2, 4)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_shared_draws_do_not_depend_on_how_many_images_take_part(counts: list[int]) -> None:
    def draw(count: int) -> tuple[Tensor, Tensor]:
        return torch.rand(count, 3, 1, 2), torch.rand([3, 1, 1])

    with SharedDraws(torch.Generator().manual_seed(5)):
        found = [draw(count) for count in counts]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for over_images, single in found:
            expected = draw(1)
            assert torch.equal(over_images, expected[0].expand_as(over_images))
            assert torch.equal(single, expected[1])


# ---- the ball ----


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


def test_an_attack_that_leaves_the_ball_stops_the_measurement(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "pgd_linf", lambda model, x, *given: (x + 0.1).clamp(0, 1))
    with pytest.raises(RuntimeError, match="exceeds eps"):
        Adversarial().measure(subject, rightly_classified(subject, 4), PGD, 0)


# ---- conditions, options, what is derived ----


def test_the_l2_ladder_grows_with_the_side_of_the_image() -> None:
    levels = {
        size: [c.level for c in Adversarial().conditions(tiny_subject(size)) if c.group == "pgd-l2"]
        for size in (32, 64)
    }
    assert levels[32] == [0.05, 0.1, 0.25, 0.5, 1.0, 2.0]
    assert levels[64] == [0.1, 0.2, 0.5, 1.0, 2.0, 4.0]


def test_the_conditions_of_a_group_come_in_ascending_order(subject: Subject) -> None:
    conditions = Adversarial("all", eps=[8, 1, 2], eps_l2=[1, 0.5]).conditions(subject)
    by_group: dict[str, list[float]] = {}
    for condition in conditions:
        by_group.setdefault(condition.group, []).append(condition.level)
    assert all(levels == sorted(levels) for levels in by_group.values())
    assert by_group["autoattack"] == [1, 2, 8]
    assert by_group["square-l2"] == [0.5, 1]
    assert len({c.name for c in conditions}) == len(conditions)


def test_options_are_recorded_and_choose_what_is_measured(subject: Subject) -> None:
    suite = Adversarial(["square", "fgsm"], eps=[1, 4], steps=7, restarts=3)
    config = suite.config()
    assert config["attacks"] == ["fgsm", "square"]
    assert config["linf_eps_255"] == [1.0, 4.0]
    assert (config["steps"], config["restarts"], config["square_queries"]) == (7, 3, 5_000)
    assert [c.name for c in suite.conditions(subject)] == [
        "clean",
        "fgsm@1/255",
        "fgsm@4/255",
        "square@1/255",
        "square@4/255",
        "gradient",
        "from-scratch@64/255",
    ]
    assert Adversarial("fgsm,square").attacks == ("fgsm", "square")
    assert Adversarial("all").attacks == tuple(ATTACKS)
    assert Adversarial(eps=2).eps == (2.0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": "pgd-lin"}, "did you mean pgd-linf"),
        ({"attacks": ["fgsm", 3]}, "unknown attack 3"),
        ({"attacks": []}, "names no attack"),
        ({"eps": [1, 64]}, "adversarial.eps must be numbers above 0 and below 64"),
        ({"eps": [0.5, -1]}, "adversarial.eps must be"),
        ({"eps": [1, 1.0]}, "differ"),
        ({"eps_l2": "much"}, "adversarial.eps_l2 must be"),
        ({"steps": 0}, "adversarial.steps must be a whole number"),
        ({"steps": 2.5}, "adversarial.steps"),
        ({"restarts": True}, "adversarial.restarts"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CossError, match=message) as error:
        Adversarial(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "classes"), [("apgd-dlr", 2), ("autoattack", 3)])
def test_attacks_that_need_more_classes_are_refused_in_one_line(name: str, classes: int) -> None:
    encoder = tiny_subject().encoder
    for offered, fits in ((classes, False), (classes + 1, True)):
        model = Subject(encoder, nn.Linear(encoder.dim, offered))
        if fits:
            Adversarial(name).prepare(model, pictures(10), 32)
        else:
            with pytest.raises(CossError, match=f"'{name}' needs at least {classes + 1} classes"):
                Adversarial(name).prepare(model, pictures(10), 32)


def test_the_worst_case_is_right_under_every_attack_of_a_norm() -> None:
    draw = np.random.default_rng(0)
    suite = Adversarial(["fgsm", "pgd-linf", "square", "pgd-l2"], eps=[1, 2], eps_l2=[0.5])
    right = {
        name: draw.random(50) < 0.7
        for name in ("fgsm@1/255", "pgd-linf@1/255", "square@1/255", "fgsm@2/255", "pgd-l2@0.5")
    }
    right["pgd-linf@2/255"] = right["square@2/255"] = np.ones(50, bool)
    cells = [
        Cell(name, group, float(level.removesuffix("/255")), {"correct": column})
        for name, column in right.items()
        for group, _, level in [name.partition("@")]
    ]
    cells[0].problem = cells[1].problem = "2 outputs of the model were NaN or infinite"
    found = {cell.condition: cell for cell in suite.derived(cells)}
    assert set(found) == {"worst-linf@1/255", "worst-linf@2/255", "worst-l2@0.5"}
    expected = [a and b and c for a, b, c in zip(*list(right.values())[:3], strict=True)]
    assert found["worst-linf@1/255"].outcomes["correct"].tolist() == expected
    assert (found["worst-linf@2/255"].outcomes["correct"] == right["fgsm@2/255"]).all()
    assert (found["worst-l2@0.5"].outcomes["correct"] == right["pgd-l2@0.5"]).all()
    assert found["worst-linf@1/255"].problem == cells[0].problem
    assert found["worst-linf@2/255"].problem == ""


def test_metrics_are_over_ladders_and_their_worst_case(subject: Subject) -> None:
    suite = Adversarial(eps=[1, 2], eps_l2=[0.5])
    metrics = {m.name: m for m in suite.metrics(suite.conditions(subject))}
    assert [m.name for m in metrics.values() if m.headline] == ["adv_worst_linf", "adv_pgd_linf"]
    assert metrics["adv_worst_linf"].conditions == ("worst-linf@1/255", "worst-linf@2/255")
    assert metrics["adv_worst_l2"].conditions == ("worst-l2@0.5",)
    assert metrics["adv_pgd_linf"].conditions == ("pgd-linf@1/255", "pgd-linf@2/255")
    assert {m.label for m in metrics.values()} >= {"Worst-case Linf top-1", "PGD-Linf top-1"}


def test_the_page_names_every_attack_and_every_option_with_its_default() -> None:
    page = (ROOT / "docs" / "adversarial.md").read_text(encoding="utf-8")
    table = page[page.index("## Attacks") : page.index("| option |")]
    starred = re.findall(r"`([a-z0-9-]+)`( \*)?", table[: table.index("The starred ones")])
    assert {name for name, star in starred if name in ATTACKS} == set(ATTACKS)
    assert {name for name, star in starred if star} == set(STANDARD)
    options = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", page, re.MULTILINE)
    parameters = inspect.signature(Adversarial).parameters
    assert [name for name, _ in options] == list(parameters)
    for name, default in options:
        value = parameters[name].default
        assert yaml.safe_load(default) == (list(value) if isinstance(value, tuple) else value)
