"""Accuracy under ImageNet-C's 19 corruptions at five severities.

Corrupted images come from one of three backends: `fast_corruptions` on the model's device, the
package imagecorruptions on the CPU, spread over worker processes, or pictures made before.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_coss import seeds
from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.answers import answers
from robustbench_coss.evaluations.corruptions.fast import corrupt
from robustbench_coss.evaluations.corruptions.fast.constants import CONSTANT_SETS, default_constants
from robustbench_coss.evaluations.corruptions.fast.draws import sample_keys
from robustbench_coss.evaluations.corruptions.published import ReadyMade, open_ready_made
from robustbench_coss.evaluations.corruptions.reference import (
    GROUPS,
    MIN_SIZE,
    NAMES,
    SEVERITIES,
    STANDARD,
    corrupt_images,
    start_worker,
)
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite
from robustbench_coss.machine.environment import cores
from robustbench_coss.reading import from_home
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import Axis, Metric

# Sending a chunk costs about as much as corrupting a handful of small images.
MIN_CHUNK = 8

BACKENDS = ("auto", "fast", "reference")
# Raised when the fast backend would give other images.
FAST_VERSION = 1


def check_options(
    backend: str = "auto",
    constants: str | None = None,
    root: Path | str | None = None,
    workers: int | None = None,
) -> None:
    """Refuse values of `Corruption`'s options that do not exist or contradict each other.

    Raises:
        CossError: says which and what to choose instead.
    """
    if backend not in BACKENDS:
        raise CossError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    if constants is not None and constants not in CONSTANT_SETS:
        raise CossError(f"unknown constants {constants!r}; known: {', '.join(CONSTANT_SETS)}")
    if backend == "reference" and constants not in (None, "imagenet-c"):
        raise CossError(
            "the reference backend has the constants imagenet-c only; "
            f"use --backend fast with --constants {constants}"
        )
    if workers is not None and (type(workers) is not int or not 1 <= workers <= 1024):
        raise CossError(f"corruption.workers must be a whole number of 1 to 1,024, got {workers!r}")
    if root is not None and not isinstance(root, (str, Path)):
        raise CossError(f"corruption.root must be a folder, got {root!r}")
    if root is not None and (backend != "auto" or constants is not None):
        raise CossError(
            "--corruption-root reads images that are corrupted already; "
            "leave out --backend and --constants"
        )
    if root is not None and not from_home(root).is_dir():
        raise CossError(
            f"{root} is not a folder; pass as --corruption-root that of ImageNet-C, "
            "Tiny-ImageNet-C or CIFAR-10-C"
        )


class Corruption(Suite):
    """The 19 corruptions × 5 severities. Column: `correct` (top-1).

    Args:
        backend: "fast", "reference" (imagecorruptions), or "auto", which is fast: the tests hold
            all 19 to imagecorruptions.
        constants: one of `CONSTANT_SETS`; None takes CIFAR-10-C's up to 64 px and ImageNet-C's
            above, the reference backend ImageNet-C's always.
        root: folder of ready-made corrupted pictures (`ready_made`) to measure on instead.
        workers: processes that the reference backend corrupts images with; None takes the cores
            this process may use. The outcomes do not depend on it.

    Raises:
        CossError: see `check_options`.
    """

    name = "corruption"
    version = 1
    needs_training = False
    axis = Axis("severity")
    about = SuiteAbout(
        title="Corruptions",
        does="The corruptions of ImageNet-C at five severities. The headline is the mean over the "
        "15 standard ones and all severities; the extra ones stand apart.",
        order=20,
        panels={group: group.capitalize() for group in GROUPS},
        also=(Axis("severity", "ece", "ECE (%)"),),
        captions={
            "": "Top-1 against severity, a panel per family of corruptions.",
            "ece": "Expected calibration error against severity, averaged over corruptions.",
        },
    )

    def __init__(
        self,
        backend: str = "auto",
        constants: str | None = None,
        root: Path | None = None,
        workers: int | None = None,
    ) -> None:
        check_options(backend, constants, root, workers)
        root = None if root is None else from_home(root)
        self.backend = "fast" if backend == "auto" else backend
        self.constants = "imagenet-c" if backend == "reference" else constants
        self.root = root
        self.workers = cores() if workers is None else workers
        self._ready_made: ReadyMade | None = None
        self._pool: ProcessPoolExecutor | None = None

    def configure(self, test: ImageSet) -> None:
        """Choose the constants by image size, or open the ready-made pictures.

        Raises:
            CossError: these do not pair with the test images.
        """
        if self.root is not None:
            self._ready_made = open_ready_made(self.root, test)
        else:
            self.constants = self.constants or default_constants(test.size)

    def config(self) -> dict[str, Any]:
        if self._ready_made is not None:
            return {"backend": "ready-made", "pictures": self._ready_made.fingerprint}
        if self.backend == "fast":
            return {"backend": "fast", "fast": FAST_VERSION, "constants": self.constants}
        return {
            "backend": "reference",
            "constants": "imagenet-c",
            "imagecorruptions-imaug": version("imagecorruptions-imaug"),
        }

    def conditions(self, subject: Subject) -> list[Condition]:
        present = NAMES if self._ready_made is None else self._ready_made.names
        return [
            Condition("clean", "", 0.0),
            *(
                Condition(f"{name}@{severity}", group, float(severity), kind=name)
                for group, names in GROUPS.items()
                for name in names
                if name in present
                for severity in SEVERITIES
            ),
        ]

    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        """Check the image size. Raises CossError below 32 px."""
        if self._ready_made is None and image_size < MIN_SIZE:
            raise CossError(
                f"corruptions need images of at least {MIN_SIZE} px, this model takes "
                f"{image_size}; measure it with --size {MIN_SIZE}, or pretrain with "
                f"--image-size {MIN_SIZE}"
            )

    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        images = batch.images
        if condition.group:
            images = self.corrupt(images, batch.index, condition, seed)
        return answers(subject, images, batch.labels)

    def corrupt(
        self, images: Tensor, index: Sequence[int], condition: Condition, seed: int
    ) -> Tensor:
        """Corrupted images, [B, 3, H, W] float32 in [0, 1], on the device of `images`."""
        name, severity = condition.kind, int(condition.level)
        if self._ready_made is not None:
            pixels = self._ready_made.images(name, severity, index)
            return pixels.to(images.device).float() / 255
        if self.backend == "fast":
            keys = sample_keys(index, seed, self.name, condition.name)
            constants = self.constants or default_constants(images.shape[-1])
            return corrupt(images, name, severity, keys, constants)
        pixels = (images * 255).round().clamp(0, 255).to(torch.uint8)
        array = np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())
        own = [
            seeds.seed_of(seed, self.name, condition.name, int(i)) % 2**32  # numpy takes 32 bits
            for i in index
        ]
        out = self._spread(array, name, severity, own)
        return (
            torch.from_numpy(out).to(images.device).permute(0, 3, 1, 2).float().contiguous() / 255
        )

    def _spread(
        self, images: NDArray[np.uint8], name: str, severity: int, own: list[int]
    ) -> NDArray[np.uint8]:
        """`corrupt_images`, cut into chunks over the worker processes where that pays."""
        if self.workers < 2 or len(images) < 2 * MIN_CHUNK:
            return corrupt_images(images, name, severity, own)
        if self._pool is None:
            # Forking a process that runs torch's or CUDA's threads can deadlock; spawning cannot.
            self._pool = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), initializer=start_worker
            )
        size = max(MIN_CHUNK, -(-len(images) // (2 * self.workers)))
        try:
            with _deaf_to_interrupts():
                jobs = [
                    self._pool.submit(
                        corrupt_images, images[i : i + size], name, severity, own[i : i + size]
                    )
                    for i in range(0, len(images), size)
                ]
            return np.concatenate([job.result() for job in jobs])
        except BrokenProcessPool as error:
            self.close()
            raise CossError(
                "a process that corrupts images died, most likely for lack of memory; free memory "
                'and resume (a script of your own must start under `if __name__ == "__main__":`)'
            ) from error

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        names = {g: tuple(c.name for c in conditions if c.group == g) for g in GROUPS}
        standard = tuple(name for g in STANDARD for name in names[g])
        return [
            Metric("corruption_top1", "Corruption top-1", "correct", standard),
            *(
                Metric(f"corruption_{g}", f"{g.capitalize()} top-1", "correct", n, headline=False)
                for g, n in names.items()
                if n  # ready-made pictures may lack the extra ones
            ),
        ]

    def close(self) -> None:
        """Stop the worker processes; a later `measure` starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Workers started inside inherit a mask that keeps Ctrl-C, which is the parent's, from them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
