"""The suite of attacks: ladders, options, metrics, and its page."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import ROOT
from torch import nn

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.attacks.names import ATTACKS
from robustbench_coss.evaluations.protocol import Subject
from robustbench_coss.evaluations.suites.adversarial import STANDARD, Adversarial
from robustbench_coss.records.record import Cell
from robustbench_coss.testing import pictures, tiny_subject


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
    assert {m.label for m in metrics.values()} >= {"Worst-case ℓ∞ top-1", "PGD-ℓ∞ top-1"}


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
