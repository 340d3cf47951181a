"""What sets one configuration apart from another, and what both are called.

A configuration is all that runs of one recipe share, which differ in name, seed and hashes alone;
a model of which no training seed is known is its weights. Reads model metadata of records and knows
no measurements.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from robustbench_coss.files import canonical_json, sha256_of
from robustbench_coss.records.training import training_of

SHOWN_HASH = 8
"""Characters of a SHA-256 that tell models of one name apart, as they do the folders of records."""

_METHODS = {"byol": "BYOL", "dino": "DINO", "mocov3": "MoCo v3", "simclr": "SimCLR"}
_METHODS |= {f"co-{key}": f"CO-{name}" for key, name in _METHODS.items()}


@dataclass(frozen=True)
class Configuration:
    """A configuration: what it is, and how it is told apart from others.

    Attributes:
        key: canonical JSON of all that its seeds share.
        name: the method as it is written, or a run's or control's name where the method or the
            architecture is not known.
        arch: architecture; "" where it is not known or set aside.
        width: of the architecture, 1 if it has the usual one.
        control: "pixels" or "untrained"; "" for a model that has learnt.
        differs: what sets it apart from others of the same name, architecture and width; "" if
            there are none.
    """

    key: str
    name: str
    arch: str = ""
    width: float = 1.0
    control: str = ""
    differs: str = ""

    @property
    def setting(self) -> str:
        """What follows the name: "rf29_resnet18 ×0.25 (grid=1)"; "" if nothing is known."""
        width = f"×{self.width:g}" if self.width != 1 else ""
        return " ".join(filter(None, [self.arch, width, self.differs and f"({self.differs})"]))

    @property
    def label(self) -> str:
        """All of it, unique among the configurations that it was found with."""
        between = " · " if self.name and self.arch else " "
        return between.join(filter(None, [self.name, self.setting]))


Identities = Mapping[str, tuple[str, str]]
"""Of models that are their weights, by SHA-256: a name, and what tells it from others of the same
label ("" if there are none)."""


def identities(models: Iterable[dict[str, Any]]) -> Identities:
    """What to call models that are their weights, wherever they are shown.

    Those of one label are told apart by as much of the ends of their paths as it takes, or else by
    the beginning of their SHA-256.
    """
    by_weights = {m["checkpoint_sha256"]: m for m in models if is_its_weights(m)}
    alike: dict[str, list[str]] = defaultdict(list)
    for sha256, model in by_weights.items():
        alike[_configuration("", model, {}).label].append(sha256)
    found = {}
    for group in alike.values():
        marks = _marks([by_weights[sha256] for sha256 in group]) if len(group) > 1 else [""]
        for sha256, mark in zip(group, marks, strict=True):
            found[sha256] = (str(by_weights[sha256]["name"]), mark)
    return found


def _marks(models: Sequence[dict[str, Any]]) -> list[str]:
    paths = [PurePosixPath(model.get("file") or model["name"]).parts for model in models]
    for length in range(1, max(map(len, paths)) + 1):
        ends = ["/".join(path[-length:]) for path in paths]
        if len(set(ends)) == len(ends):
            return ends
    return [model["checkpoint_sha256"][:SHOWN_HASH] for model in models]


def configurations_of(
    models: Iterable[dict[str, Any]], known: Identities | None = None
) -> dict[str, Configuration]:
    """Configurations by key, with unique labels.

    Args:
        models: model metadata of records.
        known: of these models and of all others that may be shown beside them; None is of these.
    """
    by_key = {configuration_key(model): model for model in models}
    known = identities(by_key.values()) if known is None else known
    found = {key: _configuration(key, model, known) for key, model in by_key.items()}
    clashes = Counter(configuration.label for configuration in found.values())
    for label in (label for label, count in clashes.items() if count > 1):
        keys = sorted(key for key in found if found[key].label == label)
        kept = [without_identity(by_key[key]) for key in keys]
        # How many parameters there are follows from what else is different.
        brief = [m | {"probe": _probe_in_words(m), "parameters": None} for m in kept]
        notes = differences(brief)
        if len(set(notes)) < len(notes):
            notes = differences(kept)
        if len(set(notes)) < len(notes):  # what reads alike: {} and nothing, 1 and "1"
            notes = [sha256_of(key)[:SHOWN_HASH] for key in keys]
        for key, note in zip(keys, notes, strict=True):
            told = ", ".join(filter(None, [found[key].differs, note]))
            found[key] = replace(found[key], differs=told)
    return found


def short_labels(configurations: Iterable[Configuration]) -> tuple[dict[str, str], str]:
    """Label -> what is left of it without what all models share beside their names, and what they
    share ("" if nothing). Controls keep theirs."""
    shown = {c.label: c for c in configurations}
    models = [c for c in shown.values() if not c.control]
    settings = {c.setting for c in models}
    if len(models) < 2 or len(settings) > 1 or "" in settings or not all(c.name for c in models):
        return {label: label for label in shown}, ""
    return {label: label if c.control else c.name for label, c in shown.items()}, settings.pop()


def method_name(method: str) -> str:
    """A method as it is written in text ("co-byol" -> "CO-BYOL")."""
    return _METHODS.get(method, method)


def control_name(model: dict[str, Any]) -> str:
    """A control as `coss-bench eval` is asked for it, without the seed."""
    if model["control"] != "untrained":
        return f"control:{model['control']}"
    width = float(model.get("width") or 1)
    name = f"control:untrained:{model['arch']}" + (f":{width:g}" if width != 1 else "")
    return name + (":no-mlp" if model.get("mlp") is False else "")


def _configuration(key: str, model: dict[str, Any], known: Identities) -> Configuration:
    control = str(model.get("control") or "")
    if control:
        return Configuration(key, control_name(model), control=control)
    own = (str(model["name"]), "")
    name, mark = known.get(model["checkpoint_sha256"], own) if is_its_weights(model) else own
    if not model.get("method") or model.get("arch") is None:
        return Configuration(key, name, differs=mark)
    method, width = method_name(str(model["method"])), float(model.get("width", 1.0))
    return Configuration(key, method, str(model["arch"]), width, differs=mark)


MISSING = object()


def settings_of(model: dict[str, Any]) -> dict[str, Any]:
    """Metadata with all that sets a training apart in one mapping."""
    return model | {"training": training_of(model)}


def lookup(model: dict[str, Any], key: str) -> Any:
    """The value at a dotted key, or MISSING: None is a value that a setting may have."""
    value: Any = model
    for part in key.split("."):
        value = value.get(part, MISSING) if isinstance(value, dict) else MISSING
    return value


def setting_aside(model: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Metadata without some settings and what follows from them."""
    kept = dict(model)
    for key in settings:
        first, _, rest = key.partition(".")
        kept[first] = setting_aside(kept[first], [rest]) if rest else ""
        if key == "arch":
            kept.pop("parameters", None)
    return kept


# What was set about a probe; the rest of its summary was found, and differs between seeds.
_PROBE_SETTINGS = ("dataset", "settings", "n_train")


def without_identity(model: dict[str, Any]) -> dict[str, Any]:
    """Metadata that seeds of one configuration share: no name, seeds, hashes or findings."""
    kept = {k: value for k, value in settings_of(model).items() if k not in ("name", "file")}
    if isinstance(probe := kept.get("probe"), dict):
        kept["probe"] = {key: probe[key] for key in _PROBE_SETTINGS if key in probe}
    stripped: dict[str, Any] = _strip(kept)
    return stripped


def _probe_in_words(model: dict[str, Any]) -> str:
    """Its kind and, of a subset, the number of training images; what most often tells it apart."""
    probe = model.get("probe") or {}
    settings = probe.get("settings", {})
    kind = str(settings.get("kind", settings.get("protocol", "linear")))
    most = settings.get("max_train")
    return "own head" if not probe else f"{kind} on {most:,}" if most else kind


def _strip(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: _strip(v) for k, v in value.items() if k != "seed" and not k.endswith("sha256")}


def seed_of_model(model: dict[str, Any]) -> Any:
    """What was drawn with it: the training, or an untrained network's weights."""
    return training_of(model).get("seed")


def is_its_weights(model: dict[str, Any]) -> bool:
    """Whether only its weights say which model this is: no seed of a training, no control."""
    return "control" not in model and seed_of_model(model) is None


def configuration_key(model: dict[str, Any]) -> str:
    """What seeds of one configuration have in common."""
    key = without_identity(model)
    if is_its_weights(model):
        key |= {"weights": model.get("checkpoint_sha256")}
    return canonical_json(key)


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested dicts as {"a.b": text}."""
    if not isinstance(value, dict):
        return {prefix: value if isinstance(value, str) else canonical_json(value)}
    flat: dict[str, str] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else key)
    return flat


def differences(variants: list[dict[str, Any]]) -> list[str]:
    """For each variant what sets it apart from the others, as "epochs=10, width=0.5"."""
    rows = [(key.rpartition(".")[2], values) for key, values in varied(variants).items()]
    return [", ".join(f"{key}={of[i]}" for key, of in rows) for i in range(len(variants))]


def varied(variants: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Settings that differ -> their value in each variant, "none" where it has none."""
    flat = [_flat(variant) for variant in variants]
    keys = sorted({key for f in flat for key in f if len({g.get(key) for g in flat}) > 1})
    return {key: [f.get(key, "none") for f in flat] for key in keys}
