"""Which tool wrote a file, and where in it the network is that shall be measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from robustbench_coss.errors import CossError, few
from robustbench_coss.models.other_tools.asked import Asked
from robustbench_coss.models.other_tools.format import Format, Source
from robustbench_coss.models.other_tools.formats import AVERAGES, TABLE, place_of
from robustbench_coss.models.other_tools.named import ends_of
from robustbench_coss.models.other_tools.opening import told_by_names
from robustbench_coss.models.other_tools.tree import Place, State, Tree, unwrapped

SHOWN = 5
"""Keys that an error message names."""

PLAIN = TABLE[-1]


@dataclass(frozen=True)
class Found:
    """A network in a file.

    Attributes:
        form: the format of the file.
        place: where it lies.
        state: its tensors by its own names, without what the format says to leave out.
        encoder: its role: "online", "teacher", "average" or "".
        head: names of its classifier, as in `Source`.
        probe: whether a linear probe lies beside it as other tools save one (`read_head`).
        after: what open_clip puts behind a tower of timm, by its own names.
    """

    form: Format
    place: Place
    state: State
    encoder: str
    head: str
    probe: bool = False
    after: State = field(default_factory=dict)


def find(path: Path, asked: Asked, tree: Tree) -> Found:
    """The network of a file that shall be read.

    Raises:
        CossError: the file is of no known format, not of the one that is asked for, holds several
            networks of equal right, or none where `--weights` says.
    """
    if asked.weights is not None and ":" in asked.weights:
        return _placed(path, asked, tree, asked.weights)
    for form in _formats(asked, tree):
        for source in form.sources:
            place = place_of(source, tree)
            if place is not None and _wanted(asked, source.encoder):
                return _found(form, source, place, tree)
    if asked.format in ("auto", PLAIN.name):
        return _anywhere(path, asked, tree)
    if asked.arch is not None:
        form = next(form for form in TABLE if form.name == asked.format)
        for source in form.sources:
            place = place_of(source, tree, known=False)
            if place is not None and _wanted(asked, source.encoder):
                return _found(form, source, place, tree)
    if asked.weights is not None:
        raise _no_such_weights(path, asked, tree)
    raise CossError(
        f"{path} is not laid out as {asked.format} saves its checkpoints; it has "
        f"{some(dict.fromkeys(leaves(tree.content)))}; leave out --format {asked.format}, or say "
        "where the network lies with --weights KEY:PREFIX"
    )


def _formats(asked: Asked, tree: Tree) -> Iterator[Format]:
    """What a file may be of: the format asked for, else those that recognise it, in turn."""
    for form in TABLE:
        if asked.format == form.name or (asked.format == "auto" and form.recognise(tree)):
            yield form


def _wanted(asked: Asked, encoder: str) -> bool:
    if asked.weights == "ema":
        return encoder in ("teacher", "average")
    return asked.weights != "raw" or encoder in ("", "online")


def _found(form: Format, source: Source, place: Place, tree: Tree) -> Found:
    drop, inside = form.drop, tree.inside(place)
    if form.name == "mocov3" and source.prefix:
        drop = ("fc.", "head.")  # projectors; in linear probes, classifiers
    state = {key: value for key, value in inside.items() if not key.startswith(drop)}
    head = source.head
    probe = form.name == "mae" and "head.1.weight" in state
    if probe:  # a linear layer behind a batch norm, joined as if it lay in a file of its own
        state, head = {k: v for k, v in state.items() if not k.startswith("head.")}, ""
    classifier = (place.prefix or "-", "classifier.weight", "classifier.bias")
    if head and all(key.startswith(classifier) for key in tree.at(*place.root)):
        head += "|/classifier"  # of a network trained with it: there is nothing else
    if place.prefix.endswith("vit."):  # lightly's, whose ViT keeps a classifier that nobody uses
        state = {k: v for k, v in state.items() if not k.startswith(("head.", "heads."))}
    after: State = {}
    if form.name == "clip" and place.prefix.endswith("trunk."):
        after = tree.inside(Place(place.root, f"{place.prefix.removesuffix('trunk.')}head."))
    return Found(form, place, state, source.encoder, head, probe, after)


def _placed(path: Path, asked: Asked, tree: Tree, weights: str) -> Found:
    key, _, prefix = weights.partition(":")
    place = Place(tuple(key.split("/")) if key else (), unwrapped(prefix))
    if (inside := tree.inside(place)) and all(name.startswith(".") for name in inside):
        place = Place(place.root, f"{place.prefix}.")
    if not tree.inside(place):
        raise CossError(f"{path} has no tensors at --weights {weights}; it has {_places(tree)}")
    for form in _formats(asked, tree):
        for source in form.sources:
            if place_of(source, tree) == place:
                return _found(form, source, place, tree)
    form = next((form for form in TABLE if form.name == asked.format), PLAIN)
    return _found(form, Source(place.root, place.prefix, "", head="fc|head"), place, tree)


def _anywhere(path: Path, asked: Asked, tree: Tree) -> Found:
    """A network of a known kind wherever it lies, or one with the names of `--arch`."""
    places = list(tree.networks)
    if asked.arch is not None:
        first, last = ends_of(asked.arch)
        by_name = [
            Place(root, key.removesuffix(first))
            for root, state in tree.states.items()
            for key in state
            if key.endswith(first) and key.removesuffix(first) + last in state
        ]
        outer = [p for p in by_name if not p.prefix or p.prefix.endswith(".")]
        places = outer or places
    averages = [place for place in places if _is_average(place, places)]
    if asked.weights in ("ema", "raw"):
        places = averages if asked.weights == "ema" else [p for p in places if p not in averages]
        if not places:
            raise _no_such_weights(path, asked, tree)
    elif len(averages) == 1 and len(places) == 2:
        places = averages
    if len(places) > 1:
        raise CossError(
            f"{path} holds several networks: {few(places, SHOWN)}; choose one with --weights "
            "KEY:PREFIX"
        )
    if not places:
        if told := told_by_names(leaves(tree.content)):
            raise CossError(f"{path}: {told}")
        raise CossError(
            f"{path} is of no known format; it has {some(dict.fromkeys(leaves(tree.content)))}; "
            "pass --arch NAME (torchvision:NAME, timm:NAME) and, if its names have a prefix, "
            "--weights KEY:PREFIX; or measure the module itself from Python: "
            "robustbench_coss.evaluate(module, …)"
        )
    role = "average" if places[0] in averages else ""
    source = Source(places[0].root, places[0].prefix, role, head="fc|head")
    return _found(PLAIN, source, places[0], tree)


def _is_average(place: Place, places: list[Place]) -> bool:
    """Whether a network is the average of another one that lies beside it."""
    if not place.root:
        return False
    above, key = place.root[:-1], place.root[-1]
    return any(
        key == average and Place((*above, raw), place.prefix) in places for average, raw in AVERAGES
    )


def _no_such_weights(path: Path, asked: Asked, tree: Tree) -> CossError:
    what = "average of its weights" if asked.weights == "ema" else "weights beside their average"
    return CossError(
        f"{path} holds no {what} at a place that is known; it has {_places(tree)}; choose with "
        "--weights KEY:PREFIX"
    )


def _places(tree: Tree) -> str:
    networks = [str(place) for place in tree.networks]
    others = [f"{'/'.join(root)}:{next(iter(state))[:60]}" for root, state in tree.states.items()]
    return some(dict.fromkeys(networks or others))


def leaves(content: Mapping[Any, Any]) -> Iterator[str]:
    """Names of the tensors of a file, with the dictionaries they lie in."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield str(key)
        elif isinstance(value, dict) and key not in ("optimizer", "optimizer_states"):
            yield from (f"{key}/{inner}" for inner in leaves(value))


def some(keys: Mapping[str, Any]) -> str:
    """A few of many keys, for a message: text from a file, so only printable and short."""
    shown = ["".join(c for c in key[:60] if c.isprintable()) for key in list(keys)[:SHOWN]]
    return f"{', '.join(shown) or 'no keys'}{', …' if len(keys) > SHOWN else ''}"


def some_of(problems: list[str]) -> str:
    """How many keys do not fit, and the first few of them."""
    count = f"{len(problems)} key{'s' if len(problems) > 1 else ''}"
    return f"{count}: {few(problems, SHOWN)}"
