"""The pictures of ImageNet-C's own script, where it differs from the package."""

from __future__ import annotations

from importlib.resources import as_file, files

import cv2
import numpy as np
import pytest
import torch
from helpers.corrupted import fast, keys_of, near, photographs
from PIL import Image
from scipy import ndimage

from robustbench_coss.evaluations.corruptions.fast import filters
from robustbench_coss.evaluations.corruptions.fast.constants import CONSTANTS
from robustbench_coss.evaluations.corruptions.fast.draws import Draws
from robustbench_coss.evaluations.corruptions.reference import NAMES

SCRIPT = "imagenet-c-script"
# Read off make_imagenet_c.py of github.com/hendrycks/robustness: the only constants in which the
# package differs.
ELASTIC = (
    (244 * 2, 244 * 0.7, 244 * 0.1),
    (244 * 2, 244 * 0.08, 244 * 0.2),
    (244 * 0.05, 244 * 0.01, 244 * 0.02),
    (244 * 0.07, 244 * 0.01, 244 * 0.02),
    (244 * 0.12, 244 * 0.01, 244 * 0.02),
)
FROST = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))


def test_constants_are_the_scripts() -> None:
    changed = [n for n in NAMES if CONSTANTS[SCRIPT][n] != CONSTANTS["imagenet-c"][n]]
    assert changed == ["elastic_transform"]
    np.testing.assert_allclose(224 * np.array(CONSTANTS[SCRIPT]["elastic_transform"]), ELASTIC)


@pytest.mark.slow
def test_frost_is_a_cut_of_one_of_the_first_five_photographs_at_its_size() -> None:
    photos = []
    for name in ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"):
        with as_file(files("imagecorruptions") / "frost" / name) as path:
            photos.append(cv2.imread(str(path))[..., ::-1].copy())
    used = set()
    for severity, (_, weight) in enumerate(FROST, start=1):
        count = 40 if severity == 1 else 2
        black = np.zeros((count, 100, 100, 3), np.uint8)
        for got in fast(black, "frost", severity, keys_of(count), SCRIPT):
            # Where this cut lies in which photograph.
            scores = [
                cv2.matchTemplate(np.float32(weight * photo), got.astype(np.float32), cv2.TM_SQDIFF)
                for photo in photos
            ]
            which = int(np.argmin([score.min() for score in scores]))
            top, left = np.unravel_index(scores[which].argmin(), scores[which].shape)
            cut = weight * photos[which][top : top + 100, left : left + 100]
            assert near(got, np.floor(cut).astype(np.uint8)) == 1
            used.add(which)
    assert used == {0, 1, 3, 4}  # the package's second and third photograph are one and the same


def test_pixelate_is_pillows_box_filter_both_ways() -> None:
    pictures = photographs(224, 2)
    for severity, share in enumerate((0.6, 0.5, 0.4, 0.3, 0.25), start=1):
        got = fast(pictures, "pixelate", severity, keys_of(2), SCRIPT)
        for picture, mine in zip(pictures, got, strict=True):
            small = Image.fromarray(picture).resize((int(224 * share),) * 2, Image.Resampling.BOX)
            expected = np.asarray(small.resize((224, 224), Image.Resampling.BOX))
            assert near(mine, expected) == 1


def test_zoom_blur_is_around_the_centre() -> None:
    picture = photographs(96, 1)
    for severity, (most, step) in enumerate(
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)), start=1
    ):
        layers = [picture[0] / 255.0]
        for factor in np.arange(1, most, step):
            cut = int(np.ceil(96 / factor))
            start = (96 - cut) // 2
            part = layers[0][start : start + cut, start : start + cut]
            large = ndimage.zoom(part, (factor, factor, 1), order=1)
            trim = (large.shape[0] - 96) // 2
            layers.append(large[trim : trim + 96, trim : trim + 96])
        expected = np.uint8(np.mean(layers, axis=0) * 255)
        assert near(fast(picture, "zoom_blur", severity, keys_of(1), SCRIPT)[0], expected) > 0.99


def test_the_elastic_transform_is_that_of_opencv_and_scipy() -> None:
    """At 112 px, half the script's size, so that its px are halved."""
    size, picture, keys = 112, photographs(112, 1), keys_of(1)
    for severity, level in enumerate(ELASTIC, start=1):
        strength, sigma, reach = (value / 2 for value in level)
        draws = Draws(keys)
        middle, arm = size // 2, size // 3
        points = np.float32([[middle + arm] * 2, [middle + arm, middle - arm], [middle - arm] * 2])
        moved = points + draws.uniform(-reach, reach, 3, 2)[0].numpy()
        image = cv2.warpAffine(
            picture[0].astype(np.float32),
            cv2.getAffineTransform(points, moved),
            (size, size),
            borderMode=cv2.BORDER_REFLECT_101,
        )
        dx, dy = (
            ndimage.gaussian_filter(f, sigma, mode="reflect", truncate=3) * strength
            for f in draws.uniform(-1, 1, 2, size, size)[0].double().numpy()
        )
        y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
        expected = [
            ndimage.map_coordinates(image[..., k], [y + dy, x + dx], order=1, mode="reflect")
            for k in range(3)
        ]
        got = fast(picture, "elastic_transform", severity, keys, SCRIPT)[0].astype(float)
        # OpenCV rounds places to 1/32 px.
        assert np.abs(got - np.stack(expected, -1)).mean() < 1.5, severity
        assert np.abs(got - picture[0]).mean() > 3


def test_a_margin_wider_than_the_picture_is_scipys_reflection() -> None:
    values = np.random.default_rng(2).random((7, 7))
    got = filters.pad(torch.from_numpy(values)[None, None], 17, "symmetric")[0, 0]
    np.testing.assert_array_equal(got, np.pad(values, 17, mode="symmetric"))
