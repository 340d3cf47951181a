"""The constants and pictures of CIFAR-10-C."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import cv2
import imagecorruptions.corruptions as package
import numpy as np
import pytest
from helpers.corrupted import alike, fast, keys_of, near, photographs
from PIL import Image
from scipy import ndimage

from robustbench_coss.evaluations.corruptions.fast.constants import CONSTANTS
from robustbench_coss.evaluations.corruptions.fast.draws import Draws
from robustbench_coss.evaluations.corruptions.reference import NAMES, SEVERITIES


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
