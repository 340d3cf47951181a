"""What OpenCV, libjpeg and Pillow do on the CPU in vector code that PyTorch cannot match.

`filters`, `jpeg` and `digital` have the same in tensors, for GPUs; the tests hold both to the
package imagecorruptions, JPEG and pixelation to its bytes. One picture or channel after the other,
so what one gives depends on no other.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

BORDERS = {
    "edge": cv2.BORDER_REPLICATE,
    "mirror": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
}
"""Of OpenCV, by the names of `filters.pad`."""


SMALLEST = 64
"""Side in px below which a call for each channel costs more than it saves."""


def fits(x: Tensor) -> bool:
    """Whether this module is the faster one for [B, C, S, S]: x is on the CPU and not small."""
    return x.device.type == "cpu" and x.shape[-1] >= SMALLEST


def separable(x: Tensor, kernel: Tensor, border: str) -> Tensor:
    """Correlation of float32 [B, C, H, W] with a kernel [k], k odd, along rows and columns."""
    taps = kernel.numpy()
    planes = [cv2.sepFilter2D(p, -1, taps, taps, borderType=BORDERS[border]) for p in _planes(x)]
    return torch.from_numpy(np.stack(planes)).view_as(x)


def jpeg_compression(pixels: Tensor, quality: int) -> Tensor:
    """uint8 [B, 3, S, S] after JPEG compression at a quality of 1 … 100, by libjpeg's defaults.

    OpenCV takes its channels as BGR and gives them back so.
    """
    found: list[NDArray[np.uint8]] = []
    for picture in pixels.numpy():
        _, coded = cv2.imencode(
            ".jpg", cv2.merge(list(picture[::-1])), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        found += cv2.split(cv2.imdecode(coded, cv2.IMREAD_COLOR))[::-1]  # type: ignore[arg-type]
    return torch.from_numpy(np.stack(found)).view_as(pixels)


def pixelate(pixels: Tensor, c: float, *, smooth: bool) -> Tensor:
    """uint8 [B, 3, S, S] pixelated as by `digital.pixelate`."""
    size = pixels.shape[-1]
    small = int(size * c)
    shrunk = _box_resize(pixels, small)
    if smooth:
        return _box_resize(shrunk, size)
    source = nearest_source(size, small)
    # PyTorch's indexing takes twice as long.
    return torch.from_numpy(shrunk.numpy().take(source, 3).take(source, 2))


def nearest_source(size: int, small: int) -> NDArray[np.int64]:
    """[size]: the pixel of `small` ones that Pillow's `NEAREST` repeats at each place.

    The one below the centre of the new one, the centres added up as Pillow does, whose rounding
    decides where a centre falls between two pixels.
    """
    steps = np.full(size, small / size)
    steps[0] /= 2
    return steps.cumsum().astype(np.int64)


def _box_resize(pixels: Tensor, target: int) -> Tensor:
    found: list[NDArray[np.uint8]] = []
    for picture in pixels.numpy():  # three channels at once are a quarter faster
        whole = Image.fromarray(cv2.merge(list(picture)))
        small = np.asarray(whole.resize((target, target), Image.Resampling.BOX))
        found += cv2.split(small)  # type: ignore[arg-type]
    return torch.from_numpy(np.stack(found)).view(*pixels.shape[:2], target, target)


def _planes(x: Tensor) -> NDArray[np.generic]:
    """[B · C, H, W]."""
    found: NDArray[np.generic] = x.contiguous().numpy().reshape(-1, *x.shape[-2:])
    return found
