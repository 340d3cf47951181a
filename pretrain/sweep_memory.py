"""Whether runs of a sweep fit into memory side by side: what the most demanding ones take, as dry
runs measure it in processes of their own, against what is free.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from robustbench_coss.datasets.base import dataset_source
from robustbench_coss.encoders.base import multiply_accumulates
from robustbench_coss.errors import CossError
from robustbench_coss.machine.side_by_side import side_by_side
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain.dry_run import gigabytes, make_plan
from robustbench_coss.pretrain.recipe import Recipe
from robustbench_coss.pretrain.sweep import Run

CUDA_CONTEXT = 600 << 20
"""Bytes of GPU memory that CUDA takes in each process beside tensors: an allowance."""


@dataclass(frozen=True)
class Memory:
    """Bytes that one run takes and bytes that are free, where memory is shortest."""

    needed: float
    free: float
    where: str


def demand(run: Run) -> float:
    """What the memory of a run grows with, whatever its method: for telling which take most."""
    recipe = run.recipe
    size = recipe.size or dataset_source(recipe.dataset).default_size
    encoder = build_encoder(recipe.arch, size=size, width=recipe.width, mlp=recipe.mlp)
    return multiply_accumulates(encoder) * recipe.batch_size / recipe.accumulate


def _shape(recipe: Recipe) -> tuple[object, ...]:
    """Runs that agree in this take the same memory, but for their heads."""
    method = recipe.method, recipe.views.local_crops, recipe.views.local_size
    batch = recipe.batch_size, recipe.accumulate
    return *method, recipe.arch, recipe.width, recipe.mlp, recipe.dataset, recipe.size, *batch


def measure(run: Run, *, device: str, data_root: Path) -> Memory:
    """Memory of a run, from a dry run in this very process, whose own memory counts too.

    On a CPU: the most that this process held, and what the backward pass needs at the recipe's
    batch beyond the measured one. On a GPU: the allocator's peak and CUDA's own.
    """
    plan = make_plan(run.recipe, device=device, data_root=data_root)
    if plan.cuda:
        free, _ = torch.cuda.mem_get_info()
        return Memory(
            plan.memory + CUDA_CONTEXT,
            free + torch.cuda.memory_reserved() + CUDA_CONTEXT,  # this process will be gone
            "on the GPU",
        )
    own = peak_memory()
    return Memory(own + max(0.0, plan.memory - plan.large.memory), free_memory() + own, "in memory")


def peak_memory() -> int:
    """The most bytes that this process has held in memory; 0 where it is not known (Windows)."""
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory(root: Path = Path("/")) -> float:
    """Bytes of memory that programs can still get here, a container's limit heeded.

    Infinite where the system does not say: elsewhere than on Linux.

    Args:
        root: of the file system with `proc` and `sys`.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    found = {line.split(":")[0]: line.split() for line in lines}
    free = float(found["MemAvailable"][1]) * 1024
    group = root / "sys/fs/cgroup"  # version 2, as containers see their own
    try:
        limit, used, stat = (
            (group / f"memory.{of}").read_text() for of in ("max", "current", "stat")
        )
    except OSError:
        return free
    if limit.strip() == "max":
        return free
    cached = dict(line.split() for line in stat.splitlines())["file"]  # given back on demand
    return min(free, float(limit) - float(used) + float(cached))


def check_memory(
    runs: Sequence[Run],
    jobs: int,
    threads: int,
    tell: Callable[[Run, str], None],
    *,
    device: str,
    data_root: Path,
) -> None:
    """Raise CossError unless `jobs` of the runs fit into memory at once."""
    alike = list({_shape(run.recipe): run for run in runs}.values())
    demands = [demand(run) for run in alike]
    most = [run for run, its in zip(alike, demands, strict=True) if its == max(demands)]
    task = partial(measure, device=device, data_root=data_root)
    measured: list[tuple[Run, Memory]] = []
    for run, memory in side_by_side(1, threads, tell, task, most):
        if isinstance(memory, CossError):
            raise CossError(f"dry run of {run.name}, for the memory that --jobs needs: {memory}")
        measured.append((run, memory))
    largest, found = max(measured, key=lambda each: each[1].needed)
    fit = int(found.free // found.needed)
    if fit < jobs:
        remedy = f"--jobs {fit} fits" if fit else "lower the batch size, or split it (accumulate)"
        raise CossError(
            f"--jobs {jobs} takes about {gigabytes(jobs * found.needed)} {found.where}, "
            f"{gigabytes(found.needed)} a run by a dry run of {largest.name}, and "
            f"{gigabytes(found.free)} are free; {remedy}"
        )
