"""The draws of fast corruptions held to what they claim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.corrupted import fast, keys_of, photographs
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from robustbench_coss.evaluations.corruptions.fast.constants import (
    CONSTANT_SETS,
    CONSTANTS,
)
from robustbench_coss.evaluations.corruptions.fast.draws import Draws, sample_keys
from robustbench_coss.evaluations.corruptions.reference import SEVERITIES, corrupt_images

# ---- random corruptions, in distribution ----


def chi_square(observed: NDArray[Any], expected: NDArray[Any]) -> float:
    """p of Pearson's test, cells of fewer than 5 expected counts put together."""
    rare = expected < 5
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] == 0:
        assert observed[-1] == 0
        observed, expected = observed[:-1], expected[:-1]
    if len(expected) < 2:
        return 1.0
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize("protocol", CONSTANT_SETS)
@pytest.mark.parametrize("level", [0, 1, 40, 128, 255])
def test_shot_noise_is_poisson_cut_at_white(protocol: str, level: int) -> None:
    pictures = np.full((8, 64, 64, 3), level, np.uint8)
    for severity in SEVERITIES:
        photons = CONSTANTS[protocol]["shot_noise"][severity - 1]
        got = fast(pictures, "shot_noise", severity, keys_of(8), protocol)
        counts = np.arange(photons + 1)
        grey = np.floor(counts / photons * 255).astype(int)
        chance = stats.poisson.pmf(counts, photons * level / 255)
        chance[-1] = stats.poisson.sf(photons - 1, photons * level / 255)
        expected = np.bincount(grey, weights=chance, minlength=256)
        observed = np.bincount(got.ravel(), minlength=256)
        assert chi_square(observed[expected > 0], expected[expected > 0] * got.size) > 1e-4
        assert observed[expected == 0].sum() == 0


@pytest.mark.parametrize("protocol", CONSTANT_SETS)
def test_impulse_noise_replaces_its_share_half_by_black_half_by_white(protocol: str) -> None:
    pictures = np.full((8, 64, 64, 3), 100, np.uint8)
    for severity in SEVERITIES:
        share = CONSTANTS[protocol]["impulse_noise"][severity - 1]
        got = fast(pictures, "impulse_noise", severity, keys_of(8), protocol)
        observed = np.array([(got == level).sum() for level in (0, 100, 255)])
        expected = got.size * np.array([share / 2, 1 - share, share / 2])
        assert observed.sum() == got.size
        assert chi_square(observed, expected) > 1e-4


NOISES = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")


@pytest.mark.parametrize("name", NOISES)
def test_noise_has_the_package_s_moments_and_a_flat_spectrum(name: str) -> None:
    pictures = np.repeat(photographs(64, 1), 24, axis=0)
    for severity in (1, 5):
        mine = fast(pictures, name, severity, keys_of(24), "imagenet-c").astype(float)
        theirs = corrupt_images(pictures, name, severity, list(range(24))).astype(float)
        # Per pixel over the draws: mean and variance, with their standard errors.
        z = (mine.mean(0) - theirs.mean(0)) / np.sqrt(
            (mine.var(0) + theirs.var(0) + 1e-3) / len(mine)
        )
        assert abs(z.mean()) < 0.1
        assert z.std() < 1.2
        assert mine.var(0).mean() == pytest.approx(theirs.var(0).mean(), rel=0.03)
        bands = [spectrum(x - x.mean(0)) for x in (mine, theirs)]
        np.testing.assert_allclose(bands[0], bands[1], rtol=0.1)


def spectrum(x: NDArray[Any]) -> NDArray[Any]:
    """Mean power of [B, S, S, 3] in four bands of frequency."""
    size = x.shape[1]
    power = np.abs(np.fft.rfft2(x, axes=(1, 2))).mean((0, 3)) ** 2
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    band = np.digitize(radius, [0.1, 0.25, 0.4])
    return np.array([power[band == k].mean() for k in range(4)])


# ---- draws ----


def test_normal_draws_are_standard_normal_and_white() -> None:
    z = Draws(keys_of(4)).normal(3, 128, 128).double().numpy()
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-4
    count = z.size
    for shift in ((0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 1, 1)):
        other = np.roll(z, shift, (0, 1, 2, 3))
        assert abs((z * other).sum()) / np.sqrt(count) < 4, shift


def test_bits_are_balanced_each_and_in_pairs() -> None:
    bits = Draws(keys_of(2)).bits(64, 256).numpy().view(np.uint32).ravel()
    ones = ((bits[:, None] >> np.arange(32, dtype=np.uint32)) & 1).astype(float)
    assert np.abs(ones.mean(0) - 0.5).max() * 2 * np.sqrt(len(bits)) < 4.5
    together = np.corrcoef(ones.T) - np.eye(32)
    assert np.abs(together).max() * np.sqrt(len(bits)) < 5


def test_integers_cover_their_range_evenly_and_independently() -> None:
    a, b = (f.numpy().ravel() for f in Draws(keys_of(1)).integers(-3, 3, 300, 300))
    table = np.histogram2d(a, b, bins=[np.arange(-3, 4)] * 2)[0].ravel()
    assert table.sum() == 90_000
    assert chi_square(table, np.full(36, 90_000 / 36)) > 1e-4


def test_uniform_draws_stay_inside_their_range() -> None:
    u = Draws(keys_of(1)).uniform(-45, 45, 100_000)
    assert -45 < float(u.min()) < -44.9
    assert 44.9 < float(u.max()) < 45
    assert stats.kstest((u.numpy().ravel() + 45) / 90, "uniform").pvalue > 1e-4


def test_each_field_each_sample_and_each_name_draws_anew() -> None:
    draws = Draws(sample_keys([1, 2], "a"))
    first, second = draws.bits(50), draws.bits(50)
    assert len(torch.cat([first, second]).unique()) == 200
    assert not torch.equal(Draws(sample_keys([1, 2], "b")).bits(50), first)
    assert torch.equal(Draws(sample_keys([2], "a")).bits(50), first[1:])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=6, unique=True), st.randoms())
def test_draws_do_not_depend_on_the_batch(index: list[int], random: Any) -> None:
    whole = Draws(sample_keys(index, 3, "fog")).bits(2, 5)
    order = list(range(len(index)))
    random.shuffle(order)
    part = Draws(sample_keys([index[i] for i in order], 3, "fog")).bits(2, 5)
    assert torch.equal(part, whole[order])


def test_fields_drawn_together_are_those_drawn_one_after_another() -> None:
    one, together = Draws(keys_of(3)), Draws(keys_of(3))
    assert torch.equal(one.bits(2, 5), together.bits(2, 5))
    expected = [one.uniform(-1, 1, 4, 6) for _ in range(3)]
    assert torch.equal(together.uniforms(3, -1, 1, 4, 6), torch.stack(expected, 1))
    assert torch.equal(one.normal(4), together.normal(4))
