"""The fast corruptions held to the package imagecorruptions, and their draws to what they claim.

Where a corruption is random, imagecorruptions is given the same draws and has to give the same
pictures. Photographs are those of frost that the package ships.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import cv2
import imagecorruptions.corruptions as package
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor, nn

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.vision import FASHION_MNIST
from robustbench_coss.evaluations.corruptions.fast import corrupt
from robustbench_coss.evaluations.corruptions.fast.constants import (
    CONSTANT_SETS,
    CONSTANTS,
    default_constants,
)
from robustbench_coss.evaluations.corruptions.fast.draws import Draws, sample_keys
from robustbench_coss.evaluations.corruptions.fast.filters import shift_by_image, shift_by_step
from robustbench_coss.evaluations.corruptions.fast.spatter import _distance, _edges, _equalise
from robustbench_coss.evaluations.corruptions.reference import NAMES, SEVERITIES, corrupt_images

Pictures = NDArray[np.uint8]

DETERMINISTIC = (
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate"),
    *("jpeg_compression", "gaussian_blur", "saturate"),
)
# Random ones whose draws can be handed to the package.
REPLAYED = (
    *("gaussian_noise", "speckle_noise", "motion_blur", "glass_blur"),
    *("snow", "frost", "fog", "elastic_transform", "spatter"),
)


def photographs(size: int, count: int) -> Pictures:
    """[B, size, size, 3]: squares cut from the photographs, at different places and scales."""
    found = []
    for i in range(count):
        name = ("frost1.png", "frost5.jpg", "frost6.jpg")[i % 3]
        with as_file(files("imagecorruptions") / "frost" / name) as path:
            picture = np.asarray(cv2.imread(str(path)))[..., ::-1]
        side = picture.shape[0] - 37 * i
        cut = picture[11 * i : 11 * i + side, 23 * i : 23 * i + side]
        found.append(cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA))
    return np.stack(found)


def fast(pictures: Pictures, name: str, severity: int, keys: Tensor, protocol: str) -> Pictures:
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    out = corrupt(pixels, name, severity, keys, protocol)
    return out.permute(0, 2, 3, 1).numpy()


def near(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Share of values that differ by at most one grey level."""
    return float((np.abs(a.astype(int) - b.astype(int)) <= 1).mean())


def alike(name: str, got: Pictures, expected: Pictures, pictures: Pictures) -> bool:
    """Equal up to a grey level in 99 % of the values, or nearly so for drops of water.

    Their shading uses distances that are exact here and approximate in OpenCV: there the mean
    difference has to be small beside what the corruption changes.
    """
    if name == "spatter":
        off = np.abs(got.astype(int) - expected.astype(int)).mean()
        return bool(off < 0.15 * np.abs(expected.astype(int) - pictures.astype(int)).mean())
    return near(got, expected) >= 0.99


def keys_of(count: int) -> Tensor:
    return sample_keys(range(count), "test")


# ---- deterministic corruptions ----


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("size", [32, 75, 224])
def test_deterministic_corruptions_give_the_pictures_of_the_package(name: str, size: int) -> None:
    pictures = photographs(size, 3 if size < 224 else 1)
    for severity in SEVERITIES:
        expected = corrupt_images(pictures, name, severity, [0] * len(pictures))
        got = fast(pictures, name, severity, keys_of(len(pictures)), "imagenet-c")
        assert near(got, expected) >= 0.99, severity
        assert (got != pictures).mean() > 0.1


def test_jpeg_is_libjpeg_s_to_the_byte() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 75, 75, 3), np.uint8)
    for pictures in (photographs(96, 2), noise):
        for protocol in CONSTANT_SETS:
            for severity in SEVERITIES:
                got = fast(pictures, "jpeg_compression", severity, keys_of(2), protocol)
                quality = CONSTANTS[protocol]["jpeg_compression"][severity - 1]
                for picture, mine in zip(pictures, got, strict=True):
                    np.testing.assert_array_equal(mine, through_pillow(picture, quality))


def through_pillow(picture: Pictures, quality: int) -> Pictures:
    from io import BytesIO

    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_extreme_pixels_are_treated_as_the_package_treats_them() -> None:
    """Black, white, grey and pure colours, where hue or saturation is undefined or at its end."""
    colours = [(0, 0, 0), (255, 255, 255), (7, 7, 7), (255, 0, 0), (0, 255, 1), (1, 0, 0)]
    pictures = np.zeros((1, 36, 36, 3), np.uint8)
    for i, colour in enumerate(colours):
        pictures[0, :, 6 * i : 6 * i + 6] = colour
    for name in ("brightness", "saturate", "contrast"):
        for severity in SEVERITIES:
            expected = corrupt_images(pictures, name, severity, [0])
            assert near(fast(pictures, name, severity, keys_of(1), "imagenet-c"), expected) == 1


# ---- random corruptions, with the same draws ----


class Replay:
    """Hands the draws of one image to the package, in place of numpy's."""

    def __init__(self, key: Tensor, patch: pytest.MonkeyPatch) -> None:
        self.draws = Draws(key)
        self.kept: list[Tensor] = []
        for name in ("normal", "uniform", "randint"):
            patch.setattr(np.random, name, getattr(self, name))
        patch.setattr(package, "_shuffle_pixels_njit_glass_blur", self.shuffle)

    def normal(
        self, loc: float = 0.0, scale: float = 1.0, size: Sequence[int] = ()
    ) -> NDArray[Any]:
        height, width, channels = (*size, 1)[:3]
        field = self.draws.normal(channels, height, width)[0].permute(1, 2, 0)
        return loc + scale * field.double().numpy().reshape(size)

    def uniform(self, low: float, high: float, size: Sequence[int] | None = None) -> Any:
        if size is None:
            return self.draws.uniform(low, high, 1).item()
        if sys._getframe(1).f_code.co_name != "elastic_transform":
            return self.draws.uniform(low, high, *size)[0].numpy()
        # Two fields of the package are one of ours.
        if not self.kept:
            self.kept = list(self.draws.uniform(low, high, 2, *size)[0])
        return self.kept.pop(0).numpy()

    def randint(self, low: int, high: int | None = None) -> int:
        if not self.kept:
            self.kept = list(self.draws.bits(3)[0].long() + 2**31)
        start, stop = (0, low) if high is None else (low, high)
        return start + (int(self.kept.pop(0)) * (stop - start) >> 32)

    def shuffle(self, d0: int, d1: int, x: Pictures, c: Any, seed: int) -> Pictures:
        _, reach, rounds = c
        for _ in range(rounds):
            down, right = (f[0].tolist() for f in self.draws.integers(-reach, reach, d0, d1))
            for h in range(d0 - reach, reach, -1):
                for w in range(d1 - reach, reach, -1):
                    x[h, w] = x[h + down[h][w], w + right[h][w]]
        return x


@pytest.fixture
def replay(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[..., Any], Pictures, int, Tensor], Pictures]:
    def run(function: Callable[..., Any], pictures: Pictures, severity: int, keys: Tensor) -> Any:
        out = []
        for picture, key in zip(pictures, keys, strict=True):
            with monkeypatch.context() as patch, np.errstate(all="ignore"):
                Replay(key[None], patch)
                out.append(np.uint8(function(Image.fromarray(picture), severity)))
        return np.stack(out)

    return run


def test_the_package_s_shuffle_copies_and_does_not_swap() -> None:
    """`Replay.shuffle` restates it; compiled with its own draws it must move pixels alike."""
    place = np.arange(40 * 40).reshape(40, 40)
    picture = np.stack([place // 256, place % 256, place * 0], -1).astype(np.uint8)
    moved = package._shuffle_pixels_njit_glass_blur(40, 40, picture.copy(), (0.9, 2, 1), 5)
    assert len(np.unique(moved.reshape(-1, 3), axis=0)) < 40 * 40
    edge = np.ones((40, 40), bool)
    edge[3:39, 3:39] = False  # the reach is 2: rows and columns 3 to 38 are overwritten
    np.testing.assert_array_equal(moved[edge], picture[edge])
    assert (moved != picture).any(-1)[3:39, 3:39].mean() > 0.8


@pytest.mark.parametrize("name", REPLAYED)
def test_random_corruptions_give_the_pictures_of_the_package_with_its_draws(
    name: str, replay: Any
) -> None:
    for size in (32, 100):
        pictures, keys = photographs(size, 2), keys_of(2)
        for severity in SEVERITIES:
            expected = replay(getattr(package, name), pictures, severity, keys)
            got = fast(pictures, name, severity, keys, "imagenet-c")
            assert alike(name, got, expected, pictures), (size, severity)


@pytest.mark.parametrize("name", ["motion_blur", "snow", "frost", "fog", "elastic_transform"])
def test_random_corruptions_give_the_pictures_of_the_package_at_224_px(
    name: str, replay: Any
) -> None:
    pictures, keys = photographs(224, 1), keys_of(1)
    expected = replay(getattr(package, name), pictures, 4, keys)
    assert near(fast(pictures, name, 4, keys, "imagenet-c"), expected) >= 0.99


def test_edges_are_those_of_canny() -> None:
    noise = np.random.default_rng(1).normal(0.65, 0.3, (4, 80, 80))
    for sigma in (1.0, 2.0, 4.0):
        grey = np.stack([ndimage.gaussian_filter(n, sigma) for n in noise])
        grey = np.where(grey < 0.68, 0, np.clip(grey, 0, 1) * 255).astype(np.uint8)
        expected = np.stack([cv2.Canny(g, 50, 150) for g in grey]) > 0
        got = _edges(torch.from_numpy(grey).float()).numpy()
        assert expected.any()
        assert (got == expected).mean() > 0.999


def test_distances_are_the_euclidean_ones_up_to_twenty() -> None:
    edges = np.random.default_rng(2).random((3, 60, 60)) < 0.002
    edges[0, 5, 7] = True
    edges[2] = False  # nothing to be near to
    expected = [
        ndimage.distance_transform_edt(~e) if e.any() else np.full((60, 60), 99) for e in edges
    ]
    got = _distance(torch.from_numpy(edges)).numpy()
    np.testing.assert_allclose(got, np.minimum(np.stack(expected), 20), rtol=1e-6)


def test_equalisation_is_opencv_s() -> None:
    levels = np.random.default_rng(3).integers(0, 21, (3, 50, 50)).astype(np.uint8)
    levels[1] = 7  # one level
    expected = np.stack([cv2.equalizeHist(x) for x in levels])
    got = _equalise(torch.from_numpy(levels).float()).numpy()
    assert np.abs(got - expected).max() <= 1
    np.testing.assert_array_equal(got[1], 7)


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


def fashion_network() -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A network of Fashion-MNIST (random hidden layer, least squares on top), and test images."""
    root = Path("data")
    if FASHION_MNIST.missing(root) is not None:
        pytest.skip("Fashion-MNIST is not here (Debian: dataset-fashion-mnist)")
    train = open_dataset("fashion-mnist", "train", size=32, root=root)
    test = open_dataset("fashion-mnist", "test", size=32, root=root)
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(3 * 16 * 16, 800, generator=draw) / 16
    shift = torch.randn(800, generator=draw)

    def hidden(images: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(images.float() / 255, 2).flatten(1)
        return nn.functional.relu((small - 0.3) @ first + shift)

    x = hidden(train.images(range(5000)))
    mean = x.mean(0)
    gram = (x - mean).T @ (x - mean) + 10 * torch.eye(800)
    second = torch.linalg.solve(gram, (x - mean).T @ torch.eye(10)[train.labels[:5000]])
    return (
        lambda images: (hidden(images) - mean) @ second,
        test.images(range(60)),
        test.labels[:60],
    )


def test_top1_of_a_network_is_that_under_the_package_in_all_95_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whole sigmas as floats: numba would compile its function once more for them.
    compiled = package._shuffle_pixels_njit_glass_blur
    monkeypatch.setattr(
        package,
        "_shuffle_pixels_njit_glass_blur",
        lambda h, w, x, c, seed: compiled(h, w, x, (float(c[0]), *c[1:]), seed),
    )
    network, images, labels = fashion_network()
    pictures = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())

    def hits(corrupted: Pictures) -> NDArray[np.bool_]:
        return (
            network(torch.from_numpy(corrupted).permute(0, 3, 1, 2)).argmax(1) == labels
        ).numpy()

    assert hits(pictures).mean() > 0.75
    p_values, differences = [], []
    for name in NAMES:
        for severity in SEVERITIES:
            keys = sample_keys(range(len(images)), "top-1", name, severity)
            mine = hits(fast(pictures, name, severity, keys, "imagenet-c"))
            theirs = hits(corrupt_images(pictures, name, severity, list(range(len(images)))))
            only_mine, only_theirs = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
            changed = only_mine + only_theirs
            # McNemar's exact test: of the images that changed, half should have got better.
            p_values.append(stats.binomtest(only_mine, changed).pvalue if changed else 1.0)
            differences.append(mine.mean() - theirs.mean())
    assert len(p_values) == 95
    # 95 intervals of 95 %: five may miss, and more than eleven do in 1 of 200 cases.
    assert np.sum(np.array(p_values) < 0.05) <= 11
    assert min(p_values) > 1e-4
    assert abs(np.mean(differences)) < 0.01


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


# ---- both protocols ----


@pytest.mark.parametrize("protocol", CONSTANT_SETS)
def test_pictures_do_not_depend_on_batch_order_type_or_size_of_chunks(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.from_numpy(photographs(40, 9)).permute(0, 3, 1, 2).contiguous()
    keys, order = keys_of(9), [4, 0, 8, 2, 6]
    for name in NAMES:
        whole = corrupt(pixels, name, 5, keys, protocol)
        assert whole.dtype == torch.uint8
        assert whole.shape == pixels.shape
        floats = corrupt(pixels.float() / 255, name, 5, keys, protocol)
        assert torch.equal((floats * 255).round().to(torch.uint8), whole), name
        with monkeypatch.context() as patch:
            patch.setattr("robustbench_coss.evaluations.corruptions.fast._CPU_CHUNK", 2 * 3 * 40**2)
            part = corrupt(pixels[order], name, 5, keys[order], protocol)
        # Sums are rounded in another order: a grey level at most, and seldom.
        difference = (part.int() - whole[order].int()).abs()
        assert int(difference.max()) <= 1, name
        assert float((difference > 0).float().mean()) < 0.01, name


def test_the_default_protocol_changes_above_64_px() -> None:
    assert [default_constants(size) for size in (32, 64, 65, 224)] == [
        *("cifar-c", "cifar-c", "imagenet-c", "imagenet-c")
    ]


def with_cifar_constants(name: str) -> Callable[..., Any]:
    """The package's function, its list of constants replaced by CIFAR-10-C's."""
    source = inspect.getsource(getattr(package, name))
    changed, count = re.subn(
        r"c = \[.*?\]\s*\[\s*severity - 1\s*\]", "c = CIFAR[severity - 1]", source, flags=re.DOTALL
    )
    assert count == 1
    space = vars(package) | {"CIFAR": CONSTANTS["cifar-c"][name]}
    exec(changed, space)
    function: Callable[..., Any] = space[name]
    return function


# Those that CIFAR-10-C's script makes as ImageNet-C's does, constants aside.
SAME_STEPS = (
    *("gaussian_noise", "speckle_noise", "defocus_blur", "motion_blur", "fog", "brightness"),
    *("contrast", "saturate", "gaussian_blur", "spatter"),
)


@pytest.mark.parametrize("name", SAME_STEPS)
def test_cifar_c_is_the_package_with_other_constants(name: str, replay: Any) -> None:
    pictures, keys = photographs(32, 3), keys_of(3)
    function = with_cifar_constants(name)
    for severity in SEVERITIES:
        expected = replay(function, pictures, severity, keys)
        got = fast(pictures, name, severity, keys, "cifar-c")
        assert alike(name, got, expected, pictures), severity


# Read off make_cifar_c.py of github.com/hendrycks/robustness (commit ca36008) a second time, in the
# order it has them; severities are separated by semicolons. zoom_blur: end and step of its range.
CIFAR_C = {
    "gaussian_noise": ".04; .06; .08; .09; .10",
    "shot_noise": "500; 250; 100; 75; 50",
    "impulse_noise": ".01; .02; .03; .05; .07",
    "speckle_noise": ".06; .1; .12; .16; .2",
    "gaussian_blur": ".4; .6; .7; .8; 1",
    "glass_blur": ".05 1 1; .25 1 1; .4 1 1; .25 1 2; .4 1 2",
    "defocus_blur": ".3 .4; .4 .5; .5 .6; 1 .2; 1.5 .1",
    "motion_blur": "6 1; 6 1.5; 6 2; 8 2; 9 2.5",
    "zoom_blur": "1.06 .01; 1.11 .01; 1.16 .01; 1.21 .01; 1.26 .01",
    "fog": ".2 3; .5 3; .75 2.5; 1 2; 1.5 1.75",
    "frost": "1 .2; 1 .3; .9 .4; .85 .4; .75 .45",
    "snow": ".1 .2 1 .6 8 3 .95; .1 .2 1 .5 10 4 .9; .15 .3 1.75 .55 10 4 .9;"
    ".25 .3 2.25 .6 12 6 .85; .3 .3 1.25 .65 14 12 .8",
    "spatter": ".62 .1 .7 .7 .5 0; .65 .1 .8 .7 .5 0; .65 .3 1 .69 .5 0;"
    ".65 .1 .7 .69 .6 1; .65 .1 .5 .68 .6 1",
    "contrast": ".75; .5; .4; .3; .15",
    "brightness": ".05; .1; .15; .2; .3",
    "saturate": ".3 0; .1 0; 1.5 0; 2 .1; 2.5 .2",
    "jpeg_compression": "80; 65; 58; 50; 40",
    "pixelate": ".95; .9; .85; .75; .65",
    "elastic_transform": "0 0 .08; .05 .2 .07; .08 .06 .06; .1 .04 .05; .1 .03 .03",
}


@pytest.mark.parametrize("name", NAMES)
def test_cifar_c_has_the_constants_of_the_script_that_made_it(name: str) -> None:
    expected = [[float(c) for c in level.split()] for level in CIFAR_C[name].split(";")]
    got = CONSTANTS["cifar-c"][name]
    assert [np.atleast_1d(level).astype(float).tolist() for level in got] == expected


def test_cifar_c_pixelates_with_pillow_s_box_filter_both_ways() -> None:
    pictures = photographs(32, 3)
    for severity, share in enumerate((0.95, 0.9, 0.85, 0.75, 0.65), start=1):
        got = fast(pictures, "pixelate", severity, keys_of(3), "cifar-c")
        for picture, mine in zip(pictures, got, strict=True):
            small = Image.fromarray(picture).resize((int(32 * share),) * 2, Image.Resampling.BOX)
            expected = np.asarray(small.resize((32, 32), Image.Resampling.BOX))
            assert near(mine, expected) == 1


def test_cifar_c_zooms_around_the_centre() -> None:
    picture = photographs(32, 1)
    for severity, most in enumerate((1.06, 1.11, 1.16, 1.21, 1.26), start=1):
        x = picture[0] / 255.0
        layers = [x]
        for factor in np.arange(1, most, 0.01):
            cut = int(np.ceil(32 / factor))
            start = (32 - cut) // 2
            part = x[start : start + cut, start : start + cut]
            large = ndimage.zoom(part, (factor, factor, 1), order=1)
            trim = (large.shape[0] - 32) // 2
            layers.append(large[trim : trim + 32, trim : trim + 32])
        expected = np.uint8(np.mean(layers, axis=0) * 255)
        assert near(fast(picture, "zoom_blur", severity, keys_of(1), "cifar-c")[0], expected) > 0.99


def test_cifar_c_s_affine_map_and_displacements_are_those_of_opencv_and_scipy() -> None:
    picture, keys = photographs(32, 1), keys_of(1)
    for severity, c in enumerate(CONSTANTS["cifar-c"]["elastic_transform"], start=1):
        strength, sigma, reach = (32 * value for value in c)
        draws = Draws(keys)
        near_points = np.float32([[26, 26], [26, 6], [6, 6]])  # 16 ± 32 // 3
        moved = near_points + draws.uniform(-reach, reach, 3, 2)[0].numpy()
        image = cv2.warpAffine(
            picture[0].astype(np.float32),
            cv2.getAffineTransform(near_points, moved),
            (32, 32),
            borderMode=cv2.BORDER_REFLECT_101,
        )
        dx, dy = (
            ndimage.gaussian_filter(f, sigma, mode="reflect", truncate=3) * strength
            for f in draws.uniform(-1, 1, 2, 32, 32)[0].double().numpy()
        )
        y, x = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
        expected = [
            ndimage.map_coordinates(image[..., k], [y + dy, x + dx], order=1, mode="reflect")
            for k in range(3)
        ]
        got = fast(picture, "elastic_transform", severity, keys, "cifar-c")[0].astype(float)
        # OpenCV rounds places to 1/32 px.
        assert np.abs(got - np.stack(expected, -1)).mean() < 1.5
        assert np.abs(got - picture[0]).mean() > 4


@pytest.mark.parametrize("protocol", CONSTANT_SETS)
@pytest.mark.parametrize("size", [33, 65])
def test_every_cell_works_at_any_size(protocol: str, size: int) -> None:
    pictures = photographs(size, 1)
    for name in NAMES:
        for severity in SEVERITIES:
            got = fast(pictures, name, severity, keys_of(1), protocol)
            assert got.shape == pictures.shape
            # The mildest defocus of CIFAR-10-C is a disk of one pixel.
            assert protocol == "cifar-c" or not np.array_equal(got, pictures), (name, severity)


def test_shifts_for_a_gpu_are_those_for_a_cpu() -> None:
    draws = torch.Generator().manual_seed(0)
    padded = torch.rand(3, 2, 50, 50, generator=draws) * 255
    top, left = torch.randint(0, 11, (2, 3, 7), generator=draws).unbind(0)
    weight = torch.rand(3, 7, generator=draws, dtype=torch.float64)
    one = shift_by_image(padded, top, left, weight, 40)
    torch.testing.assert_close(shift_by_step(padded, top, left, weight, 40), one)
    by_hand = sum(
        weight[2, k] * padded[2, :, top[2, k] : top[2, k] + 40, left[2, k] : left[2, k] + 40]
        for k in range(7)
    )
    torch.testing.assert_close(one[2], by_hand.float())


def test_fields_drawn_together_are_those_drawn_one_after_another() -> None:
    one, together = Draws(keys_of(3)), Draws(keys_of(3))
    assert torch.equal(one.bits(2, 5), together.bits(2, 5))
    expected = [one.uniform(-1, 1, 4, 6) for _ in range(3)]
    assert torch.equal(together.uniforms(3, -1, 1, 4, 6), torch.stack(expected, 1))
    assert torch.equal(one.normal(4), together.normal(4))


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("protocol", CONSTANT_SETS)
def test_a_gpu_gives_the_pictures_of_the_cpu(protocol: str, cuda: torch.device) -> None:
    pixels = torch.from_numpy(photographs(96, 4)).permute(0, 3, 1, 2).contiguous()
    keys = keys_of(4)
    assert torch.equal(Draws(keys.to(cuda)).bits(3, 50, 50).cpu(), Draws(keys).bits(3, 50, 50))
    for name in NAMES:
        for severity in SEVERITIES:
            expected = corrupt(pixels, name, severity, keys, protocol)
            got = corrupt(pixels.to(cuda), name, severity, keys, protocol)
            assert got.device.type == "cuda"
            assert near(got.cpu().numpy(), expected.numpy()) >= 0.99, (name, severity)
