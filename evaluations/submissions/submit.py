"""Submissions: what was measured of one model, bundled so that somebody else can check it.

Gathers and writes only; `robustbench_coss.evaluations.submissions.verify` reads and measures again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from robustbench_coss import __version__
from robustbench_coss.analysis.configurations import check_record, load_measurements
from robustbench_coss.analysis.selection import find_model, lies_at
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.evaluations.probes.linear import probe_path
from robustbench_coss.evaluations.submissions.bundle import (
    ENCODER,
    ENVIRONMENT,
    RECIPE,
    write_bundle,
)
from robustbench_coss.files import canonical_json, sha256_of, slug
from robustbench_coss.models.checkpoint import FILE_NAME, find_checkpoint, load_checkpoint
from robustbench_coss.models.hub.folders import is_hub_folder
from robustbench_coss.models.load import LIBRARIES, load_model
from robustbench_coss.records.record import Record, find_records, path_of

Measured = tuple[Path | None, str, dict[Path, Record]]
"""What `measured` finds of a model."""


def submit(
    run: str,
    results: Path,
    out: Path | None = None,
    with_encoder: bool = False,
    force: bool = False,
    found: Measured | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Bundle every record of a model with the probes that they were made with.

    Args:
        run: run folder, encoder or checkpoint file, a model of a library by its name
            (`timm:NAME[:WEIGHTS]`, `hf:ORG/NAME`, …); else the name of a measured model, as
            `selection.find_model`.
        results: folder of records and probes.
        out: file to write; None is `<model>-<hash>.zip` in this folder.
        with_encoder: put the encoder into the bundle, too.
        force: replace a file that is no bundle.
        found: what `measured` gave for it, if that was read already.

    Returns:
        The file, and its manifest without the list of files.

    Raises:
        CossError: nothing was measured of it, several models are meant, a probe is missing, or the
            encoder cannot be bundled.
    """
    checkpoint, sha256, kept = found or measured(run, results)
    files: dict[str, bytes] = {}
    records: dict[str, Record] = {}
    for path, record in kept.items():
        with explain_os_errors("read", path):
            files[entry_of(record)] = path.read_bytes()
        check_record(path, record)
        files |= _probe(record, results, run)
        records[entry_of(record)] = record
    files[ENVIRONMENT] = (
        json.dumps(environment_of(records), indent=1, sort_keys=True) + "\n"
    ).encode()
    if checkpoint is not None and (recipe := checkpoint.with_name(RECIPE)).is_file():
        with explain_os_errors("read", recipe):
            files[RECIPE] = recipe.read_bytes()
    if with_encoder:
        files[ENCODER] = _encoder(checkpoint, run)
    manifest = {
        "tool": {"name": "robustbench-coss", "version": __version__},
        **manifest_of(records, with_encoder),
    }
    first = next(iter(records.values()))
    path = out or Path(f"{slug(first.model['name'])}-{sha256[:8]}.zip")
    write_bundle(path, manifest, files, force)
    return path, manifest


def measured(run: str, results: Path) -> Measured:
    """Checkpoint file (None if there is none at hand), its SHA-256, and a model's records.

    Raises:
        CossError: nothing was measured of it, or several models are meant.
    """
    known = dict(find_records(results))
    checkpoint, sha256, name = _which(run, results, known.values())
    found = {path: r for path, r in known.items() if r.model["checkpoint_sha256"] == sha256}
    folders = sorted({path.parents[1].name for path in found})
    if len(folders) > 1:  # one file under several names
        named = [folder for folder in folders if folder == f"{slug(name)}-{sha256[:8]}"]
        if not named:
            raise CossError(f"{run} was measured under several names: {', '.join(folders)}")
        found = {path: r for path, r in found.items() if path.parents[1].name == named[0]}
    if not found:
        alike = {p.parents[1].name for p, record in known.items() if lies_at(record, run)}
        read = f", or name it as it was read: {', '.join(sorted(alike))}" if alike else ""
        raise CossError(
            f"{results} has no complete records of {run}; measure it first with `coss-bench eval`"
            f"{read}"
        )
    return checkpoint, sha256, found


def entry_of(record: Record) -> str:
    """Where a record lies in a bundle."""
    path = path_of(record)
    return f"records/{path.parent.name}/{path.name}"


def environment_of(records: Mapping[str, Record]) -> dict[str, Any]:
    """What each record was measured with, by its place in the bundle."""
    return {
        entry: {"versions": record.versions, "device": record.device}
        for entry, record in records.items()
    }


def manifest_of(records: Mapping[str, Record], with_encoder: bool) -> dict[str, Any]:
    """What a manifest states beside the tool and the files: all of it follows from the records."""
    first = next(iter(records.values()))
    listed = [
        {
            "path": entry,
            "dataset": record.dataset["name"],
            "suite": record.suite,
            "n": record.dataset["n"],
            "key": record.key,
        }
        for entry, record in records.items()
    ]
    return {
        "created": max(record.created for record in records.values()),
        "model": {k: v for k, v in first.model.items() if k != "probe"},
        "checkpoint_sha256": first.model["checkpoint_sha256"],
        "encoder_included": with_encoder,
        "records": sorted(listed, key=canonical_json),
        "devices": sorted({record.device for record in records.values()}),
        "versions": _agreed([record.versions for record in records.values()]),
    }


def _which(run: str, results: Path, known: Iterable[Record]) -> tuple[Path | None, str, str]:
    """Checkpoint file (None if there is none at hand), its SHA-256 and name.

    Args:
        known: all records of `results`.
    """
    if is_hub_folder(Path(run)):
        model = load_model(run)
        return None, model.sha256, model.name
    if Path(run).exists():
        path = find_checkpoint(Path(run))
        named = path.resolve().parent.name if path.name == FILE_NAME else path.stem
        sha256 = sha256_of(path)
        read = {
            str(record.model["checkpoint_sha256"])
            for record in known
            if record.model.get("file_sha256") == sha256
        }
        return path, read.pop() if len(read) == 1 else sha256, named
    if run.partition(":")[0] in LIBRARIES:
        model = load_model(run)
        return None, model.sha256, model.name
    chosen = find_model(load_measurements(results), run)
    models = {
        r.model["checkpoint_sha256"]: str(r.model["name"])
        for m in chosen.measurements
        for r in m.records
    }
    if len(models) > 1:
        raise CossError(
            f"{chosen.label} has {len(models)} seeds: {', '.join(sorted(models.values()))}; a "
            "bundle holds one run, so name one"
        )
    ((sha256, name),) = models.items()
    return None, sha256, name


def _probe(record: Record, results: Path, run: str) -> dict[str, bytes]:
    probe = record.model["probe"]
    if probe.get("own_head"):
        return {}
    path = probe_path(results, probe["key"])
    if not path.is_file():
        raise CossError(
            f"{path}, the probe of suite {record.suite!r}, is missing; `coss-bench eval {run} "
            f"--suite {record.suite} --force` trains and measures it again"
        )
    with explain_os_errors("read", path):
        return {f"probes/{path.name}": path.read_bytes()}


def _encoder(checkpoint: Path | None, run: str) -> bytes:
    if checkpoint is None:
        raise CossError(
            f"--with-encoder needs the file and {run!r} is a name; pass the run folder or its "
            f"{FILE_NAME}"
        )
    load_checkpoint(checkpoint)  # raises for what is no encoder of this tool, pickles above all
    with explain_os_errors("read", checkpoint):
        return checkpoint.read_bytes()


def _agreed(several: list[dict[str, str]]) -> dict[str, str]:
    """Versions by package, those of different records separated by commas."""
    return {
        name: ", ".join(sorted({v[name] for v in several if name in v}))
        for name in sorted({name for versions in several for name in versions})
    }
