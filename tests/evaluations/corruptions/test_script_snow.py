"""Snow of the scripts that made ImageNet-C and CIFAR-10-C, with the package's motion."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import imagecorruptions.corruptions as package
import numpy as np
import pytest
from helpers.corrupted import fast, keys_of, near, photographs
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

# Read off make_imagenet_c.py and make_cifar_c.py of github.com/hendrycks/robustness.
LEVELS = {
    "imagenet-c-script": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "cifar-c": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
}


def clipped_zoom(x: NDArray[Any], factor: float) -> NDArray[Any]:
    """As the scripts have it: the centre is enlarged, and the centre of that is kept."""
    size = len(x)
    cut = int(np.ceil(size / factor))
    top = (size - cut) // 2
    large = ndimage.zoom(x[top : top + cut, top : top + cut], (factor, factor), order=1)
    trim = (len(large) - size) // 2
    kept: NDArray[Any] = large[trim : trim + size, trim : trim + size]
    return kept


def script(levels: Any, picture: Image.Image, severity: int) -> NDArray[Any]:
    """The scripts' `snow`, line by line, but for ImageMagick's motion."""
    c = levels[severity - 1]
    x = np.array(picture, dtype=np.float32) / 255.0
    layer = np.random.normal(size=x.shape[:2], loc=c[0], scale=c[1])  # noqa: NPY002  (replayed)
    layer = clipped_zoom(layer, c[2])
    layer[layer < c[3]] = 0
    layer = (np.clip(layer, 0, 1) * 255).astype(np.uint8)
    angle = np.random.uniform(-135, -45)  # noqa: NPY002
    blurred = package._motion_blur(layer.astype(float), radius=c[4], sigma=c[5], angle=angle)
    flakes = np.round(blurred)[..., None] / 255.0
    grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None]
    x = c[6] * x + (1 - c[6]) * np.maximum(x, grey * 1.5 + 0.5)
    snowed: NDArray[Any] = np.clip(x + flakes + np.rot90(flakes, k=2), 0, 1) * 255
    return snowed


@pytest.mark.parametrize(("constants", "size"), [("imagenet-c-script", 96), ("cifar-c", 32)])
def test_snow_is_the_scripts(
    constants: str, size: int, replay: Callable[..., NDArray[np.uint8]]
) -> None:
    pictures, keys = photographs(size, 3), keys_of(3)
    for severity in range(1, 6):
        expected = replay(partial(script, LEVELS[constants]), pictures, severity, keys)
        got = fast(pictures, "snow", severity, keys, constants)
        assert near(got, expected) > 0.99, severity
        assert near(got, pictures) < 0.5
