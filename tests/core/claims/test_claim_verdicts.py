"""What supports a claim, what leaves it undecided, what is not compared."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import simulate
from helpers.claim_cases import outcome_of, row, top1, with_options
from statsmodels.stats.multitest import multipletests
from typer.main import get_command

from robustbench_coss.claims.definitions import CLAIMS
from robustbench_coss.claims.verdicts import examine, verdict_of
from robustbench_coss.cli import app
from robustbench_coss.records.record import Cell, Metric
from robustbench_coss.tables.cells import to_markdown
from robustbench_coss.tables.claims import layout

COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]


def test_single_runs_leave_a_claim_undecided_however_far_they_are_apart(tmp_path: Path) -> None:
    simulate.save(tmp_path, *top1((0.2,), "byol"), *top1((0.9,), "co-byol"))
    found = outcome_of(outcomes := examine(tmp_path), "clean")
    (row,) = found.rows
    assert row.p < 1e-6
    assert row.low > 0.5
    assert math.isnan(row.p_holm)
    assert found.verdict == row.verdict == "undecided"
    assert any("second seed" in note for note in layout(outcomes)[0].notes)


def test_several_crops_with_single_runs_are_undecided_too(tmp_path: Path) -> None:
    for method, shares in {"byol": (0.9, 0.1), "co-byol": (0.9, 0.8)}.items():
        for crop, share in zip((0.08, 1.0), shares, strict=True):
            simulate.save(tmp_path, *top1((share,), method, crop))
    outcomes = examine(tmp_path)
    for claim in ("clean", "large-crops"):
        found = outcome_of(outcomes, claim)
        assert found.verdict == "undecided"
        assert found.rows[-1].effect == pytest.approx({"clean": 0.35, "large-crops": 0.7}[claim])
        assert not math.isnan(found.rows[-1].low)


def test_one_run_beside_several_decides_nothing(tmp_path: Path) -> None:
    simulate.save(tmp_path, *top1((0.6, 0.61, 0.62), "byol"), *top1((0.9,), "co-byol"))
    outcomes = examine(tmp_path)
    found = outcome_of(outcomes, "clean")
    assert (found.verdict, math.isnan(found.rows[0].p_holm)) == ("undecided", True)
    assert found.rows[0].effect == pytest.approx(0.9 - 0.61)
    assert any("fewer than two seeds that both" in note for note in layout(outcomes)[0].notes)


def test_a_pair_of_single_runs_does_not_spoil_one_of_several_seeds(tmp_path: Path) -> None:
    simulate.save(
        tmp_path,
        *top1((0.6, 0.61, 0.62), "byol"),
        *top1((0.9, 0.91, 0.92), "co-byol"),
        *top1((0.6,), "dino"),
        *top1((0.5,), "co-dino"),
    )
    found = outcome_of(examine(tmp_path), "clean")
    assert {r.question.compared.split(" ")[0]: r.question.decides for r in found.rows} == {
        "CO-BYOL": True,
        "CO-DINO": False,
    }
    assert found.verdict == "supported"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], "no records"),
        (["supported"], "supported"),
        (["supported", "supported"], "supported"),
        (["supported", "undecided"], "undecided"),
        (["supported", "not supported"], "not supported"),
        (["undecided", "not supported"], "not supported"),
    ],
)
def test_all_that_decides_has_to_support_a_claim(verdicts: list[str], expected: str) -> None:
    assert verdict_of([row(v) for v in verdicts], True) == expected
    if verdicts:
        below = [row("not supported", decides=False), row("supported", decides=False)]
        assert verdict_of([*below, *map(row, verdicts)], True) == expected


def test_a_claim_of_which_a_part_was_not_measured_is_not_supported(tmp_path: Path) -> None:
    for method, share in {"byol": 0.2, "co-byol": 0.9}.items():
        for seed in range(3):
            column = simulate.exactly(share + seed / 100, 100)
            cells = [Cell("random-zero@0.5", "random-zero", 0.5, {"correct": column})]
            metric = Metric("occlusion_internal", "Occlusion", "correct", ("random-zero@0.5",))
            record = simulate.record(cells, [metric], suite="occlusion", method=method, seed=seed)
            simulate.save(tmp_path, record)
    with_options(tmp_path)
    found = outcome_of(examine(tmp_path), "internal-corruption")
    assert [r.verdict for r in found.rows] == ["supported"]
    assert found.verdict == "undecided"
    assert any("Internal noise top-1 not measured" in reason for reason in found.lacking)


@pytest.mark.slow
def test_holm_is_over_all_that_decides_in_a_call(simulated: Path) -> None:
    rows = [row for o in examine(simulated) for row in o.rows]
    for decides in (True, False):
        family = [r for r in rows if r.question.decides is decides]
        assert len(family) > 6
        np.testing.assert_allclose(
            [r.p_holm for r in family], multipletests([r.p for r in family], method="holm")[1]
        )


def test_claims_without_records_name_commands_that_exist(tmp_path: Path) -> None:
    simulate.save(tmp_path, *top1((0.6, 0.7), "byol"))
    outcomes = examine(tmp_path)
    assert [o.verdict for o in outcomes] == ["no records"] * len(CLAIMS)
    for o in outcomes:
        assert o.rows == ()
        commands = re.findall(r"`coss-bench ([^`]+)`", " ".join(o.lacking))
        assert commands
        for words in map(str.split, commands):
            COMMANDS[words[0]].make_context(words[0], words[1:])
    assert "no records" in to_markdown("Claims", layout(outcomes))


def test_a_co_model_without_its_base_method_is_named(tmp_path: Path) -> None:
    other = top1((0.6, 0.7), "byol")
    for record in other:
        record.model["width"] = 0.5  # not all else equal
    simulate.save(tmp_path, *other, *top1((0.6, 0.7), "co-byol"))
    found = outcome_of(examine(tmp_path), "clean")
    assert found.verdict == "no records"
    assert "CO-BYOL · rf29_resnet18 ×0.25, clean: no records of its base method" in found.lacking[0]


def test_models_measured_on_other_images_are_not_compared(tmp_path: Path) -> None:
    ours, theirs = top1((0.6, 0.7), "byol"), top1((0.6, 0.7), "co-byol")
    for record in theirs:
        record.index = record.index + 1
    simulate.save(tmp_path, *ours, *theirs)
    found = outcome_of(examine(tmp_path), "clean")
    assert found.verdict == "no records"
    assert "the test images are not the same" in found.lacking[0]


def test_pairs_of_different_images_have_no_mean(tmp_path: Path) -> None:
    for method in ("byol", "co-byol", "dino", "co-dino"):
        records = top1((0.6, 0.7), method)
        for record in records:
            record.index = record.index + ("dino" in method)
        simulate.save(tmp_path, *records)
    found = outcome_of(examine(tmp_path), "clean")
    assert [r.question.decides for r in found.rows] == [True, True]
    assert "no mean over pairs" in found.lacking[0]


def test_test_sets_are_judged_apart_and_corrected_together(tmp_path: Path) -> None:
    for dataset in ("parts", "other"):
        for method, shares in {"byol": (0.5, 0.52, 0.54), "co-byol": (0.58, 0.6, 0.62)}.items():
            for seed, share in enumerate(shares):
                record = simulate.clean(share, method=method, seed=seed, dataset=dataset)
                record.model["training"]["options"] = {}
                simulate.save(tmp_path, record)
    outcomes = examine(tmp_path)
    assert len(outcomes) == 2 * len(CLAIMS)
    rows = [r for o in outcomes for r in o.rows]
    assert [r.p_holm for r in rows] == pytest.approx([2 * rows[0].p] * 2)
    assert [s.title for s in layout(outcomes)] == ["other, 32 px", "parts, 32 px"]
