"""The key of a record knows all that determines its outcomes, each part by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.toy_suite import ToyData, ToySuite, make_run, measure

from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.running.draft import record_key
from robustbench_coss.evaluations.running.precision import Arithmetic

DATA: dict[str, Any] = {"fingerprint": "f", "size": 32, "n": 5}
CHANGED: dict[str, dict[str, Any]] = {
    "weights": {"checkpoint_sha256": "b"},
    "classifier": {"classifier_key": "q"},
    "images": {"dataset": DATA | {"fingerprint": "g"}},
    "size": {"dataset": DATA | {"size": 64}},
    "number": {"dataset": DATA | {"n": 6}},
    "geometry": {"dataset": DATA | {"geometry": {"crop": 1.0}}},
    "list": {"dataset": DATA | {"image_list": {"file": "x", "images": "h"}}},
    "other list": {"dataset": DATA | {"image_list": {"file": "x", "images": "i"}}},
    "suite": {"suite": ("crop", 1, {"areas": [0.5]})},
    "version": {"suite": ("clean", 2, {"areas": [0.5]})},
    "settings": {"suite": ("clean", 1, {"areas": [0.4]})},
    "seed": {"seed": 1},
    "answers": {"answers": "z"},
    "schema": {"schema": 1},
    "bf16": {"how": Arithmetic("bf16")},
    "fp16": {"how": Arithmetic("fp16")},
    "TF32": {"how": Arithmetic(tf32=True)},
    "compiled": {"how": Arithmetic(compiled=True)},
}


def key(**changes: Any) -> str:
    values: dict[str, Any] = {
        "checkpoint_sha256": "a",
        "classifier_key": "p",
        "dataset": DATA,
        "suite": ("clean", 1, {"areas": [0.5]}),
        "seed": 0,
        "how": Arithmetic(),
    }
    return record_key(**(values | changes))


def test_each_part_of_a_key_changes_it() -> None:
    keys = [key(), *(key(**changes) for changes in CHANGED.values())]
    assert len({*keys}) == len(keys)
    assert key() == keys[0]


def test_a_key_is_made_of_what_was_measured(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the key from the model, the request, the suite and the images."""
    keys = {}
    keys["as it is"] = measure(run).key
    keys["seed"] = measure(run, seed=1).key
    keys["limit"] = measure(run, limit=9).key
    keys["probe"] = measure(run, probe=ProbeConfig(l2_values=3)).key
    keys["suite"] = measure(run, ("linked",)).key
    with monkeypatch.context() as patch:
        patch.setattr(ToySuite, "settings", {"noise": "normal"})
        keys["settings"] = measure(run).key
    with monkeypatch.context() as patch:
        patch.setattr(ToySuite, "version", 7)
        keys["version"] = measure(run).key
    with monkeypatch.context() as patch:
        patch.setitem(ToyData.sizes, "test", 60)
        keys["images"] = measure(run).key
    other = make_run(run.parent / "toy-run-2", training={"epochs": 4})
    keys["weights"] = measure(other).key
    assert len({*keys.values()}) == len(keys), keys
    assert measure(run).key == keys["as it is"]
