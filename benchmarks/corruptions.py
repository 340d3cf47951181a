"""How much faster the fast corruptions are than the package imagecorruptions. Not a test.

    python benchmarks/corruptions.py --json corruptions.json

On the CPU both run on one thread, by turns, corruption by corruption, and are compared by the least
processor time of several repeats, which other programs on the machine disturb least.
With a CUDA device, the fast corruptions there are compared with imagecorruptions on one thread of
the CPU, and a sweep of a ResNet-50 over all 95 corruptions and severities with 95 passes over the
clean images.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from torch import Tensor

from robustbench_coss.evaluations.corruptions.fast import corrupt
from robustbench_coss.evaluations.corruptions.fast.draws import sample_keys
from robustbench_coss.evaluations.corruptions.reference import NAMES, SEVERITIES, corrupt_images
from robustbench_coss.machine.allocator import keep_freed_memory
from robustbench_coss.machine.environment import device_name

SEVERITY = 3


def pictures(count: int, size: int) -> Tensor:
    """[B, 3, size, size] uint8: smooth colour fields, whose spectrum falls as photographs' does."""
    draw = torch.Generator().manual_seed(0)
    total = torch.zeros(count, 3, size, size)
    for side in (4, 8, 16, 32, 64, 128):
        field = torch.randn(count, 3, side, side, generator=draw) / side
        total += torch.nn.functional.interpolate(field, (size, size), mode="bicubic")
    total -= total.amin((1, 2, 3), keepdim=True)
    return (total / total.amax((1, 2, 3), keepdim=True) * 255).to(torch.uint8)


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Duration of one call."""
    start = clock()
    work()
    return clock() - start


def on_cpu(images: Tensor, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of processor time per image: the least of interleaved repeats."""
    array = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    own = list(range(len(images)))
    found: dict[str, dict[str, float]] = {}
    for name in NAMES:
        keys = sample_keys(own, "benchmark", name)
        # Compiles what is compiled and reads what is cached.
        corrupt_images(array[:1], name, SEVERITY, [0])
        corrupt(images[:1], name, SEVERITY, keys[:1], "imagenet-c")
        times: dict[str, list[float]] = {"reference": [], "fast": []}
        for _ in range(repeats):
            times["reference"].append(
                seconds(lambda n=name: corrupt_images(array, n, SEVERITY, own), time.process_time)  # type: ignore[misc]
            )
            times["fast"].append(
                seconds(
                    lambda n=name, k=keys: corrupt(images, n, SEVERITY, k, "imagenet-c"),  # type: ignore[misc]
                    time.process_time,
                )
            )
        found[name] = {k: min(v) * 1e3 / len(images) for k, v in times.items()}
        print(
            f"{name:18s} reference {found[name]['reference']:7.2f} ms, "
            f"fast {found[name]['fast']:6.2f} ms",
            flush=True,
        )
    return found


def on_gpu(images: Tensor, repeats: int) -> dict[str, float]:
    """Milliseconds per image of the fast corruptions on the GPU: the least of repeats."""
    pixels = images.cuda()
    found = {}
    for name in NAMES:
        keys = sample_keys(range(len(images)), "benchmark", name).cuda()

        def work(n: str = name, k: Tensor = keys) -> None:
            corrupt(pixels, n, SEVERITY, k, "imagenet-c")
            torch.cuda.synchronize()

        work()
        times = [seconds(work, time.perf_counter) for _ in range(repeats)]
        found[name] = min(times) * 1e3 / len(images)
        print(f"{name:18s} GPU {found[name]:8.4f} ms", flush=True)
    return found


@torch.inference_mode()
def sweep_ratio(images: Tensor) -> float:
    """Time of a ResNet-50 over the 95 cells, over that of 95 passes over the clean images.

    In bfloat16 and channels-last layout the network is fastest, so the ratio is not flattered.
    """
    model = torchvision.models.resnet50().cuda().eval().bfloat16()
    model = model.to(memory_format=torch.channels_last)
    pixels = images.cuda().float() / 255

    def predict(x: Tensor) -> Tensor:
        return model(x.bfloat16().contiguous(memory_format=torch.channels_last)).argmax(1)

    def clean() -> None:
        for _ in range(len(NAMES) * len(SEVERITIES)):
            predict(pixels)
        torch.cuda.synchronize()

    def corrupted() -> None:
        for name in NAMES:
            for severity in SEVERITIES:
                keys = sample_keys(range(len(pixels)), name, severity)
                predict(corrupt(pixels, name, severity, keys, "imagenet-c"))
        torch.cuda.synchronize()

    corrupted()
    clean()
    return seconds(corrupted, time.perf_counter) / seconds(clean, time.perf_counter)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=16, help="on the CPU")
    parser.add_argument("--gpu-images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="side in px")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()  # as in `coss-bench eval`, with either backend
    cpu = on_cpu(pictures(arguments.images, arguments.size), arguments.repeats)
    reference = sum(t["reference"] for t in cpu.values())
    ratios: dict[str, Any] = {
        "cpu_speedup_sum": reference / sum(t["fast"] for t in cpu.values()),
        "cpu_speedup": {name: t["reference"] / t["fast"] for name, t in cpu.items()},
    }
    result: dict[str, Any] = {
        "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "torch": torch.__version__,
        "size": arguments.size,
        "severity": SEVERITY,
        "repeats": arguments.repeats,
        "ratios": ratios,
        "cpu_ms_per_image": cpu,
    }
    if torch.cuda.is_available():
        images = pictures(arguments.gpu_images, arguments.size)
        gpu = on_gpu(images, arguments.repeats)
        ratios["gpu_speedup_sum"] = reference / sum(gpu.values())
        ratios["gpu_speedup"] = {name: cpu[name]["reference"] / ms for name, ms in gpu.items()}
        ratios["resnet50_sweep_over_clean"] = sweep_ratio(images)
        result["gpu_ms_per_image"] = gpu
    print(f"sum over the 19: {ratios['cpu_speedup_sum']:.2f} times as fast on one CPU thread")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
