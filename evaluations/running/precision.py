"""In which precision a model is measured, compiled or not, and what is meant by "auto".

The classifier, the probe's features and what suites do to images stay in 32 bit, and so does all of
a suite that says so (`Suite.full_precision`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_coss.encoders.base import Encoder, Stage, multiply_accumulates
from robustbench_coss.errors import one_line
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.machine.precision import (
    FASTER,
    half_over_32,
    native_bf16,
    native_fp16,
    timed_batch,
)
from robustbench_coss.records.record import Precision, Record

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
AUTO: tuple[Precision, ...] = ("fp16", "32")  # what "auto" may come to: bf16 is too coarse


@dataclass(frozen=True)
class Arithmetic:
    """How numbers are made, as a record states it; see there."""

    precision: Precision = "32"
    tf32: bool | None = False
    compiled: bool = False


def arithmetic(request: Evaluation, full: bool = False) -> Arithmetic:
    """What a request that is not "auto" asks for.

    Args:
        full: of a suite that measures in 32 bit whatever is asked for.
    """
    if full:
        return Arithmetic(compiled=False)
    if request.precision in DTYPES:
        return Arithmetic(request.precision, compiled=request.compile)  # type: ignore[arg-type]
    return Arithmetic("32", request.precision == "tf32", request.compile)


def asking(request: Evaluation, record: Record) -> Evaluation:
    """A request that asks for what a record was measured in."""
    precision = "tf32" if record.tf32 else record.precision
    return replace(request, precision=precision, compile=record.compiled)


class Lowered(Encoder):
    """An encoder that multiplies in bf16 or fp16 and gives 32 bit, or whose whole is compiled.

    Args:
        dtype: None for 32 bit.
        compiled: whether `forward` is; stages on the way are not.
    """

    def __init__(self, inner: Encoder, dtype: torch.dtype | None, compiled: bool) -> None:
        super().__init__(inner.input, inner.local_dim, inner.dim)
        self.inner, self.dtype, self.training = inner, dtype, False
        self.whole: Stage = torch.compile(self._forward) if compiled else self._forward

    def _forward(self, x: Tensor) -> Tensor:
        local = self.inner.local(x)
        return self.inner.pool(local if self.dtype is None else local.float())  # the mean in 32 bit

    def _call(self, call: Stage, *inputs: Tensor) -> Tensor:
        if self.dtype is None:
            return call(*inputs)
        with torch.autocast(inputs[0].device.type, self.dtype):
            return call(*inputs).float()

    def stages(self) -> dict[str, Stage]:
        def lowered(stage: Stage) -> Stage:
            return lambda x: self._call(stage, x)

        return {name: lowered(stage) for name, stage in self.inner.stages().items()}

    def local(self, x: Tensor) -> Tensor:
        return self._call(self.inner.local, x)

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        return self._call(self.inner.pool, local, *(() if keep is None else (keep,)))

    def forward(self, x: Tensor) -> Tensor:
        return self._call(self.whole, x)


def lowered(encoder: Encoder, how: Arithmetic) -> Encoder:
    """An encoder that computes as asked: itself, where that is plain 32 bit."""
    if how.precision == "32" and not how.compiled:
        return encoder
    return Lowered(encoder, DTYPES.get(how.precision), how.compiled)


def faster(encoder: Encoder, images: Tensor) -> Precision:
    """The precision that a forward pass is faster in, of fp16 and 32 bit.

    Args:
        images: [B, 3, S, S] on the device, in the layout of evaluation.
    """
    if not native_fp16(images.device):
        return "32"
    images = images[: timed_batch(len(images), multiply_accumulates(encoder), images.device)]
    ways = {half: lowered(encoder, Arithmetic("fp16" if half else "32")) for half in (False, True)}
    with torch.inference_mode():
        share = half_over_32(lambda half: ways[half](images), images.device)
    return "fp16" if share <= FASTER else "32"


def compiles(encoder: Encoder, how: Arithmetic, batches: Sequence[Tensor]) -> bool:
    """Whether an encoder can be compiled; a warning says why not.

    Args:
        batches: what it is tried on, of several sizes.
    """
    try:
        with torch.inference_mode():
            network = lowered(encoder, how)
            for images in batches:
                network(images)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler, or the lack of one, leads to
        reason = one_line(error)
        warnings.warn(
            f"the model cannot be compiled ({reason}); it is measured as it is", stacklevel=1
        )
        return False
    return True


def say_emulated(how: Arithmetic, device: torch.device) -> None:
    """Warn where a device does not have a precision of its own."""
    native = {"bf16": native_bf16, "fp16": native_fp16}.get(how.precision)
    if native is not None and not native(device):
        warnings.warn(
            f"this device has no {how.precision} of its own and emulates it, which is slower; "
            "measure with --precision 32, or auto",
            stacklevel=1,
        )
