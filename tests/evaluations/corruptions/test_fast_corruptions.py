"""The fast corruptions held to the package imagecorruptions.

Where a corruption is random, imagecorruptions is given the same draws and has to give the same
pictures. Photographs are those of frost that the package ships."""

from __future__ import annotations

from typing import Any

import cv2
import imagecorruptions.corruptions as package
import numpy as np
import pytest
import torch
from helpers.corrupted import Pictures, alike, fast, keys_of, near, photographs
from PIL import Image
from scipy import ndimage

from robustbench_coss.evaluations.corruptions.fast import corrupt, vector_code
from robustbench_coss.evaluations.corruptions.fast.constants import (
    CONSTANT_SETS,
    CONSTANTS,
    default_constants,
)
from robustbench_coss.evaluations.corruptions.fast.draws import Draws
from robustbench_coss.evaluations.corruptions.fast.filters import shift_by_image, shift_by_step
from robustbench_coss.evaluations.corruptions.fast.spatter import _distance, _edges, _equalise
from robustbench_coss.evaluations.corruptions.reference import NAMES, SEVERITIES, corrupt_images

DETERMINISTIC = (
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate"),
    *("jpeg_compression", "gaussian_blur", "saturate"),
)
# Random ones whose draws can be handed to the package.
REPLAYED = (
    *("gaussian_noise", "speckle_noise", "motion_blur", "glass_blur"),
    *("snow", "frost", "fog", "elastic_transform", "spatter"),
)


@pytest.fixture
def in_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corruptions as a GPU makes them, which others' vector code replaces on the CPU."""
    monkeypatch.setattr(vector_code, "fits", lambda x: False)


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


def through_pillow(picture: Pictures, quality: int) -> Pictures:
    from io import BytesIO

    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def pixelated(picture: Pictures, share: float, enlarge: Image.Resampling) -> Pictures:
    """As the package (`NEAREST`) and the scripts (`BOX`) write it."""
    size, small = len(picture), int(len(picture) * share)
    shrunk = Image.fromarray(picture).resize((small, small), Image.Resampling.BOX)
    return np.asarray(shrunk.resize((size, size), enlarge))


def noisy_and_smooth(size: int) -> Pictures:
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    return np.concatenate([photographs(size, 2), noise])


@pytest.mark.parametrize("size", [32, 75, 96])
@pytest.mark.parametrize("protocol", CONSTANT_SETS)
def test_jpeg_is_libjpeg_s_to_the_byte(size: int, protocol: str) -> None:
    pictures = noisy_and_smooth(size)
    for severity in SEVERITIES:
        quality = CONSTANTS[protocol]["jpeg_compression"][severity - 1]
        expected = np.stack([through_pillow(picture, quality) for picture in pictures])
        got = fast(pictures, "jpeg_compression", severity, keys_of(4), protocol)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("size", [32, 75, 96])
@pytest.mark.parametrize("protocol", CONSTANT_SETS)
def test_pixelation_is_pillow_s_to_the_byte(size: int, protocol: str) -> None:
    pictures, smooth = noisy_and_smooth(size), protocol != "imagenet-c"
    enlarge = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
    for severity in SEVERITIES:
        share = CONSTANTS[protocol]["pixelate"][severity - 1]
        expected = np.stack([pixelated(picture, share, enlarge) for picture in pictures])
        got = fast(pictures, "pixelate", severity, keys_of(4), protocol)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.usefixtures("in_tensors")
@pytest.mark.parametrize("protocol", CONSTANT_SETS)
def test_tensors_alone_give_the_bytes_of_libjpeg_and_pillow(protocol: str) -> None:
    test_jpeg_is_libjpeg_s_to_the_byte(75, protocol)
    test_pixelation_is_pillow_s_to_the_byte(75, protocol)


@pytest.mark.usefixtures("in_tensors")
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_tensors_alone_give_the_pictures_of_the_package(name: str) -> None:
    test_deterministic_corruptions_give_the_pictures_of_the_package(name, 75)


@pytest.mark.parametrize("name", REPLAYED)
def test_tensors_alone_give_what_vector_code_gives(
    name: str, request: pytest.FixtureRequest
) -> None:
    pictures, keys = photographs(75, 2), keys_of(2)
    expected = [fast(pictures, name, severity, keys, "cifar-c") for severity in (1, 5)]
    request.getfixturevalue("in_tensors")
    for severity, mine in zip((1, 5), expected, strict=True):
        assert near(fast(pictures, name, severity, keys, "cifar-c"), mine) >= 0.99


def test_floats_go_through_bytes_and_come_back_as_floats() -> None:
    pictures = torch.from_numpy(photographs(32, 2)).permute(0, 3, 1, 2)
    for name in ("jpeg_compression", "pixelate"):
        got = corrupt(pictures.float() / 255, name, 3, keys_of(2), "imagenet-c")
        expected = corrupt(pictures, name, 3, keys_of(2), "imagenet-c")
        assert torch.equal(got, expected.float() / 255)


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


@pytest.mark.slow
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
