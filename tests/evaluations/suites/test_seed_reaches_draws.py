"""Every draw of a suite is keyed by the seed of the evaluation and by what it is for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from robustbench_coss import registry, seeds
from robustbench_coss.evaluations.protocol import Condition, Subject, Suite
from robustbench_coss.testing import pictures

SEED = 987_654_321  # occurs nowhere by chance

# Groups of conditions that draw nothing; all others of the project's own suites do.
STILL = {
    "clean": {""},
    "corruption": {""},
    "occlusion": {""},
    "crop": {"", "centre"},
    "adversarial": {"", "fgsm", "mi-fgsm"},
    "redundancy": {""},
    "rf": {""},
}
STILL_KINDS = {
    *("defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "saturate"),
    *("pixelate", "jpeg_compression", "gradient"),
}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The names of all that is drawn."""
    real, seen = seeds.seed_of, []

    def noted(*names: Any) -> int:
        seen.append(names)
        return real(*names)

    for name in STILL:
        registry.load("suite", name)  # what is imported later would keep the stand-in
    for module in list(sys.modules.values()):
        if getattr(module, "seed_of", None) is real:
            monkeypatch.setattr(module, "seed_of", noted)
    return seen


def suites() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((name, {}) for name in STILL)
    yield "corruption", {"backend": "reference", "workers": 1}
    yield "adversarial", {"attacks": "pgd-linf,pgd-l2,square", "restarts": 2, "eps": 8, "steps": 2}


@pytest.mark.parametrize(("name", "options"), suites())
def test_every_draw_is_keyed_by_the_seed(
    name: str, options: dict[str, Any], subject: Subject, keys: list[tuple[Any, ...]]
) -> None:
    suite: Suite = registry.load("suite", name)(**options)
    suite.prepare(subject, pictures(40, first=50_000), 32)
    batch = pictures(4, first=30)
    try:
        for condition in some_of(suite.conditions(subject)):
            keys.clear()
            suite.measure(subject, batch, condition, SEED)
            assert all(names[0] == SEED for names in keys), (condition.name, keys)
            images = {names[3] for names in keys if len(names) > 3 and names[3] != "restart"}
            assert images <= set(batch.index), condition.name  # not their places in the batch
            kinds = {kind for names in keys for kind in names[1:2]}
            assert kinds <= {suite.name}, condition.name
            if condition.group in STILL[name] or condition.kind in STILL_KINDS:
                continue
            assert keys, f"{condition.name} draws nothing"
            own = condition.name.replace("input-patches", "random-zero")  # one is the other's match
            assert {names[2] for names in keys} == {own}
    finally:
        suite.close()


def some_of(conditions: list[Condition]) -> Iterator[Condition]:
    """The largest level of each kind and group: draws do not depend on the level."""
    last = {(c.group, c.kind, c.stage): c for c in conditions}
    yield from last.values()
