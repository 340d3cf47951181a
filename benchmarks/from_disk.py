"""What `coss-bench eval` takes on pictures on a disk, beside the network and the decoding alone.

Run as `python benchmarks/eval.py --from-disk`; see there. By turns, in one process: `evaluate_run`,
which is what the command line calls, on a generated folder of JPEGs of 500 × 375 px; a bare loop of
the network over a batch of float images that is on the device; and decoding all pictures once. An
older copy of the code (`--against`) takes its turn in a process of its own, which times itself.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_coss import registry
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite, correct
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.evaluations.suites.corruption import Corruption
from robustbench_coss.machine.environment import cores, device_name, resolve_device, versions
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.records.record import Metric

CLASSES = 10
DISTINCT = 64  # pictures; the others are copies of them under other names
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Dimmed(Suite):
    """Conditions that cost next to nothing but a forward pass each."""

    name = "dimmed"
    count = 8

    def conditions(self, subject: Subject) -> list[Condition]:
        return [Condition(f"dimmed@{k}", "dimmed", float(k)) for k in range(self.count)]

    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        images = batch.images * (1 - condition.level / 100)
        return {"correct": correct(subject, images, batch.labels)}

    def metrics(self, conditions: Any) -> list[Metric]:
        return [Metric("dimmed", "Dimmed top-1", "correct", tuple(c.name for c in conditions))]


class Corrupted(Corruption):
    """The suite `corruption` at some of its severities."""

    severities: tuple[int, ...] = (1, 2, 3, 4, 5)

    def conditions(self, subject: Subject) -> list[Condition]:
        found = super().conditions(subject)
        return [c for c in found if not c.group or int(c.level) in self.severities]

    def metrics(self, conditions: Any) -> list[Metric]:
        return [Metric("all", "Top-1", "correct", tuple(c.name for c in conditions))]


def write_pictures(root: Path, count: int) -> float:
    """An `imagefolder` of `count` test pictures and a few for training; mean kB of a picture."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(min(count, DISTINCT)):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = (smooth + rng.normal(0, 18, smooth.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=85)
        encoded.append(file.getvalue())
    for part, number in (("train", 4 * CLASSES), ("val", 2 * CLASSES), ("test", count)):
        for k in range(number):
            folder = root / part / f"class{k % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{k:06d}.jpg").write_bytes(encoded[k % len(encoded)])
    return sum(map(len, encoded)) / len(encoded) / 1000


Took = tuple[float, float]  # seconds of the clock, and of the processor: all threads of a process


def timed(work: Callable[[], Any]) -> tuple[Took, Any]:
    """What some work took, and gives."""
    began = time.perf_counter(), time.process_time()
    found = work()
    return (time.perf_counter() - began[0], time.process_time() - began[1]), found


def product(model: Checkpoint, root: Path, args: argparse.Namespace) -> tuple[Took, int]:
    """What measuring took, from nothing to the record on disk, and the number of conditions."""
    suite: type[Suite] = Dimmed if args.conditions else Corrupted
    Dimmed.count = args.conditions or 8
    Corrupted.severities = tuple(args.severities)
    load = registry.load

    def with_ours(kind: str, name: str) -> Any:
        return suite if (kind, name) == ("suite", suite.name) else load(kind, name)

    registry.load = with_ours
    more: dict[str, Any] = {} if args.precision == "32" else {"precision": args.precision}
    if args.workers:
        more["workers"] = args.workers
    try:
        with tempfile.TemporaryDirectory() as results:
            request = Evaluation(
                [suite.name],
                dataset="imagefolder",
                results=results,
                data_root=root,
                batch_size=args.batch,
                device=args.device,
                **more,
            )
            took, records = timed(lambda: list(evaluate_run(lambda: model, request).values()))
            return took, len(records[0].cells)
    finally:
        registry.load = load


def bare(model: Checkpoint, count: int, args: argparse.Namespace) -> Took:
    """What it takes: a pass of the network alone over `count` images."""
    device = resolve_device(args.device)
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    images = torch.rand(args.batch, 3, args.size, args.size, device=device)
    images = images.contiguous(memory_format=layout)
    network = torch.nn.Sequential(model.encoder, model.head).to(device).eval()
    if device.type == "cuda":
        network.to(memory_format=torch.channels_last)
    half = DTYPES.get(args.precision)
    lowered = nullcontext() if half is None else torch.autocast(device.type, half)
    sizes = [min(args.batch, count - done) for done in range(0, count, args.batch)]
    total = torch.zeros((), device=device)

    def run() -> None:
        with torch.inference_mode(), lowered:
            for size in sizes:
                total.add_(network(images[:size]).argmax(dim=1).sum())
        total.item()

    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # as the product does
        run()  # chooses algorithms
    return timed(run)[0]


def decoding(root: Path, args: argparse.Namespace) -> Took:
    """What it takes: decoding the test pictures once."""
    images = open_dataset("imagefolder", "test", size=args.size, root=root)
    images.workers = args.workers  # type: ignore[attr-defined]
    images.images([0])  # imports what decodes

    def run() -> None:
        for done in range(0, len(images), args.batch):
            images.images(range(done, min(done + args.batch, len(images))))

    return timed(run)[0]


def earlier(root: Path, args: argparse.Namespace) -> Took:
    """What it takes: the product in the code at `--against`, in a process of its own."""
    script = Path(__file__).with_name("eval.py")
    command = [sys.executable, str(script), *sys.argv[1:], "--product-only", str(root)]
    environment = os.environ | {"PYTHONPATH": str(args.against)}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    clock, processor = json.loads(out.stdout.splitlines()[-1])["took"]
    return clock, processor


def run(model: Checkpoint, args: argparse.Namespace) -> dict[str, Any]:
    """All contestants by turns; images per second by the best turn of each."""
    if args.product_only is not None:
        return {"took": product(model, args.product_only, args)[0]}
    load_before = os.getloadavg()[0]
    times: dict[str, list[Took]] = {"bare": [], "product": [], "decoding": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        kilobytes = write_pictures(root, args.images)
        conditions = 0
        for turn in range(args.repeats):
            times["bare"].append(bare(model, args.images, args))
            times["decoding"].append(decoding(root, args))
            took, conditions = product(model, root, args)
            times["product"].append(took)
            if args.against is not None:
                times.setdefault("earlier", []).append(earlier(root, args))
            print(turn + 1, {name: round(v[-1][0], 2) for name, v in times.items()}, flush=True)
    passes = {"bare": 1, "decoding": 1, "product": conditions, "earlier": conditions}
    rates, ratios = {}, {}
    for number, clock in enumerate(("clock", "processor")):
        least = {name: min(took[number] for took in turns) for name, turns in times.items()}
        rate = {name: args.images * passes[name] / seconds for name, seconds in least.items()}
        rates[clock] = {name: round(value, 1) for name, value in rate.items()}
        ratios[f"product_over_bare_{clock}"] = round(rate["product"] / rate["bare"], 3)
        if "earlier" in rate:
            ratios[f"product_over_earlier_{clock}"] = round(rate["product"] / rate["earlier"], 3)
    ratios["product_time_over_bare_passes"] = round(1 / ratios["product_over_bare_clock"], 3)
    setting = vars(args) | {"against": args.against and str(args.against)}
    return {
        "device": device_name(resolve_device(args.device)),
        "cores": cores(),
        "load_before_and_after": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "versions": versions(),
        "setting": {k: v for k, v in setting.items() if k not in ("json", "hold", "product_only")},
        "kilobytes_of_a_picture": round(kilobytes, 1),
        "conditions": conditions,
        "seconds": {n: [[round(v, 2) for v in took] for took in t] for n, t in times.items()},
        "images_per_second": rates,
        "ratios": ratios,
    }
