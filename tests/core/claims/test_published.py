"""Which pairs count: the method as published, or where no pair is, the one setting of a study."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import simulate
from helpers.claim_cases import outcome_of, top1

from robustbench_coss.claims.verdicts import Outcome, examine
from robustbench_coss.records.record import Record
from robustbench_coss.tables.cells import to_markdown
from robustbench_coss.tables.claims import layout

SHARES = {"byol": (0.6, 0.62, 0.64), "dino": (0.5, 0.52, 0.54)}
GAIN = 0.1


def pair(method: str = "byol", mlp: bool | None = None, **options: Any) -> list[Record]:
    """A base method and its CO- form, better by `GAIN`; `options` are of the local term."""
    shares = SHARES[method]
    return [
        *variant(top1(shares, method), mlp, {}),
        *variant(top1([s + GAIN for s in shares], f"co-{method}"), mlp, {"w_s": 0.3} | options),
    ]


def variant(records: Sequence[Record], mlp: bool | None, options: dict[str, Any]) -> list[Record]:
    for record in records:
        record.model["training"]["options"] = options
        if mlp is not None:
            record.model["mlp"] = mlp
        told = f"{record.model['checkpoint_sha256']} {mlp} {options}"
        record.model["checkpoint_sha256"] = hashlib.sha256(told.encode()).hexdigest()
    return list(records)


def judged(results: Path, *records: Record, ablations: bool = False) -> Outcome:
    simulate.save(results, *records)
    return outcome_of(examine(results, ablations), "clean")


def counted(found: Outcome) -> list[str]:
    return [row.question.compared for row in found.rows if row.question.kind == "pair"]


def test_pairs_without_mlp_count_where_no_pair_is_as_published(tmp_path: Path) -> None:
    found = judged(tmp_path, *pair("byol", False), *pair("dino", False))
    assert len(counted(found)) == 2
    assert [r.effect for r in found.rows] == pytest.approx([GAIN, GAIN, GAIN])
    assert found.verdict == "supported"
    assert found.lacking == ("no pair as published: counted are those without MLP",)
    (section,) = layout(examine(tmp_path))
    said = [n for n in section.notes if "published" in n]
    assert said == ["No pair as published: counted are those without MLP."]
    assert said[0] in to_markdown("Claims", [section])


def test_one_pair_as_published_leaves_those_without_mlp_out(tmp_path: Path) -> None:
    found = judged(tmp_path, *pair("byol", True), *pair("dino", False))
    assert [c.split(" ")[0] for c in counted(found)] == ["CO-BYOL"]
    (left_out,) = found.lacking
    assert left_out.startswith("not the method as published, left out (`--ablations` counts it)")
    assert left_out.count("mlp=False") == 2
    assert "CO-DINO" in left_out


def test_an_mlp_put_into_an_architecture_without_one_is_a_setting_as_well(tmp_path: Path) -> None:
    records = pair("byol", True)
    for record in records:
        record.model["arch"] = "resnet18"
    found = judged(tmp_path, *records)
    assert found.verdict == "supported"
    assert found.lacking == ("no pair as published: counted are those with an MLP",)


@pytest.mark.parametrize(
    "records",
    [
        # The base method has no local term, so that these members are not alike.
        pytest.param([*pair(w_s=0.5)], id="one other w_s"),
        pytest.param([*pair(w_s=0.1), *pair("dino", w_s=0.1)], id="the same other w_s"),
        pytest.param([*pair(w_s=0.1), *pair(w_s=0.8)[3:]], id="a grid of w_s"),
        pytest.param([*pair(grid=2)], id="another grid"),
        pytest.param([*pair(target="same"), *pair("dino", heads="shared")], id="mixed"),
        pytest.param([*pair(mlp=False, w_s=0.5)], id="another w_s, neither with an MLP"),
        pytest.param([*pair(mlp=False), *pair(mlp=False, w_s=0.5)[3:]], id="that beside w_s = 0.3"),
        pytest.param([*pair(mlp=False), *pair("dino", w_s=0.5)], id="no MLP, and another w_s"),
    ],
)
def test_pairs_that_depart_in_other_ways_stay_left_out(
    tmp_path: Path, records: list[Record]
) -> None:
    found = judged(tmp_path, *records)
    assert (found.rows, found.verdict) == ((), "no records")
    assert any("left out (`--ablations` counts it)" in reason for reason in found.lacking)
    assert not any("no pair as published" in reason for reason in found.lacking)
    asked = outcome_of(examine(tmp_path, ablations=True), "clean")
    assert counted(asked)
    assert not any("published" in reason for reason in asked.lacking)


def test_a_model_without_its_pair_makes_no_setting(tmp_path: Path) -> None:
    """A published CO- model without its base method is no pair; those without MLP count."""
    alone = pair("dino", True)[3:]
    found = judged(tmp_path, *pair("byol", False), *alone)
    assert [c.split(" ")[0] for c in counted(found)] == ["CO-BYOL"]
    assert "no pair as published: counted are those without MLP" in found.lacking
    assert any("CO-DINO" in r and "no records of its base method" in r for r in found.lacking)


def test_early_records_are_told_by_their_parameters(tmp_path: Path) -> None:
    """Those that do not say `mlp`: fewer parameters than others of their build is without it."""
    records = [*pair("byol"), *pair("dino", False)]
    for record in records:
        record.model["parameters"] = 900
    larger = top1((0.5, 0.6), "simclr")
    for record in larger:
        record.model["parameters"] = 1000
    found = judged(tmp_path, *records, *larger)
    assert len(counted(found)) == 2
    assert "no pair as published: counted are those without MLP" in found.lacking
