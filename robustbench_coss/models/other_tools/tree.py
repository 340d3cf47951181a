"""Where networks lie in the content of a file: the dictionaries in it and the prefixes of names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
Root = tuple[str, ...]

WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""Parts of names that DistributedDataParallel, torch.compile, FSDP and activation checkpointing
put in."""

NO_NETWORK = ("optimizer", "optimizer_states", "opt_state", "lr_schedulers", "scaler", "amp")

DEEPEST = 6
"""Dictionaries within each other that are looked into."""

ENTRIES = (
    # The name of a first convolution, and the beginning of a name beside it.
    ("conv1.weight", r"layer1\.0\."),
    ("conv1.0.weight", r"layer1\.0\."),
    ("conv1.weight", r"block1\.layer\.0\."),
    ("conv1.weight", r"transformer\.resblocks\.0\."),
    ("0.weight", r"\d+\.0\.conv1\.weight"),
    ("patch_embed.proj.weight", r"(blocks|layers)\.0\."),
    ("patch_embed.projection.weight", r"layers\.0\."),
    ("conv_proj.weight", r"encoder\.layers\.encoder_layer_0\."),
    ("stem.0.weight", r"stages\.0\."),
    ("downsample_layers.0.0.weight", r"stages\.0\."),
    ("features.0.0.weight", r"features\.1\."),
    ("embeddings.patch_embeddings.projection.weight", r"(encoder\.)?layers?\.0\."),
    ("embeddings.patch_embedding.weight", r"encoder\.layers\.0\."),
)
"""What tells a network from other tensors: its first convolution and what follows."""


@dataclass(frozen=True)
class Place:
    """Where a network lies: the keys that lead to its dictionary, and what its names begin with."""

    root: tuple[str, ...]
    prefix: str

    def __str__(self) -> str:
        return f"{'/'.join(self.root)}:{self.prefix}"


class Tree:
    """The content of a file.

    Attributes:
        content: dictionaries, tensors and plain values.
        export: what an export of this tool says of itself.
    """

    def __init__(self, content: dict[str, Any], export: Mapping[str, Any]) -> None:
        self.content, self.export = content, export
        self.states: dict[Root, State] = dict(_states(content, ()))

    def at(self, *root: str) -> State:
        """The tensors of a dictionary, with names as without wrappers; {} if there are none."""
        return self.states.get(root, {})

    def inside(self, place: Place) -> State:
        """The tensors of a network, by its own names."""
        start = len(place.prefix)
        return {k[start:]: v for k, v in self.at(*place.root).items() if k.startswith(place.prefix)}

    def has(self, root: tuple[str, ...], *beginnings: str) -> bool:
        """Whether there are names with each of these beginnings."""
        state = self.at(*root)
        return all(any(key.startswith(start) for key in state) for start in beginnings)

    def __contains__(self, key: str) -> bool:
        return key in self.content

    @cached_property
    def networks(self) -> tuple[Place, ...]:
        """Networks of known kinds, in the order in which they are met."""
        found: dict[Place, None] = {}
        for root, state in self.states.items():
            for first, beside in ENTRIES:
                for key in state:
                    prefix = key.removesuffix(first)
                    if prefix == key or (prefix and not prefix.endswith(".")):
                        continue
                    start = re.compile(re.escape(prefix) + beside)
                    if state[key].dim() == 4 and any(start.match(other) for other in state):
                        found[Place(root, prefix)] = None
        return tuple(found)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the file says of the run that wrote it, its sections laid flat."""
        found: dict[str, Any] = {}
        for key in ("hyper_parameters", "args", "opt", "config", "cfg", "hparams"):
            value = self.content.get(key)
            if isinstance(value, dict):
                for name, inner in value.items():
                    if isinstance(inner, dict) and name != "optimizer":
                        found |= {f"{name}.{k}": v for k, v in inner.items()}
                    found[str(name)] = inner
        return found

    def said(self, *names: str) -> str:
        """The first of some settings that is a word, also at the top of the file; else ""."""
        for name in names:
            for value in (self.settings.get(name), self.content.get(name), self.export.get(name)):
                if isinstance(value, str) and value:
                    return value
        return ""


def unwrapped(name: str) -> str:
    """A name, or the beginning of one, without what wrappers put in."""
    return WRAPPERS.sub("", name)


def _states(
    content: Mapping[Any, Any], root: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], State]]:
    state = {
        unwrapped(key): value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if state:
        yield root, state
    if len(root) < DEEPEST:
        for key, value in content.items():
            if isinstance(value, dict) and isinstance(key, str) and key not in NO_NETWORK:
                yield from _states(value, (*root, key))


def zero_class_position(state: State) -> bool:
    """Whether a ViT's class token has a position embedding of exactly zero.

    So MoCo v3 and MAE leave it, beside fixed sines and cosines; a trained one never is.
    """
    embedding = state.get("pos_embed")
    if embedding is None or "cls_token" not in state:
        return False
    if embedding.dim() != 3 or embedding.shape[1] == 0:
        return False
    if embedding.is_meta or embedding.is_quantized or embedding.layout != torch.strided:
        return False  # as no tool saves it
    return not bool(embedding[:, 0].any())
