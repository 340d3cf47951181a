"""What a bundle says, held together: records by the reader of tables, and what follows from them.

Nothing is measured here; whether outcomes are true is `verify`'s question.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.running.draft import record_key
from robustbench_coss.evaluations.running.precision import Arithmetic
from robustbench_coss.evaluations.submissions.bundle import (
    ENCODER,
    ENVIRONMENT,
    MANIFEST,
    RECIPE,
    Bundle,
)
from robustbench_coss.evaluations.submissions.submit import entry_of, environment_of, manifest_of
from robustbench_coss.files import canonical_json, slug
from robustbench_coss.reading import parse_yaml
from robustbench_coss.records.record import Record, from_json
from robustbench_coss.records.training import recipe_in


def read_records(bundle: Bundle) -> dict[str, Record]:
    """The records of a bundle by name.

    Raises:
        CossError: there are none, one is no record or contradicts itself, they are of different
            models or not where they belong, or another file says what does not follow from them.
    """
    contents = {name: bundle.json(name) for name in bundle.names if name.startswith("records/")}
    if not contents:
        raise CossError(f"{bundle.path} holds no records")
    records = {
        name: from_json(content, f"{bundle.path}: {name}") for name, content in contents.items()
    }
    for name, record in records.items():
        _check_record(bundle, name, record, contents[name]["schema"])
    if len({entry_of(record) for record in records.values()}) < len(records):
        raise CossError(f"{bundle.path} holds a record twice")
    _check_manifest(bundle, records)
    _check_files(bundle, records)
    return records


def _check_record(bundle: Bundle, name: str, record: Record, schema: int) -> None:
    where = f"{bundle.path}: {name}"
    sha256 = record.model["checkpoint_sha256"]
    if sha256 != bundle.manifest["checkpoint_sha256"]:
        raise CossError(f"{where} is of another checkpoint than the manifest states")
    if not record.complete:
        raise CossError(f"{where} is not complete")
    # Earlier versions had one place for all probes.
    earlier = f"records/{slug(record.dataset['name'])}/{slug(record.suite)}.json"
    if name not in (entry_of(record), earlier):
        raise CossError(f"{where} is of {record.suite} on {record.dataset['name']}")
    probe = record.model["probe"]
    key = record_key(
        sha256,
        f"own head of {sha256}" if probe.get("own_head") else probe["key"],
        record.dataset,
        (record.suite, record.suite_version, record.suite_config),
        record.seed,
        Arithmetic(record.precision, record.tf32, record.compiled),
        schema,
        record.model.get("answers_sha256", ""),
    )
    if key != record.key:
        raise CossError(
            f"{bundle.path}: the key of {name} is not that of its settings, images and probe; "
            "the record was changed after `coss-bench eval`"
        )


def _check_manifest(bundle: Bundle, records: Mapping[str, Record]) -> None:
    expected = manifest_of(records, ENCODER in bundle.names)
    for name, record in records.items():
        model = {k: v for k, v in record.model.items() if k != "probe"}
        if canonical_json(model) != canonical_json(expected["model"]):
            raise CossError(f"{bundle.path}: {name} describes another model than other records do")
    tool = bundle.manifest.get("tool")
    if not (
        isinstance(tool, dict)
        and tool.keys() == {"name", "version"}
        and tool["name"] == "robustbench-coss"
        and isinstance(tool["version"], str)
    ):
        raise CossError(f"{bundle.path}: {MANIFEST} does not state the tool that wrote it")
    stated = {k: v for k, v in bundle.manifest.items() if k not in ("schema", "files", "tool")}
    wrong = [k for k in expected if canonical_json(stated.get(k)) != canonical_json(expected[k])]
    wrong += sorted(stated.keys() - expected.keys())
    if wrong:
        raise CossError(
            f"{bundle.path}: {MANIFEST} states what does not follow from the records: "
            f"{', '.join(wrong)[:100]}"
        )


def _check_files(bundle: Bundle, records: Mapping[str, Record]) -> None:
    """Files beside the records are those that belong to them, and say the same."""
    keys = {record.model["probe"].get("key") for record in records.values()}
    known = {*records, ENVIRONMENT, RECIPE, ENCODER, *(f"probes/{k}.safetensors" for k in keys)}
    if extra := sorted(set(bundle.names) - known):
        raise CossError(f"{bundle.path}: {extra[0]} belongs to none of its records")
    if ENVIRONMENT not in bundle.names:
        raise CossError(f"{bundle.path} lacks {ENVIRONMENT}")
    if canonical_json(bundle.json(ENVIRONMENT)) != canonical_json(environment_of(records)):
        raise CossError(f"{bundle.path}: {ENVIRONMENT} is not that of the records")
    if RECIPE in bundle.names:
        _check_recipe(bundle, recipe_in(next(iter(records.values())).model))


def _check_recipe(bundle: Bundle, recipe: Mapping[str, object]) -> None:
    """What the recipe file and the records both say has to be the same."""
    try:
        stated = parse_yaml(bundle.read(RECIPE))
        if not isinstance(stated, dict):
            raise ValueError("it is no mapping")
        chosen = {"precision"} if stated.get("precision") == "auto" else set()  # as the run began
        shared = [str(key) for key in stated if key in recipe and key not in chosen]
        wrong = [key for key in shared if not _follows(stated[key], recipe[key])]
    except (ValueError, TypeError) as error:
        raise CossError(f"{bundle.path}: {RECIPE} is no recipe ({type(error).__name__})") from error
    if wrong:
        raise CossError(
            f"{bundle.path}: {RECIPE} is not that of the records: {', '.join(wrong)[:100]}"
        )


def _follows(stated: object, recorded: object) -> bool:
    """Whether a file's setting is that of the records, which hold defaults too and read numbers:
    options stand in the file as they were given.
    """
    if isinstance(stated, dict) and isinstance(recorded, dict):
        return all(k in recorded and _follows(stated[k], recorded[k]) for k in stated)
    if isinstance(stated, list) and isinstance(recorded, list):
        return len(stated) == len(recorded) and all(map(_follows, stated, recorded))
    if isinstance(recorded, int | float) and isinstance(stated, str | int | float):
        with suppress(ValueError, OverflowError):
            return float(stated) == float(recorded)
    return canonical_json(stated) == canonical_json(recorded)
