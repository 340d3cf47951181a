"""Telling images of other data sets from those of the model's own, by three scores.

The maximum of the softmax, the energy, and the distance to the k-th nearest training image; the
last needs no classifier. Opening the other sets is `other_sets`', the maths `statistics.detection`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.encoders.knn import distance_to
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.answers import against_the_rest, answered
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, Suite, top1
from robustbench_coss.evaluations.suites.clean import bank_size, unit_bank
from robustbench_coss.evaluations.suites.options import refuse_twice, several_names
from robustbench_coss.evaluations.suites.other_sets import label_of, open_others, shared
from robustbench_coss.reading import from_home
from robustbench_coss.records.about import SuiteAbout
from robustbench_coss.records.record import Axis, Better, Cell, Metric
from robustbench_coss.statistics import detection
from robustbench_coss.statistics.intervals import Floats

SCORES = {"knn": "kNN", "energy": "energy", "softmax": "softmax"}
NUMBERS: dict[str, tuple[str, Better, Callable[[Floats, Floats], detection.Parts]]] = {
    "auroc": ("AUROC", "higher", detection.auroc),
    "fpr95": ("FPR@95", "lower", detection.fpr),
}
GROUPS = {"near": "Near", "far": "Far"}
DERIVED = "detection"
NEIGHBOURS = 50  # Sun et al. 2022 for CIFAR-10; 200 for CIFAR-100 and 1,000 for ImageNet


class OOD(Suite):
    """Detection of images that are of another data set.

    Columns, higher for what looks like the data set itself: `softmax`, ln(p / (1 - p)) of the
    largest probability p (Hendrycks and Gimpel 2017, arXiv 1610.02136); `energy`, the logsumexp of
    the logits (Liu et al. 2020, arXiv 2010.03759, at temperature 1); `knn`, minus the distance of
    the representation to its k-th nearest of training images, all at unit length (Sun et al. 2022,
    arXiv 2204.06507). Of derived conditions `ood_auroc` and `ood_fpr95`, see
    `statistics.detection.pseudo_values`. The data set itself also has `correct`.

    Args:
        near, far: other sets, see `other_sets.open_others`: one, several separated by commas, or a
            list. Which are near is the user's to say.
        scores: names of `SCORES`; the first is in the leaderboard.
        k: of the nearest neighbours.
        bank: so many training images, a fixed random sample; None takes all.
        root: folder of folders and lists; None is that of the data sets.

    Raises:
        CossError: an option makes no sense, or a set is named twice.
    """

    name = "ood"
    asked_only = True
    needs_training = False
    axis = Axis("data set itself")
    about = SuiteAbout(
        title="Images of other data sets",
        does="Images of other data sets are told from those of the model's own: by the largest "
        "probability, the energy, and the distance to the nearest training images.",
        order=27,
        hidden=(*GROUPS, DERIVED),
        captions={"metrics": "AUROC and FPR@95 of telling other data sets from the model's own."},
    )

    def __init__(
        self,
        near: str | Sequence[str] = (),
        far: str | Sequence[str] = (),
        scores: str | Sequence[str] = tuple(SCORES),
        k: int = NEIGHBOURS,
        bank: int | None = None,
        root: Path | str | None = None,
    ) -> None:
        self.items = {"near": several_names("ood.near", near), "far": several_names("ood.far", far)}
        every = [label_of(item) for items in self.items.values() for item in items]
        refuse_twice("ood.near and ood.far name", every)
        self.scores = several_names("ood.scores", scores)
        if unknown := [name for name in self.scores if name not in SCORES]:
            raise CossError(f"unknown score {unknown[0]!r} in ood.scores; known: {_listed(SCORES)}")
        for option, count in (("k", k), ("bank", bank)):
            if not (option == "bank" and count is None) and (type(count) is not int or count < 1):
                raise CossError(f"ood.{option} must be a whole number of at least 1, got {count!r}")
        if not self.scores or not (root is None or isinstance(root, str | Path)):
            raise CossError(f"ood.scores must name some of {_listed(SCORES)}, ood.root a folder")
        self.k, self.bank = k, bank
        self.root = None if root is None else from_home(root)
        self.data_root = Path("data")
        self._sets: dict[str, dict[str, ImageSet]] = {group: {} for group in GROUPS}
        self._bank: Tensor | None = None
        self._summary: dict[str, Any] = {}

    def learns(self) -> bool:
        return "knn" in self.scores

    def look_in(self, data_root: Path) -> None:
        self.data_root = data_root

    def configure(self, test: ImageSet) -> None:
        """Open the other sets.

        Raises:
            CossError: none is named, or one is not there or holds images of the data set itself.
        """
        if not any(self.items.values()):
            raise CossError(
                "suite 'ood' tells other data sets from this one, and none is named; pass "
                "--set ood.near=NAMES or --set ood.far=NAMES (data sets, folders or lists)"
            )
        for group, items in self.items.items():
            for item in items:
                opened = open_others(item, self.root or self.data_root, self.data_root, test)
                own = getattr(opened, "whole", opened)
                if own.fingerprint == test.fingerprint:
                    raise CossError(
                        f"ood.{group} names {item}, which are the test images; leave it out"
                    )
                if count := shared(opened, test):
                    raise CossError(
                        f"ood.{group} names {item}, which holds {count:,} of the test images; name "
                        "what has none"
                    )
                self._sets[group][opened.name] = opened

    def image_sets(self) -> dict[str, ImageSet]:
        return {name: images for sets in self._sets.values() for name, images in sets.items()}

    def config(self) -> dict[str, Any]:
        sets = {
            group: {name: images.fingerprint for name, images in sets.items()}
            for group, sets in self._sets.items()
        }
        knn = {"k": self.k, "bank": self.bank} if "knn" in self.scores else {}
        return {"sets": sets, "scores": list(self.scores), **knn}

    def conditions(self, subject: Subject) -> list[Condition]:
        return [
            Condition("clean", "", 0.0),
            *(
                Condition(f"{group}: {name}", group, 1.0, images=name)
                for group, sets in self._sets.items()
                for name in sets
            ),
        ]

    @torch.inference_mode()
    def prepare(self, subject: Subject, reference: Batch, image_size: int) -> None:
        """Keep representations of training images.

        Raises:
            CossError: there are none, or fewer than k.
        """
        if "knn" not in self.scores or not self.image_sets():
            return
        if subject.training_features is None:
            raise CossError("kNN distance needs training images and there are none")
        try:
            features, _ = subject.training_features(bank_size(self.bank, subject.encoder.dim))
        except CossError as error:
            raise CossError(f"{error}; or do without: --set ood.scores=energy,softmax") from error
        if len(features) < self.k:
            raise CossError(
                f"ood.k is {self.k} and there are {len(features)} training images to be near to; "
                "choose a smaller k"
            )
        self._bank = unit_bank(features, reference.images.device)
        self._summary = {"knn_bank": len(features)}

    def summary(self) -> dict[str, Any]:
        """`knn_bank`, how many training images distances are to."""
        return self._summary

    @torch.inference_mode()
    def measure(
        self, subject: Subject, batch: Batch, condition: Condition, seed: int
    ) -> dict[str, Tensor]:
        features: Tensor = subject.encoder(batch.images)
        logits = subject.classify(features).float()
        found = {} if condition.group else answered(logits, batch.labels)
        if "knn" in self.scores and self._bank is not None:
            found["knn"] = -distance_to(F.normalize(features.float(), dim=1), self._bank, self.k)
        if "energy" in self.scores:
            found["energy"] = logits.logsumexp(dim=1)
        if "softmax" in self.scores:
            found["softmax"] = against_the_rest(logits, top1(logits).clamp(min=0))
        return found

    def metrics(self, conditions: Sequence[Condition]) -> list[Metric]:
        found = [Metric("ood_clean", "Clean top-1", "correct", ("clean",), headline=False)]
        for about, (group, sets) in self._subjects().items():
            for score in self.scores:
                for number, (label, better, _) in NUMBERS.items():
                    whole = len(sets) == len(self._sets[group])
                    key = group if about == group else about.partition(": ")[2]
                    said = f"{GROUPS[group]} OOD" if about == group else f"OOD {key}"
                    found.append(
                        Metric(
                            f"ood_{key}_{number}_{score}",
                            f"{said} {label} ({SCORES[score]})",
                            f"ood_{number}",
                            (f"{about} by {score}",),
                            better,
                            headline=whole and number == "auroc" and score == self.scores[0],
                        )
                    )
        return found

    def _subjects(self) -> dict[str, tuple[str, list[str]]]:
        """What numbers are of: the sets of a group together, and each of several."""
        found: dict[str, tuple[str, list[str]]] = {}
        for group, sets in self._sets.items():
            if sets:
                found[group] = (group, list(sets))
            if len(sets) > 1:
                found |= {f"{group}: {name}": (group, [name]) for name in sets}
        return found

    def derived(self, cells: Sequence[Cell]) -> list[Cell]:
        columns: Mapping[str, Any] = {cell.condition: cell.outcomes for cell in cells}
        found = []
        for about, (group, sets) in self._subjects().items():
            for score in self.scores:
                own, *others = (
                    columns[name][score].astype(np.float64)
                    for name in ("clean", *(f"{group}: {each}" for each in sets))
                )
                values = {
                    f"ood_{name}": detection.pseudo_values(of, own, others).astype(np.float32)
                    for name, (_, _, of) in NUMBERS.items()
                }
                found.append(Cell(f"{about} by {score}", DERIVED, 0.0, values))
        return found

    def close(self) -> None:
        self._bank = None


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names)
