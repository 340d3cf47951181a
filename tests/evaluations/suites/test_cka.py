"""CKA against the ratio of unbiased HSIC, and its limits."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_coss.evaluations.protocol import Subject
from robustbench_coss.evaluations.suites.redundancy import Redundancy
from robustbench_coss.evaluations.suites.similarity import (
    cka_matrix,
    spread_positions,
)
from robustbench_coss.testing import pictures, split


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
