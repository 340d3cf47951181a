"""Similarities among local representations against brute force, and pooling of subsets."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import optimize
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject
from robustbench_coss.evaluations.suites.local_probe import (
    PENALTIES,
    fit_ridge,
    local_channels,
    ridge_path,
)
from robustbench_coss.evaluations.suites.redundancy import Redundancy, draw_below
from robustbench_coss.evaluations.suites.similarity import (
    cka_matrix,
    cosine_local_global,
    cosine_within,
    effective_rank,
    mean_direction,
    spread_positions,
)
from robustbench_coss.statistics.sufficient_share import share_for_95_percent, smallest_share
from robustbench_coss.testing import TinyEncoder, pictures, split, tiny_subject

SIMILARITY = Condition("similarity", "similarity", 1.0)
PROBES = Condition("probes", "probes", 1.0)
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
    assert (similarity, probes) == (SIMILARITY, PROBES)


def test_a_map_of_one_position_is_refused() -> None:
    with pytest.raises(CossError, match="one at 8 px"):
        Redundancy().prepare(tiny_subject(8), pictures(4, 8), 8)


def test_too_few_reference_images_are_refused(subject: Subject) -> None:
    with pytest.raises(CossError, match="at least 4 labelled training images, got 3"):
        Redundancy().prepare(subject, pictures(3, first=500), 32)


# ---- the smallest share that keeps 95 % ----


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
    assert close == share_for_95_percent(levels, [outcomes(160, 152, 40)])
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


# ---- CKA between positions ----


def hsic_by_distinct_images(a: np.ndarray, b: np.ndarray) -> float:
    """HSIC as the mean over quadruples of distinct images (Song et al. 2012)."""
    k, g, n = a @ a.T, b @ b.T, len(a)
    pairs = [k[i, j] * g[i, j] for i, j in itertools.permutations(range(n), 2)]
    triples = [k[i, j] * g[i, q] for i, j, q in itertools.permutations(range(n), 3)]
    quadruples = [k[i, j] * g[q, r] for i, j, q, r in itertools.permutations(range(n), 4)]
    return float(np.mean(pairs) - 2 * np.mean(triples) + np.mean(quadruples))


def test_cka_equals_the_ratio_of_unbiased_hsic_over_distinct_images() -> None:
    x = np.random.default_rng(0).normal(size=(3, 7, 2)) + 1  # not centred
    got = cka_matrix(torch.from_numpy(x))
    for i, j in itertools.product(range(3), repeat=2):
        cross, own, other = (
            hsic_by_distinct_images(a, b) for a, b in ((x[i], x[j]), (x[i], x[i]), (x[j], x[j]))
        )
        assert got[i, j].item() == pytest.approx(cross / np.sqrt(own * other), abs=1e-9)


def test_cka_of_many_images_approaches_that_of_centred_gram_matrices() -> None:
    draw = np.random.default_rng(1)
    shared = draw.normal(size=(800, 3))
    x, y = (shared @ draw.normal(size=(3, 4)) + 0.5 * draw.normal(size=(800, 4)) for _ in range(2))
    centre = np.eye(800) - 1 / 800
    k, g = (centre @ (z @ z.T) @ centre for z in (x, y))
    expected = (k * g).sum() / np.sqrt((k * k).sum() * (g * g).sum())  # Kornblith et al. 2019
    got = cka_matrix(torch.from_numpy(np.stack([x, y])))[0, 1].item()
    # The two estimates of HSIC differ by terms of the order of channels / images = 0.005.
    assert got == pytest.approx(expected, abs=0.02)
    assert 0.2 < expected < 0.98


def test_cka_of_independent_features_is_zero_even_with_more_channels_than_images() -> None:
    x = torch.randn(6, 64, 512, generator=torch.Generator().manual_seed(0))
    got = cka_matrix(x)
    apart = got[~torch.eye(6, dtype=torch.bool)]
    # HSIC uncorrected gives C / (C + N) = 0.89. The correlation of 64 · 63 / 2 independent pairs
    # of Gram entries has an s.d. of 0.022: five of them is 0.11.
    assert apart.abs().max() < 0.11
    torch.testing.assert_close(got.diagonal(), torch.ones(6, dtype=torch.float64))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.floats(0.1, 10), st.floats(-5, 5))
def test_cka_is_one_for_turned_scaled_and_shifted_features(
    seed: int, scale: float, shift: float
) -> None:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(9, 4))
    turn, _ = np.linalg.qr(draw.normal(size=(4, 4)))
    got = cka_matrix(torch.from_numpy(np.stack([x, scale * x @ turn + shift])))
    assert got[0, 1].item() == pytest.approx(1, abs=1e-9)


def test_a_position_that_never_varies_has_a_cka_of_zero() -> None:
    x = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    x[1] = 0.3
    assert cka_matrix(x).tolist() == [[pytest.approx(1), 0], [0, 0]]
    with pytest.raises(ValueError, match="at least 4"):
        cka_matrix(x[:, :3])


@given(st.integers(1, 40), st.integers(1, 40))
def test_positions_are_spread_over_the_map(h: int, w: int) -> None:
    places = spread_positions((h, w))
    assert len(set(places)) == len(places) == min(4, h) * min(4, w)
    rows = sorted({row for row, _ in places})
    assert rows[0] >= 0
    assert rows[-1] < h
    gaps = np.diff(rows)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
    assert abs(rows[0] - (h - 1 - rows[-1])) <= 1  # as far from one border as from the other


def test_the_summary_holds_the_cka_of_the_reference_images(subject: Subject) -> None:
    suite, reference = Redundancy(), pictures(150, first=500)
    suite.prepare(subject, reference, 32)
    found = suite.summary()
    with torch.no_grad():
        local = subject.encoder.local(reference.images)
    positions = [[row, column] for row in range(4) for column in range(4)]
    assert found["cka_positions"] == positions
    features = torch.stack([local[:, :, row, column] for row, column in positions])
    expected = cka_matrix(features)
    np.testing.assert_allclose(np.array(found["cka"]), expected.numpy(), atol=1e-4)
    pairs = [expected[i, j].item() for i, j in itertools.combinations(range(16), 2)]
    assert found["cka_mean"] == pytest.approx(np.mean(pairs), abs=1e-4)
    assert found["cka_images"] == found["probe_images"] == 150
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_cka_looks_at_512_images_at_most(subject: Subject) -> None:
    many, few = Redundancy(), Redundancy()
    reference = pictures(600, first=500)
    many.prepare(subject, reference, 32)
    few.prepare(subject, split(reference, list(range(512))), 32)
    assert many.summary()["cka_images"] == 512
    assert many.summary()["cka"] == few.summary()["cka"]
    assert many.summary()["probe_images"] == 600


# ---- local and global probes ----


def features_and_labels(n: int, d: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(n * d)
    labels = torch.arange(n) % classes
    means = 2 * torch.randn(classes, d, generator=draw)
    scale = torch.linspace(0.1, 10, d)  # channels of very different size
    return scale * (means[labels] + torch.randn(n, d, generator=draw)) + 5, labels


@pytest.mark.parametrize(("n", "d"), [(60, 4), (12, 30)])  # more images than channels, and fewer
def test_ridge_regression_is_the_minimum_of_its_objective(n: int, d: int) -> None:
    x, labels = features_and_labels(n, d)
    z = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    y = np.eye(3)[labels]

    def objective(flat: np.ndarray, penalty: float) -> float:
        weight, bias = flat[:-3].reshape(d, 3), flat[-3:]
        return float(((y - bias - z @ weight) ** 2).sum() + penalty * n * (weight**2).sum())

    for penalty, fit in zip(PENALTIES[:4], ridge_path(x, labels, 3), strict=False):
        found = optimize.minimize(objective, np.zeros(3 * d + 3), penalty, tol=1e-12)
        weight, bias = found.x[:-3].reshape(d, 3), found.x[-3:]
        with torch.no_grad():
            got = fit(x).double().numpy()
        np.testing.assert_allclose(got, z @ weight + bias, atol=2e-3)


def test_ridge_regression_solves_the_normal_equations() -> None:
    x, labels = features_and_labels(90, 5)
    z = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    y = np.eye(3)[labels]
    for penalty, fit in zip(PENALTIES, ridge_path(x, labels, 3), strict=True):
        centred = y - y.mean(0)
        weight = np.linalg.solve(z.T @ z + penalty * 90 * np.eye(5), z.T @ centred)
        with torch.no_grad():
            got = fit(x).double().numpy()
        np.testing.assert_allclose(got, z @ weight + y.mean(0), atol=1e-5)


def test_features_that_do_not_vary_do_not_disturb_a_probe() -> None:
    x, labels = features_and_labels(40, 3)
    dead = torch.cat([x, torch.full((40, 2), 1e6)], dim=1)
    for a, b in zip(ridge_path(x, labels, 3), ridge_path(dead, labels, 3), strict=True):
        torch.testing.assert_close(a.weight, b.weight[:, :3])
        assert (b.weight[:, 3:] == 0).all()


def test_the_penalty_that_does_best_on_held_out_images_is_chosen() -> None:
    x, labels = features_and_labels(50, 40)
    fit = fit_ridge(x, labels, 3)
    held_out = np.arange(50) % 5 == 4
    path = ridge_path(x[~held_out], labels[~held_out], 3)
    with torch.no_grad():
        scores = [
            (p(x[held_out]).argmax(1) == labels[held_out]).double().mean().item() for p in path
        ]
    assert fit.held_out_top1 == max(scores)
    assert fit.penalty == PENALTIES[scores.index(max(scores))]
    expected = ridge_path(x, labels, 3)[PENALTIES.index(fit.penalty)]
    torch.testing.assert_close(fit.classifier.weight, expected.weight)


class ColourOrGrey(Encoder):
    """Positions in two columns: only the left one shows the class. The pool is the mean.

    With `token`, further channels give the class at every position, as a class token would.
    """

    def __init__(self, token: bool) -> None:
        super().__init__(InputSpec(4), local_dim=3 + 3 * token, dim=3 + 3 * token)
        self.token = token

    def local(self, x: Tensor) -> Tensor:
        colour = x[:, :, :2, :1].expand(-1, -1, 2, 2).clone()
        colour[:, :, :, 1] = 0.5
        if not self.token:
            return colour
        carried = 2.0**-12 * x[:, :, :1, :1].expand(-1, -1, 2, 2)
        return torch.cat([colour, carried], dim=1)


def colours(count: int, first: int) -> Batch:
    labels = torch.arange(count) % 3
    images = torch.eye(3)[labels][:, :, None, None].expand(-1, -1, 4, 4)
    return Batch(images, labels, range(first, first + count))


@pytest.mark.parametrize("token", [False, True])
def test_a_local_probe_reads_what_one_position_shows_and_no_more(token: bool) -> None:
    encoder = ColourOrGrey(token)
    subject, suite = Subject(encoder, nn.Linear(encoder.dim, 3)), Redundancy()
    suite.prepare(subject, colours(300, first=5000), 4)
    batch = colours(600, first=0)
    got = suite.measure(subject, batch, PROBES, 7)
    left = draw_below(4, batch.index, 7, "redundancy", "probes") % 2 == 0
    assert got["local_one"][left].all()
    # On the right all positions look the same: one class is answered, right for a third.
    assert got["local_one"][~left].float().mean() == pytest.approx(1 / 3, abs=0.12)
    assert got["local_all"].all()
    assert got["global_all"].all()
    if not token:
        assert got["global_one"][left].all()
        assert got["global_one"][~left].float().mean() == pytest.approx(1 / 3, abs=0.12)


def test_channels_that_are_the_same_everywhere_are_not_local() -> None:
    local = torch.rand(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    local[:, 1] = local[:, 1, :1, :1]  # differs between images only
    local[:, 2] = 0
    local[:2, 3] = 1  # differs between positions of the last image
    assert local_channels(local).tolist() == [True, False, False, True]


class Everywhere(Encoder):
    """The image's mean colour at every position."""

    def __init__(self) -> None:
        super().__init__(InputSpec(4), local_dim=3, dim=3)

    def local(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 2, 2)


def test_where_all_positions_are_alike_a_local_probe_is_the_global_one() -> None:
    subject, suite = Subject(Everywhere(), nn.Linear(3, 3)), Redundancy()
    suite.prepare(subject, colours(60, first=5000), 4)
    got = suite.measure(subject, colours(30, first=0), PROBES, 0)
    assert all(column.all() for column in got.values())
    assert suite.summary()["cka_mean"] == pytest.approx(1)


def test_both_probes_are_fitted_to_the_same_images_and_tested_at_the_same_position(
    subject: Subject,
) -> None:
    reference, batch = pictures(150, first=500), pictures(60)
    suite = Redundancy()
    suite.prepare(subject, reference, 32)
    got = suite.measure(subject, batch, PROBES, 3)
    with torch.no_grad():
        train, test = (subject.encoder.local(b.images) for b in (reference, batch))
        drawn = draw_below(16, reference.index, "redundancy", "local probe")
        single = torch.stack([y.flatten(1)[:, p] for y, p in zip(train, drawn, strict=True)])
        local = fit_ridge(single[:, local_channels(train)], reference.labels, 6).classifier
        everything = fit_ridge(subject.encoder.pool(train), reference.labels, 6).classifier
        place = draw_below(16, batch.index, 3, "redundancy", "probes")
        one = torch.stack([y.flatten(1)[:, p] for y, p in zip(test, place, strict=True)])
        logits = test[:, local_channels(train)].flatten(2)
        answers = {
            "local_one": local(one[:, local_channels(train)]),
            # The mean of the logits of all positions.
            "local_all": torch.stack([local(logits[:, :, p]) for p in range(16)]).mean(0),
            "global_one": everything(subject.encoder.pool(one[:, :, None, None])),
            "global_all": everything(subject.encoder(batch.images)),
        }
    for name, answer in answers.items():
        assert torch.equal(got[name], answer.argmax(1) == batch.labels), name
    assert got["global_all"].float().mean() > got["local_one"].float().mean() > 1 / 6


def test_an_encoder_that_gives_nan_is_refused() -> None:
    class Diverged(TinyEncoder):
        def local(self, x: Tensor) -> Tensor:
            return super().local(x) * float("nan")

    subject = Subject(Diverged(), nn.Linear(32, 6))
    with pytest.raises(CossError, match="NaN"):
        Redundancy().prepare(subject, pictures(8, first=500), 32)
