"""Internal occlusion and noise at earlier stages of an encoder."""

from __future__ import annotations

import pytest
import torch
from helpers.occluded import in_stages
from torch import Tensor

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.protocol import Condition, Subject
from robustbench_coss.evaluations.suites.occlusion import (
    Occlusion,
    mask_for,
)
from robustbench_coss.testing import pictures


def test_groups_of_an_earlier_stage_carry_its_name_and_have_no_drop(staged: Subject) -> None:
    suite = Occlusion(stages=["first", "second"], ratios=[0.5], sigmas=[1])
    conditions = suite.conditions(staged)
    assert [c.name for c in conditions] == [
        "clean",
        "first random-zero@0.5",
        "first block-zero@0.5",
        "first noise@1",
        "first input-patches@0.5",
        "random-zero@0.5",
        "random-drop@0.5",
        "block-zero@0.5",
        "block-drop@0.5",
        "noise@1",
        "input-patches@0.5",
    ]
    assert conditions[1].group == "first random-zero"
    metrics = {m.name: m for m in suite.metrics(conditions)}
    assert metrics["occlusion_internal"].conditions == ("random-zero@0.5",)
    assert metrics["occlusion_internal_first"].conditions == ("first random-zero@0.5",)
    assert "occlusion_random_drop_first" not in metrics
    assert len(metrics) == 10


def test_the_last_stage_under_its_own_name_is_local(staged: Subject) -> None:
    by_name, default = Occlusion(stages="second"), Occlusion()
    assert by_name.conditions(staged) == default.conditions(staged)
    both = Occlusion(stages=["local", "second"])
    assert both.conditions(staged) == default.conditions(staged)


def test_an_encoder_in_stages_gives_the_outcomes_of_one_in_a_piece(
    staged: Subject, subject: Subject
) -> None:
    batch, outcomes = pictures(60), []
    for s in (staged, subject):
        suite = Occlusion(ratios=[0.5], sigmas=[1])
        suite.prepare(s, pictures(40, first=900), 32)
        outcomes.append([suite.measure(s, batch, c, 0)["correct"] for c in suite.conditions(s)])
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


def given_to_second(subject: Subject, condition: Condition) -> tuple[Tensor, Tensor]:
    """The map after the first stage, untouched, and as the second stage got it."""
    suite, batch, seen = Occlusion(stages=["first", "second"]), pictures(60), []
    suite.prepare(subject, pictures(300, first=900), 32)
    hook = subject.encoder.body[2].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    suite.measure(subject, batch, condition, 0)
    hook.remove()
    with torch.inference_mode():
        return subject.encoder.maps(batch.images)["first"], seen[0]


@pytest.mark.parametrize("form", ["random", "block"])
def test_masked_positions_of_an_earlier_stage_are_zero_and_the_rest_runs_on(
    staged: Subject, form: str
) -> None:
    group = f"first {form}-zero"
    condition = Condition(f"{group}@0.25", group, 0.25, "first", f"{form}-zero")
    clean, got = given_to_second(staged, condition)
    names = (0, "occlusion", condition.name)
    mask = mask_for(f"{form}-zero", 0.25, range(60), (8, 8), *names)
    assert mask.sum((1, 2)).tolist() == [16] * 60
    assert torch.equal(got, clean.masked_fill(mask[:, None], 0))
    suite = Occlusion(stages="first")
    suite.prepare(staged, pictures(20, first=900), 32)
    outcome = suite.measure(staged, pictures(60), condition, 0)["correct"]
    with torch.no_grad():
        answer = staged.classify(staged.encoder.pool(staged.encoder.body[2:](got))).argmax(1)
    assert torch.equal(outcome, answer == pictures(60).labels)


def test_noise_at_an_earlier_stage_is_scaled_by_the_deviations_there(staged: Subject) -> None:
    clean, got = given_to_second(
        staged, Condition("first noise@2", "first noise", 2.0, "first", "noise")
    )
    with torch.inference_mode():
        reference = staged.encoder.maps(pictures(300, first=900).images)["first"].double()
    expected = 2 * reference.transpose(0, 1).flatten(1).std(1, correction=0)
    noise = (got - clean).double().transpose(0, 1).flatten(1)
    alive = expected > 0
    # 60 · 64 = 3840 draws a channel: s.d. of the estimate is 1/√7680 = 1.1 %; five is 5.7 %.
    assert alive.sum() > 8
    assert (noise[alive].std(1) / expected[alive] - 1).abs().max() < 0.057


def test_an_earlier_stage_with_several_positions_works_where_the_last_has_one() -> None:
    subject, batch = in_stages(8), pictures(30, 8)
    with pytest.raises(CossError, match="one at 8 px; use larger images"):
        Occlusion(stages=["first", "local"]).prepare(subject, pictures(20, 8, first=900), 8)
    suite = Occlusion(stages="first", ratios=[0.5], sigmas=[1])
    suite.prepare(subject, pictures(20, 8, first=900), 8)
    for condition in suite.conditions(subject):
        assert suite.measure(subject, batch, condition, 0)["correct"].shape == (30,)


def test_an_unknown_stage_is_refused_with_the_nearest_names(
    staged: Subject, subject: Subject
) -> None:
    with pytest.raises(
        CossError, match=r"no stage 'frist'; did you mean first\? it has first, sec"
    ):
        Occlusion(stages="frist").conditions(staged)
    with pytest.raises(CossError, match="no maps before its local representations"):
        Occlusion(stages="stage2").conditions(subject)
