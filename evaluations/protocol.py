"""The protocol between suites and the runner.

To add a suite: (1) write a class with the members of `Suite`; (2) declare it under the entry
point group `robustbench_coss.suites`; (3) `coss-bench eval RUN --suite yours`. A suite gets a
batch and a condition and returns one outcome per sample; files, progress, devices, resuming and
statistics are the runner's business.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from robustbench_coss import registry
from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError, kind_and_line
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import Axis, Cell, Check, Metric

SUITE_NEEDS = ("name", "version", "axis", "config", "conditions", "measure", "metrics", "close")

TrainingFeatures = Callable[[int], tuple[Tensor, Tensor]]
"""Global representations [N, D] float32 and labels [N] of so many labelled training images, on the
CPU: a fixed random sample, or all if there are no more."""


class Subject(nn.Module):
    """What is measured: a frozen encoder and a classifier on its global representation.

    `forward` maps pixels in [0, 1], [B, 3, H, W], to logits [B, K]; normalisation is inside the
    encoder, so attacks and corruptions act in pixel space.

    Args:
        encoder: gives the global representation.
        classifier: [B, D] to [B, K]: a linear probe, or the model's own head.
        classes: K; None reads it off a linear classifier.
        training_features: gives representations of the training images; None where there are none.
    """

    def __init__(
        self,
        encoder: Encoder,
        classifier: nn.Module,
        classes: int | None = None,
        training_features: TrainingFeatures | None = None,
    ) -> None:
        super().__init__()
        self.training_features = training_features
        self.encoder, self.classifier = encoder, classifier
        self.classes = int(classifier.out_features) if classes is None else classes  # type: ignore[arg-type]
        self.eval().requires_grad_(False)

    def classify(self, features: Tensor) -> Tensor:
        """Logits [B, K] of global representations [B, D]."""
        logits: Tensor = self.classifier(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of pixels [B, 3, H, W] in [0, 1]."""
        return self.classify(self.encoder(x))


@dataclass(frozen=True)
class Condition:
    """One setting of a suite; see `records.Cell` for the meaning of the fields.

    `images` names one of `Suite.image_sets`; empty for the test images.
    """

    name: str
    group: str
    level: float
    stage: str = ""
    kind: str = ""
    images: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self.kind or self.group)


@dataclass(frozen=True)
class Batch:
    """Samples to measure.

    Attributes:
        images: [B, 3, H, W] float32 in [0, 1] on the model's device.
        labels: [B] int64 on the model's device.
        index: data set index of each sample; what every random draw is keyed by.
        earlier: for a suite that is `linked`: the outcomes of these samples under the conditions
            of the same group that come before this one, by condition and column; else empty.
    """

    images: Tensor
    labels: Tensor
    index: Sequence[int]
    earlier: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


class Suite(Protocol):
    """A named family of conditions, to be subclassed; what has a default here is optional.

    Attributes:
        name: registered name.
        version: raised whenever outcomes would change; older records are then measured again.
        axis: how the conditions are drawn.
        about: title, captions, place among suites, look of panels.
        trains_for: kinds of conditions whose outcomes depend on a network that `prepare` trains,
            and so on the machine; `coss-bench verify` holds them less strictly.
        local: whether it looks at local representations, which raw pixels have not.
        linked: whether a condition needs the outcomes of earlier ones of its group
            (`Batch.earlier`); the conditions of a group are then measured in order.
        needs_training: whether `prepare` looks at training images; else it is given none, and a
            model with a head of its own can be measured where there are none.
        full_precision: whether it is measured in 32 bit whatever precision is asked for, as where
            gradients are what it is about.
        asked_only: whether "all" leaves it out, since it needs what not everyone has.
    """

    name: str
    version: int = 1
    axis: Axis = Axis("condition")
    about: ClassVar[SuiteAbout] = SuiteAbout()
    trains_for: ClassVar[Sequence[str]] = ()
    local: bool = False
    linked: bool = False
    needs_training: bool = True
    full_precision: bool = False
    asked_only: bool = False

    def learns(self) -> bool:
        """Whether outcomes depend on training images by other ways than the classifier."""
        return self.needs_training

    def look_in(self, data_root: Path) -> None:
        """Told first of all where data sets lie."""

    def image_sets(self) -> Mapping[str, ImageSet]:
        """Images other than the test images that conditions are measured on, by the name that these
        give; known after `configure`. Their labels are what `Batch.labels` holds.
        """
        return {}

    def configure(self, test: ImageSet) -> None:
        """Called once before anything is measured, with the test images that will be measured on.

        Raises:
            CossError: the suite's settings do not fit these images.
        """

    def config(self) -> dict[str, Any]:
        """JSON-able settings that determine the outcomes."""
        return {}

    @abstractmethod
    def conditions(self, subject: Subject) -> list[Condition]:
        """All conditions, in the order they are measured."""
        ...

    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        """Called once before measuring, with a fixed batch of training images (labels included).

        Raises:
            CossError: the suite cannot measure this model or image size.
        """

    @abstractmethod
    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        """Outcome columns, each [B] (bool or float), of a batch under a condition.

        Draws must depend on (seed, suite, condition, dataset index) only: see
        `robustbench_coss.seeds`. The runner does not enter inference mode: a suite that needs no
        gradients does so itself.
        """
        ...

    def shares(self, condition: Condition) -> bool:
        """Whether `measure_together` has work to share between this condition and the others for
        which it says so; these are then measured side by side, batch by batch.
        """
        return False

    def measure_together(
        self, subject: Subject, batch: Batch, conditions: Sequence[Condition], seed: int
    ) -> Iterator[dict[str, Tensor]]:
        """What `measure` gives for each of these conditions, in order."""
        for condition in conditions:
            yield self.measure(subject, batch, condition, seed)

    @abstractmethod
    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        """The numbers that this suite reports, over measured conditions and derived ones."""
        ...

    def summary(self) -> dict[str, Any]:
        """JSON-able facts about the model that are no outcome of single images, from `prepare`."""
        return {}

    def derived(self, cells: Sequence[Cell]) -> list[Cell]:
        """Further cells that follow from the measured ones, sample by sample, without the model."""
        return []

    def checks(self, cells: Sequence[Cell]) -> list[Check]:
        """Sanity checks over the finished cells, derived ones included; empty if there are none."""
        return []

    def close(self) -> None:
        """Release what `prepare` or `measure` opened (worker processes, …)."""


def make_suite(name: str, options: Mapping[str, Any]) -> Suite:
    """A registered suite with keyword arguments.

    Raises:
        CossError: it is not registered, does not have an option (those it has are named), or
            refuses a value.
    """
    factory: Callable[..., Suite] = registry.load("suite", name)
    known = [p for p in inspect.signature(factory).parameters if p not in ("args", "kwargs")]
    for option in options:
        if option not in known:
            raise CossError(
                f"suite {name!r} has no option {option!r}; "
                + (f"it has: {', '.join(known)}" if known else "it has none")
            )
    try:
        suite = factory(**options)
    except CossError:
        raise
    except (Exception, SystemExit) as error:
        if registry.origin("suite", name) == registry.OWN:
            raise
        raise registry.broken("suite", name, f"fails: {kind_and_line(error, 300)}") from error
    lacking = [part for part in SUITE_NEEDS if not hasattr(suite, part)]
    if lacking:
        raise registry.broken("suite", name, f"is no suite: it has no {', '.join(lacking)}")
    return suite


def top1(logits: Tensor) -> Tensor:
    """[B] int64: the class with the highest of [B, K] logits; -1, never right, if one is NaN or
    infinite.
    """
    return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), -1)


@torch.inference_mode()
def correct(subject: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """[B] bool: whether the top-1 class of each image is its label."""
    return top1(subject(images)) == labels
