"""What an evaluation costs beside bare forward passes, and whether its memory grows. Not a test.

    python benchmarks/eval.py --json eval.json
    python benchmarks/eval.py --from-disk --arch resnet50 --size 224 --json from-disk.json

Throughput: the suite `clean` on all test images, by the runner with everything it does while it
measures (reading, kNN, columns), beside a loop of encoder and classifier over the same batches, by
turns. They are compared by the least time of several repeats, on a CPU the processor time of all
threads, which other programs disturb least. What is done once per model, the probe's training and
the kNN bank, is timed apart.
Memory: the most that a process of its own has held while it measured a small and a large data set
whose images are made when they are asked for.
With `--from-disk`, another measurement: the whole of `coss-bench eval` on JPEGs; see `from_disk`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_coss import registry
from robustbench_coss.datasets.base import Source
from robustbench_coss.evaluations.probes.features import batches, to_device
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.running.job import Opened
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.evaluations.running.units import Unit
from robustbench_coss.files import sha256_of
from robustbench_coss.machine.environment import device_name
from robustbench_coss.models.checkpoint import Checkpoint, build_encoder

CLASSES = 10


class Stripes:
    """As many images as one likes, none of which exists before it is asked for."""

    def __init__(self, role: str, count: int, size: int) -> None:
        self.name, self.role, self.size = "stripes", role, size
        self.classes = tuple(f"width {i}" for i in range(CLASSES))
        self.labels = torch.arange(count) % CLASSES
        self.fingerprint = sha256_of(f"stripes {role} {count} {size}")

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Sequence[int]) -> Tensor:
        index = torch.as_tensor(indices).view(-1, 1, 1, 1)
        column = torch.arange(self.size).view(1, 1, 1, -1)
        wave = (column + index // CLASSES) * (1 + index % CLASSES) * (256 // self.size)
        return (wave % 256).to(torch.uint8).expand(-1, 3, self.size, -1)


class StripesSource:
    name, default_size = "stripes", 32

    def __init__(self, count: int) -> None:
        self.count = count

    def open(self, role: str, size: int, root: Path, download: bool) -> Any:
        return Stripes(role, self.count if role == "test" else 2_000, size)

    def missing(self, root: Path) -> None:
        return None


def untrained(arch: str, width: float, size: int, head: bool) -> Checkpoint:
    """A model with random weights: how fast it is does not depend on them."""
    torch.manual_seed(0)
    encoder = build_encoder(arch, size=size, width=width).eval()
    return Checkpoint(
        encoder=encoder,
        name="untrained",
        path=None,
        sha256="0" * 64,
        metadata={"arch": arch, "width": width, "size": size, "dataset": None},
        head=nn.Linear(encoder.dim, CLASSES) if head else None,
        classes=CLASSES if head else None,
    )


def throughput(model: Checkpoint, dataset: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the bare loop and of the runner over all test images, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        probe = ProbeConfig(max_train=2_000)  # not timed
        request = Evaluation(
            dataset=dataset,
            results=folder,
            limit=args.limit,
            batch_size=args.batch,
            device=args.device,
            probe=probe,
        )
        opened = Opened(lambda: model, request)
        subject, device = opened.subject, opened.device
        condition = opened.suite("clean").conditions(subject)[0]
        unit = Unit("clean", (condition,), 0, len(opened.images.index))

        def bare() -> None:
            right = torch.zeros((), dtype=torch.int64, device=device)
            with torch.inference_mode():
                for batch in batches(opened.images.test, opened.images.index, args.batch, device):
                    right += (subject(batch.images).argmax(dim=1) == batch.labels).sum()
            right.item()

        clock = time.process_time if device.type == "cpu" else time.perf_counter

        def seconds(work: Callable[[], object]) -> float:
            began = clock()
            work()
            return clock() - began

        def runner() -> None:
            list(opened.measure(unit))

        first = seconds(runner)  # prepares the suite and warms up
        bare()
        times = [(seconds(bare), seconds(runner)) for _ in range(args.repeats)]
        least = dict(zip(("bare", "runner"), map(min, zip(*times, strict=True)), strict=True))
        return {
            "images": len(opened.images.index),
            "clock": clock.__name__,
            "seconds": {k: round(v, 3) for k, v in least.items()},
            "seconds_to_prepare": round(first - least["runner"], 3),
            "throughput_over_bare": round(least["bare"] / least["runner"], 3),
        }


def hold(count: int, args: argparse.Namespace) -> None:
    """Measure `count` images and print the most memory that this process has held, in MiB."""
    load = registry.load

    def with_stripes(kind: str, name: str) -> Any:
        source: Source = StripesSource(count)
        return source if (kind, name) == ("dataset", "stripes") else load(kind, name)

    registry.load = with_stripes
    with tempfile.TemporaryDirectory() as folder:
        model = untrained(args.arch, args.width, args.size, head=True)
        request = Evaluation(
            ["clean"],
            dataset="stripes",
            results=folder,
            batch_size=args.batch,
            device=args.device,
        )
        evaluate_run(lambda: model, request)
    # Not getrusage: what it calls the peak is at least what the parent held when it forked.
    status = Path("/proc/self/status").read_text()  # Linux
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """MiB at the peak by number of images, each in a process of its own."""
    found = {}
    for count in args.counts:
        command = [sys.executable, __file__, *sys.argv[1:], "--hold", str(count)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[f"{count:,}"] = round(float(out.split()[-1]), 1)
        print(f"{count:,} images: {found[f'{count:,}']:,.0f} MiB", flush=True)
    values = list(found.values())
    return {"mib_at_the_peak": found, "largest_over_smallest": round(values[-1] / values[0], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="rf29_resnet18")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=int, help="test images to time; default: all")
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    disk = parser.add_argument_group("with --from-disk, which --arch … --repeats apply to as well")
    disk.add_argument("--from-disk", action="store_true")
    disk.add_argument("--images", type=int, default=200, help="test pictures")
    disk.add_argument(
        "--conditions", type=int, default=8, help="of a forward pass each; 0: the suite corruption"
    )
    disk.add_argument("--severities", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    disk.add_argument("--precision", default="32", choices=["32", "bf16", "fp16"])
    disk.add_argument("--workers", type=int, help="threads that decode; default: one per core")
    disk.add_argument("--against", type=Path, help="an older copy of the code, to be timed as well")
    disk.add_argument("--product-only", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--hold", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    if args.hold is not None:
        hold(args.hold, args)
        return
    if args.from_disk:
        import from_disk

        found = from_disk.run(untrained(args.arch, args.width, args.size, head=True), args)
        print(json.dumps(found), flush=True)
        if args.json is not None:
            args.json.write_text(json.dumps(found, indent=2) + "\n")
        return
    model = untrained(args.arch, args.width, args.size, head=False)
    to_device(model.encoder, torch.device("cpu"))
    speed = throughput(model, args.dataset, args)
    print(speed, flush=True)
    space = memory(args)
    figures = {
        "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "setting": {k: v for k, v in vars(args).items() if k not in ("json", "hold")},
        "throughput": speed,
        "memory": space,
        "ratios": {
            "clean_over_bare_loop": speed["throughput_over_bare"],
            "memory_largest_over_smallest": space["largest_over_smallest"],
        },
    }
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
