"""The measuring itself: a model, its classifier, test images and suites, opened in one process."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.datasets.readable import whole_of, without_bad
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError, one_line
from robustbench_coss.evaluations.probes.features import (
    OnDevice,
    batches,
    extract,
    random_order,
    read_batch,
    reference_batch,
    to_device,
)
from robustbench_coss.evaluations.probes.linear import convergence, get_probe, probe_key
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite, make_suite
from robustbench_coss.evaluations.running.images import check_classes, open_images, order_of
from robustbench_coss.evaluations.running.precision import (
    Arithmetic,
    arithmetic,
    compiles,
    faster,
    lowered,
    say_emulated,
)
from robustbench_coss.evaluations.running.request import Evaluation, Load, choose_dataset
from robustbench_coss.evaluations.running.steadiness import SAMPLE, steadiness
from robustbench_coss.evaluations.running.units import Columns, Measured, Outcomes, Unit
from robustbench_coss.machine.environment import device_name, resolve_device
from robustbench_coss.machine.precision import tf32
from robustbench_coss.records.record import Check

KEPT_FEATURES = 2**30
"""Bytes of the probe's training features that are kept for suites; more are extracted again."""


class Opened:
    """A model and how it is measured, in this process: data at once, model on the device and suites
    when first needed.

    Args:
        load: gives the model.
        threads: of torch on the CPU; None leaves them as they are.

    Attributes:
        checkpoint: the model, without its own head if a probe takes its place.
        dataset: name of the data set.
        images: what is measured on.
        anew: whether the probe is trained and replaced although one is kept.
        in_place_of_head: whether a probe takes the place of a head for these classes.
        doubts: failed checks of model and probe, which concern all suites; known with `subject`.

    Raises:
        CossError: the model does not load, the data set has no labelled test images or labels
            that are none of its classes, or the model's own head is for another number of classes.
    """

    def __init__(
        self,
        load: Load,
        request: Evaluation,
        progress: Progress | None = None,
        threads: int | None = None,
    ) -> None:
        self.request, self.progress = request, progress or Progress()
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = resolve_device(request.device)
        self.checkpoint = load()
        own_classes = self.checkpoint.classes
        if request.transfer:
            self.checkpoint = replace(self.checkpoint, head=None, classes=None)
        self.dataset = choose_dataset(self.checkpoint, request.dataset, request.transfer)
        workers = 1 if threads == 1 else None
        images = open_images(self.checkpoint, self.dataset, request, self.progress, workers)
        self.images = images
        check_classes(self.checkpoint, images)
        self.in_place_of_head = request.transfer and own_classes == len(images.test.classes)
        self._subject: Subject | None = None
        self._subjects: dict[Arithmetic, Subject] = {}
        self._reference: Batch | None = None
        self._suites: dict[str, Suite] = {}
        self._prepared: dict[str, dict[str, Any]] = {}
        self._bad: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._touched: set[str] = set()
        self._nonfinite: Tensor | int = 0
        self._kept = OnDevice(self.device)
        self._features: tuple[Tensor, Tensor] | None = None
        self._counting: RemovableHandle | None = None
        self.probe_summary: dict[str, Any] = {}
        self.doubts: list[Check | None] = []
        self.anew = False

    @property
    def train(self) -> ImageSet:
        """Training images. Raises CossError where a model with a head of its own has none."""
        return self.images.role("train")

    @property
    def classifier_key(self) -> str:
        """Digest of what determines the classifier: the model's own head, or a probe."""
        if self.checkpoint.head is not None:
            return f"own head of {self.checkpoint.sha256}"
        validation = self.images.role("validation")
        return probe_key(self.checkpoint, self.train, validation, self.request.probe)

    def suite(self, name: str) -> Suite:
        """A suite with its options, told of the test images.

        Raises:
            CossError: as `make_suite`, or the settings do not fit the images.
        """
        if name not in self._suites:
            suite = make_suite(name, self.request.options.get(name, {}))
            suite.look_in(Path(self.request.data_root))
            suite.configure(self.images.test)
            if self.request.skip_bad_images:
                self._leave_out_bad(suite)
            self._suites[name] = suite
        return self._suites[name]

    def _leave_out_bad(self, suite: Suite) -> None:
        for name, images in suite.image_sets().items():
            if whole_of(images) is not self.images.test:
                self.progress.show(f"{name}: looking for pictures that cannot be read")
                self.progress.plan(len(images))
                self._bad[suite.name][name] = without_bad(images, self.progress.advance)

    def unreadable(self, suite: Suite) -> dict[str, int]:
        """How many pictures were left out, by role and, of the suite, by other set."""
        return self.images.unreadable | {k: n for k, n in self._bad[suite.name].items() if n}

    def measured_on(self, suite: Suite, condition: Condition) -> tuple[ImageSet, list[int]]:
        """What a condition is measured on: images, and which of them in order."""
        if not condition.images:
            return self.images.test, self.images.index
        images = suite.image_sets()[condition.images]
        return images, order_of(images, self.images, self.request)

    def arithmetic(self, suite: Suite) -> Arithmetic:
        """How a suite is measured."""
        return arithmetic(self.request, full=suite.full_precision)

    def subject_for(self, suite: Suite) -> Subject:
        """The model as a suite measures it; as `subject`."""
        how = self.arithmetic(suite)
        if how not in self._subjects:
            say_emulated(how, self.device)
            whole = self.subject
            encoder = lowered(whole.encoder, how)
            subject = Subject(encoder, whole.classifier, whole.classes, whole.training_features)
            self._subjects[how] = to_device(subject, self.device)
        return self._subjects[how]

    @property
    def subject(self) -> Subject:
        """The model with its classifier on the device, in 32 bit; trains the probe if none is
        cached.

        Raises:
            CossError: the model does not take images of this size, gives features that are not
                finite, or the probe cannot be trained or kept.
        """
        if self._subject is None:
            with tf32(False):
                self._subject = self._classified()
            self._counting = self._subject.classifier.register_forward_hook(self._count_nonfinite)
        return self._subject

    def _classified(self) -> Subject:
        checkpoint = self.checkpoint
        self._try_out(to_device(checkpoint.encoder.eval(), self.device))
        classifier: nn.Module
        if checkpoint.head is not None:
            classifier, self.probe_summary = checkpoint.head, {"own_head": True}
        else:
            probe = get_probe(
                checkpoint,
                self.train,
                self.images.role("validation"),
                self.request.probe,
                results=Path(self.request.results),
                device=self.device,
                batch_size=self.request.batch_size,
                progress=self.progress,
                extracted=self._keep,
                anew=self.anew,
            )
            classifier, self.probe_summary = probe.classifier, probe.summary
        subject = Subject(
            checkpoint.encoder, classifier, len(self.images.test.classes), self._training_features
        )
        to_device(subject, self.device)
        count = min(SAMPLE, max(2, self.request.batch_size))
        sample = self._first(count)
        self.doubts = [
            steadiness(subject, sample),
            convergence(self.probe_summary),
        ]
        return subject

    def settle(self) -> Evaluation:
        """The request with a precision that is known, asking to compile only what can be.

        Raises:
            CossError: the model does not take images of this size.
        """
        encoder, request = self.checkpoint.encoder.eval(), self.request
        self._try_out(to_device(encoder, self.device))
        images = self._first(request.batch_size)
        if request.precision == "auto":
            request = replace(request, precision=faster(encoder, images))
        if request.compile:
            batches = images, images[: (len(images) + 1) // 2]  # the last one is smaller
            request = replace(request, compile=compiles(encoder, arithmetic(request), batches))
        return request

    def _keep(self, features: Tensor, labels: Tensor) -> None:
        if features.numel() * 4 <= KEPT_FEATURES:
            self._features = (features, labels)

    def _training_features(self, count: int) -> tuple[Tensor, Tensor]:
        every = random_order(self.train, "reference batch")
        if self._features is not None and count >= len(every) == len(self._features[1]):
            return self._features
        chosen = every[:count].sort().values
        self.progress.plan(len(chosen))
        return extract(
            self.checkpoint.encoder,
            self.train,
            chosen.tolist(),
            batch_size=self.request.batch_size,
            device=self.device,
            progress=self.progress,
        )

    def _first(self, count: int) -> Tensor:
        found = self.images
        return read_batch(found.test, found.index[:count], self.device, found.pixels).images

    def _try_out(self, encoder: Encoder) -> None:
        images = self._first(2)
        try:
            with torch.inference_mode():
                encoder(images)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            reason = one_line(error)
            raise CossError(
                f"{self.checkpoint.name} does not take images of {images.shape[-1]} px ({reason}); "
                "give the size it was made for with --size"
            ) from error

    def _count_nonfinite(self, module: nn.Module, inputs: Any, logits: Tensor) -> None:
        # Added up on the device: asking for the number here would wait for it.
        self._nonfinite = self._nonfinite + (~torch.isfinite(logits.detach()).all(dim=1)).sum()

    def _prepare(self, name: str) -> Suite:
        suite = self.suite(name)
        if suite.local and self.checkpoint.metadata.get("control") == "pixels":
            raise CossError(f"pixels have no local representations, which suite {name!r} measures")
        if name not in self._prepared:
            subject = self.subject_for(suite)
            reference = read_batch(self.images.test, [], self.device)
            if suite.needs_training:
                self._reference = self._reference or reference_batch(self.train, self.device)
                reference = self._reference
            self._touched.add(name)
            with tf32(bool(self.arithmetic(suite).tf32)):
                suite.prepare(subject, reference, self.images.test.size)
            self._prepared[name] = suite.summary()
        return suite

    def measure(self, unit: Unit) -> Iterator[Measured]:
        """Outcomes of a unit, condition by condition.

        Raises:
            CossError: the suite cannot measure this model, or breaks its protocol; the GPU ran
                out of memory.
        """
        try:
            suite = self._prepare(unit.suite)
            known = dict(unit.known)
            steps = [unit.conditions]  # a linked one is measured when those before it are known
            if suite.linked:
                steps = [(condition,) for condition in unit.conditions]
            for conditions in steps:
                first, *more = conditions
                said = f"{first.name} and {len(more)} more" if more else first.name
                self.progress.show(f"{self.checkpoint.name} {unit.suite}: {said}")
                found = self._measure(suite, conditions, unit, known)
                if suite.linked:
                    known |= {one.condition.name: one.columns for one in found}
                yield from found
        except torch.OutOfMemoryError as error:
            raise CossError(
                f"the GPU ran out of memory in suite {unit.suite!r} at batch size "
                f"{self.request.batch_size}; run again with a smaller --batch-size, finished "
                "conditions are kept"
            ) from error

    def _measure(
        self,
        suite: Suite,
        conditions: Sequence[Condition],
        unit: Unit,
        known: Mapping[str, Columns],
    ) -> list[Measured]:
        began, subject, done = time.perf_counter(), self.subject_for(suite), 0
        found = [Outcomes(suite, condition) for condition in conditions]
        images, order = self.measured_on(suite, conditions[0])
        index, size = order[unit.start : unit.stop], self.request.batch_size
        # What is decoded or lies on the device is that of the test images.
        ready = (self.images.pixels, self._kept) if images is self.images.test else (None, None)
        for batch in batches(images, index, size, self.device, *ready):
            size = len(batch.index)
            if suite.linked:
                batch = replace(batch, earlier=self._earlier(known, done, done + size))
            with tf32(bool(self.arithmetic(suite).tf32)):
                measured = suite.measure_together(subject, batch, conditions, self.request.seed)
                for one in found:
                    self._nonfinite = one.nonfinite
                    one.add(next(measured), size)
                    one.nonfinite = self._nonfinite
                    self.progress.advance(size)
            done += size
        columns = [one.columns() for one in found]
        seconds = (time.perf_counter() - began) / len(found)
        device, summary = device_name(self.device), self._prepared[suite.name]
        return [
            Measured(one.condition, its, seconds, int(one.nonfinite), device, summary)
            for one, its in zip(found, columns, strict=True)
        ]

    def _earlier(
        self, known: Mapping[str, Columns], start: int, stop: int
    ) -> dict[str, dict[str, Tensor]]:
        return {
            condition: {
                name: torch.from_numpy(column[start:stop]).to(self.device)
                for name, column in columns.items()
            }
            for condition, columns in known.items()
        }

    def close(self) -> None:
        """Release what suites have opened, and leave the model as it came."""
        if self._counting is not None:
            self._counting.remove()
        for name in self._touched:
            self._suites[name].close()


_open: dict[str, Opened] = {}


def settle(load: Load, request: Evaluation) -> Evaluation:
    """As `Opened.settle`; a task for another process."""
    return _opened(load, request).settle()


def train_probe(load: Load, request: Evaluation) -> None:
    """Have the classifier ready in the results folder; a task for another process."""
    opened = _opened(load, request)
    opened.anew = request.force or not opened.checkpoint.recognised
    opened.subject  # noqa: B018  (made when first asked for)


def measure_unit(load: Load, request: Evaluation, unit: Unit) -> list[Measured]:
    """Outcomes of a unit; a task for another process, which keeps the model for the next one."""
    return list(_opened(load, request).measure(unit))


def _opened(load: Load, request: Evaluation) -> Opened:
    # By what they say: what has travelled is never the same object.
    key = repr((load, request))
    if key not in _open:
        for opened in _open.values():
            opened.close()
        _open.clear()
        _open[key] = Opened(load, request, threads=1)
    return _open[key]
