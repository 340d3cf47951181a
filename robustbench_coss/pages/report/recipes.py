"""Recipes of several models: what they share once, and what sets each apart."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import yaml

from robustbench_coss.analysis.labels import varied
from robustbench_coss.reading import parse_yaml
from robustbench_coss.tables.cells import MISSING, Block, TableCell, block

ACROSS = 7  # models beside each other
UNSET = ("none", "null")


def recipes_apart(recipes: Mapping[str, str]) -> tuple[str, list[Block]]:
    """What the recipes of models have in common, as YAML, and a table of the settings that differ:
    a column per model, `ACROSS` at a time.

    Args:
        recipes: model -> its recipe as YAML; models with none are left out.

    Returns:
        ("", []) if none has one.
    """
    found = {model: parse_yaml(text) for model, text in recipes.items() if text}
    if not found:
        return "", []
    shared = reduce(_common, found.values())
    text = yaml.safe_dump(shared, sort_keys=False, allow_unicode=True)
    rows = {
        key: [MISSING if value in UNSET else value for value in of]
        for key, of in varied(list(found.values())).items()
        if not set(of) <= set(UNSET)
    }
    names = [TableCell(key.rpartition(".")[2]) for key in rows]
    columns = [(name, [TableCell(of[i]) for of in rows.values()]) for i, name in enumerate(found)]
    starts = range(0, len(columns) if rows else 0, ACROSS)
    return text, [block([("Setting", names), *columns[at : at + ACROSS]]) for at in starts]


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
