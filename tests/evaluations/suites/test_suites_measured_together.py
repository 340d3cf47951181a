"""Conditions that start from the same maps share them, and get the outcomes they have alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.occluded import StagedEncoder
from torch import Tensor, nn

from robustbench_coss.encoders.base import Stage
from robustbench_coss.evaluations.protocol import Condition, Subject
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.evaluations.running.units import Outcomes, units
from robustbench_coss.evaluations.suites.occlusion import Occlusion
from robustbench_coss.evaluations.suites.redundancy import Redundancy
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.testing import TinyEncoder, pictures, tiny_subject

LIMIT = 20


class InPlace(StagedEncoder):
    """Its second stage overwrites what it is given, as in-place activations do."""

    def stages(self) -> dict[str, Stage]:
        return {"first": self._first, "second": self._overwrite}

    def _overwrite(self, x: Tensor) -> Tensor:
        out: Tensor = self.body[2:](x).clone()
        x.zero_()
        return out


class Counting(TinyEncoder):
    """Counts the test images that it is shown, which only suites show it so few at a time."""

    shown = 0

    def local(self, x: Tensor) -> Tensor:
        Counting.shown += len(x) if len(x) == 5 else 0
        return super().local(x)


@pytest.mark.parametrize(
    ("suite", "options", "passes"),
    [
        # The image as it is once, and once for each share of its patches painted grey.
        ("occlusion", {"ratios": [0.25, 0.5], "sigmas": [1.0, 2.0]}, 1 + 2),
        ("redundancy", {}, 1),
        # The whole image once, and each of two crops of two areas.
        ("crop", {"areas": [0.5, 0.25]}, 1 + 4),
    ],
)
def test_an_image_passes_once_for_all_that_starts_from_its_maps(
    suite: str, options: dict[str, object], passes: int, tmp_path: Path
) -> None:
    Counting.shown = 0
    encoder = Counting(32).eval()
    head = nn.Linear(encoder.dim, 10)
    about = {"arch": "counting", "width": 1.0, "size": 32, "dataset": "parts", "training": {}}
    model = Checkpoint(encoder, "counting", None, "ab" * 32, about, head, 10)
    request = Evaluation(
        suite, results=tmp_path, limit=LIMIT, batch_size=5, options={suite: options}, device="cpu"
    )
    ((_, record),) = evaluate_run(lambda: model, request).items()
    assert all(len(cell.outcomes) and cell.wall_time_s > 0 for cell in record.cells)
    # A few at the beginning find out whether the model takes the images and answers steadily.
    assert passes * LIMIT <= Counting.shown <= passes * LIMIT + 10


def test_a_stage_that_works_in_place_leaves_the_maps_of_the_others_alone() -> None:
    plain = tiny_subject(32)
    encoder = InPlace(32)
    encoder.load_state_dict(plain.encoder.state_dict())
    subject, batch = Subject(encoder, plain.classifier), pictures(60)
    suite = Occlusion(stages=["first", "second"], ratios=[0.5], sigmas=[1])
    suite.prepare(subject, pictures(40, first=900), 32)
    conditions = [c for c in suite.conditions(subject) if suite.shares(c)]
    found = list(suite.measure_together(subject, batch, conditions, 0))
    for condition, outcomes in zip(conditions, found, strict=True):
        alone = suite.measure(subject, batch, condition, 0)
        assert all(torch.equal(column, alone[name]) for name, column in outcomes.items())


@pytest.mark.parametrize("suite", [Occlusion(ratios=[0.5], sigmas=[1]), Redundancy()])
def test_what_is_left_of_the_conditions_that_share_is_one_unit(
    suite: Occlusion | Redundancy,
) -> None:
    todo = suite.conditions(tiny_subject(32))[2:]
    found = units(suite, todo, [], {c.name: 10 for c in todo}, 4)
    assert sorted(c.name for unit in found for c in unit.conditions) == sorted(
        c.name for c in todo for _ in range(3)
    )
    sharing, *others = (unit for unit in found if unit.start == 0)
    assert sharing.conditions == tuple(c for c in todo if suite.shares(c))
    assert all(len(unit.conditions) == 1 for unit in others)


def test_what_is_not_finite_is_counted_under_its_own_condition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_subject(32)
    head = nn.Linear(plain.encoder.dim, 10)

    def pool(local: Tensor, keep: Tensor | None = None) -> Tensor:
        pooled = TinyEncoder.pool(plain.encoder, local, keep)
        return pooled if keep is None else pooled * torch.nan

    monkeypatch.setattr(plain.encoder, "pool", pool)
    about = {"arch": "tiny", "width": 1.0, "size": 32, "dataset": "parts", "training": {}}
    model = Checkpoint(plain.encoder, "tiny", None, "cd" * 32, about, head, 10)
    request = Evaluation(
        "occlusion",
        results=tmp_path,
        limit=LIMIT,
        batch_size=5,
        options={"occlusion": {"ratios": [0.5], "sigmas": [1.0]}},
        device="cpu",
    )
    ((_, record),) = evaluate_run(lambda: model, request).items()
    broken = {cell.condition for cell in record.cells if cell.problem}
    assert broken == {"random-drop@0.5", "block-drop@0.5"}
    assert all(cell.problem.startswith(f"{LIMIT} outputs") for cell in record.cells if cell.problem)


def test_outcomes_are_refused_that_are_not_one_for_an_image() -> None:
    outcomes = Outcomes(Redundancy(), Condition("k@1", "pooled", 0.1))
    outcomes.add({"correct": torch.zeros(3)}, 4)
    with pytest.raises(Exception, match=r"columns .* for 4 images under 'k@1'"):
        outcomes.columns()
