"""Records of older schemas in the form of today's: the one place that knows what changed.

1 had no `extra` and no `cells[].problem`. 2 had no `about`, no `options`, no `cells[].stage` and
`.kind`, and held the training recipe in parts (`training.with_recipe`). 3 had no `precision`,
which was 32 bit, no `tf32`, which was left to PyTorch, and no `compiled`, which nothing was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustbench_coss.records.training import with_recipe

# Options of the suites of that time by the keys of `suite_config` that state them.
_OPTIONS = {
    "occlusion": {"stages": "stages", "ratios": "ratios", "sigmas": "sigmas"},
    "adversarial": {
        "attacks": "attacks",
        "linf_eps_255": "eps",
        "l2_eps_at_32_px": "eps_l2",
        "steps": "steps",
        "restarts": "restarts",
    },
    "crop": {"areas": "areas"},
    "corruption": {"backend": "backend", "constants": "constants"},
}


def migrate(content: Mapping[str, Any], schema: int) -> dict[str, Any]:
    """Content of a record file in the form of a schema.

    Args:
        content: of that schema or of an older one.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it has not the form of its own schema.
    """
    new = dict(content)
    if new["schema"] < 2:
        new = {"extra": {}, **new}
        new["cells"] = [{"problem": "", **cell} for cell in new["cells"]]
    if new["schema"] < 3:
        new |= {"about": {}, "options": _options(new["suite"], new["suite_config"])}
        new["cells"] = [cell | _of_name(new["suite"], cell) for cell in new["cells"]]
        new["model"] = with_recipe(new["model"], new["dataset"]["size"])
    if new["schema"] < 4:
        new = {"precision": "32", "tf32": None, "compiled": False, **new}
    return new | {"schema": schema}


def _of_name(suite: str, cell: Mapping[str, Any]) -> dict[str, str]:
    """Stage and kind of a condition as its name and group say them."""
    group: str = cell["group"]
    name, at, last = cell["condition"].rpartition("@")
    if suite == "rf" and group:
        return {"stage": last, "kind": name}
    if suite == "occlusion":
        stage, _, kind = group.rpartition(" ")
        return {"stage": stage, "kind": kind}
    return {"stage": "", "kind": name if at and group else group}


def _options(suite: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Options that give a suite the settings of a record."""
    if config.get("backend") == "ready-made":
        return {"root": "FOLDER"}
    known = _OPTIONS.get(suite, {})
    return {known[key]: value for key, value in config.items() if key in known and value}
