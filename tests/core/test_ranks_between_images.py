"""RankMe by its formula, and ranks of models in tables and as a question of claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import simulate
from helpers.claim_cases import outcome_of
from scipy.stats import spearmanr

from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.claims.verdicts import examine, judge
from robustbench_coss.encoders.rank import effective_rank, rankme
from robustbench_coss.records.metadata import FACTS
from robustbench_coss.records.record import Cell, Metric, Record


@pytest.mark.parametrize("shape", [(300, 20), (15, 40)])
def test_rankme_is_that_of_the_papers_formula(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    z = draw.normal(size=shape) * np.geomspace(1, 1e-3, shape[1]) + 0.5
    singular = np.linalg.svd(z, compute_uv=False)
    p = singular / singular.sum() + 1e-7
    expected = np.exp(-(p * np.log(p)).sum())
    assert rankme(torch.from_numpy(z)) == pytest.approx(expected, rel=1e-6)
    centred = np.linalg.svd(z - z.mean(axis=0), compute_uv=False)
    p = centred[centred > 1e-9] / centred.sum()
    assert effective_rank(torch.from_numpy(z)) == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_equal_singular_values_count_the_directions_and_nothing_has_none() -> None:
    z = torch.linalg.qr(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))[0]
    assert rankme(z) == pytest.approx(6, rel=1e-4)
    assert rankme(torch.zeros(5, 3)) == 0
    wide = torch.zeros(200, 100, dtype=torch.float64)
    wide[:, 0] = 1  # 99 shares of 1e-7 beside one of 1 + 1e-7
    p = np.r_[1 + 1e-7, np.full(99, 1e-7)]
    assert rankme(wide) == pytest.approx(np.exp(-(p * np.log(p)).sum()), abs=1e-12)


def study(values: list[float], kept: list[float], n: int = 100) -> list[Record]:
    """A model for each RankMe, of which so much is kept under noise."""
    made = []
    for i, (value, share) in enumerate(zip(values, kept, strict=True)):
        method = f"method{i}"
        noisy = Cell("gaussian_noise@1", "noise", 1.0, {"correct": simulate.exactly(share, n)})
        clean = Cell("clean", "", 0.0, {"correct": simulate.exactly(1.0, n)})
        top = Metric("corruption_top1", "C", "correct", (noisy.condition,))
        made.append(simulate.record([clean, noisy], [top], suite="corruption", method=method))
        alike = Cell("similarity", "similarity", 1.0, {"within": np.full(n, 0.1 * i, np.float32)})
        record = simulate.record([alike], [], suite="redundancy", method=method)
        record.extra = {FACTS: {"rankme": {"label": "RankMe", "value": value, "images": 500}}}
        made.append(record)
    return made


def test_the_question_is_a_rank_correlation_without_a_verdict(tmp_path: Path) -> None:
    values, kept = [9.0, 3.0, 20.0, 14.0, 1.0], [0.5, 0.4, 0.45, 0.7, 0.2]
    simulate.save(tmp_path, *study(values, kept))
    found = outcome_of(examine(tmp_path), "rank-robustness")
    (row,) = found.rows
    assert row.effect == pytest.approx(spearmanr(values, kept).statistic)
    assert row.question.measure.startswith("Rank correlation of RankMe with Noise")
    assert found.verdict == row.verdict == "no verdict"
    assert not row.question.decides
    assert row.p_holm == row.p  # corrected among questions alone


def test_questions_change_no_correction_of_claims(tmp_path: Path) -> None:
    simulate.save(tmp_path, *study([9.0, 3.0, 20.0, 14.0, 1.0], [0.5, 0.4, 0.45, 0.7, 0.2]))
    rows = [row for outcome in examine(tmp_path) for row in outcome.rows]
    claimed = [row for row in rows if not row.question.asks]
    assert [r.p_holm for r in judge([row.question for row in claimed])] == pytest.approx(
        [row.p_holm for row in claimed], nan_ok=True
    )


def test_where_no_record_states_a_rank_nothing_is_asked(tmp_path: Path) -> None:
    records = study([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4])
    for record in records:
        record.extra = {}
    simulate.save(tmp_path, *records)
    assert "rank-robustness" not in {o.claim.key for o in examine(tmp_path)}


def test_ranks_are_in_the_long_table_over_seeds(tmp_path: Path) -> None:
    records = []
    for seed, value in enumerate((10.0, 12.0, 11.0)):
        _, record = study([value], [0.5])
        record.model |= {"name": f"s{seed}", "checkpoint_sha256": f"{seed}" * 64}
        record.model["training"] = record.model["training"] | {"seed": seed}
        records.append(record)
    simulate.save(tmp_path, *records)
    line = load_table(tmp_path).set_index("metric").loc["redundancy_rankme"]
    assert (line["value"], line["seeds"], line["interval"]) == (11.0, 3, "t")
    assert line["high"] - line["value"] == pytest.approx(4.3027 / 3**0.5, rel=1e-3)
    assert line["n"] == 500
    assert not line["headline"]
