"""Speed of augmentation: this project's views beside lightly's, torchvision's and kornia's.

Two views per image by BYOL's transforms (Grill et al. 2020, table 6), from uint8 images to float
views, by the same number of threads. Repeats of the four take turns, so that what else the machine
does meets all of them alike. No test of equality: test_views.py holds the distributions.

    python -m benchmarks.views --json views.json

kornia is no dependency of the project: `pip install kornia` first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import torch
import torchvision.transforms.v2 as T
from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform
from PIL import Image
from torch import Tensor

from robustbench_coss.machine.environment import device_name, resolve_device
from robustbench_coss.pretrain.views import ViewOptions, make_views

OPTIONS = ViewOptions()
JITTER = (OPTIONS.brightness, OPTIONS.contrast, OPTIONS.saturation, OPTIONS.hue)
SCALE = (OPTIONS.min_crop, OPTIONS.max_crop)


def kernel_of(size: int) -> int:
    """Side of the blur's kernel in px, as `gaussian_blur` of this project takes it."""
    return 2 * min(round(3 * OPTIONS.blur_sigma[1]), size // 3) + 1


def ours(images: Tensor, device: torch.device) -> Callable[[], Any]:
    """Batched, on the device."""
    batch = images.to(device)
    index = range(len(images))
    return lambda: make_views(batch, index, 0, 0, 2, OPTIONS)


def with_kornia(images: Tensor, device: torch.device) -> Callable[[], Any]:
    """Batched, on the device; every sample has its own draws, from torch's global generator."""
    size = images.shape[-1]
    batch = images.to(device)

    def view(number: int) -> Callable[[Tensor], Tensor]:
        made: Callable[[Tensor], Tensor] = torch.nn.Sequential(
            K.RandomResizedCrop((size, size), scale=SCALE, cropping_mode="resample"),
            K.RandomHorizontalFlip(OPTIONS.flip),
            K.ColorJitter(*JITTER, p=OPTIONS.jitter),
            K.RandomGrayscale(p=OPTIONS.grey),
            K.RandomGaussianBlur(
                (kernel_of(size),) * 2, OPTIONS.blur_sigma, p=OPTIONS.blur[number]
            ),
            K.RandomSolarize(thresholds=0.0, additions=0.0, p=OPTIONS.solarize[number]),
        )
        return made

    views = [view(number) for number in range(2)]
    return lambda: [made(batch.float() / 255) for made in views]


def with_torchvision(images: Tensor, device: torch.device) -> Callable[[], Any]:
    """Image by image, as tensors on the CPU; then to the device."""
    size = images.shape[-1]

    def view(number: int) -> T.Compose:
        blur = T.GaussianBlur(kernel_of(size), OPTIONS.blur_sigma)
        return T.Compose(
            [
                T.RandomResizedCrop(size, scale=SCALE, antialias=True),
                T.RandomHorizontalFlip(OPTIONS.flip),
                T.RandomApply([T.ColorJitter(*JITTER)], OPTIONS.jitter),
                T.RandomGrayscale(OPTIONS.grey),
                T.RandomApply([blur], OPTIONS.blur[number]),
                T.RandomSolarize(0.5, OPTIONS.solarize[number]),
            ]
        )

    views = [view(number) for number in range(2)]
    return lambda: [
        torch.stack([made(image.float() / 255) for image in images]).to(device) for made in views
    ]


def with_lightly(images: Tensor, device: torch.device) -> Callable[[], Any]:
    """Image by image, as PIL images on the CPU; then to the device."""
    size = images.shape[-1]
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    views = [
        view(input_size=size, normalize=None) for view in (BYOLView1Transform, BYOLView2Transform)
    ]
    return lambda: [
        torch.stack([made(picture) for picture in pictures]).to(device) for made in views
    ]


MAKERS = {
    "ours": ours,
    "kornia": with_kornia,
    "torchvision": with_torchvision,
    "lightly": with_lightly,
}


def measure(size: int, batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Median milliseconds per batch of each, and the ratios of these medians to ours."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=draw)
    runs = {name: maker(images, device) for name, maker in MAKERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "size": size,
        "batch": batch,
        "repeats": repeats,
        "ratios": {
            f"{name}_over_ours": round(median[name] / median["ours"], 2)
            for name in median
            if name != "ours"
        },
        "milliseconds": {name: round(value * 1000, 1) for name, value in median.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=128, help="images at 32 px; a quarter at 224")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    small = measure(32, arguments.batch, arguments.repeats, device)
    large = measure(224, max(2, arguments.batch // 4), arguments.repeats, device)
    report = {
        "device": device_name(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **large,
        "at_32px": small,
    }
    for result in (small, large):
        print(f"{result['size']} px, {result['batch']} images, ms: {result['milliseconds']}")
        print(f"  {result['ratios']}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
