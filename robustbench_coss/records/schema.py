"""The JSON Schema of a record: what each field of the file means, in which unit, and its form.

Written here once; `python -m robustbench_coss.records.schema` prints `docs/record-schema.json`.
A schema sees one field at a time: what fields say of each other is `configurations.check_record`'s.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from robustbench_coss.errors import CossError
from robustbench_coss.records.record import MIGRATED, SCHEMA

LONGEST_VALUE = 60  # characters of a wrong value that an error shows


def _object(description: str, fields: dict[str, Any], optional: tuple[str, ...] = ()) -> Any:
    """An object with these fields and no others."""
    return {
        "description": description,
        "type": "object",
        "properties": fields,
        "required": [name for name in fields if name not in optional],
        "additionalProperties": False,
    }


def _list(description: str, items: Any, **limits: Any) -> Any:
    return {"description": description, "type": "array", "items": items, **limits}


def _text(description: str, **limits: Any) -> Any:
    return {"description": description, "type": "string", **limits}


def _name(description: str) -> Any:
    return _text(description, minLength=1)


def _digest(description: str) -> Any:
    return _text(description, pattern="^[0-9a-f]{64}$")


def _count(description: str, least: int = 0) -> Any:
    return {"description": description, "type": "integer", "minimum": least}


def _yes_no(description: str) -> Any:
    return {"description": description, "type": "boolean"}


def _or_null(schema: Any) -> Any:
    return schema | {"type": [schema["type"], "null"]}


COLUMN = _object(
    "An array of one value per sample: base64 of zlib-compressed little-endian values; booleans "
    "as packed bits, the first sample in the highest bit.",
    {
        "dtype": {
            "description": "Type of a value, as numpy names it.",
            "enum": [
                *("bool", "int8", "int16", "int32", "int64"),
                *("float16", "float32", "float64"),
            ],
        },
        "n": _count("Number of values."),
        "data": _text(
            "The compressed values in base64.",
            contentEncoding="base64",
            pattern="^[A-Za-z0-9+/]+={0,2}$",
        ),
    },
)

_COLUMN = {"$ref": "#/$defs/column"}

CELL = _object(
    "Outcomes of all samples under one condition.",
    {
        "condition": _name("Name of the condition, unique in the record (gaussian_noise@3)."),
        "group": _text(
            "Panel of the figure it belongs to (noise); empty for the reference, the undisturbed "
            "image."
        ),
        "level": {
            "description": "Position on the suite's axis, in the unit that `axis.label` names: "
            "severity 1 to 5, masked share, epsilon in 1/255 (L2: norm of pixels in [0, 1]), crop "
            "area as a share.",
            "type": "number",
        },
        "outcomes": {
            "description": "Columns of outcomes by name, in the order of `index`: `correct` is "
            "whether the top-1 class is the label.",
            "type": "object",
            "minProperties": 1,
            "additionalProperties": _COLUMN,
        },
        "wall_time_s": {
            "description": "How long the measurement took, in seconds; 0 for derived cells.",
            "type": "number",
            "minimum": 0,
        },
        "problem": _text(
            "What makes the outcomes doubtful (outputs that are NaN or infinite); empty if nothing."
        ),
        "stage": _text("Stage of the encoder that it is about, where that is not the last."),
        "kind": _text("What is done, at several levels (gaussian_noise); else the group."),
    },
    optional=("problem", "stage", "kind"),
)

METRIC = _object(
    "A number that the suite reports: the mean of a column over conditions and samples.",
    {
        "name": _name("Key, unique in the suite (corruption_top1)."),
        "label": _name("Heading for tables and axes (Corruption top-1)."),
        "column": _name("The column of outcomes that is averaged."),
        "conditions": _list(
            "Names of the conditions averaged over; each weighs the same.",
            _name("Name of a condition."),
            minItems=1,
        ),
        "better": {
            "description": "Which values are better; empty where neither are.",
            "enum": ["higher", "lower", ""],
        },
        "percent": _yes_no("Whether the value is a share in [0, 1], shown in %."),
        "headline": _yes_no("Whether the leaderboard shows it by default."),
    },
)

AXIS = _object(
    "How conditions are drawn: `level` along x, a column along y.",
    {
        "label": _name("What x is, with its unit."),
        "column": _name("Column of outcomes along y."),
        "column_label": _name("What y is, with its unit."),
        "percent": _yes_no("Whether y is a share in [0, 1], shown in %."),
    },
)

CHECK = _object(
    "A sanity check of the measurement; a failed one marks the numbers in every table.",
    {
        "name": _name("What should hold."),
        "passed": _yes_no("Whether it does."),
        "detail": _text("The numbers behind it."),
    },
)

MODEL = _object(
    "The model that was measured.",
    {
        "name": _name("The run folder's name, or the file's."),
        "checkpoint_sha256": _digest(
            "SHA-256 of the checkpoint file; for a model that is no file, of class and tensors."
        ),
        "method": _or_null(_text("Pretraining method (co-byol); null if not known.")),
        "arch": _or_null(_text("Architecture (rf29_resnet18).")),
        "width": {
            "description": "Factor on the architecture's channel counts.",
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
        },
        "parameters": _count("Number of parameters of the encoder."),
        "encoder": _or_null(_text("Which of two networks it is: online or teacher.")),
        "dataset": _or_null(_text("Data set it was pretrained on; null if not known.")),
        "training": {
            "description": "The pretraining: `recipe`, whole (docs/pretraining.md has its keys), "
            "images and steps. Empty for a model of another tool; before schema 3 the parts of the "
            "recipe stood here one by one.",
            "type": "object",
        },
        "probe": {
            "description": "The classifier: {own_head: true} for the model's own; else a linear "
            "probe, with `key` (its file is probes/KEY.safetensors), data set, settings, n_train "
            "(images) and train_top1 and validation_top1 (shares in [0, 1]), the latter before the "
            "validation images were fitted to, where they were.",
            "type": "object",
            "properties": {
                "own_head": {"description": "The model's own classifier.", "const": True},
                "key": _digest("Digest of all that determines the probe."),
                "checkpoint_sha256": _digest("SHA-256 of the encoder it was trained on."),
                "dataset": _name("Data set of the training images."),
                "settings": {
                    "description": "How it was trained: kind and its constants.",
                    "type": "object",
                },
                "n_train": _count("Training images.", 1),
                "train_top1": {
                    "description": "Share of the training images it has right.",
                    "type": "number",
                    "minimum": 0,
                    "maximum": 1,
                },
                "validation_top1": {
                    "description": "Share of the validation images; null if there are none.",
                    "type": ["number", "null"],
                    "minimum": 0,
                    "maximum": 1,
                },
                "l2": {
                    "description": "Regularisation λ chosen on the validation images (logistic).",
                    "type": "number",
                    "exclusiveMinimum": 0,
                },
                "loss": {
                    "description": "Training loss in nats, with the penalty.",
                    "type": "number",
                },
                "gap": {
                    "description": "How far the training loss is above the optimum, in nats.",
                    "type": "number",
                },
                "iterations": _count("Newton steps over all λ (logistic)."),
                "optimum_top1": {
                    "description": "What validation_top1 is at the optimum (sgd, simclr).",
                    "type": "number",
                    "minimum": 0,
                    "maximum": 1,
                },
            },
            "oneOf": [{"required": ["own_head"]}, {"required": ["key", "dataset", "settings"]}],
        },
        "mlp": _yes_no(
            "Whether an MLP follows the pooling, where it was added or left out against the "
            "architecture's habit."
        ),
        "control": {
            "description": "Which control it is: its pixels as features, or freshly initialised.",
            "enum": ["pixels", "untrained"],
        },
    },
    optional=("mlp", "control"),
)

DATASET = _object(
    "The images that were measured.",
    {
        "name": _name("Registered name of the data set."),
        "role": {"description": "Part of it.", "enum": ["train", "validation", "test"]},
        "fingerprint": _digest("Digest of all its images and labels, in order."),
        "size": _count("Side of the images in px.", 1),
        "classes": _count("Number of classes.", 1),
        "n": _count("Number of images measured.", 1),
        "limit": _or_null(_count("The limit asked for (eval --limit); null for all images.", 1)),
    },
)

RECORD = _object(
    "One measurement of one model on one data set by one suite of robustbench-coss: the outcome "
    "of every sample under every condition, and all that is needed to trust and repeat it.",
    {
        "schema": {
            "description": "Version of this form. 1 had neither `extra` nor `cells[].problem`, 2 "
            "neither `about`, `options` nor `cells[].stage` and `.kind`.",
            "enum": [*MIGRATED, SCHEMA],
        },
        "suite": _name("Name of the suite."),
        "suite_version": _count("Version of the suite; raised whenever outcomes change.", 1),
        "suite_config": {
            "description": "Settings of the suite that determine the outcomes.",
            "type": "object",
        },
        "model": MODEL,
        "dataset": DATASET,
        "seed": {
            "description": "Seed of the evaluation's draws; the training seed is in "
            "`model.training.recipe.seed`.",
            "type": "integer",
        },
        "versions": {
            "description": "Versions of Python and of the packages that outcomes depend on.",
            "type": "object",
            "additionalProperties": {"type": "string"},
        },
        "device": _text("What was computed on, in words; several separated by semicolons."),
        "index": {"description": "Data set index of each sample, int32.", **_COLUMN},
        "label": {"description": "True label of each sample, int32, from 0.", **_COLUMN},
        "key": _digest("Digest of everything that determines the outcomes."),
        "metrics": _list("How the suite wants to be summarised.", METRIC),
        "axis": AXIS,
        "cells": _list("Outcomes, in the order measured; derived ones last.", CELL),
        "checks": _list("Sanity checks.", CHECK),
        "extra": {
            "description": "Facts about the model that are no outcome of single images.",
            "type": "object",
        },
        "about": {
            "description": "The suite's own wording at the time: title, captions, labels.",
            "type": "object",
        },
        "options": {
            "description": "The options that the user gave the suite, by name.",
            "type": "object",
        },
        "created": _text("UTC time of completion, ISO 8601; empty while it is not complete."),
        "complete": _yes_no("False while conditions are missing."),
    },
    optional=("extra", "about", "options"),
)

RECORD_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "robustbench-coss record",
    **RECORD,
    "if": {"properties": {"schema": {"const": 1}}},
    "else": {
        "required": ["extra"],
        "properties": {"cells": {"items": {"required": ["problem"]}}},
        "if": {"properties": {"schema": {"const": 2}}},
        "else": {
            "required": ["about", "options"],
            "properties": {"cells": {"items": {"required": ["stage", "kind"]}}},
        },
    },
    "$defs": {"column": COLUMN},
}


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(RECORD_SCHEMA)


def check_schema(name: str, content: Any) -> None:
    """Hold the content of a record file to the schema.

    Args:
        name: of the file, for the message.

    Raises:
        CossError: it does not have the form; the first field that differs is named.
    """
    errors = sorted(_validator().iter_errors(content), key=lambda e: [str(p) for p in e.path])
    if errors:
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in errors[0].path)
        reason = errors[0].message
        if len(reason) > 3 * LONGEST_VALUE:
            reason = f"{str(errors[0].instance)[:LONGEST_VALUE]}… breaks {errors[0].validator!r}"
        raise CossError(f"{name} is no record: {where.lstrip('.') or 'the file'}: {reason}")


def schema_text() -> str:
    """The schema as `docs/record-schema.json` holds it."""
    return json.dumps(RECORD_SCHEMA, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
