from __future__ import annotations

import math

import pytest
import torch
from lightly.utils.benchmarking import knn_predict
from torch.nn import functional as F

from robustbench_coss.encoders import knn
from robustbench_coss.encoders.knn import nearest_class
from robustbench_coss.encoders.rank import effective_rank


@pytest.mark.parametrize("at_once", [7, 65_536])
@pytest.mark.parametrize("count", [5, 300])
def test_knn_in_parts_is_that_of_lightly(
    monkeypatch: pytest.MonkeyPatch, at_once: int, count: int
) -> None:
    monkeypatch.setattr(knn, "AT_ONCE", at_once)
    g = torch.Generator().manual_seed(0)
    bank = F.normalize(torch.randn(count, 6, generator=g), dim=1)
    labels = torch.randint(4, (count,), generator=g)
    queries = F.normalize(torch.randn(50, 6, generator=g), dim=1)
    expected = knn_predict(queries, bank.T, labels, 4, knn_k=min(20, count), knn_t=0.07)[:, 0]
    assert torch.equal(nearest_class(queries, bank, labels, 4), expected)


def test_a_bank_of_half_precision_answers_nearly_the_same() -> None:
    g = torch.Generator().manual_seed(0)
    bank = F.normalize(torch.randn(500, 16, generator=g), dim=1)
    labels = torch.randint(4, (500,), generator=g)
    queries = F.normalize(torch.randn(200, 16, generator=g), dim=1)
    whole = nearest_class(queries, bank, labels, 4)
    half = nearest_class(queries, bank.half(), labels, 4)
    assert float((whole == half).double().mean()) >= 0.98


@pytest.mark.parametrize(("rows", "dim", "directions"), [(400, 12, 5), (30, 60, 5)])
def test_equal_spread_along_some_directions_has_their_number_as_effective_rank(
    rows: int, dim: int, directions: int
) -> None:
    g = torch.Generator().manual_seed(0)
    centred = torch.randn(rows, directions, generator=g, dtype=torch.float64)
    basis = torch.linalg.qr(centred - centred.mean(dim=0))[0]
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=g, dtype=torch.float64))[0]
    x = 3.0 + basis @ turn[:directions]
    assert effective_rank(x) == pytest.approx(directions, rel=1e-6)


def test_effective_rank_is_exp_of_the_entropy_of_singular_values() -> None:
    # Singular values 3 and 1: shares 3/4 and 1/4.
    x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(x) == pytest.approx(math.exp(entropy), rel=1e-6)


def test_features_that_do_not_vary_have_no_rank() -> None:
    assert effective_rank(torch.full((10, 4), 2.0)) == 0
