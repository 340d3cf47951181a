"""Checking a submission: is the bundle whole, does it agree with itself, do samples reproduce?

What cannot be checked at all raises; what was checked and is wrong is in the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_coss.analysis.configurations import check_record
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.image_list import names_of
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig, probe_path, read_probe
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.evaluations.running.draft import describe_images, describe_model
from robustbench_coss.evaluations.running.job import Opened
from robustbench_coss.evaluations.running.precision import asking
from robustbench_coss.evaluations.running.request import Evaluation, Load, Once
from robustbench_coss.evaluations.submissions.again import Sample, measure_again
from robustbench_coss.evaluations.submissions.agreement import OTHER, SAME, Pair, try_pairs
from robustbench_coss.evaluations.submissions.bundle import ENCODER, Bundle, open_bundle
from robustbench_coss.evaluations.submissions.contents import read_records
from robustbench_coss.evaluations.submissions.report import Finding, Report
from robustbench_coss.files import canonical_json, scratch_folder, slug, write_atomically
from robustbench_coss.machine.environment import check_writable, device_name, versions
from robustbench_coss.models.checkpoint import FILE_NAME, load_checkpoint
from robustbench_coss.models.load import load_model
from robustbench_coss.records.record import Record
from robustbench_coss.records.training import recipe_in


@dataclass(frozen=True)
class Plan:
    """What a verification does; see `coss-bench verify`.

    Attributes:
        seed: of the draw of conditions.
        cells: conditions drawn per record.
        retrain_probe: measure with a newly trained probe as well.
        here: what is of this machine: device, batch size, folder of the data sets, and the folder
            of ready-made corrupted images as option `root` of suite `corruption`. What determines
            outcomes comes from the records.
    """

    seed: int
    cells: int = 5
    retrain_probe: bool = False
    here: Evaluation = field(default_factory=Evaluation)


def verify(
    path: Path, plan: Plan, encoder: str | None = None, progress: Progress | None = None
) -> Report:
    """Check a bundle and measure a random sample of its conditions again.

    Args:
        path: the bundle.
        encoder: as `load_model`; None takes the one in the bundle.

    Raises:
        CossError: the bundle is damaged, was changed, contradicts itself or cannot be measured
            here: no encoder or another one, other data, a suite in another version or with
            settings that this version does not have.
    """
    if plan.cells < 1:
        raise CossError(f"cells must be at least 1, got {plan.cells}")
    bundle = open_bundle(path)
    records = read_records(bundle)
    report = Report(plan.seed)
    size = f"{len(bundle.names)} files as listed, {len(records)} records of the form of a record"
    report.facts.append(Finding(True, size))
    with scratch_folder("coss-verify-") as folder:
        load = _encoder(bundle, next(iter(records.values())), encoder, folder)
        for group in _alike(records):
            for retrain in (False, True) if plan.retrain_probe else (False,):
                _verify_group(bundle, group, load, plan, folder, retrain, report, progress)
    return report


def _encoder(bundle: Bundle, record: Record, encoder: str | None, folder: Path) -> Load:
    """What gives the encoder, which is known to be the one that was measured."""
    if encoder is not None:
        load = _read_as(encoder, record)
    elif ENCODER in bundle.names:
        file = folder / slug(str(bundle.manifest["model"]["name"])) / FILE_NAME
        write_atomically(file, bundle.read(ENCODER))
        load = Once(partial(load_checkpoint, file))
    else:
        raise CossError(
            f"{bundle.path} holds no encoder; pass the one with the SHA-256 "
            f"{bundle.manifest['checkpoint_sha256']} by --encoder"
        )
    checkpoint = load()
    found = checkpoint.sha256
    # Before a reading was recorded, a file of another tool was known by its own digest.
    if bundle.manifest["checkpoint_sha256"] not in (found, checkpoint.metadata.get("file_sha256")):
        raise CossError(
            f"{encoder or f'the encoder in {bundle.path}'} has the SHA-256 {found[:16]}…, and "
            f"{bundle.manifest['checkpoint_sha256'][:16]}… was measured; pass that one by --encoder"
        )
    return load


def _read_as(encoder: str, record: Record) -> Load:
    """A model read as it was for a record."""
    plain = partial(load_model, encoder, dataset=record.dataset["name"])
    sized = partial(plain, size=int(record.dataset["size"]))
    if "file_sha256" in record.model:
        options = dict(record.model["reading"])
        colours = {key: tuple(options[key]) for key in ("mean", "std")}
        return Once(partial(sized, **options | colours))
    load = Once(sized)
    with suppress(CossError):
        if load().sha256 == record.model["checkpoint_sha256"]:
            return load
    return Once(plain)


def _alike(records: Mapping[str, Record]) -> Iterator[dict[str, Record]]:
    """Records that were measured on the same images with the same classifier."""
    groups: dict[str, dict[str, Record]] = {}
    for name, record in records.items():
        data, probe = record.dataset, record.model["probe"]
        images = [data["name"], data["limit"], data.get("image_list"), "unreadable" in data]
        key = canonical_json([images, record.seed, record.arithmetic(), probe.get("key")])
        groups.setdefault(key, {})[name] = record
    yield from groups.values()


def _verify_group(
    bundle: Bundle,
    records: Mapping[str, Record],
    load: Load,
    plan: Plan,
    folder: Path,
    retrain: bool,
    report: Report,
    progress: Progress | None,
) -> None:
    first = next(iter(records.values()))
    data, probe = first.dataset, first.model["probe"]
    own_head = bool(probe.get("own_head"))
    if own_head and retrain:
        return  # there is no probe
    results = folder / ("retrained" if retrain else "bundled")
    request = replace(
        asking(plan.here, first),
        skip_bad_images="unreadable" in data,
        dataset=data["name"],
        image_list=_image_list(bundle, first, plan.here, folder),
        transfer=not own_head,
        results=results,
        limit=data["limit"],
        seed=first.seed,
        probe=ProbeConfig() if own_head else ProbeConfig.of(probe["settings"]),
        options={r.suite: _options(r, plan.here) for r in records.values()},
    )
    opened = Opened(load, request, progress)
    try:
        for name, record in records.items():
            _check_fits(f"{bundle.path}: {name}", record, opened)
        check_writable(results / "probes")
        if not own_head:
            _check_probe(bundle, opened, probe, retrain)
        here = versions(), device_name(opened.device)
        known = opened.device.type == "cpu" or first.tf32 is not None
        shares = [
            SAME if known and (r.versions, r.device) == here else OTHER for r in records.values()
        ]
        if not retrain:
            _check_facts(opened, records, here[1], max(shares), report)
        where = " (probe trained anew)" if retrain else ""
        everything: list[Pair] = []
        for (name, record), share in zip(records.items(), shares, strict=True):
            sample = Sample(plan.seed, plan.cells)
            everything += measure_again(opened, record, sample, name, where, share, report)
        if len(records) > 1 and everything:
            about = f"{data['name']}, all {len(everything)} cells together{where}"
            report.together.append(try_pairs(about, everything, max(shares)))
    finally:
        opened.close()


def _image_list(bundle: Bundle, record: Record, here: Evaluation, folder: Path) -> Path | None:
    """A file with the names of a record's images, where a list named them."""
    data = record.dataset
    if "image_list" not in data:
        return None
    test = open_dataset(data["name"], "test", size=data["size"], root=Path(here.data_root))
    if int(record.index.max()) >= len(test):
        raise CossError(f"{bundle.path}: a record lists other images than {data['name']!r} has")
    path: Path = folder / slug(data["image_list"]["file"])
    write_atomically(path, names_of(test, record.index.tolist()))
    return path


def _options(record: Record, here: Evaluation) -> dict[str, Any]:
    """The options that a record was made with, but for what is of the machine it was made on."""
    if record.suite_config.get("backend") == "ready-made":
        root = here.options.get(record.suite, {}).get("root")
        if root is None:
            raise CossError(
                f"the record of suite {record.suite!r} is of ready-made pictures; pass their "
                "folder by --corruption-root"
            )
        return {"root": root}
    return {k: v for k, v in record.options.items() if k not in ("root", "workers")}


def _check_fits(name: str, record: Record, opened: Opened) -> None:
    """A record has to be of the data, suite and settings here."""
    data, suite = record.dataset, opened.suite(record.suite)
    here = describe_images(opened, suite)
    for what in ("role", "fingerprint", "size", "classes", "n", "train"):
        if what in data and data[what] != here.get(what):
            raise CossError(
                f"{name} was measured on other images: {what} is {data[what]} there and "
                f"{here.get(what)} of {data['name']!r} in {opened.request.data_root}"
            )
    check_record(name, record)
    if not np.array_equal(record.index, opened.images.index) or not np.array_equal(
        record.label, opened.images.labels.numpy()
    ):
        raise CossError(f"{name} lists other images or labels than the data set has")
    if record.suite_version != suite.version:
        raise CossError(
            f"{name} is of version {record.suite_version} of suite {suite.name!r}, and this is "
            f"{suite.version}; verify it with robustbench-coss "
            f"{record.versions.get('robustbench-coss', 'as recorded')}"
        )
    mine = suite.config()
    if canonical_json(mine) != canonical_json(record.suite_config):
        keys = sorted(
            k
            for k in mine.keys() | record.suite_config.keys()
            if mine.get(k) != record.suite_config.get(k)
        )
        raise CossError(
            f"{name} has settings of suite {suite.name!r} that cannot be had here: "
            f"{', '.join(keys) or 'other types'}"
        )


def _check_probe(bundle: Bundle, opened: Opened, probe: Mapping[str, Any], retrain: bool) -> None:
    """Make the bundle's probe the one that is used, unless a new one is to be trained."""
    key = probe["key"]
    if opened.classifier_key != key:
        raise CossError(
            f"{bundle.path}: the probe is not of the training images of {opened.dataset!r} in "
            f"{opened.request.data_root} by the settings stated"
        )
    if retrain:
        return
    name = f"probes/{key}.safetensors"
    if name not in bundle.names:
        raise CossError(f"{bundle.path} lacks {name}, which a record was measured with")
    path = probe_path(Path(opened.request.results), key)
    write_atomically(path, bundle.read(name))
    dim, classes = opened.checkpoint.encoder.dim, len(opened.images.test.classes)
    # A damaged probe would be trained again, quietly.
    if read_probe(path, key, dim, classes) is None:
        raise CossError(f"{bundle.path}: {name} is damaged or no probe of this encoder")


def _check_facts(
    opened: Opened, records: Mapping[str, Record], device: str, share: float, report: Report
) -> None:
    _ = opened.subject  # describes the probe
    found = describe_model(opened)
    recorded = "; ".join(dict.fromkeys(record.device for record in records.values()))
    report.notes.append(
        "device and versions are those recorded"
        if share == SAME
        else f"device or versions are others: recorded on {recorded}; measured again on {device}"
    )
    for name, record in records.items():
        mine = found
        if stated := recipe_in(record.model):  # early records do not hold all of it
            same = {key: value for key, value in recipe_in(found).items() if key in stated}
            mine = found | {"training": found["training"] | {"recipe": same}}
        if "in_place_of_head" not in record.model["probe"]:  # nor that
            probe = {k: v for k, v in found["probe"].items() if k != "in_place_of_head"}
            mine = mine | {"probe": probe}
        facts = (mine.keys() | record.model.keys()) - {"name"}
        wrong = sorted(k for k in facts if mine.get(k) != record.model.get(k))
        if wrong:
            text = f"{name}: {', '.join(wrong)} of the model are not those of encoder and probe"
            report.facts.append(Finding(False, text))
