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
from torch import Tensor, nn

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.protocol import Condition, Subject
from robustbench_coss.evaluations.suites.redundancy import Redundancy, draw_below
from robustbench_coss.evaluations.suites.similarity import (
    cosine_local_global,
    cosine_within,
    effective_rank,
    mean_direction,
)
from robustbench_coss.statistics.sufficient_share import share_for_95_percent, smallest_share
from robustbench_coss.testing import TinyEncoder, pictures, tiny_subject

SIMILARITY = Condition("similarity", "similarity", 1.0)
vectors = arrays.arrays(
    np.float64,
    st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 3), st.integers(2, 3)),
    elements=st.floats(-10, 10).map(lambda x: round(x, 3)),
)


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


@settings(deadline=None)
@given(
    arrays.arrays(
        np.float64,
        st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)),
        elements=st.floats(-5, 5).map(lambda x: round(x, 3)),
    )
)
def test_effective_rank_equals_numpy_s_singular_values(local: np.ndarray) -> None:
    values = np.linalg.svd(local.reshape(len(local), -1), compute_uv=False)
    share = values[values > 0] / values.sum() if values.any() else np.ones(1)
    expected = np.exp(-(share * np.log(share)).sum())
    assert effective_rank(torch.from_numpy(local)[None]).item() == pytest.approx(expected, rel=1e-6)


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


def test_draws_reach_every_number_below_the_count() -> None:
    drawn = draw_below(4, range(4000), 0, "redundancy")
    assert drawn.dtype == torch.int64
    # 1000 expected of each, s.d. √(4000 · 1/4 · 3/4) = 27: five of them is 137.
    assert (torch.bincount(drawn, minlength=4) - 1000).abs().max() < 137
    assert len(drawn.unique()) == 4


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
    *pooled, similarity, probes = Redundancy().conditions(tiny_subject(size))
    assert [c.name for c in pooled] == [f"k@{k}" for k in ladder]
    assert [c.level for c in pooled] == [k / ladder[0] for k in ladder]
    assert (similarity, probes) == (SIMILARITY, Condition("probes", "probes", 1.0))


def test_a_map_of_one_position_is_refused() -> None:
    with pytest.raises(CossError, match="one at 8 px"):
        Redundancy().prepare(tiny_subject(8), pictures(4, 8), 8)


def test_too_few_reference_images_are_refused(subject: Subject) -> None:
    with pytest.raises(CossError, match="at least 4 labelled training images, got 3"):
        Redundancy().prepare(subject, pictures(3, first=500), 32)


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
def test_the_smallest_measured_share_that_keeps_95_percent_is_found(
    levels: list[float], accuracies: list[float], expected: float
) -> None:
    assert smallest_share(levels, accuracies) == expected


def test_exactly_95_percent_is_kept_whatever_the_rounding() -> None:
    for whole in (20, 40, 60, 140, 260):
        kept = whole * 19 // 20  # 0.95 · whole
        assert smallest_share([0.5, 1.0], [kept / 300, whole / 300]) == 0.5
        assert smallest_share([0.5, 1.0], [(kept - 1) / 300, whole / 300]) == 1.0


def test_shares_need_the_accuracy_of_the_whole() -> None:
    with pytest.raises(ValueError, match="1 among the levels"):
        smallest_share([0.5], [0.8])


def outcomes(*counts: int, n: int = 200) -> list[np.ndarray]:
    """Columns of n booleans with so many true, the same images first."""
    return [np.arange(n) < count for count in counts]


def test_the_interval_of_a_single_run_resamples_images_all_levels_together() -> None:
    levels = [1.0, 0.5, 0.25]
    # Far from the threshold on both sides: no resampling changes the answer.
    clear = share_for_95_percent(levels, [outcomes(160, 160, 40)])
    assert (clear.value, clear.low, clear.high, clear.interval) == (0.5, 0.5, 0.5, "bootstrap")
    # 152 of 160 is exactly 95 %. Drawing images flips the answer in about half of the samples.
    close = share_for_95_percent(levels, [outcomes(160, 152, 40)])
    assert (close.value, close.low, close.high) == (0.5, 0.5, 1.0)
    again = share_for_95_percent(levels, [outcomes(160, 152, 40)])
    assert repr(close) == repr(again)  # both have NaN, which is no number's equal
    # 158 of 160: the threshold of 95 % is 4.3 s.d. away if the same images are drawn for both
    # levels (losses are Poisson with mean 2, eight are allowed), but only 0.8 s.d. if not.
    paired = share_for_95_percent(levels, [outcomes(160, 158, 40)])
    assert (paired.low, paired.high) == (0.5, 0.5)


def test_seeds_give_the_mean_of_their_own_shares_with_a_t_interval() -> None:
    runs = [outcomes(160, 160, 160), outcomes(160, 160, 40), outcomes(160, 160, 40)]
    got = share_for_95_percent([1.0, 0.5, 0.25], runs)
    assert got.value == pytest.approx((0.25 + 0.5 + 0.5) / 3)
    sd = np.std([0.25, 0.5, 0.5], ddof=1)
    half = 4.302653 * sd / np.sqrt(3)  # t of 2 degrees of freedom at 0.975
    assert (got.sd, got.low, got.high) == pytest.approx(
        (sd, got.value - half, got.value + half), abs=1e-6
    )
    assert (got.seeds, got.interval) == (3, "t")


def test_an_encoder_that_gives_nan_is_refused() -> None:
    class Diverged(TinyEncoder):
        def local(self, x: Tensor) -> Tensor:
            return super().local(x) * float("nan")

    subject = Subject(Diverged(), nn.Linear(32, 6))
    with pytest.raises(CossError, match="NaN"):
        Redundancy().prepare(subject, pictures(8, first=500), 32)
