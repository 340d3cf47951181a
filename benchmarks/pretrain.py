"""What pretraining costs, as ratios between runs of one session. Not a test.

    python benchmarks/pretrain.py --json pretrain.json
    python benchmarks/pretrain.py --arch resnet50 --size 224 --batch 8 --hidden 4096 --json r50.json

With a GPU the second of these settings, at batch 256 and in bf16, is the default. All contestants
get the same encoder, images and batch size and take turns, so that what else the machine does
disturbs them alike; a ratio is that of medians. `--profile` adds what a step of BYOL spends its
time on, `--compiled` what torch.compile makes of it. `--precision auto` takes what training takes
with it; lightly's loop then runs in 32 bit, as its example is published.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from contest import build, images, recipe_for, show
from lightly.models.utils import update_momentum
from lightly_byol import LightlyBYOL, Pictures
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from robustbench_coss.machine.allocator import keep_freed_memory
from robustbench_coss.machine.environment import device_name
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain.data import training_loader
from robustbench_coss.pretrain.dry_run import saved_for_backward
from robustbench_coss.pretrain.loop import compile_stages, quieten_lightning
from robustbench_coss.pretrain.methods.base import Method
from robustbench_coss.pretrain.monitors import OnlineProbe
from robustbench_coss.pretrain.precision import choose
from robustbench_coss.pretrain.recipe import Recipe
from robustbench_coss.pretrain.views import make_views

CONTESTANTS = ("byol", "co-byol", "byol-mc")
PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s of NVIDIA's data sheets (SXM)."""


def prepare(args: argparse.Namespace) -> None:
    """What holds for every process of the benchmark."""
    warnings.filterwarnings("ignore")
    quieten_lightning()
    torch.set_num_threads(args.threads)


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def stepper(
    recipe: Recipe, pixels: Tensor, device: torch.device, compiled: bool = False
) -> tuple[Method, Callable[[], None]]:
    """A method and a function that takes one optimiser step of it on views made beforehand."""
    method = build(recipe, device)
    if compiled:
        compile_stages(method)
    index = list(range(recipe.batch_size))
    views = [
        view.contiguous(memory_format=torch.channels_last)
        for view in make_views(
            pixels.to(device), index, 0, 0, method.views, recipe.views, method.local_crops
        )
    ]
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        trained, lr=1e-3, momentum=0.9, weight_decay=1e-6, fused=device.type == "cuda"
    )

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = method.losses(method.encode(views))["loss"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for online, target in method.momentum_pairs:
            update_momentum(online, target, m=0.99)

    return method, step


def compare_steps(args: argparse.Namespace, device: torch.device) -> dict[str, dict[str, float]]:
    """Median milliseconds per optimiser step and bytes at the peak, for each method."""
    data = images(args.batch, args.size)
    pixels = data.images(list(range(args.batch)))
    contestants = {name: stepper(recipe_for(name, args), pixels, device) for name in CONTESTANTS}
    if args.compiled:
        contestants["byol-compiled"] = stepper(recipe_for("byol", args), pixels, device, True)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(args.repeats + 1):
        for name, (_, step) in contestants.items():
            synchronise(device)
            start = time.perf_counter()
            step()
            synchronise(device)
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - start)
    found = {name: {"ms": 1e3 * statistics.median(t)} for name, t in times.items()}
    del contestants, step
    for name in CONTESTANTS:
        found[name]["peak_bytes"] = peak_memory(recipe_for(name, args), pixels, device)
    return found


def peak_memory(recipe: Recipe, pixels: Tensor, device: torch.device) -> float:
    """Bytes that a step needs at its peak, weights and optimiser state included.

    On a GPU the allocator's peak; on a CPU weights, gradients, momentum and all tensors that are
    kept for the backward pass, each storage once.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        method, step = stepper(recipe, pixels, device)
        step()
        step()
        return float(torch.cuda.max_memory_allocated() - before)
    method, step = stepper(recipe, pixels, device)
    with saved_for_backward(method) as kept:
        step()
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    every = sum(p.numel() for p in method.parameters())
    return float(sum(kept) + 4 * (every + 2 * trained))


class Clock(pl.Callback):
    """Times the steps of a run after the first few."""

    def __init__(self, skip: int) -> None:
        self.skip, self.started, self.seconds, self.steps = skip, 0.0, 0.0, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, *rest: Any
    ) -> None:
        if trainer.global_step == self.skip:
            synchronise(module.device)
            self.started = time.perf_counter()
        elif trainer.global_step == trainer.max_steps:
            synchronise(module.device)
            self.seconds = time.perf_counter() - self.started
            self.steps = trainer.max_steps - self.skip


def throughput(
    module: pl.LightningModule,
    loader: DataLoader[Any],
    args: argparse.Namespace,
    folder: str,
    *callbacks: pl.Callback,
) -> float:
    """Images per second of a real training loop, reading and augmenting included."""
    clock = Clock(skip=3)
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="gpu" if args.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if args.precision == "bf16" else "32-true",
        max_steps=3 + args.steps,
        callbacks=[clock, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, loader)
    module.cpu()
    torch.cuda.empty_cache()  # the other loop needs a GPU's memory
    return args.batch * clock.steps / clock.seconds


def our_rate(args: argparse.Namespace) -> float:
    """Images per second of BYOL here, set up as `coss-bench pretrain` does."""
    device = torch.device(args.device)
    keep_freed_memory()
    recipe = recipe_for("byol", args)
    module = build(recipe, torch.device("cpu"))
    loader = training_loader(
        images(max(args.batch * 8, 512), args.size), recipe, module.views, 0, device
    )
    if args.compiled:
        compile_stages(module)
    probe = OnlineProbe(module.encoder.dim, 10, 0)  # lightly's loop trains one as well
    with tempfile.TemporaryDirectory() as folder:
        return throughput(module, loader, args, folder, probe)


def lightlys_rate(args: argparse.Namespace) -> float:
    """Images per second of lightly's BYOL."""
    torch.manual_seed(0)
    encoder = build_encoder(args.arch, size=args.size, width=args.width)
    module = LightlyBYOL(encoder, encoder.dim, args.hidden, args.batch)
    loader = DataLoader(
        Pictures(images(max(args.batch * 8, 512), args.size), args.size),
        args.batch,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )
    with tempfile.TemporaryDirectory() as folder:
        return throughput(module, loader, args, folder)


LOOPS = {"ours": our_rate, "lightly": lightlys_rate}
READY, RATE = "ready for a turn", "images per second:"


def take_turns(args: argparse.Namespace) -> None:
    """Be the process of a loop: run it whenever a line comes in, and print its rate."""
    print(READY, flush=True)
    for _ in sys.stdin:
        print(RATE, LOOPS[args.loop](args), flush=True)


def answer(process: subprocess.Popen[str], start: str) -> str:
    """The rest of the next line of a process that starts so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line.removeprefix(start)
    raise SystemExit(f"a loop ended with code {process.wait()}")


def turn(process: subprocess.Popen[str]) -> float:
    """Have a process run its loop."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(answer(process, RATE))


def compare_loops(turns: int, precisions: dict[str, str]) -> dict[str, float]:
    """Median images per second of the loops, which take turns.

    Each has a process of its own, since what the one sets in a process is not the other's.
    """
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--loop", name, "--precision", precision],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, precision in precisions.items()
    }
    for process in processes.values():
        answer(process, READY)  # what one of them imports must not slow the other's turn down
    rates = [{name: turn(process) for name, process in processes.items()} for _ in range(turns)]
    for process in processes.values():
        process.communicate()
    return {name: statistics.median(rate[name] for rate in rates) for name in processes}


def utilisation(args: argparse.Namespace, seconds: float) -> dict[str, float]:
    """Share of a GPU's peak that the multiplications of a BYOL step make (MFU)."""
    pixels = images(args.batch, args.size).images(list(range(args.batch)))
    _, step = stepper(recipe_for("byol", args), pixels, torch.device("cuda"))
    with FlopCounterMode(display=False) as counter:
        step()
    rate = counter.get_total_flops() / seconds
    busy = []  # per cent of the driver's last sampling period, at most a second
    until = time.perf_counter() + 3
    while time.perf_counter() < until:
        step()
        busy.append(torch.cuda.utilization())
    synchronise(torch.device("cuda"))
    name = torch.cuda.get_device_name()
    peaks = [peak for key, peak in PEAK_BF16.items() if key in name]
    found = {
        "tflops": rate / 1e12,
        "gpu_utilisation_percent": float(statistics.median(busy[len(busy) // 2 :])),
    }
    return found | ({"mfu": rate / peaks[0]} if peaks else {})


def profile(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """The operations that a step of BYOL spends most time in, with their share."""
    pixels = images(args.batch, args.size).images(list(range(args.batch)))
    _, step = stepper(recipe_for("byol", args), pixels, device)
    step()
    step()
    with torch.profiler.profile() as recorded:
        step()
        synchronise(device)
    on_gpu = device.type == "cuda"

    def own(entry: Any) -> float:
        return float(entry.self_device_time_total if on_gpu else entry.self_cpu_time_total)

    # Kernels are listed beside the operations that they belong to.
    operations = [e for e in recorded.key_averages() if e.device_type.name == "CPU"]
    entries = sorted(operations, key=own, reverse=True)
    total = sum(map(own, entries))
    return [{"operation": e.key, "share": round(own(e) / total, 3)} for e in entries[:10]]


def write(result: dict[str, Any], path: Path) -> None:
    """Write what is known so far."""
    path.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--arch", default="resnet50" if on_gpu else "rf29_resnet18")
    parser.add_argument("--width", type=float, default=1.0 if on_gpu else 0.125)
    parser.add_argument("--size", type=int, default=224 if on_gpu else 32)
    parser.add_argument("--batch", type=int, default=256 if on_gpu else 64)
    parser.add_argument("--hidden", type=int, default=4096 if on_gpu else 512)
    parser.add_argument(
        "--precision", default="bf16" if on_gpu else "32", choices=["32", "bf16", "auto"]
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of lightly's loader")
    parser.add_argument("--repeats", type=int, default=15, help="timed steps; 0 leaves them out")
    parser.add_argument("--steps", type=int, default=20, help="steps of a loop; 0 leaves loops out")
    parser.add_argument("--loops", type=int, default=3, help="turns of the two loops")
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--compiled", action="store_true", help="try torch.compile as well")
    args = parser.parse_args()
    prepare(args)
    device = torch.device(args.device)
    if args.loop is not None:
        take_turns(args)
        return
    keep_freed_memory()

    result: dict[str, Any] = {
        "device": device_name(device),
        "torch": torch.__version__,
        "setting": {k: v for k, v in vars(args).items() if k not in ("json", "profile", "loop")},
        "ratios": {},
    }
    precisions = dict.fromkeys(LOOPS, args.precision)
    if args.precision == "auto":
        result["chosen"] = choose(build(recipe_for("byol", args), device), args.size, device)
        args.precision = result["chosen"]["precision"]
        precisions = {"ours": args.precision, "lightly": "32"}
    if args.repeats:
        steps = compare_steps(args, device)
        byol, co, crops = (steps[name] for name in CONTESTANTS)
        result["steps"] = steps
        result["ratios"] |= {
            "co_over_byol_step": co["ms"] / byol["ms"],
            "byol_mc_over_co_byol_step": crops["ms"] / co["ms"],
            "co_over_byol_peak_memory": co["peak_bytes"] / byol["peak_bytes"],
            "byol_mc_over_byol_peak_memory": crops["peak_bytes"] / byol["peak_bytes"],
        }
        if args.compiled:
            compiled = steps["byol-compiled"]["ms"]
            result["ratios"]["plain_over_compiled_step"] = byol["ms"] / compiled
        write(result, args.json)
        if device.type == "cuda":
            result["gpu"] = utilisation(args, byol["ms"] / 1e3)
        if args.profile:
            result["profile"] = profile(args, device)
        write(result, args.json)
    if args.steps:
        torch.cuda.empty_cache()
        rates = compare_loops(args.loops, precisions)
        result["ratios"]["throughput_over_lightly"] = rates["ours"] / rates["lightly"]
        result["images_per_second"] = rates
        write(result, args.json)
    print("\n".join(show(result)))


if __name__ == "__main__":
    main()
