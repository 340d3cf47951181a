"""What pretraining costs, as ratios between runs of one session. Not a test.

    python benchmarks/pretrain.py --json pretrain.json
    python benchmarks/pretrain.py --arch resnet50 --size 224 --batch 8 --hidden 4096 --json r50.json

With a GPU the second of these settings, at batch 256 and in bf16, is the default. All contestants
get the same encoder, images and batch size and take turns, so that what else the machine does
disturbs them alike; a ratio is that of medians. `--profile` adds what a step of BYOL spends its
time on, `--compiled` what torch.compile makes of it.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# This folder, in which `pretrain` is this file and not the package.
sys.path.remove(str(Path(__file__).resolve().parent))

import numpy as np
import pytorch_lightning as pl
import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import get_weight_decay_parameters, update_momentum
from lightly.transforms import BYOLTransform
from lightly.utils.lars import LARS
from lightly.utils.scheduler import CosineWarmupScheduler, cosine_schedule
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from robustbench_coss import registry
from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.machine.allocator import keep_freed_memory
from robustbench_coss.machine.environment import device_name
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain.data import training_loader
from robustbench_coss.pretrain.dry_run import saved_for_backward
from robustbench_coss.pretrain.loop import compile_stages, quieten_lightning
from robustbench_coss.pretrain.methods.base import Method
from robustbench_coss.pretrain.monitors import OnlineProbe
from robustbench_coss.pretrain.recipe import Recipe, build_recipe
from robustbench_coss.pretrain.views import make_views

CONTESTANTS = ("byol", "co-byol", "byol-mc")
PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s of NVIDIA's data sheets (SXM)."""


def images(count: int, size: int) -> ArraySet:
    """Random pictures with large structures, held in memory."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=draw)
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    pixels = (smooth * 255).to(torch.uint8)
    labels = torch.arange(count) % 10
    classes = tuple(map(str, range(10)))
    return ArraySet("benchmark", "train", pixels, labels, classes, size)


def recipe_for(method: str, args: argparse.Namespace, **options: Any) -> Recipe:
    """A run of a method with BYOL's optimiser as lightly publishes it."""
    return build_recipe(
        {
            "method": method,
            "arch": args.arch,
            "width": args.width,
            "size": args.size,
            "batch_size": args.batch,
            "epochs": 100,
            "precision": args.precision,
            "optimizer": {"name": "lars", "lr": 0.45, "weight_decay": 1e-6, "warmup_epochs": 10},
            "options": {"hidden": args.hidden, **options},
        },
        "benchmark",
    )


def build(recipe: Recipe, device: torch.device) -> Method:
    """A method on its device, laid out as in training."""
    torch.manual_seed(0)
    with device:
        encoder = build_encoder(recipe.arch, size=recipe.size or 32, width=recipe.width)
        method: Method = registry.load("method", recipe.method)(encoder, recipe, 10)
    return method.to(device, memory_format=torch.channels_last)


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


class Pictures(Dataset[tuple[list[Tensor], int]]):
    """The same images as PIL pictures, through lightly's own transform."""

    def __init__(self, data: ArraySet, size: int) -> None:
        self.pictures = [
            Image.fromarray(np.ascontiguousarray(p.permute(1, 2, 0).numpy())) for p in data.pixels
        ]
        self.labels = data.labels.tolist()
        self.transform = BYOLTransform()
        if size != 224:  # the transform of its defaults, at another size
            from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform

            self.transform = BYOLTransform(
                view_1_transform=BYOLView1Transform(input_size=size),
                view_2_transform=BYOLView2Transform(input_size=size),
            )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        return self.transform(self.pictures[index]), self.labels[index]


class LightlyBYOL(pl.LightningModule):
    """BYOL as lightly publishes it for ImageNet (benchmarks/imagenet/resnet50/byol.py).

    The encoder is the one of the contest, and the teacher's heads are copies of the student's.
    """

    def __init__(self, encoder: nn.Module, dim: int, hidden: int, batch: int) -> None:
        super().__init__()
        self.encoder, self.batch = encoder, batch
        self.projector = BYOLProjectionHead(dim, hidden, 256)
        self.predictor = BYOLPredictionHead(256, hidden, 256)
        self.teacher = copy.deepcopy(encoder)
        self.teacher_projector = copy.deepcopy(self.projector)
        self.criterion = NegativeCosineSimilarity()
        self.probe = nn.Linear(dim, 10)

    def student(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(x)
        return features, self.predictor(self.projector(features))

    def training_step(self, batch: tuple[list[Tensor], Tensor], batch_idx: int) -> Tensor:
        momentum = cosine_schedule(
            self.trainer.global_step, int(self.trainer.estimated_stepping_batches), 0.99, 1.0
        )
        update_momentum(self.encoder, self.teacher, m=momentum)
        update_momentum(self.projector, self.teacher_projector, m=momentum)
        (first, second), labels = batch
        with torch.no_grad():
            targets = [self.teacher_projector(self.teacher(v)) for v in (first, second)]
        features, one = self.student(first)
        _, two = self.student(second)
        loss = 2 * self.criterion(targets[0], two) + 2 * self.criterion(targets[1], one)
        probe = nn.functional.cross_entropy(self.probe(features.detach()), labels)
        self.log("loss", loss)
        total: Tensor = loss + probe
        return total

    def configure_optimizers(self) -> Any:
        decayed, plain = get_weight_decay_parameters(
            [self.encoder, self.projector, self.predictor, self.probe]
        )
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        optimizer = LARS(groups, lr=0.45 * self.batch / 256, momentum=0.9, weight_decay=1e-6)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = CosineWarmupScheduler(optimizer, warmup_epochs=steps // 10, max_epochs=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


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


def compare_loops(turns: int) -> dict[str, float]:
    """Median images per second of the loops, which take turns.

    Each has a process of its own, since what the one sets in a process is not the other's.
    """
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--loop", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in LOOPS
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


def show(result: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Lines of a nested result."""
    for key, value in result.items():
        if isinstance(value, dict):
            yield from show(value, f"{prefix}{key}.")
        else:
            yield (
                f"{prefix}{key}: {value:.4g}"
                if isinstance(value, float)
                else f"{prefix}{key}: {value}"
            )


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
    parser.add_argument("--precision", default="bf16" if on_gpu else "32", choices=["32", "bf16"])
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
        rates = compare_loops(args.loops)
        result["ratios"]["throughput_over_lightly"] = rates["ours"] / rates["lightly"]
        result["images_per_second"] = rates
        write(result, args.json)
    print("\n".join(show(result)))


if __name__ == "__main__":
    main()
