"""Which models are the method as published, and which of the others count where none is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustbench_coss.analysis.configurations import SeedGroup, without_local_term
from robustbench_coss.records.training import recipe_in, training_of

# The local-global term as the paper has it (arXiv 2501.02860); what departs from it is an ablation.
PUBLISHED = {"w_s": 0.3, "grid": None, "heads": "separate", "target": "other", "layer": None}

_WORDS = {"mlp=False": "without MLP", "mlp=True": "with an MLP"}


def ablation_of(model: Mapping[str, Any]) -> str:
    """In what a model departs from the method as published, as "w_s=0.5, mlp=False"; "" in nothing.

    Counted are the options of the local term, and an MLP after pooling that was left out of an
    architecture with one, or put into one without.
    """
    options = training_of(model).get("options") or {}
    found = [f"{k}={options[k]}" for k, v in PUBLISHED.items() if options.get(k, v) != v]
    mlp = recipe_in(model).get("mlp", model.get("mlp"))
    if mlp is not None and mlp is not str(model.get("arch")).startswith("rf"):
        found.append(f"mlp={mlp}")
    return ", ".join(found)


def as_published(here: Sequence[SeedGroup]) -> tuple[list[SeedGroup], list[str]]:
    """Measurements on a test set without those of ablations, and notes on what was chosen.

    Where no pair of a CO- model and its base method is as published, and all pairs depart from it
    in one way in which both members are alike, that is the setting of the study: models with it
    are kept as well. What is left out is named.
    """
    departs = _departures(here)
    pairs = {(departs.get(co.label, ""), departs.get(base.label, "")) for co, base in _pairs(here)}
    notes = []
    ways = {co for co, _ in pairs}
    if "" not in ways and len(ways) == 1 and all(co == base for co, base in pairs):
        (way,) = ways
        departs = {label: why for label, why in departs.items() if why != way}
        notes.append(f"no pair as published: counted are those {_WORDS.get(way, f'with {way}')}")
    if departs:
        named = ", ".join(f"{label}: {why}" for label, why in sorted(departs.items()))
        notes.append(f"not the method as published, left out (`--ablations` counts it): {named}")
    return [m for m in here if m.label not in departs], notes


def _pairs(here: Sequence[SeedGroup]) -> Iterator[tuple[SeedGroup, SeedGroup]]:
    """CO- models with the measurement of their base method by the same suite and protocol."""
    for co in here:
        if str(co.model.get("method") or "").startswith("co-"):
            alike = [m for m in here if (m.suite, m.protocol) == (co.suite, co.protocol)]
            if base := without_local_term(co, alike):
                yield co, base


def _departures(here: Sequence[SeedGroup]) -> dict[str, str]:
    """Configuration -> in what it departs from the method as published, for those that do."""
    found = {m.label: why for m in here if (why := ablation_of(m.model))}
    # Early records do not say whether the MLP of an architecture with one was left out.
    sizes: dict[tuple[Any, Any], int] = {}
    for m in here:
        build = m.model.get("arch"), m.model.get("width")
        sizes[build] = max(sizes.get(build, 0), int(m.model.get("parameters") or 0))
    for m in here:
        most = sizes[m.model.get("arch"), m.model.get("width")]
        if "mlp" not in {**m.model, **recipe_in(m.model)} and m.model.get("parameters") != most:
            found.setdefault(m.label, "mlp=False")
    return found
