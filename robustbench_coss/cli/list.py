"""`coss-bench list`: what can be asked for by name, with a line on each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import typer

from robustbench_coss.errors import CossError
from robustbench_coss.machine.terminal import show
from robustbench_coss.registry import OWN, description, names, origin


class Kind(StrEnum):
    """What has names."""

    methods = "methods"
    encoders = "encoders"
    datasets = "datasets"
    suites = "suites"
    attacks = "attacks"
    recipes = "recipes"
    sweeps = "sweeps"


Entry = tuple[str, str, str]
"""A name, what it stands for, and the package it comes from."""


def list_(
    kinds: Annotated[
        list[Kind] | None, typer.Argument(help="What to list; all but recipes if left out.")
    ] = None,
) -> None:
    """List what can be used by name, with a line on each.

    Third-party packages add methods, encoders, data sets and suites through entry points; the
    package that a name comes from is then shown beside it.

    Examples:

      coss-bench list

      coss-bench list methods suites
    """
    from robustbench_coss.tables.cells import Section, TableCell, block
    from robustbench_coss.tables.terminal import to_rich

    sections = []
    for kind in kinds or [kind for kind in Kind if kind is not Kind.recipes]:
        entries = sorted(_entries(kind), key=lambda entry: _natural(entry[0]))
        headings = ["Name", "Description"]
        if any(package != OWN for *_, package in entries):
            headings.append("Package")
        columns = [
            (heading, [TableCell(entry[k]) for entry in entries])
            for k, heading in enumerate(headings)
        ]
        title = kind.value.replace("datasets", "data sets").capitalize()
        sections.append(Section(title, "", (block(columns),), ()))
    show(to_rich(sections))


def _natural(name: str) -> list[str]:
    """A key that puts rf9 before rf13."""
    parts = re.split(r"(\d+)", name)
    return [part.zfill(9) if part.isdigit() else part for part in parts]


def _entries(kind: Kind) -> Iterable[Entry]:
    if kind in (Kind.attacks, Kind.recipes, Kind.sweeps):
        return _of_this_package(kind)
    registered = kind.value.removesuffix("s")
    return [
        (name, _described(registered, name), origin(registered, name)) for name in names(registered)
    ]


def _described(kind: str, name: str) -> str:
    try:
        return _first_sentence(description(kind, name))
    except CossError as error:
        return str(error)


def _of_this_package(kind: Kind) -> list[Entry]:
    from robustbench_coss.evaluations.attacks.names import ATTACKS, DOES
    from robustbench_coss.pretrain.shipped import (
        recipe_about,
        shipped_recipes,
        shipped_sweeps,
        sweep_about,
    )

    if kind is Kind.attacks:
        norms = {"linf": "ℓ∞", "l2": "ℓ2"}
        return [
            (name, f"{norms[a.norm]}. {DOES[name.removesuffix(f'-{a.norm}')]}", OWN)
            for name, a in ATTACKS.items()
        ]
    if kind is Kind.recipes:
        return [(name, _first_sentence(recipe_about(name)), OWN) for name in shipped_recipes()]
    return [(name, _first_sentence(sweep_about(name)), OWN) for name in shipped_sweeps()]


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=[a-z0-9)`][.?])\s", paragraph)[0]
