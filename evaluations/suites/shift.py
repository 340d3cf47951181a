"""Accuracy on published test sets: natural shifts, other renditions, corruptions made by others.

What a set is (layout, classes, how an answer is decided) is data: `robustbench_coss.test_sets`.
Nothing here knows a set by its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.answers import answered, probability_codes
from robustbench_coss.evaluations.corruptions.published import ReadyMade, open_pairs
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite, top1
from robustbench_coss.evaluations.suites.options import metric_key, refuse_twice, several_names
from robustbench_coss.files import sha256_of
from robustbench_coss.reading import from_home
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.columns import COUNTED, Column
from robustbench_coss.records.confidence import OTHERS, TRUE_CLASS
from robustbench_coss.records.record import Axis, Cell, Check, Metric
from robustbench_coss.test_sets.description import (
    Description,
    describe,
    label_of,
    shipped,
)
from robustbench_coss.test_sets.opening import (
    Members,
    Relabelled,
    answers,
    counted,
    find,
    members,
    open_arrays,
    open_folders,
    textures,
)

SAME, DERIVED = "same classes", "derived"
"""Groups of conditions that no panel shows."""


@dataclass
class TestSet:
    """A published test set, opened for the classes of one model.

    Attributes:
        own: images of its own by condition.
        disturbed: pictures of the test images, disturbed.
        clean: the test images of the same classes; None where that are all of them.
        right: [N, K] which training classes are right for each test image.
        texture: [N] class of each picture's texture.
    """

    label: str
    told: Description
    members: Members
    own: dict[str, ImageSet] = field(default_factory=dict)
    disturbed: ReadyMade | None = None
    clean: ImageSet | None = None
    right: Tensor | None = None
    texture: Tensor | None = None

    @property
    def at(self) -> list[Condition]:
        """Its conditions."""
        if not self.told.kinds:
            own = self.label if self.label in self.own else f"{self.label}: clean"
            return [Condition(self.label, self.label, 1.0, images=own)]
        return [
            Condition(name, self.label, float(level), kind=kind, images=name * (name in self.own))
            for kind in self.told.kinds
            for level in self.told.levels
            for name in [f"{self.label}: {kind}@{level}"]
        ]

    @property
    def reference(self) -> str:
        """The condition whose images are of the same classes, undisturbed."""
        return "clean" if self.clean is None else f"{self.label}: clean"

    def decide(self, logits: Tensor) -> Tensor:
        """[B] int64: the set's class that outputs [B, K] decide for; -1 for none, never right."""
        owner = self.members.label_of(logits.shape[1]).to(logits.device)
        finite = top1(logits) >= 0
        if self.told.decision == "mean":
            shares = logits.softmax(dim=1)
            groups = [shares[:, list(g)].mean(dim=1) for g in self.members.groups]
            return torch.where(finite, torch.stack(groups, dim=1).argmax(dim=1), -1)
        if self.told.decision == "within":
            logits = logits.masked_fill(owner < 0, -torch.inf)
        return torch.where(finite, owner[logits.argmax(dim=1)], -1)

    def scores(self, logits: Tensor) -> Tensor:
        """[B, G + 1]: ln of the shares of the set's classes, but for a constant, and of none of
        them, which is no answer where the decision is among them.

        A class that takes several of the model's has what all of these have, or their mean.
        """
        count = len(self.members.groups)
        owner = self.members.label_of(logits.shape[1]).to(logits.device)
        owner = torch.where(owner < 0, count, owner)
        shares = logits.new_zeros(len(logits), count + 1, dtype=torch.float32)
        shares.index_add_(1, owner, logits.float().softmax(dim=1))
        if self.told.decision == "mean":
            shares /= torch.bincount(owner, minlength=count + 1).clamp(min=1)
        if self.told.decision in ("mean", "within"):
            shares[:, count] = 0
        return shares.log()

    def is_largest(self, classes: int) -> bool:
        """Whether the answer always has the largest of `scores`: a sum may have more."""
        whole = self.told.decision == "within" or bool((self.members.label_of(classes) >= 0).all())
        single = all(len(group) == 1 for group in self.members.groups)
        return self.told.decision == "mean" or (whole and single)


class Shift(Suite):
    """Top-1 on published test sets, and on the clean test images of the same classes.

    Columns: `correct`; of cue-conflict pictures also `shape` and `texture`, whether the answer is
    the class of the one or the other where these differ; `drop` and `shape_bias` of derived
    conditions.

    Args:
        sets: names of test sets that this package describes, or YAML files; none takes each whose
            folder is there and whose classes are among those that the model tells apart.
        root: folder in which theirs lie; None is that of the data sets.

    Raises:
        CossError: no such set.
    """

    name = "shift"
    version = 3
    asked_only = True
    needs_training = False
    axis = Axis("severity (1 for a set without)")
    about = SuiteAbout(
        title="Published test sets",
        does="Test sets that others published: natural shifts, renditions, other corruptions. The "
        "drop is against clean images of the same classes.",
        order=25,
        hidden=(SAME, DERIVED),
        captions={"": "Top-1 on published test sets; at 0 the clean test images."},
    )

    def __init__(
        self, sets: str | Sequence[str] | None = None, root: Path | str | None = None
    ) -> None:
        asked = [] if sets is None else several_names("shift.sets", sets)
        if root is not None and not isinstance(root, str | Path):
            raise CossError(f"shift.root must be a folder, got {root!r}")
        for name in asked:
            describe(name)
        refuse_twice("shift.sets names", [label_of(name) for name in asked], metric_key)
        self.asked, self.root = asked, None if root is None else from_home(root)
        self._sets: list[TestSet] = []

    def look_in(self, data_root: Path) -> None:
        self.root = self.root or data_root

    def configure(self, test: ImageSet) -> None:
        """Open the sets.

        Raises:
            CossError: one that was asked for is not there, does not fit, or none is there.
        """
        root = self.root or Path("data")
        for name in self.asked or [name for name in shipped() if find(name, root)]:
            place = find(name, root)
            if place is None:
                where = ", ".join(describe(name).folders)
                raise CossError(
                    f"test set {label_of(name)} is not in {root} (looked for {where}); get it from "
                    f"{describe(name).source}, or pass --set shift.root=FOLDER"
                )
            try:
                chosen = members(name, test.classes, test.name)
            except CossError:
                if self.asked:
                    raise
                continue  # one that lies there for models of other classes
            self._sets.append(open_test_set(name, place, chosen, test))
        if not self._sets:
            raise CossError(
                f"no published test set for the classes of {test.name} is in {root}; "
                "docs/test-sets.md says which there are and how they lie, --set shift.root=FOLDER "
                "where"
            )

    def image_sets(self) -> dict[str, ImageSet]:
        found: dict[str, ImageSet] = {}
        for each in self._sets:
            found |= each.own
            if each.clean is not None:
                found[f"{each.label}: clean"] = each.clean
        return found

    def config(self) -> dict[str, Any]:
        return {"sets": {s.label: _fingerprint(s) for s in self._sets}} if self._sets else {}

    def conditions(self, subject: Subject) -> list[Condition]:
        found = [Condition("clean", "", 0.0)]
        for each in self._sets:
            if each.clean is not None:
                name = f"{each.label}: clean"
                found.append(Condition(name, SAME, 0.0, kind=each.label, images=name))
            found += each.at
        return found

    @torch.inference_mode()
    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        if not condition.group:
            return answered(subject(batch.images), batch.labels)
        label = condition.kind if condition.group == SAME else condition.group
        (each,) = (s for s in self._sets if s.label == label)
        images, disturbed = batch.images, condition.group != SAME
        if disturbed and each.disturbed is not None:
            pixels = each.disturbed.images(condition.kind, int(condition.level), batch.index)
            images = pixels.to(images.device).float() / 255
        logits = subject(images)
        if each.right is not None and disturbed:
            answer = top1(logits)
            rows = each.right[torch.as_tensor(batch.index)].to(answer.device)
            allowed = rows.gather(1, answer.clamp(min=0)[:, None])[:, 0]
            # Of several right classes together; there is no Brier score of them.
            found = answered(logits, batch.labels) | {"correct": allowed & (answer >= 0)}
            right = [logits.masked_fill(rows != y, -torch.inf).logsumexp(dim=1) for y in (1, 0)]
            codes = probability_codes(right[0] - right[1]).to(torch.int8)
            found[TRUE_CLASS] = torch.where(answer < 0, found[TRUE_CLASS], codes)
            return {name: column for name, column in found.items() if name != OTHERS}
        if each.disturbed is not None:  # of the test images, with their labels
            return answered(logits, batch.labels)
        answer = each.decide(logits)
        none = (top1(logits) >= 0) & (answer < 0)  # an answer that is none of the set's classes
        taken = torch.where(none, len(each.members.groups), answer)
        found = answered(each.scores(logits), batch.labels, taken)
        if not each.is_largest(logits.shape[1]):  # its column holds no squares above 1/4
            del found[OTHERS]
        if each.texture is not None and disturbed:
            of = each.texture[torch.as_tensor(batch.index)].to(answer.device)
            found["texture"] = (answer == of) & (of != batch.labels)
            found["shape"] = (answer == batch.labels) & (of != batch.labels)
        return found

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        found = [Metric("shift_clean", "Clean top-1", "correct", ("clean",), headline=False)]
        for each in self._sets:
            key = "shift_" + metric_key(each.label)
            title, names = each.told.title, tuple(c.name for c in each.at)
            if each.texture is not None:
                bias = (f"{each.label}: shape bias",)
                found.append(Metric(f"{key}_shape_bias", "Shape bias", "shape_bias", bias, ""))
                found.append(
                    Metric(f"{key}_shape", "Shape decisions", "correct", names, headline=False)
                )
                continue
            drop = (f"{each.label}: drop",)
            found.append(Metric(f"{key}_top1", f"{title} top-1", "correct", names))
            found.append(
                Metric(f"{key}_drop", f"{title} drop (points)", "drop", drop, "lower", False, False)
            )
        return found

    def derived(self, cells: Sequence[Cell]) -> list[Cell]:
        columns = {cell.condition: cell.outcomes for cell in cells}
        found = []
        for each in self._sets:
            if each.texture is not None:
                shape, texture = (columns[each.label][k] for k in ("shape", "texture"))
                bias = {"shape_bias": shape_bias(shape, texture), COUNTED: shape | texture}
                found.append(Cell(f"{each.label}: shape bias", DERIVED, 0.0, bias))
                continue
            clean = columns[each.reference]["correct"]
            shifted = [columns[c.name]["correct"] for c in each.at]
            paired = each.disturbed is not None or each.right is not None
            found.append(_cell(f"{each.label}: drop", "drop", drop_of(clean, shifted, paired)))
        return found

    def checks(self, cells: Sequence[Cell]) -> list[Check]:
        """Whether sets hold as many pictures as were published."""
        found = []
        for each in self._sets:
            sizes = {len(images) for images in each.own.values()}
            if each.members.whole and each.told.pictures is not None and sizes:
                missing = next(filter(None, (counted(each.told, n) for n in sizes)), "")
                said = missing or f"{each.told.pictures:,} pictures"
                found.append(Check(f"{each.label} is whole", not missing, said))
        return found

    def summary(self) -> dict[str, Any]:
        """`sets`: number of classes of each that count."""
        return {"sets": {s.label: {"classes": len(s.members.names)} for s in self._sets}}


def open_test_set(name: str, place: Path, chosen: Members, test: ImageSet) -> TestSet:
    """A test set for the classes of a model.

    Raises:
        CossError: it does not fit its description or the test images.
    """
    told, label = describe(name), label_of(name)
    found = TestSet(label, told, chosen)
    numbers = chosen.label_of(len(test.classes))[test.labels.clamp(min=0)]
    numbers[test.labels < 0] = -1
    one_to_one = [group == (k,) for k, group in enumerate(chosen.groups)]
    same = all(one_to_one) and len(one_to_one) == len(test.classes)
    if told.layout == "answers":
        found.right = answers(name, place, test)
        kept = found.right.any(dim=1) & (test.labels >= 0)
        labels = torch.where(kept, test.labels, -1)
        found.clean = Relabelled(test, f"{label}: clean", labels, test.classes)
        each = tuple((k,) for k in range(len(test.classes)))
        found.members = Members(test.classes, each, True)  # the training classes as they are
    elif told.pairs:
        found.disturbed = open_pairs(place, told.kinds, test)
    elif told.layout == "arrays":
        found.own[label] = open_arrays(name, place, chosen, test)
    else:
        for kind, level in [(k, v) for k in told.kinds for v in told.levels] or [("", 0)]:
            key = f"{label}: {kind}@{level}" if kind else label
            below = place / told.path.format(kind=kind, level=level)
            if not below.is_dir():
                raise CossError(f"{below} is not there; unpack test set {label} again")
            found.own[key] = opened = open_folders(name, below, chosen, test)
            if told.layout == "cue-conflict":
                found.texture = textures(opened)
    if found.clean is None and not same and found.disturbed is None:
        found.clean = Relabelled(test, f"{label}: clean", numbers, chosen.names)
    if len(sizes := {key: len(images) for key, images in found.own.items()}) > 1:
        few, many = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        if sizes[few] < sizes[many]:
            raise CossError(
                f"{few} has {sizes[few]:,} pictures and {many} {sizes[many]:,}; unpack both again"
            )
    if note := counted(told, next(iter(sizes.values()), told.pictures or 0)):
        warnings.warn(f"test set {label} in {place} holds {note}", stacklevel=1)
    return found


def _fingerprint(each: TestSet) -> str:
    parts = [images.fingerprint for images in each.own.values()]
    parts += [] if each.disturbed is None else [each.disturbed.fingerprint]
    parts += [] if each.right is None else [sha256_of(each.right.numpy().tobytes())]
    groups = [list(group) for group in each.members.groups]
    told = [list(each.members.names), groups, each.told.decision, each.told.border]
    return sha256_of([sha256_of(told), *parts])


def _cell(name: str, column: str, values: Column) -> Cell:
    return Cell(name, DERIVED, 0.0, {column: values})


def drop_of(clean: Column, shifted: Sequence[Column], paired: bool) -> Column:
    """float32, in points: numbers whose mean is the drop and whose spread is that of its estimate.

    Paired: image by image, clean minus the mean over conditions, [n]. Else pseudo-values of the
    difference d of two means over independent images, [n_a + n_b], n = n_a + n_b (Efron and
    Tibshirani 1993, section 11.5):

        d + n / n_a (x_i - mean x) of clean images, d - n / n_b (y_j - mean y) of the others.

    Their mean is d, and their variance over n is var x / n_a + var y / n_b: an interval that
    resamples them is one of the difference.
    """
    # Points and no share: a drop may lie below 0, where the interval of a share is cut off.
    x = 100 * clean.astype(np.float64)
    y = 100 * np.mean([s.astype(np.float64) for s in shifted], axis=0)
    if paired:
        return np.asarray(x - y, np.float32)
    n, d = len(x) + len(y), x.mean() - y.mean()
    values = [d + n / len(x) * (x - x.mean()), d - n / len(y) * (y - y.mean())]
    return np.asarray(np.concatenate(values), np.float32)


def shape_bias(shape: Column, texture: Column) -> Column:
    """[n] float32: pseudo-values of the ratio R = shapes / (shapes + textures), whose mean is R.

    R + (s_i - R (s_i + t_i)) / mean(s + t), the linear term of the ratio; 0 where no answer is
    either.
    """
    s = shape.astype(np.float64)
    either = s + texture
    if not either.any():
        return np.zeros(len(s), np.float32)
    ratio = s.sum() / either.sum()
    return np.asarray(ratio + (s - ratio * either) / either.mean(), np.float32)
