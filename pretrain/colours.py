"""Adjustments of colour and sharpness, each image of a batch by its own factor.

Images are [B, 3, H, W] in [0, 1], factors [B, 1, 1, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.pretrain.upload import constant

GREY = (0.299, 0.587, 0.114)  # ITU-R 601 luma, as PIL and torchvision use


def grey(images: Tensor) -> Tensor:
    """[B, 3, H, W] to luma [B, 1, H, W]."""
    weights = constant(GREY, images).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp_(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return (images * factor).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean luma."""
    return _blend(images, grey(images).mean(dim=(2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with luma."""
    return _blend(images, grey(images), factor)


def adjust_hue(images: Tensor, factor: Tensor) -> Tensor:
    """Rotate the hue of HSV by `factor` turns; images [B, 3, H, W] in [0, 1]."""
    value = images.amax(dim=1)
    chroma = value - images.amin(dim=1)
    safe = chroma.clamp_min(torch.finfo(chroma.dtype).tiny)  # it divides zero where chroma is zero
    r, g, b = images.unbind(1)
    # `lerp` by 0 or 1 in place of `where`, which is not vectorised on CPUs.
    red, green = (1 + (channel - value).sign_() for channel in (r, g))  # 1 where it is the largest
    hue = torch.lerp(4 + (r - g) / safe, 2 + (b - r) / safe, green).lerp((g - b) / safe, red)
    hue = hue / 6 + factor.squeeze(1)
    hue = hue - hue.floor()
    # HSV to RGB in closed form: f(n) = v - c * max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6 with
    # n = 5, 3, 1: a trapezoid about 2 and about 8, as far from 5 either way. `%` takes ten times
    # as long as all of it.
    n = constant((0.0, 2.0, 4.0), images).view(1, 3, 1, 1)
    share = (6 * hue.unsqueeze(1) - n).abs_().sub_(3).abs_().neg_().add_(2).clamp_(0, 1)
    return torch.addcmul(value.unsqueeze(1), chroma.unsqueeze(1), share, value=-1)


def gaussian_blur(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur each image with its own Gaussian, edges reflected.

    Args:
        images: [B, 3, H, W].
        sigma: [B] in px.
        largest: upper bound of sigma, which sets the kernel: 3 sigma, at most a third of the image.
    """
    batch, channels, height, width = images.shape
    radius = max(1, min(round(3 * largest), min(height, width) // 3))
    offset = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(offset**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    padded = F.pad(images, (radius,) * 4, mode="reflect").reshape(
        1, batch * channels, height + 2 * radius, width + 2 * radius
    )
    blurred = F.conv2d(padded, kernel[:, None, None, :], groups=batch * channels)
    blurred = F.conv2d(blurred, kernel[:, None, :, None], groups=batch * channels)
    return blurred.view(batch, channels, height, width)
