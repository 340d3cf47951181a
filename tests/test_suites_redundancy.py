"""Similarities among local representations against brute force, and pooling of subsets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny import pictures, tiny_subject
from torch import Tensor

from evaluations.protocol import Condition, Subject
from evaluations.redundancy import (
    Redundancy,
    cosine_local_global,
    cosine_within,
    effective_rank,
    mean_direction,
    share_for_95_percent,
)
from robustbench_coss.errors import CossError

SIMILARITY = Condition("similarity", "similarity", 1.0)
vectors = arrays.arrays(
    np.float64,
    st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 3), st.integers(2, 3)),
    elements=st.floats(-10, 10).map(lambda x: round(x, 3)),
)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_subject()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size else 0.0


@settings(deadline=None)
@given(vectors)
def test_closed_form_of_the_cosine_within_an_image_equals_all_pairs(local: np.ndarray) -> None:
    points = local[0].reshape(local.shape[1], -1).T
    expected = np.mean([cosine(a, b) for a, b in itertools.combinations(points, 2)])
    assert cosine_within(torch.from_numpy(local)).item() == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(vectors, vectors)
def test_product_of_mean_directions_equals_all_pairs_across_images(
    a: np.ndarray, b: np.ndarray
) -> None:
    channels = min(a.shape[1], b.shape[1])
    a, b = a[:, :channels], b[:, :channels]
    left, right = (x[0].reshape(channels, -1).T for x in (a, b))
    expected = np.mean([cosine(p, q) for p in left for q in right])
    means = mean_direction(torch.from_numpy(a)), mean_direction(torch.from_numpy(b))
    assert (means[0] * means[1]).sum().item() == pytest.approx(expected, abs=1e-9)


def as_map(matrix: list[list[float]]) -> Tensor:
    """An n² × C matrix of local representations as a [1, C, n², 1] map."""
    return torch.tensor(matrix).T[None, :, :, None]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], 3.0),  # equal singular values: the full rank
        ([[1.0, 2], [2, 4], [3, 6]], 1.0),  # all in one direction
        # Singular values 3 and 1: exp(−¾ ln ¾ − ¼ ln ¼).
        ([[3.0, 0], [0, 1]], math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
        ([[0.0, 0], [0, 0]], 1.0),
    ],
)
def test_effective_rank_is_exp_of_the_entropy_of_singular_values(
    matrix: list[list[float]], expected: float
) -> None:
    assert effective_rank(as_map(matrix)).item() == pytest.approx(expected, abs=1e-6)


def test_similarity_columns_equal_brute_force(subject: Subject) -> None:
    reference, batch = pictures(20, first=500), pictures(5)
    suite = Redundancy()
    suite.prepare(subject, reference, 32)
    got = suite.measure(subject, batch, SIMILARITY, 0)
    with torch.no_grad():
        local = subject.encoder.local(batch.images)
        others = subject.encoder.local(reference.images)
        whole = subject.encoder(batch.images).numpy()
        alone = [
            subject.encoder.pool(local[:, :, i : i + 1, j : j + 1]).numpy()
            for i in range(4)
            for j in range(4)
        ]
    for i in range(5):
        points = local[i].flatten(1).T.double().numpy()
        pairs = [cosine(a, b) for a, b in itertools.combinations(points, 2)]
        assert got["within"][i].item() == pytest.approx(np.mean(pairs), abs=1e-6)
        # The partner is one of the reference images; which one is a draw.
        candidates = [
            np.mean([cosine(a, b) for a in points for b in other])
            for other in others.flatten(2).transpose(1, 2).double().numpy()
        ]
        assert np.abs(np.array(candidates) - got["across"][i].item()).min() < 1e-6
        single = [cosine(one[i], whole[i]) for one in alone]
        assert got["local_global"][i].item() == pytest.approx(np.mean(single), abs=1e-5)
    torch.testing.assert_close(got["effective_rank"] / 16, got["effective_rank_share"])
    assert (got["effective_rank"] > 1).all()


def test_partners_are_drawn_from_the_whole_reference_batch(subject: Subject) -> None:
    suite, batch = Redundancy(), pictures(60)
    suite.prepare(subject, pictures(4, first=500), 32)
    # Four one-hot "mean directions": the column then tells which partner was taken.
    local = torch.zeros(60, 24, 4, 4)
    local[:, :4] = 0.5
    suite._reference = torch.eye(24)[:4].double() * torch.arange(1, 5)[:, None]
    with torch.inference_mode():
        across = suite._similarity(subject.encoder, local, batch.index, 0)["across"]
    counts = torch.bincount((across / 0.5).round().long(), minlength=5)[1:]
    assert counts.sum() == 60
    assert counts.min() >= 5  # 15 expected, s.d. 3.4


def test_local_global_cosine_is_one_where_all_locals_are_equal(subject: Subject) -> None:
    local = torch.rand(3, 24, 1, 1, generator=torch.Generator().manual_seed(0)).expand(3, 24, 4, 4)
    with torch.inference_mode():
        got = cosine_local_global(subject.encoder, local)
    torch.testing.assert_close(got, torch.ones(3), rtol=0, atol=1e-5)


def test_pooling_all_local_representations_equals_clean(subject: Subject) -> None:
    suite, batch = Redundancy(), pictures(60)
    suite.prepare(subject, pictures(4, first=500), 32)
    got = suite.measure(subject, batch, Condition("k@16", "pooled", 1.0), 0)["correct"]
    with torch.no_grad():
        expected = subject(batch.images).argmax(1) == batch.labels
    assert torch.equal(got, expected)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_wanted_number_is_pooled(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    subject, suite, seen = tiny_subject(), Redundancy(), []
    pool = subject.encoder.pool

    def spy(local: Tensor, keep: Tensor | None = None) -> Tensor:
        seen.append(keep)
        return pool(local, keep)

    monkeypatch.setattr(subject.encoder, "pool", spy)
    (condition,) = [c for c in suite.conditions(subject) if c.name == f"k@{count}"]
    suite.measure(subject, pictures(9), condition, 0)
    (keep,) = seen
    assert keep.sum((1, 2)).tolist() == [count] * 9
    assert len(torch.unique(keep.flatten(1).int(), dim=0)) > 1


@pytest.mark.parametrize(
    ("size", "ladder"), [(32, [16, 8, 4, 2, 1]), (24, [9, 8, 4, 2, 1]), (16, [4, 2, 1])]
)
def test_the_ladder_goes_from_all_to_one_by_powers_of_two(size: int, ladder: list[int]) -> None:
    *pooled, last = Redundancy().conditions(tiny_subject(size))
    assert [c.name for c in pooled] == [f"k@{k}" for k in ladder]
    assert [c.level for c in pooled] == [k / ladder[0] for k in ladder]
    assert last == SIMILARITY


def test_a_map_of_one_position_is_refused() -> None:
    with pytest.raises(CossError, match="one at 8 px"):
        Redundancy().prepare(tiny_subject(8), pictures(4, 8), 8)


@pytest.mark.parametrize(
    ("levels", "accuracies", "expected"),
    [
        ([0.25, 0.5, 1.0], [0.5, 0.77, 0.8], 0.5),  # 95 % of 0.8 is 0.76
        ([0.25, 0.5, 1.0], [0.5, 0.75, 0.8], 1.0),
        ([1.0, 0.5, 0.25], [0.8, 0.79, 0.9], 0.25),
        ([1.0], [0.3], 1.0),
        ([0.5, 1.0], [0.0, 0.0], 0.5),
    ],
)
def test_share_for_95_percent_is_the_smallest_that_keeps_it(
    levels: list[float], accuracies: list[float], expected: float
) -> None:
    assert share_for_95_percent(levels, accuracies) == expected


def test_share_for_95_percent_needs_the_clean_accuracy() -> None:
    with pytest.raises(ValueError, match="share 1"):
        share_for_95_percent([0.5], [0.8])
