"""The questions of `coss-bench claims`: effects worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import simulate
from helpers.claim_cases import outcome_of, top1
from statsmodels.stats.multitest import multipletests

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.claims.definitions import ATTACKS, SINGLE
from robustbench_coss.claims.verdicts import examine
from robustbench_coss.records.record import Cell, Metric
from robustbench_coss.statistics.contrasts import contrast


def test_a_pair_is_compared_as_two_models_are(tmp_path: Path) -> None:
    simulate.save(tmp_path, *top1((0.6, 0.62, 0.64), "byol"), *top1((0.7, 0.73, 0.74), "co-byol"))
    found = outcome_of(examine(tmp_path), "clean")
    (row,) = found.rows
    line = compare(tmp_path, "co-byol", "byol").table.set_index("metric").loc["clean_top1"]
    assert row.effect == pytest.approx(np.mean([0.1, 0.11, 0.1]))
    assert (row.effect, row.low, row.high, row.p, row.test) == pytest.approx(
        (line["difference"], line["low"], line["high"], line["p"], line["test"])
    )
    assert row.p_holm == row.p  # the only test of this call
    assert found.verdict == row.verdict == "supported"


def test_the_mean_of_pairs_weighs_them_alike_and_decides(tmp_path: Path) -> None:
    simulate.save(
        tmp_path,
        *top1((0.60, 0.62, 0.61, 0.63), "byol"),
        *top1((0.70, 0.71, 0.72, 0.73), "co-byol"),
        *top1((0.50, 0.52, 0.53, 0.55), "dino"),
        *top1((0.46, 0.47, 0.49, 0.52), "co-dino"),
    )
    found = outcome_of(examine(tmp_path), "clean")
    *pairs, mean = found.rows
    assert [r.effect for r in pairs] == pytest.approx([0.1, -0.04])
    assert mean.effect == pytest.approx(0.03)
    assert [r.question.kind for r in found.rows] == ["pair", "pair", "pooled"]
    assert [r.question.decides for r in found.rows] == [False, False, True]
    assert mean.question.compared == "mean of 2 pairs"
    assert found.verdict == mean.verdict
    np.testing.assert_allclose(
        [r.p_holm for r in pairs], multipletests([r.p for r in pairs], method="holm")[1]
    )
    assert mean.p_holm == mean.p


def test_a_base_method_that_two_pairs_share_is_counted_once(tmp_path: Path) -> None:
    base, one, other = top1((0.6, 0.62), "byol"), *(top1((s, s), "co-byol") for s in (0.7, 0.8))
    for record in other:
        record.model["name"] += "-w"
        record.model["checkpoint_sha256"] = record.model["checkpoint_sha256"][::-1]
        record.model["training"]["options"] = {"w_s": 0.5}
    simulate.save(tmp_path, *base, *one, *other)
    mean = outcome_of(examine(tmp_path, ablations=True), "clean").rows[-1]
    columns = [[r.cells[0].outcomes["correct"] for r in runs] for runs in (one, other, base)]
    expected = contrast(columns, [0.5, 0.5, -1], [(0, 1)] * 3)
    assert len(mean.question.sources) == 3
    assert (mean.effect, mean.low, mean.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )


def test_training_crops_are_told_by_the_smallest_and_largest_that_both_have(tmp_path: Path) -> None:
    shares = {
        ("byol", 0.08): (0.70, 0.72),
        ("byol", 0.5): (0.1, 0.1),
        ("byol", 1.0): (0.50, 0.54),
        ("co-byol", 0.08): (0.68, 0.70),
        ("co-byol", 0.5): (0.9, 0.9),
        ("co-byol", 1.0): (0.60, 0.62),
        ("co-byol", 0.01): (0.2, 0.2),
    }
    for (method, crop), values in shares.items():
        simulate.save(tmp_path, *top1(values, method, crop))
    found = outcome_of(examine(tmp_path), "large-crops")
    (row,) = found.rows
    # CO- loses .69 - .61 = .08, the base method .71 - .52 = .19.
    assert row.effect == pytest.approx(0.19 - 0.08)
    assert row.question.compared.endswith("minimum crop 0.08 to 1")
    assert (row.test, row.question.unit) == ("t", "points")


def test_small_attacks_are_those_up_to_2_of_255_and_the_worst_case_goes_first() -> None:
    def cells(group: str) -> list[Cell]:
        return [
            Cell(f"{group}@{e:g}/255", group, e, {"correct": simulate.exactly(0.5, 10)})
            for e in (0.25, 1.0, 2.0, 4.0)
        ]

    record = simulate.record([*cells("pgd-linf"), *cells("fgsm")], [], suite="adversarial")
    found = ATTACKS.find(record)
    assert found is not None
    assert found.conditions == ("pgd-linf@0.25/255", "pgd-linf@1/255", "pgd-linf@2/255")
    record.cells += cells("worst-linf")
    worst = ATTACKS.find(record)
    assert worst is not None
    assert worst.conditions == ("worst-linf@0.25/255", "worst-linf@1/255", "worst-linf@2/255")
    assert ATTACKS.find(simulate.clean(0.5)) is None


def test_a_single_local_is_the_smallest_number_pooled() -> None:
    cells = [Cell(f"k@{k}", "pooled", k / 16, {"correct": np.ones(4, bool)}) for k in (8, 1, 2)]
    found = SINGLE.find(simulate.record(cells, [], suite="redundancy"))
    assert found is not None
    assert found.conditions == ("k@1",)


def test_redundancy_and_robustness_are_ranked_over_configurations(tmp_path: Path) -> None:
    within, noisy = (0.2, 0.4, 0.3, 0.6, 0.5), (0.3, 0.32, 0.4, 0.42, 0.48)
    cleans = (0.5, 0.5, 0.5, 0.5, 0.8)  # so that the last keeps 60 %, the fewest but one
    methods = ("byol", "dino", "mocov3", "simclr", "supervised")
    for method, cosine, share, clean in zip(methods, within, noisy, cleans, strict=True):
        for seed in (0, 1):
            alike = {
                "within": np.full(100, cosine + 0.01 * seed + 0.3),
                "across": np.full(100, 0.3),
            }
            right = {
                "clean": ("", simulate.exactly(clean, 100)),
                "gaussian_noise@1": ("noise", simulate.exactly(share, 100)),
            }
            simulate.save(
                tmp_path,
                simulate.record(
                    [Cell("similarity", "similarity", 1.0, alike)],
                    [Metric("w", "W", "within", ("similarity",), "", False)],
                    suite="redundancy",
                    method=method,
                    seed=seed,
                ),
                simulate.record(
                    [Cell(c, g, 1.0, {"correct": column}) for c, (g, column) in right.items()],
                    [Metric("n", "N", "correct", ("gaussian_noise@1",))],
                    suite="corruption",
                    method=method,
                    seed=seed,
                ),
            )
    found = outcome_of(examine(tmp_path), "redundancy-robustness")
    (row,) = found.rows
    # Ranks of cosines 1 3 2 5 4, of what is kept (.6, .64, .8, .84, .6) 1.5 3 4 5 1.5.
    assert row.effect == pytest.approx(np.corrcoef([1, 3, 2, 5, 4], [1.5, 3, 4, 5, 1.5])[0, 1])
    assert (row.question.compared, row.question.unit) == ("5 configurations", "rho")
    assert found.lacking == ("no records of suite adversarial",)
