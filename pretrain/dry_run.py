"""What a run would take: a dry run of a recipe. It writes nothing and needs no data.

Steps and parameters are exact. Multiply-accumulates, seconds and memory are those of a few real
training steps on random pixels at two small batch sizes, extrapolated along the line through them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from robustbench_coss import registry
from robustbench_coss.datasets.base import (
    dataset_source,
    missing_data,
    open_dataset,
    split_validation,
)
from robustbench_coss.encoders.base import multiply_accumulates, parameters
from robustbench_coss.errors import CossError
from robustbench_coss.machine.environment import device_name, resolve_device
from robustbench_coss.machine.precision import timed_batch
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain.data import TrainingBatch, subset
from robustbench_coss.pretrain.distributed import world_size
from robustbench_coss.pretrain.loop import ClipGradients, quieten_lightning
from robustbench_coss.pretrain.methods.base import Method, parse_options
from robustbench_coss.pretrain.precision import micro_batch, settle_for_plan
from robustbench_coss.pretrain.recipe import Recipe

TRAINING_IMAGES = {
    "mnist": (60_000, 0.1, 10),  # LeCun et al. 1998
    "fashion-mnist": (60_000, 0.1, 10),  # Xiao et al. 2017, arXiv 1708.07747
    "cifar10": (50_000, 0.1, 10),  # Krizhevsky 2009
    "cifar100": (50_000, 0.1, 100),  # the same
    "stl10": (5_000, 0.1, 10),  # Coates et al. 2011; the labelled ones
    "tiny-imagenet": (100_000, 0.1, 200),  # Le and Yang 2015
    "imagenet": (1_281_167, 0.01, 1000),  # Russakovsky et al. 2015, arXiv 1409.0575, table 2
    "imagenet100": (126_689, 0.01, 100),  # the 100 classes of CMC (Tian et al. 2020)
}
"""Published number of training images, the share held out for validation, number of classes."""

TIMED = 2  # steps per batch size; the faster one counts, since noise only adds


@dataclass(frozen=True)
class Images:
    """What is known of a recipe's training images.

    Attributes:
        count: images per epoch after `limit`; None if unknown.
        classes: number of classes; 0 if unknown.
        source: how they are known, in words.
    """

    count: int | None
    classes: int
    source: str


@dataclass(frozen=True)
class Step:
    """A training step at one batch size.

    Attributes:
        images: batch size.
        macs: multiply-accumulates of forward and backward pass.
        seconds: the fastest of `TIMED` steps.
        memory: bytes; on CUDA the allocator's peak, else weights, gradients and optimiser state and
            what the forward pass keeps for the backward pass.
    """

    images: int
    macs: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class Plan:
    """What a run would take on one device.

    Attributes:
        recipe: the run.
        precision: in words.
        size: side of the images in px.
        images: see there.
        steps_per_epoch: whole batches in an epoch; None if the number of images is unknown.
        encoder_parameters: of the exported encoder.
        encoder_macs: multiply-accumulates of one image through the encoder.
        trained: parameters that are trained, heads included.
        parameters: all parameters, targets included.
        device: in words.
        cuda: whether it is a GPU.
        small, large: the measured steps.
    """

    recipe: Recipe
    precision: str
    size: int
    images: Images
    steps_per_epoch: int | None
    encoder_parameters: int
    encoder_macs: int
    trained: int
    parameters: int
    device: str
    cuda: bool
    small: Step
    large: Step

    @property
    def micro_batch(self) -> int:
        """Images that go through the networks at once."""
        return self.recipe.batch_size // self.recipe.accumulate

    @property
    def macs(self) -> float:
        """Multiply-accumulates of an optimiser step."""
        return extrapolate(self.small, self.large, "macs", self.recipe.batch_size)

    @property
    def seconds(self) -> float:
        """Seconds of an optimiser step, without decoding pictures."""
        return extrapolate(self.small, self.large, "seconds", self.recipe.batch_size)

    @property
    def memory(self) -> float:
        """Bytes at the recipe's micro-batch."""
        return extrapolate(self.small, self.large, "memory", self.micro_batch)


def extrapolate(small: Step, large: Step, what: str, images: int) -> float:
    """A quantity at another batch size, along the line through two steps.

    Where noise leaves no increase from the small to the large step, it is taken as proportional to
    the batch instead.
    """
    low, high = getattr(small, what), getattr(large, what)
    if high <= low:
        return float(high / large.images * images)
    slope = (high - low) / (large.images - small.images)
    return float(high + slope * (images - large.images))


def training_images(recipe: Recipe, data_root: Path) -> Images:
    """How many images the recipe trains on: as found below `data_root`, else as published."""
    if missing_data(recipe.dataset, data_root) is None:
        found = open_dataset(recipe.dataset, "train", size=recipe.size, root=data_root)
        count, classes, how = len(found), len(found.classes), f"as found in {data_root}"
    elif recipe.dataset in TRAINING_IMAGES:
        published, share, classes = TRAINING_IMAGES[recipe.dataset]
        count = len(split_validation(published, share)[0])
        how = f"not in {data_root}; {published:,} published, less those held out for validation"
    else:
        return Images(recipe.limit, 0, f"not in {data_root}; as many as --limit says")
    return Images(len(subset(count, recipe.limit)), classes, how)


@contextmanager
def saved_for_backward(model: nn.Module) -> Iterator[list[int]]:
    """Count the bytes that autograd keeps in this context, beside the model's own weights.

    Yields:
        A list of sizes in bytes, one per storage that was saved.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: set[int] = set()
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own | seen:
            seen.add(storage.data_ptr())
            sizes.append(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def state_bytes(method: Method) -> int:
    """Bytes of weights and buffers, and of the trained weights' gradients and optimiser state."""
    options = method.recipe.optimizer
    moments = 2 if options.name == "adamw" else int(options.momentum > 0)
    tensors = [*method.parameters(), *method.buffers()]
    held = sum(t.numel() * t.element_size() for t in tensors)
    return held + (1 + moments) * sum(
        p.numel() * p.element_size() for p in method.parameters() if p.requires_grad
    )


class Gauge(pl.Callback):
    """Measures steps: of each batch size the first for counts and memory, the others for time."""

    def __init__(self) -> None:
        self.macs: dict[int, int] = {}
        self.memory: dict[int, int] = {}
        self.seconds: dict[int, list[float]] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: TrainingBatch, batch_idx: int
    ) -> None:
        self.cuda = pl_module.device.type == "cuda"
        self.stack = ExitStack()
        if len(batch) not in self.macs:
            self.counter = self.stack.enter_context(FlopCounterMode(display=False))
            if self.cuda:
                torch.cuda.reset_peak_memory_stats()
            else:
                self.saved = self.stack.enter_context(saved_for_backward(pl_module))
        self.started = self._now()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: TrainingBatch,
        batch_idx: int,
    ) -> None:
        seconds = self._now() - self.started
        self.stack.close()
        images = len(batch)
        if images in self.macs:
            self.seconds.setdefault(images, []).append(seconds)
            return
        self.macs[images] = int(self.counter.get_total_flops()) // 2
        self.memory[images] = (
            torch.cuda.max_memory_allocated()
            if self.cuda
            else state_bytes(pl_module) + sum(self.saved)
        )

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self, images: int) -> Step:
        """What was measured at a batch size."""
        seconds = min(self.seconds[images])
        return Step(images, self.macs[images], seconds, self.memory[images])


def measure(method: Method, size: int, classes: int, batch: int, cuda: bool) -> tuple[Step, Step]:
    """Train for a few steps on random pixels, at half of `batch` and at `batch`."""
    draw = torch.Generator().manual_seed(0)
    batches = [
        TrainingBatch(
            torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=draw),
            torch.arange(images) % max(1, classes),
            list(range(images)),
        )
        for images in (batch // 2, batch)
        for _ in range(1 + TIMED)
    ]
    gauge, clip = Gauge(), method.recipe.optimizer.clip
    quieten_lightning()
    trainer = pl.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=1,
        precision="bf16-mixed" if method.recipe.precision == "bf16" else "32-true",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[gauge, *([ClipGradients(clip)] if clip else [])],
    )
    # `batch_size=None`: each element is a batch already.
    trainer.fit(method, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return gauge.step(batch // 2), gauge.step(batch)


def make_plan(recipe: Recipe, *, device: str = "auto", data_root: Path = Path("data")) -> Plan:
    """Build a recipe's method, train it for a few steps on random pixels and extrapolate.

    Args:
        recipe: what would be trained.
        device: "auto", "cpu" or "cuda".
        data_root: where data sets lie; only looked at for the number of images.

    Raises:
        CossError: there are several processes; the recipe cannot be trained; its images do not fill
            a batch; it needs labels and the number of classes is unknown; a few images are too many
            for the GPU's memory.
    """
    if world_size() > 1:
        raise CossError("a dry run takes one process; start it without torchrun or srun")
    target = resolve_device(device)
    method_type: type[Method] = registry.load("method", recipe.method)
    parse_options(method_type, recipe.options)
    source = dataset_source(recipe.dataset)
    size = recipe.size or source.default_size
    images = training_images(recipe, data_root)
    if method_type.uses_labels and not images.classes:
        raise CossError(
            f"{recipe.method} needs the number of classes of {recipe.dataset}, which is not in "
            f"{data_root}; pass --data-root"
        )
    if images.count is not None and images.count < recipe.batch_size:
        raise CossError(
            f"{images.count} training images do not fill one batch of {recipe.batch_size}; "
            "lower --batch-size"
        )
    encoder = build_encoder(recipe.arch, size=size, width=recipe.width, mlp=recipe.mlp)
    macs = multiply_accumulates(encoder)
    method = method_type(encoder, recipe, images.classes)
    method.to(memory_format=torch.channels_last)
    batch, precision = timed_batch(micro_batch(recipe), macs, target), ""
    while True:
        try:
            precision = precision or settle_for_plan(method, size, target)
            small, large = measure(method, size, images.classes, batch, target.type == "cuda")
            break
        except torch.OutOfMemoryError as error:
            if batch < 8:
                raise CossError(
                    f"the GPU runs out of memory even with {batch} images; lower --image-size or "
                    "--width, or pass --device cpu"
                ) from error
            batch //= 2
    return Plan(
        recipe=recipe,
        precision=precision,
        size=size,
        images=images,
        steps_per_epoch=None if images.count is None else images.count // recipe.batch_size,
        encoder_parameters=parameters(encoder),
        encoder_macs=macs,
        trained=sum(p.numel() for p in method.parameters() if p.requires_grad),
        parameters=parameters(method),
        device=device_name(target),
        cuda=target.type == "cuda",
        small=small,
        large=large,
    )


def describe(plan: Plan) -> list[str]:
    """A plan as lines of text, each with what it rests on."""
    recipe, small, large = plan.recipe, plan.small, plan.large
    batch = f"{recipe.batch_size:,} images each"
    count, steps, total = "unknown", f"unknown: pass --limit N; {batch}", ""
    if plan.images.count is not None and plan.steps_per_epoch is not None:
        count = f"{plan.images.count:,}"
        all_steps = plan.steps_per_epoch * recipe.epochs
        steps = f"{plan.steps_per_epoch:,} per epoch, {all_steps:,} in all; {batch}"
        total = f", {duration(plan.seconds * all_steps)} in all"
    held = (
        "the peak of what was allocated"
        if plan.cuda
        else "weights, gradients, optimiser state and what the backward pass needs, not temporaries"
    )
    return [
        f"What this run would take on one device, from steps of {small.images} and {large.images} "
        f"images measured on {plan.device}:",
        f"precision: {plan.precision}",
        f"images: {count} for training; {recipe.dataset}: {plan.images.source}",
        f"steps: {steps}",
        f"encoder: {plan.encoder_parameters / 1e6:.2f} M parameters, "
        f"{plan.encoder_macs / 1e6:,.0f} M MACs per image of {plan.size} px",
        f"parameters: {plan.trained / 1e6:.2f} M trained, heads included, of "
        f"{plan.parameters / 1e6:.2f} M",
        f"MACs per step: {plan.macs / 1e12:.3g} T, forward and backward; extrapolated from "
        f"{large.macs / 1e9:,.0f} G for {large.images} images",
        f"time: {duration(plan.seconds)} per step{total}; extrapolated from "
        f"{duration(large.seconds)} for {large.images} images, without reading pictures",
        f"memory: {gigabytes(plan.memory)} with {plan.micro_batch:,} images at once; extrapolated "
        f"from {gigabytes(large.memory)} for {large.images} images ({held})",
    ]


def duration(seconds: float) -> str:
    """Seconds in words: "0.25 s", "12 min", "3.1 h", "1,200 days"."""
    for unit, size in (("days", 172_800), ("h", 7_200), ("min", 120)):
        if seconds >= size:
            length = seconds / {"days": 86_400, "h": 3_600, "min": 60}[unit]
            return f"{length:,.0f} {unit}" if length >= 100 else f"{length:.3g} {unit}"
    return f"{seconds:.3g} s"


def gigabytes(count: float) -> str:
    """Bytes as GiB (2³⁰), to three digits."""
    return f"{count / 2**30:.3g} GiB"
