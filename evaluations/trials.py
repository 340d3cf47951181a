"""Models beside observers whose trials lie on disk: which picture an outcome is of.

Records hold outcomes by number. The names of the pictures are those of the test set that was
measured, which is opened again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_coss.analysis.comparison import line_of
from robustbench_coss.analysis.configurations import SeedGroup
from robustbench_coss.analysis.trials import PEOPLE, Observer, found_among, kappas
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.protocol import make_suite
from robustbench_coss.evaluations.running.images import first_of
from robustbench_coss.records.record import Metric, Record

SUITES = ("shift",)


@dataclass
class Beside:
    """Adds error consistency with observers to the comparison of two models.

    Attributes:
        observers: whose trials there are.
        data_root: where the pictures lie.
        met: whether an observer saw a picture that both were measured on.
    """

    observers: Sequence[Observer]
    data_root: Path
    met: bool = False

    def __call__(self, x: SeedGroup, y: SeedGroup) -> list[dict[str, Any]]:
        """Lines of `Comparison.table`: kappa of either model with each observer and with all people
        under each condition of which they saw pictures.

        Raises:
            CossError: the pictures that were measured are not there.
        """
        lines = []
        for condition, pictures in self._pictures(x) if x.suite in SUITES else ():
            present = [
                o for o in self.observers if any(found_among(n, pictures) for n in o.right.values())
            ]
            people = [o for o in present if PEOPLE.fullmatch(o.name)]
            asked = [(o.name, [o]) for o in present]
            asked += [(f"{len(people)} people", people)] * (len(people) > 1)
            for name, several in asked:
                self.met = True
                sides = [
                    [kappas(r.column(condition, "correct"), several, pictures) for r in m.records]
                    for m in (x, y)
                ]
                heading = f"{condition}: κ with {name}"
                metric = Metric(heading, heading, "correct", (condition,), "", False)
                means = [float(np.mean([values.mean() for values in side])) for side in sides]
                lines.append(line_of(x, y, metric, sides, False, means))
        return lines

    def check_met(self) -> None:
        """Raises CossError if no observer saw a picture that both models were measured on."""
        if not self.met:
            seen = next(
                name for o in self.observers for names in o.right.values() for name in names
            )
            raise CossError(
                f"no observer saw a picture that both models were measured on (theirs are such as "
                f"{seen}); measure both with --suite shift on the pictures of these trials"
            )

    def _pictures(self, x: SeedGroup) -> list[tuple[str, list[str]]]:
        record, found = x.records[0], []
        measured = {c.condition for c in record.cells if "correct" in c.outcomes and c.group}
        for entry in record.dataset.get("others", ()):
            named = measured.intersection(entry["conditions"]) if entry["fingerprint"] else set()
            if names := names_of(record, entry, self.data_root) if named else []:
                found += [(condition, names) for condition in sorted(named)]
        return found


def names_of(record: Record, entry: dict[str, Any], data_root: Path) -> list[str]:
    """File names of the pictures of another set that a record has outcomes of, in their order;
    empty where they have none.

    Args:
        entry: of `dataset.others`.

    Raises:
        CossError: they are not there, or others than were measured.
    """
    test = open_dataset(record.dataset["name"], "test", size=record.dataset["size"], root=data_root)
    options = {k: v for k, v in record.options.items() if k != "root"}
    suite = make_suite(record.suite, options)
    suite.look_in(data_root)
    suite.configure(test)
    images = suite.image_sets().get(entry["name"])
    if images is None or images.fingerprint != entry["fingerprint"]:
        raise CossError(
            f"the pictures of {entry['name']} in {data_root} are not those that were measured; "
            "pass --data-root"
        )
    paths = getattr(images, "paths", None)
    if paths is None:
        return []
    order = first_of(images, record.dataset["limit"])
    return [os.path.basename(os.fsdecode(bytes(paths[i]))) for i in order]
