"""What every registered suite must hold to, third-party ones included."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
import torch
from helpers.tiny import pictures, split, tiny_subject

from robustbench_coss import registry
from robustbench_coss.evaluations.protocol import Subject, Suite, top1
from robustbench_coss.records.record import Cell

COUNT = 8


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_subject()


@pytest.fixture(params=registry.names("suite"))
def suite(request: pytest.FixtureRequest, subject: Subject) -> Iterator[Suite]:
    made: Suite = registry.load("suite", request.param)()
    made.prepare(subject, pictures(40, first=50_000), 32)
    yield made
    made.close()


def test_names_are_unique_and_one_condition_is_the_reference(
    suite: Suite, subject: Subject
) -> None:
    conditions = suite.conditions(subject)
    assert len({c.name for c in conditions}) == len(conditions)
    assert sum(c.group == "" for c in conditions) == 1


def test_config_can_be_written_as_json(suite: Suite) -> None:
    assert json.loads(json.dumps(suite.config(), allow_nan=False)) == suite.config()


def test_the_registered_name_is_the_suite_s_own(suite: Suite) -> None:
    assert suite.name in registry.names("suite")
    assert type(suite) is registry.load("suite", suite.name)


def test_outcomes_do_not_depend_on_batches_order_or_the_state_of_generators(
    suite: Suite, subject: Subject
) -> None:
    batch = pictures(COUNT, first=30)
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    columns: dict[str, set[str]] = {}
    cells = []
    for condition in suite.conditions(subject):
        torch.manual_seed(1)
        whole = suite.measure(subject, batch, condition, 11)
        columns[condition.name] = set(whole)
        outcomes = {name: column.numpy() for name, column in whole.items()}
        cells.append(Cell(condition.name, condition.group, condition.level, outcomes))
        torch.manual_seed(2)
        parts = [
            suite.measure(subject, split(batch, order[i : i + 3]), condition, 11)
            for i in range(0, COUNT, 3)
        ]
        for name, column in whole.items():
            assert column.shape == (COUNT,), (condition.name, name)
            assert column.dtype in (torch.bool, torch.float32), (condition.name, name)
            other = torch.cat([part[name] for part in parts])
            assert torch.isfinite(column.float()).all()
            torch.testing.assert_close(
                other.float(),
                column[order].float(),
                rtol=0,
                atol=1e-5,
                msg=lambda m, c=condition.name, n=name: f"{c}, {n}: {m}",
            )
    columns |= {cell.condition: set(cell.outcomes) for cell in suite.derived(cells)}
    metrics = suite.metrics(suite.conditions(subject))
    assert len({m.name for m in metrics}) == len(metrics)
    for metric in metrics:
        assert metric.conditions
        assert metric.better in ("higher", "lower", "")
        for name in metric.conditions:
            assert metric.column in columns[name]
    assert any(suite.axis.column in names for names in columns.values())


def test_the_reference_condition_does_not_depend_on_the_seed(
    suite: Suite, subject: Subject
) -> None:
    batch = pictures(40)
    (reference,) = [c for c in suite.conditions(subject) if c.group == ""]
    a = suite.measure(subject, batch, reference, 0)
    b = suite.measure(subject, batch, reference, 1)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_reference_condition_is_the_undisturbed_image(suite: Suite, subject: Subject) -> None:
    batch = pictures(60)
    (reference,) = [c for c in suite.conditions(subject) if c.group == ""]
    with torch.no_grad():
        expected = subject(batch.images).argmax(1) == batch.labels
    assert torch.equal(suite.measure(subject, batch, reference, 0)["correct"], expected)


def test_a_class_is_answered_only_where_all_logits_are_finite() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [9.0, math.nan, 0.0], [math.inf, 0.0, 0.0]])
    assert top1(logits).tolist() == [1, -1, -1]
