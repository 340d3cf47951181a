"""ImageNet-C's 19 corruptions on batches of tensors, on the CPU or a GPU.

A second implementation of what the package imagecorruptions does image by image; the tests hold
it to that package. It is not a library of augmentations: names, severities and constants are
fixed. Images are square, with sides of at least 32 px.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robustbench_coss.evaluations.corruptions.fast import (
    blur,
    digital,
    jpeg,
    noise,
    spatter,
    vector_code,
    weather,
)
from robustbench_coss.evaluations.corruptions.fast.constants import CONSTANTS
from robustbench_coss.evaluations.corruptions.fast.draws import Draws

# Values that are worked on at once, so that intermediate results stay in a CPU's cache, and below
# a gigabyte on a GPU.
_CPU_CHUNK, _GPU_CHUNK = 8 * 3 * 224**2, 256 * 3 * 224**2

_BOTH: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "jpeg_compression": jpeg.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter.spatter,
    "saturate": digital.saturate,
}
# As the scripts that made ImageNet-C and CIFAR-10-C have it, and not the package.
_SCRIPTS: dict[str, Callable[..., Tensor]] = {
    **_BOTH,
    "zoom_blur": partial(blur.zoom_blur, centred=True),
    "snow": partial(weather.snow, centred=True),
    "elastic_transform": digital.elastic_with_affine,
    "pixelate": partial(digital.pixelate, smooth=True),
}
# What differs in more than constants.
_FUNCTIONS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "imagenet-c": {
        **_BOTH,
        "zoom_blur": partial(blur.zoom_blur, centred=False),
        "snow": partial(weather.snow, centred=False),
        "frost": partial(weather.frost, scale=None),
        "elastic_transform": digital.elastic_transform,
        "pixelate": partial(digital.pixelate, smooth=False),
    },
    "cifar-c": {**_SCRIPTS, "frost": partial(weather.frost, scale=0.2)},
    "imagenet-c-script": {**_SCRIPTS, "frost": partial(weather.frost, scale=1.0)},
}
_SMOOTH = partial(vector_code.pixelate, smooth=True)
# Of `vector_code`: from bytes to bytes, without draws.
_ON_BYTES: dict[str, dict[str, Callable[[Tensor, Any], Tensor]]] = {
    "jpeg_compression": dict.fromkeys(_FUNCTIONS, vector_code.jpeg_compression),
    "pixelate": {
        **dict.fromkeys(_FUNCTIONS, _SMOOTH),
        "imagenet-c": partial(vector_code.pixelate, smooth=False),
    },
}


@torch.inference_mode()
def corrupt(images: Tensor, name: str, severity: int, keys: Tensor, constant_set: str) -> Tensor:
    """Corrupt a batch.

    Args:
        images: [B, 3, S, S], uint8 grey levels or float32 in [0, 1]; floats are rounded to grey
            levels first. S is at least 32.
        name: one of the 19 corruptions.
        severity: 1 … 5.
        keys: [B] int64, one per image (`draws.sample_keys`): what its random draws depend on.
        constant_set: one of `constants.CONSTANT_SETS`.

    Returns:
        Whole grey levels of the shape, type, range and device of `images`. On another device or
        in another batch a float's rounding can change a value by a grey level, where a rounding
        decides over more (JPEG, the edges in spatter) by more; the draws are the same.
    """
    function = _FUNCTIONS[constant_set][name]
    constants = CONSTANTS[constant_set][name][severity - 1]
    pixels = images if images.dtype == torch.uint8 else (images * 255).round_().clamp_(0, 255)
    if vector_code.fits(images) and name in _ON_BYTES:
        found = _ON_BYTES[name][constant_set](pixels.to(torch.uint8), constants)
        return found if images.dtype == torch.uint8 else found.float().div_(255)
    limit = _CPU_CHUNK if images.device.type == "cpu" else _GPU_CHUNK
    count = max(1, limit // (3 * images.shape[-1] ** 2))
    keys = keys.to(images.device)
    parts = []
    for part, own in zip(torch.split(pixels, count), torch.split(keys, count), strict=True):
        # The reference cuts decimals off when it stores a picture as bytes.
        out = function(part.float().contiguous(), Draws(own), constants).clamp_(0, 255).floor_()
        parts.append(out.to(torch.uint8) if images.dtype == torch.uint8 else out.div_(255))
    return torch.cat(parts)
