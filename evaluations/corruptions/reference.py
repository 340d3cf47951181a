"""ImageNet-C's corruptions on arrays, seeded image by image.

Imports neither torch nor the rest of the project: worker processes import this module alone.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import threading
from collections.abc import Sequence

import cv2
import imagecorruptions
import numpy as np
from numpy.typing import NDArray

# Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions
# and Perturbations": four families of 15, and four more meant for validation.
GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
NAMES = tuple(name for names in GROUPS.values() for name in names)
STANDARD = ("noise", "blur", "weather", "digital")
SEVERITIES = (1, 2, 3, 4, 5)
MIN_SIZE = 32

# These two draw from generators of their own, which numpy's global seed does not reach.
_OWN_SEED = {"impulse_noise", "glass_blur"}


def corrupt_images(
    images: NDArray[np.uint8], name: str, severity: int, seeds: Sequence[int]
) -> NDArray[np.uint8]:
    """Corrupt each image with its own seed; numpy's global generator is left as it was.

    Args:
        images: [B, H, W, 3] uint8 with sides of at least 32 px.
        name: one of ImageNet-C's 19 corruptions.
        severity: 1 … 5.
        seeds: [B] seeds in 0 … 2³² − 1.

    Returns:
        [B, H, W, 3] uint8.
    """
    state = np.random.get_state()  # noqa: NPY002 (imagecorruptions draws from the global one)
    out = np.empty_like(images)
    try:
        # zoom_blur and snow print at some image sizes; spatter divides 0 by 0 without droplets.
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            for i, seed in enumerate(seeds):
                np.random.seed(seed)  # noqa: NPY002
                own = {"seed": seed} if name in _OWN_SEED else {}
                out[i] = imagecorruptions.corrupt(
                    images[i], corruption_name=name, severity=severity, **own
                )
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return out


def start_worker() -> None:
    """Set a worker process up: one thread for pictures, and one that ends it with its parent."""
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A worker waits for tasks in a pipe that its siblings hold open as well, so that it would
    # wait forever for a parent that was killed and could not say goodbye.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
