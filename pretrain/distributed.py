"""What the processes of one training run tell each other. Alone, nothing changes.

Starting them is torchrun's or SLURM's business, gradients are averaged by PyTorch's DDP through
Lightning; here is how they meet, agree on errors, and share rows and batch statistics.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from robustbench_coss.errors import CossError

TIMEOUT = timedelta(minutes=30)
"""Longest wait for another process: one may download or index a data set while others wait."""


@dataclass(frozen=True)
class Launch:
    """How this process was started: alone, or as one of several that share every batch.

    Attributes:
        world: number of processes.
        rank: number of this one, from 0.
        local_world: processes on this machine.
        local_rank: number of this one on its machine, which is also that of its GPU.
        environment: the same for Lightning.
    """

    world: int
    rank: int
    local_world: int
    local_rank: int
    environment: ClusterEnvironment


def launch() -> Launch:
    """How this process was started, from torchrun's or SLURM's environment variables.

    Raises:
        CossError: a SLURM job of several tasks whose settings cannot work.
    """
    environment: ClusterEnvironment = LightningEnvironment()
    if TorchElasticEnvironment.detect():
        environment = TorchElasticEnvironment()
        local_world = int(os.environ["LOCAL_WORLD_SIZE"])
    elif SLURMEnvironment.detect() and int(os.environ["SLURM_NTASKS"]) > 1:
        tasks = os.environ["SLURM_NTASKS"]
        if "SLURM_STEP_ID" not in os.environ:  # set by srun only
            raise CossError(
                f"this SLURM job has {tasks} tasks, but srun did not start this process; "
                "put `srun` before the command, or ask for --ntasks=1"
            )
        if "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise CossError(
                f"this SLURM job has {tasks} tasks on nobody knows which nodes; "
                "ask for them with --nodes and --ntasks-per-node instead of --ntasks"
            )
        # A requeued job goes on from last.ckpt by --resume; Lightning's own way is another file.
        environment = SLURMEnvironment(auto_requeue=False)
        local_world = int(os.environ["SLURM_NTASKS_PER_NODE"])
    else:
        return Launch(1, 0, 1, 0, environment)
    return Launch(
        environment.world_size(),
        environment.global_rank(),
        local_world,
        environment.local_rank(),
        environment,
    )


def join(device: torch.device) -> None:
    """Meet the other processes of this run, if it has any; joining again does nothing.

    Raises:
        CossError: fewer GPUs than processes on this machine, or the others did not come.
    """
    started = launch()
    if started.world == 1 or dist.is_initialized():
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        gpus = torch.cuda.device_count()
        if started.local_world > gpus:
            raise CossError(
                f"{started.local_world} processes on this machine, but each sees {gpus} GPU(s); "
                "start one process per GPU, and let every process see all GPUs of its machine"
            )
        torch.cuda.set_device(started.local_rank)
    os.environ["MASTER_ADDR"] = started.environment.main_address
    os.environ["MASTER_PORT"] = str(started.environment.main_port)
    try:
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            rank=started.rank,
            world_size=started.world,
            timeout=TIMEOUT,
            device_id=torch.device("cuda", started.local_rank) if on_gpu else None,
        )
    except dist.DistError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise CossError(
            f"the {started.world} processes of this run did not meet at {address}; check that all "
            "were started and that the port is free and open (MASTER_PORT chooses another)"
        ) from error
    atexit.register(dist.destroy_process_group)


def world_size() -> int:
    """Number of processes that share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    """All ranks' rows; the gradient of a rank's rows is the sum of what all ranks make of them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient).chunk(world_size())[rank()]


def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks in order of rank, with gradient: [B, …] -> [ranks · B, …].

    The gradient is that of the sum of all ranks' losses; DDP then divides it by their number.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows.contiguous())
    return gathered


@torch.no_grad()
def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over ranks, without gradient."""
    if world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


@torch.no_grad()
def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over ranks, without gradient."""
    return value if world_size() == 1 else sum_over_ranks(value) / world_size()


class ReportedElsewhere(CossError):
    """Another process of the run failed, or failed alike, and says why."""


def reported_once(error: CossError) -> CossError:
    """An error that every rank meets at the same place, for the first rank alone to report."""
    return error if rank() == 0 else ReportedElsewhere(str(error))


@contextmanager
def same_outcome() -> Iterator[None]:
    """Let a block without communication fail on all ranks if it fails with CossError on any.

    The lowest rank that failed raises its error, the others `ReportedElsewhere`.
    """
    error = None
    try:
        yield
    except CossError as caught:
        if world_size() == 1:
            raise
        error = caught
    if world_size() == 1:
        return
    messages: list[str | None] = [None] * world_size()
    dist.all_gather_object(messages, None if error is None else str(error))
    failed = [number for number, message in enumerate(messages) if message is not None]
    if error is not None and failed[0] == rank():
        raise error
    if failed:
        raise ReportedElsewhere(str(messages[failed[0]])) from error


class SyncBatchNorm(_BatchNorm):
    """BatchNorm over the samples of all ranks, which hold equally many, on any device.

    torch.nn.SyncBatchNorm takes CUDA tensors only. Parameters, buffers and results in evaluation
    are those of BatchNorm; the running variance is unbiased over the samples of all ranks.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # BatchNorm1d and 2d alike

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        over = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        variance, mean = torch.var_mean(x, over, correction=0)
        means, variances = gather(torch.stack([mean, variance])[None]).unbind(1)  # [ranks, C] each
        mean = means.mean(0)
        # The variance of all is the mean variance within ranks plus the variance between them.
        variance = (variances + (means - mean) ** 2).mean(0)
        self._update(mean.detach(), variance.detach(), world_size() * x.numel() // x.shape[1])
        x = (x - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            x = x * self.weight.view(shape) + self.bias.view(shape)
        return x.to(input.dtype)

    def _update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, as BatchNorm does."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum
        if share is None:  # a cumulative average
            share = 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / (count - 1)), share)


def synchronise_batchnorm(module: nn.Module, device: torch.device) -> None:
    """Make every BatchNorm inside a module see the samples of all ranks, in place.

    State dicts keep their keys and the parameters their identity. Alone, nothing is changed.
    """
    if world_size() == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            synchronised = SyncBatchNorm(
                child.num_features,
                child.eps,
                child.momentum,
                child.affine,
                child.track_running_stats,
            )
            # The very parameters and buffers: the optimiser and momentum pairs may hold them.
            synchronised._parameters, synchronised._buffers = child._parameters, child._buffers
            synchronised.train(child.training)
            setattr(module, name, synchronised)
        else:
            synchronise_batchnorm(child, device)
