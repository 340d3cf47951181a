"""Contracts of plug-ins, to be called from the tests of their packages.

    from robustbench_coss.testing import check_suite

    def test_the_suite_keeps_the_contract():
        check_suite(Rotation())

Each check raises AssertionError with what does not hold. This project's own suites, encoders and
data sets are held to the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_coss import registry
from robustbench_coss.datasets.base import ROLES, ImageSet, Source, open_dataset
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.confidence import has
from robustbench_coss.records.record import Cell

if TYPE_CHECKING:
    from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite

CLASSES = 6
COUNT = 8


def check_suite(suite: Suite, subject: Subject | None = None) -> None:
    """Hold a suite, options chosen, to everything below.

    Args:
        subject: what to measure, at 32 px with six classes; None takes `tiny_subject()`.
    """
    subject = tiny_subject() if subject is None else subject
    suite.prepare(subject, pictures(40, first=50_000), 32)
    try:
        check_words(suite)
        check_conditions(suite, subject)
        check_reference(suite, subject)
        check_outcomes(suite, subject)
    finally:
        suite.close()


def check_words(suite: Suite) -> None:
    """Settings and wording can be written down."""
    config = suite.config()
    assert json.loads(json.dumps(config, allow_nan=False)) == config, "config() is not JSON-able"
    assert isinstance(suite.about, SuiteAbout), "about is no SuiteAbout"
    stored = json.loads(json.dumps(suite.about.stored()))
    assert SuiteAbout.model_validate(stored) == suite.about


def check_conditions(suite: Suite, subject: Subject) -> None:
    """Conditions have names of their own, one is the reference; metrics are over what there is."""
    conditions = suite.conditions(subject)
    names = [condition.name for condition in conditions]
    assert len(set(names)) == len(names), "two conditions share a name"
    references = [condition.name for condition in conditions if condition.group == ""]
    assert len(references) == 1, f"one condition has the empty group, not {references}"
    metrics = [metric.name for metric in suite.metrics(conditions)]
    assert len(set(metrics)) == len(metrics), "two metrics share a name"


def check_reference(suite: Suite, subject: Subject) -> None:
    """The reference condition is the undisturbed image, whatever the seed."""
    batch = pictures(60)
    (reference,) = [c for c in suite.conditions(subject) if c.group == ""]
    one, other = (suite.measure(subject, batch, reference, seed) for seed in (0, 1))
    for name, column in one.items():
        assert torch.equal(column, other[name]), f"{reference.name}, {name} depends on the seed"
    with torch.no_grad():
        expected = subject(batch.images).argmax(1) == batch.labels
    assert torch.equal(one["correct"], expected), f"{reference.name} is not the image as it is"


def check_outcomes(suite: Suite, subject: Subject) -> None:
    """Outcomes depend on no batch, order or state of generators, nor on what is measured with them;
    and metrics find theirs.
    """
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    batch = pictures(COUNT, first=30)
    conditions = suite.conditions(subject)
    cells = []
    for condition in conditions:
        torch.manual_seed(1)
        whole = suite.measure(subject, batch, condition, 11)
        torch.manual_seed(2)
        parts = [
            suite.measure(subject, split(batch, order[i : i + 3]), condition, 11)
            for i in range(0, COUNT, 3)
        ]
        for name, column in whole.items():
            where = f"{condition.name}, {name}"
            assert column.shape == (COUNT,), f"{where}: {tuple(column.shape)} for {COUNT} images"
            kinds = (torch.bool, torch.int8, torch.float32)
            assert column.dtype in kinds, f"{where}: {column.dtype}"
            assert torch.isfinite(column.float()).all(), f"{where}: not finite"
            again = torch.cat([part[name] for part in parts]).float()
            # A code of a probability may be the next one.
            room = 1 if column.dtype == torch.int8 else 1e-5
            assert torch.allclose(again, column[order].float(), rtol=1e-5, atol=room), (
                f"{where}: outcomes change with batches, order or the state of generators"
            )
        cells.append(_cell(condition, whole))
    together = [c for c in conditions if suite.shares(c)]
    alone = {c.condition: c.outcomes for c in cells}
    for condition, side_by_side in zip(
        together, suite.measure_together(subject, batch, together, 11), strict=True
    ):
        for name, expected in alone[condition.name].items():
            assert np.array_equal(side_by_side[name].numpy(), expected), (
                f"{condition.name}, {name}: other outcomes alone than side by side with others"
            )
    columns = {c.condition: set(c.outcomes) for c in [*cells, *suite.derived(cells)]}
    for metric in suite.metrics(conditions):
        assert metric.conditions, f"metric {metric.name} has no conditions"
        assert metric.better in ("higher", "lower", ""), f"metric {metric.name}: {metric.better}"
        for name in metric.conditions:
            assert has(dict.fromkeys(columns[name]), metric.column), (
                f"metric {metric.name}: {name} has no such column"
            )
    assert any(suite.axis.column in c for c in columns.values()), "nothing to draw along the axis"
    for check in suite.checks([*cells, *suite.derived(cells)]):
        assert check.name, "a check has no name"


def _cell(condition: Condition, outcomes: dict[str, Tensor]) -> Cell:
    columns = {name: column.numpy() for name, column in outcomes.items()}
    stage, kind = condition.stage, condition.kind
    return Cell(condition.name, condition.group, condition.level, columns, stage=stage, kind=kind)


def check_encoder(factory: Callable[..., Encoder], size: int = 32, **options: Any) -> None:
    """Hold what is registered as an encoder to shapes and to the seam between `local` and `pool`.

    Args:
        factory: called with `size`, `width` and the options.
    """
    encoder = factory(size=size, **({"width": 1 / 16} | options)).eval()
    x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        local, pooled = encoder.local(x), encoder(x)
        assert local.shape[:2] == (3, encoder.local_dim), f"local gives {tuple(local.shape)}"
        assert pooled.shape == (3, encoder.dim), f"pool gives {tuple(pooled.shape)}"
        torch.testing.assert_close(encoder.pool(local), pooled)
        everything = torch.ones(3, *local.shape[2:], dtype=torch.bool)
        torch.testing.assert_close(encoder.pool(local, everything), pooled)
        last = list(encoder.maps(x).values())[-1]
        torch.testing.assert_close(last, local)
    assert not encoder.training


def check_dataset(name: str, root: Path) -> bool:
    """Hold a registered data set to its protocol.

    Args:
        root: folder of the data sets.

    Returns:
        Whether it is there; if not, only what it says about that is checked.
    """
    source: Source = registry.load("dataset", name)
    assert source.name == name, f"registered as {name}, calls itself {source.name}"
    remedy = source.missing(root)
    if remedy is not None:
        assert len(remedy.splitlines()) == 1, "a remedy is one line"
        said = f"{name} is missing and opens all the same"
        try:
            open_dataset(name, "test", root=root)
        except CossError as error:
            said = str(error)
        assert str(root) in said, f"the error does not name {root}: {said}"
        return False
    opened = {role: open_dataset(name, role, root=root) for role in ROLES}
    for role, images in opened.items():
        check_images(images, name, role, source.default_size)
    fingerprints = {images.fingerprint for images in opened.values()}
    assert len(fingerprints) == len(ROLES), "two roles have one fingerprint"
    again = open_dataset(name, "test", root=root)
    assert again.fingerprint == opened["test"].fingerprint, "a fingerprint changes"
    return True


def check_images(images: ImageSet, name: str, role: str, size: int) -> None:
    """Hold an open data set to its protocol."""
    assert (images.name, images.role, images.size) == (name, role, size)
    assert images.labels.dtype == torch.int64
    assert images.labels.shape == (len(images),)
    assert images.labels.min() >= -1
    assert images.labels.max() < len(images.classes)
    assert len(set(images.classes)) == len(images.classes), "two classes share a name"
    batch = images.images([len(images) - 1, 0])
    assert batch.shape == (2, 3, size, size)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch[1], images.images([0])[0]), "an image changes with the batch"
    raw = images.raw(0)
    assert raw.dtype == torch.uint8
    assert raw.shape[0] == 3
    assert raw.float().std() > 0, "a picture of one colour"


# ---- a small model and pictures ----


class TinyEncoder(Encoder):
    """Two convolutions, then a mean and a nonlinear layer: `pool` is more than a mean."""

    def __init__(self, size: int = 32, stride: int = 8) -> None:
        super().__init__(InputSpec(size), local_dim=24, dim=32)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=4, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=stride // 4, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Linear(24, 32), nn.Tanh())

    def local(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(self.normalise(x))
        return out

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        out: Tensor = self.head(super().pool(local, keep))
        return out


def pictures(count: int, size: int = 32, first: int = 0) -> Batch:
    """Tinted gratings of six classes, which give tint and direction; indices from `first`.

    Images are [count, 3, size, size] float32 in [0, 1], multiples of 1/255.
    """
    from robustbench_coss.evaluations.protocol import Batch

    labels = torch.arange(count) % CLASSES
    draw = torch.Generator().manual_seed(7919 + first)
    angle = labels * (torch.pi / CLASSES) + 0.1 * torch.randn(count, generator=draw)
    phase = 6.28 * torch.rand(count, generator=draw)
    line = torch.linspace(0, 1, size)
    wave = torch.cos(angle)[:, None, None] * line + torch.sin(angle)[:, None, None] * line[:, None]
    grey = 0.5 + 0.3 * torch.sin(18 * wave + phase[:, None, None])
    tint = 0.15 * torch.cos(labels[:, None] + torch.tensor([0.0, 2.1, 4.2]))
    noise = 0.1 * torch.randn(count, 3, size, size, generator=draw)
    images = (grey[:, None] + tint[:, :, None, None] + noise).clamp(0, 1)
    images = (images * 255).round() / 255
    return Batch(images, labels, list(range(first, first + count)))


def tiny_subject(size: int = 32, stride: int = 8) -> Subject:
    """A `TinyEncoder` with random weights and a classifier fitted by least squares."""
    from robustbench_coss.evaluations.protocol import Subject

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = TinyEncoder(size, stride)
    classifier = nn.Linear(encoder.dim, CLASSES)
    train = pictures(300, size, first=100_000)
    with torch.no_grad():
        features = encoder(train.images).double()
        targets = torch.eye(CLASSES).double()[train.labels]
        mean = features.mean(0)
        centred = features - mean
        gram = centred.T @ centred + 1e-3 * torch.eye(encoder.dim).double()
        weight = torch.linalg.solve(gram, centred.T @ targets)
        classifier.weight.copy_(20 * weight.T)
        classifier.bias.copy_(-20 * (mean @ weight))
    return Subject(encoder, classifier)


def split(batch: Batch, order: Sequence[int]) -> Batch:
    """The samples of a batch at the given places, in that order."""
    from robustbench_coss.evaluations.protocol import Batch

    return Batch(
        batch.images[list(order)], batch.labels[list(order)], [batch.index[i] for i in order]
    )
