"""In which precision a device computes: what it can, and what it is faster in.

bf16 and fp16 here are mixed: weights stay in 32 bit, convolutions and matrix products take the
shorter numbers (torch.autocast). A device without such instructions emulates them, slowly.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

FASTER = 0.95
"""Share of the time in 32 bit that half precision takes at most where it is chosen."""

CPU_MACS = 4e9  # of the forward pass that is timed on a CPU, so that one thread takes a second

STEPS = 3  # per precision, in turns; the fastest counts, since noise only adds


def native_bf16(device: torch.device, root: Path = Path("/")) -> bool:
    """Whether a device multiplies in bf16 by itself.

    CUDA from compute capability 8.0 (Ampere); CPUs with AVX512-BF16, AMX-BF16 or Arm's BF16, as
    Linux lists them. Where the system does not say, no.

    Args:
        root: of the file system with `proc`.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return _lists({"avx512_bf16", "amx_bf16", "bf16"}, root)


def native_fp16(device: torch.device, root: Path = Path("/")) -> bool:
    """The same for fp16: CUDA from 7.0 (Volta); CPUs with AVX512-FP16, AMX-FP16 or Arm's."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (7, 0)
    return _lists({"avx512_fp16", "amx_fp16", "asimdhp"}, root)


def _lists(wanted: set[str], root: Path) -> bool:
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return found is not None and bool(set(found[1].split()) & wanted)


def timed_batch(batch: int, macs: int, device: torch.device) -> int:
    """Images of a step that is timed: the whole batch, on a CPU fewer of large ones.

    Args:
        macs: multiply-accumulates of one image.
    """
    return batch if device.type == "cuda" else min(batch, max(4, int(CPU_MACS / max(1, macs))))


def half_over_32(step: Callable[[bool], object], device: torch.device) -> float:
    """Time of a step in half precision, as a share of that in 32 bit.

    On a CPU by one thread: several wait for each other in the processor's time, the longer the more
    its neighbours do, and the answer would be theirs.

    Args:
        step: does it, in half precision if it is told so.
    """

    def seconds(half: bool) -> float:
        started = now(device)
        step(half)
        return now(device) - started

    threads = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else threads)
    try:
        seconds(False), seconds(True)  # first calls choose algorithms
        times = [(seconds(False), seconds(True)) for _ in range(STEPS)]
    finally:
        torch.set_num_threads(threads)
    full, half = (min(column) for column in zip(*times, strict=True))
    return float(half / full)


def now(device: torch.device) -> float:
    """Seconds: of the processor on a CPU, where neighbours take turns with this process."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """While active, whether a GPU may round what it multiplies in 32 bit to TF32 (10 bits).

    PyTorch's own default allows it to convolutions and not to matrix products.
    """
    switches = [(torch.backends.cudnn, "allow_tf32"), (torch.backends.cuda.matmul, "allow_tf32")]
    try:
        before = [getattr(*switch) for switch in switches]
        during: bool | str = allowed
    except RuntimeError:  # set operation by operation, which the older switches cannot say
        cudnn: Any = torch.backends.cudnn
        switches = [(part, "fp32_precision") for part in (cudnn.conv, cudnn.rnn, switches[1][0])]
        before = [getattr(*switch) for switch in switches]
        during = "tf32" if allowed else "ieee"
    try:
        for switch in switches:
            setattr(*switch, during)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(*switch, value)
