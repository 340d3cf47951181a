"""What a report is about: the measurements of the models that were named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustbench_coss.analysis.configurations import SeedGroup, TestSet
from robustbench_coss.analysis.labels import short_labels
from robustbench_coss.analysis.numbers import rank_models
from robustbench_coss.analysis.selection import find_model
from robustbench_coss.pages.dossier.words import counted


@dataclass(frozen=True)
class Subject:
    """What is reported, and what it can be compared with.

    Attributes:
        title: the model's label, the names of its runs, or how many models there are.
        measurements: what is reported.
        everything: all measurements of the results folder.
    """

    title: str
    measurements: tuple[SeedGroup, ...]
    everything: tuple[SeedGroup, ...]

    @property
    def test_sets(self) -> list[TestSet]:
        return list(dict.fromkeys(m.test_set for m in self.measurements))

    @property
    def configurations(self) -> list[str]:
        """Labels, best on clean images first."""
        ranked = [rank_models(self.on(test_set)) for test_set in self.test_sets]
        return list(dict.fromkeys(label for labels in ranked for label in labels))

    @property
    def short(self) -> dict[str, str]:
        """Label -> what tells its configuration apart."""
        return short_labels(m.configuration for m in self.measurements)[0]

    def on(self, test_set: TestSet) -> list[SeedGroup]:
        return [m for m in self.measurements if m.test_set == test_set]

    def of(self, configuration: str) -> list[SeedGroup]:
        return [m for m in self.measurements if m.label == configuration]


def choose(measurements: Sequence[SeedGroup], names: Sequence[str]) -> Subject:
    """The subject that names stand for, see `selection.find_model`; no names stand for all.

    Several runs of one configuration are put together as its seeds.

    Raises:
        CossError: a name is unknown or ambiguous.
    """
    if not names:
        return Subject(_title(measurements, []), tuple(measurements), tuple(measurements))
    found = [find_model(measurements, name) for name in names]
    wanted = {id(r) for chosen in found for m in chosen.measurements for r in m.records}
    narrowed = [
        replace(m, records=tuple(r for r in m.records if id(r) in wanted)) for m in measurements
    ]
    kept = tuple(m for m in narrowed if m.records)
    return Subject(_title(kept, [c.label for c in found]), kept, tuple(measurements))


def _title(measurements: Sequence[SeedGroup], labels: Sequence[str]) -> str:
    configurations = list(dict.fromkeys(m.label for m in measurements))
    if len(configurations) > 1:
        controls = {m.label for m in measurements if m.control}
        models = counted(len(configurations) - len(controls), "model")
        return models + (f" and {counted(len(controls), 'control')}" if controls else "")
    whole = not labels or configurations[0] in labels
    return configurations[0] if whole else ", ".join(dict.fromkeys(labels))
