"""Which records belong together: the runs of one configuration, and what may be compared.

Runs that differ in nothing but name, seed and hashes are seeds of one configuration. Numbers
are comparable if they come from the same test images by the same suite under one protocol:
version, settings, number of images and precision.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_coss.analysis.labels import (
    MISSING,
    SHOWN_HASH,
    Configuration,
    configuration_key,
    configurations_of,
    differences,
    identities,
    lookup,
    seed_of_model,
    setting_aside,
    settings_of,
    without_identity,
)
from robustbench_coss.errors import CossError, kind_and_line
from robustbench_coss.files import canonical_json, slug
from robustbench_coss.records.about import SuiteAbout, about_of, in_order
from robustbench_coss.records.record import Record, find_records
from robustbench_coss.statistics.intervals import Estimate


@dataclass(frozen=True)
class TestSet:
    """The images that were measured on.

    Attributes:
        label: for titles ("parts, 32 px").
        slug: for file names, unique among the test sets of a results folder.
        classes: number of classes.
    """

    label: str
    slug: str
    classes: int

    @property
    def chance(self) -> float:
        """Top-1 accuracy of guessing, in [0, 1]."""
        return 1 / self.classes


@dataclass(frozen=True)
class SeedGroup:
    """One configuration by one suite under one protocol, over seeds.

    Attributes:
        test_set: what it was measured on.
        configuration: whose runs these are; its label is unique within the test set.
        suite: name of the suite.
        protocol: "" where the suite has one protocol on this test set, else "a", "b", …
        protocol_note: what sets this protocol apart from the suite's others ("" if nothing).
        records: one per seed, by seed.
    """

    test_set: TestSet
    configuration: Configuration
    suite: str
    protocol: str
    protocol_note: str
    records: tuple[Record, ...]

    @property
    def model(self) -> dict[str, Any]:
        """Model metadata that all seeds share (taken from the first)."""
        return self.records[0].model

    @property
    def about(self) -> SuiteAbout:
        """What the suite says of itself (in the first seed's record)."""
        return about_of(self.records[0])

    @property
    def control(self) -> str:
        """Which control it is, "pixels" or "untrained"; "" for a model that learnt."""
        return self.configuration.control

    @property
    def label(self) -> str:
        """The configuration's ("CO-BYOL · rf29_resnet18 ×0.25")."""
        return self.configuration.label

    @property
    def key(self) -> str:
        """The suite, with the protocol where it has several: "corruption-b"."""
        return f"{self.suite}-{self.protocol}" if self.protocol else self.suite

    def heading(self, words: str) -> str:
        """Words with the protocol behind them where the suite has several: "mCE (b)"."""
        return f"{words} ({self.protocol})" if self.protocol else words

    def columns(self, result: Estimate, n: int) -> dict[str, Any]:
        """An estimate from n images, as the columns that tables and figures share."""
        return {
            "value": result.value,
            "low": result.low,
            "high": result.high,
            "sd": result.sd,
            "seeds": result.seeds,
            "n": n,
            "interval": result.interval,
        }


def by_protocol(measurements: Iterable[SeedGroup], suite: str = "") -> list[list[SeedGroup]]:
    """The measurements by each suite, or one suite, under each protocol, in the order met."""
    found: dict[tuple[str, str], list[SeedGroup]] = defaultdict(list)
    for m in measurements:
        if suite in ("", m.suite):
            found[m.suite, m.protocol].append(m)
    return list(found.values())


def load_measurements(results: Path) -> list[SeedGroup]:
    """All complete records of a results folder, seeds put together.

    A seed that was run more than once counts once, and so do weights that were measured under
    several names: the latest record is taken. All records of a seed are of the weights measured
    last; what only earlier ones were measured for is warned of.

    Returns:
        Measurements by test set, suite (in their own reading order), protocol and configuration.

    Raises:
        CossError: there is no complete record, or a record is damaged.
    """
    records = []
    for path, record in find_records(results):
        check_record(path, record)
        records.append(record)
    if not records:
        raise CossError(
            f"no complete records in {results}; measure a model first with `coss-bench eval RUN`"
        )
    test_sets = _test_sets(records)
    known = identities(r.model for r in records)
    found: list[SeedGroup] = []
    for set_key, test_set in sorted(test_sets.items(), key=lambda item: item[1].slug):
        here = [r for r in records if _test_set_key(r) == set_key]
        configurations = configurations_of((r.model for r in here), known)
        here = _of_latest_weights(here, test_set, configurations)
        for suite in in_order({r.suite: about_of(r) for r in here}):
            mine = [r for r in here if r.suite == suite]
            protocols = {canonical_json(_protocol(r)): _protocol(r) for r in mine}
            notes = differences([protocols[key] for key in sorted(protocols)])
            for i, (protocol_key, note) in enumerate(zip(sorted(protocols), notes, strict=True)):
                by_configuration: dict[str, list[Record]] = defaultdict(list)
                for record in mine:
                    if canonical_json(_protocol(record)) == protocol_key:
                        by_configuration[configuration_key(record.model)].append(record)
                found.extend(
                    SeedGroup(
                        test_set,
                        configurations[key],
                        suite,
                        _letter(i) if len(protocols) > 1 else "",
                        note,
                        tuple(_latest_per_seed(group)),
                    )
                    for key, group in sorted(
                        by_configuration.items(), key=lambda item: configurations[item[0]].label
                    )
                )
    return found


def along(
    measurements: Iterable[SeedGroup], *settings: str
) -> dict[Configuration, list[SeedGroup]]:
    """Measurements whose models differ in some training settings and in nothing else.

    Args:
        measurements: of one suite under one protocol.
        settings: dotted keys of model metadata ("training.views.min_crop", "arch").

    Returns:
        What the models share -> measurements, for those families of models in which every
        one of the settings takes at least two values.
    """
    families: dict[str, list[SeedGroup]] = defaultdict(list)
    shared: dict[str, dict[str, Any]] = {}
    for m in measurements:
        flat = [lookup(settings_of(m.model), key) for key in settings]
        if any(value is MISSING for value in flat):
            continue
        model = setting_aside(settings_of(m.model), settings)
        key = configuration_key(model)
        families[key].append(m)
        shared[key] = model
    varied = {
        key: family
        for key, family in families.items()
        if all(
            len({canonical_json(lookup(settings_of(m.model), s)) for m in family}) > 1
            for s in settings
        )
    }
    found = configurations_of(shared[key] for key in varied)
    return {found[key]: varied[key] for key in sorted(varied, key=lambda key: found[key].label)}


def without_local_term(m: SeedGroup, measurements: Iterable[SeedGroup]) -> SeedGroup | None:
    """The measurement of a CO- model's base method, all else being equal; None if there is none."""
    mine = without_identity(m.model)
    options = lookup(mine, "training.options")
    for other in measurements:
        theirs = without_identity(other.model)
        fewer = lookup(theirs, "training.options")
        if f"co-{theirs.get('method')}" != mine.get("method") or MISSING in (options, fewer):
            continue
        # The base method has some of the options, with the same values.
        if not fewer.items() <= options.items():
            continue
        aside = ("method", "training.options")
        if setting_aside(mine, aside) == setting_aside(theirs, aside):
            return other
    return None


def bases_of(measurements: Sequence[SeedGroup]) -> dict[str, str]:
    """CO- configuration -> its base method's, where a suite was measured for both alike."""
    alike: dict[tuple[str, str], list[SeedGroup]] = {}
    for m in measurements:
        alike.setdefault((m.suite, m.protocol), []).append(m)
    found: dict[str, str] = {}
    for m in measurements:
        if m.label not in found and (base := without_local_term(m, alike[m.suite, m.protocol])):
            found[m.label] = base.label
    return found


def setting(m: SeedGroup, key: str) -> Any:
    """The value at a dotted key of a measurement's model metadata; None if there is none.

    `training` is one mapping of all that sets a training apart ("training.options.w_s").
    """
    value = lookup(settings_of(m.model), key)
    return None if value is MISSING else value


def _in_time(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda r: (r.created, r.model["checkpoint_sha256"]))


def _of_latest_weights(
    records: list[Record], test_set: TestSet, configurations: dict[str, Configuration]
) -> list[Record]:
    """Records of one test set without those of a seed's earlier weights: a row is one network."""

    def run(record: Record) -> tuple[str, Any]:
        return configuration_key(record.model), seed_of_model(record.model)

    def column(record: Record) -> tuple[str, str]:
        return record.suite, canonical_json(_protocol(record))

    latest = {run(r): r.model for r in _in_time(records)}
    kept: dict[tuple[str, Any], list[Record]] = defaultdict(list)
    lost: dict[tuple[str, Any], list[Record]] = defaultdict(list)
    for record in records:
        same = record.model["checkpoint_sha256"] == latest[run(record)]["checkpoint_sha256"]
        (kept if same else lost)[run(record)].append(record)
    for (key, seed), earlier in lost.items():
        columns = {column(r) for r in kept[key, seed]}
        if missing := sorted({r.suite for r in earlier if column(r) not in columns}):
            name, sha256 = (latest[key, seed][k] for k in ("name", "checkpoint_sha256"))
            warnings.warn(
                f"{test_set.label}: {configurations[key].label}, seed {seed}, was measured last "
                f"with the weights of {name} ({sha256[:SHOWN_HASH]}); {', '.join(missing)} of "
                f"earlier weights alone is left out, measure {name} for it",
                stacklevel=3,
            )
    return [record for group in kept.values() for record in group]


def _latest_per_seed(records: list[Record]) -> list[Record]:
    latest = {seed_of_model(record.model): record for record in _in_time(records)}
    return [latest[seed] for seed in sorted(latest, key=lambda s: (str(type(s)), s))]


def _test_set_key(record: Record) -> str:
    d = record.dataset
    return canonical_json([d["name"], d["role"], d["size"], d["fingerprint"]])


def _test_sets(records: list[Record]) -> dict[str, TestSet]:
    datasets = {_test_set_key(r): r.dataset for r in records}
    labels = {}
    for key, d in datasets.items():
        role = "" if d["role"] == "test" else f" ({d['role']})"
        labels[key] = f"{d['name']}{role}, {d['size']} px"
    clashes = Counter(map(_set_slug, labels.values()))
    for key, d in datasets.items():
        if clashes[_set_slug(labels[key])] > 1:
            labels[key] += f", version {d['fingerprint'][:8]}"
    return {
        key: TestSet(labels[key], _set_slug(labels[key]), int(d["classes"]))
        for key, d in datasets.items()
    }


def _set_slug(label: str) -> str:
    return slug(label.replace(" px", "px"))


def _protocol(record: Record) -> dict[str, Any]:
    stated = {
        "version": record.suite_version,
        "n": int(record.index.size),
        "precision": record.arithmetic(),
        "settings": record.suite_config,
    }
    if "image_list" in record.dataset:
        named = record.dataset["image_list"]
        stated["images"] = f"{named['file']} ({named['images'][:8]})"
    return stated


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else str(i + 1)


def check_record(path: Path | str, record: Record) -> None:
    """Refuse a record that cannot be told apart from others or shown; see also
    `records.consistency`, which readers hold it to.

    Raises:
        CossError: it cannot; `path` is what the message calls the record.
    """
    try:
        _test_set_key(record), configurations_of([record.model]), record.model["checkpoint_sha256"]
        about_of(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CossError(
            f"record {path} contradicts itself ({kind_and_line(error)}); "
            "delete it and run `coss-bench eval` again"
        ) from error
