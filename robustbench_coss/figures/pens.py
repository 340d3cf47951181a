"""Which colour, marker and dash each model gets, the same in every figure of a test set.

A base method and its CO- form are one family: they share a colour and a marker, the base hollow and
dashed, its CO- form filled and solid. The methods that come with this package have the same colour
in every figure; other models take what is left.
"""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_coss.analysis.labels import Configuration, short_labels
from robustbench_coss.figures.looks import LineStyle

# Okabe and Ito (2008), "Color universal design": told apart with every common colour blindness.
# Their yellow is too faint for lines on white; grey takes its place. Markers differ too.
FAMILIES = {
    "BYOL": ("#0072B2", "o"),
    "SimCLR": ("#D55E00", "s"),
    "MoCo v3": ("#009E73", "D"),
    "DINO": ("#CC79A7", "v"),
    "supervised": ("#000000", "^"),
}
OTHERS = (("#56B4E9", "P"), ("#E69F00", "X"), ("#7F7F7F", "*"))
MOST_MODELS = len(FAMILIES) + len(OTHERS)
"""How many models a figure holds, of as many families at most."""

GREYS = (("0.35", "x", "-"), ("0.55", "+", "--"), ("0.7", "1", ":"))
"""Of controls, which no model has."""

CO = "CO-"
SOLID, DASHED = "-", (0, (3.5, 1.5))


def pens_of(ranked: Sequence[Configuration]) -> tuple[dict[str, LineStyle], str]:
    """Lines of models and, after them, of controls.

    Args:
        ranked: configurations, best first. Of models the first `MOST_MODELS` are drawn, of controls
            as many as there are greys.

    Returns:
        label -> line, and what all models share beside their names ("" if nothing).
    """
    models = [c for c in ranked if not c.control][:MOST_MODELS]
    controls = [c for c in ranked if c.control][: len(GREYS)]
    labels, common = short_labels(models)
    looks = _family_looks(models)
    pens = {}
    for model in models:
        colour, marker = looks[_family(model)]
        base = _is_base(model, models)
        dash = DASHED if base else SOLID
        pens[model.label] = LineStyle(labels[model.label], colour, marker, dash, not base)
    kinds = [c.control for c in controls]
    for control, (grey, marker, dash) in zip(controls, GREYS, strict=False):
        short = control.control if kinds.count(control.control) == 1 else control.label
        pens[control.label] = LineStyle(short, grey, marker, dash, control=True)
    return pens, common


def _family(model: Configuration) -> tuple[str, str]:
    """What a base method and its CO- form have in common: its name, and the setting."""
    return model.name.removeprefix(CO), model.setting


def _is_base(model: Configuration, models: Sequence[Configuration]) -> bool:
    with_local_term = (CO + model.name, model.setting)
    return any((other.name, other.setting) == with_local_term for other in models)


def _family_looks(models: Sequence[Configuration]) -> dict[tuple[str, str], tuple[str, str]]:
    """Colour and marker of each family; the first of a method's has the method's own."""
    families = list(dict.fromkeys(map(_family, models)))
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for family in families:
        own = FAMILIES.get(family[0])
        if own and own not in found.values():
            found[family] = own
    free = [look for look in (*OTHERS, *FAMILIES.values()) if look not in found.values()]
    left = (family for family in families if family not in found)
    return found | dict(zip(left, free, strict=False))
