"""The constants of the named protocols; not what is done with them.

`imagenet-c`: made for 224 px; as the package imagecorruptions has them, which are those of
Hendrycks and Dietterich 2019 (arXiv 1903.12261) but for the elastic transform.
`imagenet-c-script`: those of the script that made ImageNet-C, `ImageNet-C/create_c/
make_imagenet_c.py`; what it does with them is not all that the package does: docs/corruptions.md.
`cifar-c`: the milder ones of CIFAR-10-C, made for 32 px, from `ImageNet-C/create_c/make_cifar_c.py`
of github.com/hendrycks/robustness (commit ca36008). Constants in px are not scaled to the image.
"""

from __future__ import annotations

from typing import Any

CONSTANT_SETS = ("imagenet-c", "cifar-c", "imagenet-c-script")


def default_constants(size: int) -> str:
    """The constants for images of a side in px: CIFAR-10-C's up to 64 px, else ImageNet-C's."""
    return "cifar-c" if size <= 64 else "imagenet-c"


# Per corruption the constants of the severities 1 to 5:
#   gaussian_noise, speckle_noise    standard deviation, pixels in [0, 1]
#   shot_noise                       photons of a white pixel
#   impulse_noise                    share of values replaced
#   defocus_blur                     radius in px, sigma of the antialiasing in px
#   glass_blur                       sigma in px, largest displacement in px, rounds
#   motion_blur                      radius in px, sigma in px
#   zoom_blur                        largest factor (not reached), step; from 1
#   snow                             mean and standard deviation of the flakes, zoom, threshold,
#                                    radius and sigma of the motion in px, weight of the image
#   frost                            weights of image and frost picture
#   fog                              strength, decay of the fractal's detail per octave
#   brightness                       added to HSV's value
#   contrast                         factor of the distance from the mean
#   elastic_transform                imagenet-c: strength; else: strength and sigma of the
#                                    displacements and reach of the affine map, in sides
#   pixelate                         factor of the side
#   jpeg_compression                 quality
#   gaussian_blur                    sigma in px
#   spatter                          mean and standard deviation of the liquid, sigma in px,
#                                    threshold, water: strength, mud: sigma in px; whether mud
#   saturate                         factor and term of HSV's saturation
CONSTANTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "imagenet-c": {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": (60, 25, 12, 5, 3),
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "fog": ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "elastic_transform": (250 * 0.05, 250 * 0.065, 250 * 0.085, 250 * 0.1, 250 * 0.12),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": (25, 18, 15, 10, 7),
        "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
        "gaussian_blur": (1, 2, 3, 4, 6),
        "spatter": (
            (0.65, 0.3, 4, 0.69, 0.6, False),
            (0.65, 0.3, 3, 0.68, 0.6, False),
            (0.65, 0.3, 2, 0.68, 0.5, False),
            (0.65, 0.3, 1, 0.65, 1.5, True),
            (0.67, 0.4, 1, 0.65, 1.5, True),
        ),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    },
    "cifar-c": {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "shot_noise": (500, 250, 100, 75, 50),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "elastic_transform": (
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg_compression": (80, 65, 58, 50, 40),
        "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
        "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
        "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    },
}
# The script has px of a picture of 224 px, made of 244 by mistake.
_OF_244 = (
    (2, 0.7, 0.1),
    (2, 0.08, 0.2),
    (0.05, 0.01, 0.02),
    (0.07, 0.01, 0.02),
    (0.12, 0.01, 0.02),
)
CONSTANTS["imagenet-c-script"] = CONSTANTS["imagenet-c"] | {
    "elastic_transform": tuple(tuple(244 / 224 * c for c in level) for level in _OF_244)
}
