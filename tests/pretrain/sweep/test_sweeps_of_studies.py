"""The sweeps of committed studies plan the runs that were measured, whatever becomes of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

from robustbench_coss.pretrain.sweep import plan, read_sweep
from robustbench_coss.records.record import read_record
from robustbench_coss.records.training import recipe_in

DECIDES = {"method", "arch", "dataset", "width", "mlp", "epochs", "batch_size", "seed", "precision"}
DECIDES |= {"optimizer", "views"}
SWEEPS = sorted(ROOT.glob("results/*/sweep.yaml"))


def same(planned: dict[str, Any], told: dict[str, Any]) -> bool:
    """Whether a recipe is the one that a record holds, which names the options left out, too."""
    if any(planned[key] != told[key] for key in DECIDES):
        return False
    return bool(planned["options"].items() <= told["options"].items())


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.parent.name)
def test_the_sweep_of_a_study_plans_the_recipes_that_its_records_hold(path: Path) -> None:
    planned = [run.recipe.model_dump(mode="json") for run in plan(read_sweep(str(path)), path)]
    clean = [read_record(found).model for found in path.parent.glob("records/*/*/clean.json")]
    measured = [recipe for recipe in map(recipe_in, clean) if recipe]
    assert len(measured) == len(planned)
    assert all(any(same(recipe, told) for recipe in planned) for told in measured)
    assert all(any(same(recipe, told) for told in measured) for recipe in planned)
