"""Recipes of several models: what they share once, and what sets each apart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import yaml

from robustbench_coss.analysis.labels import differences
from robustbench_coss.pages.dossier.models import ModelPart
from robustbench_coss.reading import parse_yaml


def recipes_apart(models: Sequence[ModelPart]) -> tuple[str, list[tuple[str, str]]]:
    """What the recipes of models have in common, as YAML, and of each its other settings.

    Models that this tool did not train have no recipe and are left out; ("", []) if none has one.
    """
    found = {model.label: parse_yaml(model.recipe) for model in models if model.recipe}
    if not found:
        return "", []
    shared = reduce(_common, found.values())
    text = yaml.safe_dump(shared, sort_keys=False, allow_unicode=True)
    apart = differences(list(found.values()))
    return text, list(zip(found, apart, strict=True)) if len(found) > 1 else []


def _common(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The settings that two recipes both have, with the same values."""
    kept: dict[str, Any] = {}
    for key, value in one.items():
        if isinstance(value, dict) and isinstance(other.get(key), dict):
            if nested := _common(value, other[key]):
                kept[key] = nested
        elif key in other and other[key] == value:
            kept[key] = value
    return kept
