"""A suite, a data set and an encoder so small that their outcomes are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.models.checkpoint import save_encoder
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import (
    Axis,
    Cell,
    Check,
    Metric,
    Record,
    read_record,
)
from robustbench_coss.seeds import uniform


class ToyEncoder(Encoder):
    """One convolution on 8 px images."""

    def __init__(self, size: int = 8, width: float = 1.0) -> None:
        super().__init__(InputSpec(size), local_dim=6, dim=6)
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 6, 2, stride=2)

    def local(self, x: Tensor) -> Tensor:
        return F.relu(self.convolution(self.normalise(x)))


class ToyData:
    """Three classes, told apart by their brightest channel in noise; one test label is missing."""

    name = "toy-data"
    default_size = 8
    sizes: ClassVar = {"train": 90, "validation": 30, "test": 61}

    def open(self, role: str, size: int, root: Path, download: bool) -> ArraySet:
        count = self.sizes[role]
        labels = torch.arange(count) % 3
        g = torch.Generator().manual_seed(len(role))
        pixels = torch.randint(0, 200, (count, 3, 8, 8), generator=g)
        pixels[torch.arange(count), labels] += 20
        if role == "test":
            labels[7] = -1
        return ArraySet(
            self.name, role, pixels.to(torch.uint8), labels, tuple(f"{role}{i}" for i in "abc"), 8
        )

    def missing(self, root: Path) -> str | None:
        return "build it with `make toys`" if root.name == "empty" else None


class OtherData(ToyData):
    name = "other-data"


TOY_DATA, OTHER_DATA = ToyData(), OtherData()


class ToySuite(Suite):
    """Accuracy and margin under keyed pixel noise; logs what it is asked and can be interrupted."""

    name = "toy"
    axis = Axis("noise")
    log: ClassVar[list[tuple[str, tuple[int, ...]]]] = []
    events: ClassVar[list[str]] = []
    interrupt_at: ClassVar[str] = ""
    settings: ClassVar[dict[str, Any]] = {"noise": "uniform"}

    def config(self) -> dict[str, Any]:
        return self.settings

    def conditions(self, subject: Subject) -> list[Condition]:
        return [Condition(f"noise@{level}", "noise", level) for level in (0, 1, 2)]

    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        assert image_size == 8
        assert reference.images.shape == (90, 3, 8, 8)
        assert 0.5 < float(reference.images.max()) <= 1
        self.events.append("prepare")

    @torch.inference_mode()
    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        if condition.name == self.interrupt_at:
            raise KeyboardInterrupt
        self.log.append((condition.name, tuple(batch.index)))
        draws = uniform(np.asarray(batch.index), 3 * 8 * 8, seed, "toy", condition.name)
        noise = torch.from_numpy(draws).float().view(-1, 3, 8, 8)
        logits = subject(batch.images + 0.2 * condition.level * noise)
        top = logits.gather(1, batch.labels[:, None])[:, 0]
        return {"correct": logits.argmax(dim=1) == batch.labels, "logit": top.double()}

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        names = tuple(c.name for c in conditions)
        return [
            Metric("toy_top1", "Toy top-1", "correct", names),
            Metric("toy_logit", "Toy logit", "logit", names, percent=False),
            Metric("hidden", "Hidden", "correct", names, headline=False),
        ]

    def checks(self, cells: Sequence[Cell]) -> list[Check]:
        return [Check("all there", len(cells) == 4, f"{len(cells)} of 4 conditions")]

    def close(self) -> None:
        self.events.append("close")


class LinkedSuite(ToySuite):
    """An image that was wrong once stays wrong; says what it was told of earlier conditions."""

    name = "linked"
    linked = True

    @torch.inference_mode()
    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        found = super().measure(subject, batch, condition, seed)
        for earlier in batch.earlier.values():
            found["correct"] &= earlier["correct"]
        told = torch.full((len(batch.index),), len(batch.earlier))
        return {"correct": found["correct"], "told": told}

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        names = tuple(c.name for c in conditions)
        return [Metric("ever_wrong", "Ever wrong", "correct", (*names, "all"))]

    def summary(self) -> dict[str, Any]:
        return {"colours": ["red", "green"]}

    def derived(self, cells: Sequence[Cell]) -> list[Cell]:
        return [Cell("all", "noise", 3, {"correct": cells[-1].outcomes["correct"]})]


class ShySuite(ToySuite):
    """Measures nothing."""

    name = "shy"

    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        super().prepare(subject, reference, image_size)
        raise CossError("this model is too much for me")


class WordySuite(ToySuite):
    """Has a wording of its own, and options."""

    name = "wordy"
    about = SuiteAbout(title="Noise of toys", panels={"noise": "Noise"}, hidden=("b",))

    def __init__(self, levels: Any = (1, 2), root: Path | None = None) -> None:
        self.levels, self.root = levels, root


class BadSuite(ToySuite):
    """Gives one outcome for the whole batch, as no suite may."""

    name = "bad"

    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        return {"correct": torch.tensor([True])}


def make_run(folder: Path, **changes: Any) -> Path:
    encoder = ToyEncoder()
    metadata = {
        "arch": "toy-encoder",
        "width": 1.0,
        "size": 8,
        "dataset": "toy-data",
        "method": "byol",
        "encoder": "online",
        "training": {"epochs": 3},
    }
    save_encoder(folder / "encoder.safetensors", encoder, metadata | changes)
    return folder


def measure(run: Path, suites: Sequence[str] = ("toy",), **options: Any) -> Record:
    beside = {key: options.pop(key, None) for key in ("progress", "executor")}
    options = {"results": run.parent.parent / "results", "device": "cpu"} | options
    options.setdefault("probe", ProbeConfig())
    ((path, record), *_) = evaluate_run(run, Evaluation(suites, **options), **beside).items()
    on_disk = read_record(path)
    assert on_disk.digest() == record.digest()
    return on_disk


def interrupted(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    suites: Sequence[str] = ("toy",),
    **options: Any,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ToySuite, "interrupt_at", at)
        with pytest.raises(KeyboardInterrupt):
            measure(run, suites, **options)
