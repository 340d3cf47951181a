"""Linear filters on batches of square images, each as the reference's library defines it.

Only what the corruptions need: borders and roundings are those of scipy, scikit-image and OpenCV.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.evaluations.corruptions.fast import vector_code


def pad(x: Tensor, margin: int, border: str) -> Tensor:
    """[B, C, S, S] with a margin on all four sides.

    Args:
        border: "edge" repeats the outermost pixel (scipy's "nearest"), "mirror" reflects about its
            centre (OpenCV's REFLECT_101), "symmetric" about its outer side (scipy's "reflect").
            "mirror" needs a margin below S.
    """
    if margin == 0:
        return x
    if border == "symmetric":
        size = x.shape[-1]
        place = torch.arange(-margin, size + margin, device=x.device) % (2 * size)
        place = torch.minimum(place, 2 * size - 1 - place)
        return x.index_select(-1, place).index_select(-2, place)
    mode = {"edge": "replicate", "mirror": "reflect"}[border]
    return F.pad(x, (margin, margin, margin, margin), mode=mode)


def correlate(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlation of every channel with one kernel [kh, kw], where the kernel lies inside."""
    b, c, height, width = x.shape
    # Every channel has the same kernel, so they can be regrouped: depthwise convolutions are
    # up to twenty times faster on eight channels than on one or three.
    planes = x.reshape(-1, height, width)
    if missing := -len(planes) % 8:
        planes = F.pad(planes, (0, 0, 0, 0, 0, missing))
    planes = planes.view(-1, 8, height, width)
    # TF32 keeps 10 bits of a factor, too few for 256 grey levels.
    with torch.backends.cudnn.flags(allow_tf32=False):
        out = F.conv2d(planes, kernel.expand(8, 1, *kernel.shape), groups=8)
    return out.flatten(0, 1)[: b * c].view(b, c, *out.shape[2:])


def gaussian_kernel(sigma: float, radius: int) -> Tensor:
    """[2 · radius + 1] float32: samples of the normal density with sum 1."""
    if radius == 0:
        return torch.ones(1)
    positions = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (positions / sigma) ** 2)
    return (weights / weights.sum()).float()


def gaussian(x: Tensor, sigma: float, border: str = "edge", truncate: float = 4.0) -> Tensor:
    """Gaussian blur as `scipy.ndimage.gaussian_filter`, which scikit-image's `gaussian` calls.

    Args:
        sigma: in px; the kernel reaches int(truncate · sigma + 0.5) px.
    """
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    kernel = gaussian_kernel(sigma, radius)
    if vector_code.fits(x):
        return vector_code.separable(x, kernel, border)
    kernel = kernel.to(x.device)
    return correlate(correlate(pad(x, radius, border), kernel[None, :]), kernel[:, None])


def disk(radius: float, alias_sigma: float) -> Tensor:
    """The kernel of `defocus_blur`: a disk of a radius in px, its rim softened by a small Gaussian.

    Cut down to the entries that are not zero; side odd.
    """
    reach = 8 if radius <= 8 else int(radius)
    positions = torch.arange(-reach, reach + 1)
    inside = (positions[:, None] ** 2 + positions[None, :] ** 2 <= radius**2).float()
    soft = 1 if radius <= 8 else 2
    rim = gaussian_kernel(alias_sigma, soft)
    kernel = correlate(
        pad((inside / inside.sum())[None, None], soft, "mirror"), rim[None] * rim[:, None]
    )
    used = int((kernel[0, 0].abs().sum(0) > 1e-9).nonzero().min())
    return kernel[0, 0, used : 2 * reach + 1 - used, used : 2 * reach + 1 - used].contiguous()


def motion(x: Tensor, radius: int, sigma: float, angle: Tensor) -> Tensor:
    """Blur along a line that starts at each pixel, with half a Gaussian as weights.

    The line has 2 · radius + 1 px, rounded to whole shifts; what is shifted in repeats the border.
    A shift as large as the image ends the line, and the weights are not normalised again.

    Args:
        x: [B, C, S, S].
        angle: [B] in degrees.
    """
    steps = torch.arange(2 * radius + 1, dtype=torch.float64)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    # On the CPU: a shift must not depend on how a device rounds a sine.
    turn = angle.cpu().double()[:, None] * (math.pi / 180)
    down = -torch.ceil(steps * torch.sin(turn) - 0.5).long()
    right = -torch.ceil(steps * torch.cos(turn) - 0.5).long()
    size = x.shape[-1]
    beyond = (down.abs() >= size) | (right.abs() >= size)
    weight = weights * (beyond.cumsum(1) == 0)
    padded = pad(x, 2 * radius, "edge")
    by = shift_by_image if x.device.type == "cpu" else shift_by_step
    return by(padded, 2 * radius - down, 2 * radius - right, weight, size)


def shift_by_image(padded: Tensor, top: Tensor, left: Tensor, weight: Tensor, size: int) -> Tensor:
    """Weighted sums of squares of `size` px, each image's own: for a CPU.

    Args:
        padded: [B, C, H, W].
        top, left: [B, K] int64 in px, on the CPU.
        weight: [B, K], on the CPU.

    Returns:
        [B, C, size, size].
    """
    out = padded.new_zeros(*padded.shape[:2], size, size)
    for b, source in enumerate(padded):
        taps = zip(top[b].tolist(), left[b].tolist(), weight[b].tolist(), strict=True)
        for i, j, w in taps:
            out[b].add_(source[:, i : i + size, j : j + size], alpha=w)
    return out


def shift_by_step(padded: Tensor, top: Tensor, left: Tensor, weight: Tensor, size: int) -> Tensor:
    """The same, one square of all images at once: on a GPU small additions would wait in line."""
    b, channels, height, width = padded.shape
    device = padded.device
    pixels = padded.permute(0, 2, 3, 1).reshape(-1, channels)
    place = torch.arange(size, dtype=torch.int32, device=device)
    image = torch.arange(b, dtype=torch.int32, device=device)[:, None]
    origin = (place[:, None] * width + place).flatten() + image * (height * width)
    start, share = (top * width + left).int().to(device), weight.float().to(device)
    out = padded.new_zeros(b, size * size, channels)
    for step in range(top.shape[1]):
        where = (origin + start[:, step, None]).flatten()
        moved = pixels.index_select(0, where).view_as(out)
        out.addcmul_(moved, share[:, step, None, None])
    return out.transpose(1, 2).reshape(b, channels, size, size)


def zoom(x: Tensor, factor: float) -> Tensor:
    """The centre of every channel enlarged to at least S px, as `scipy.ndimage.zoom(order=1)` does.

    The cut has ceil(S / factor) px and becomes round(cut · factor) px; corners meet corners.

    Args:
        x: [1, K, S, S]: interpolation is vectorised along the channels of an image.
    """
    size = x.shape[-1]
    cut = math.ceil(size / factor)
    start = (size - cut) // 2
    part = x[..., start : start + cut, start : start + cut]
    target = round(cut * factor)
    return F.interpolate(
        part.contiguous(memory_format=torch.channels_last),
        (target, target),
        mode="bilinear",
        align_corners=True,
    )
