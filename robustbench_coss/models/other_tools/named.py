"""Networks by the names that libraries give them, for files whose shapes do not settle theirs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from robustbench_coss.encoders.timm_models import classifier_name, in_timm
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.models.libraries import torchvision_module
from robustbench_coss.models.other_tools.format import IMAGENET, Colours
from robustbench_coss.models.other_tools.tree import State, Tree


@dataclass(frozen=True)
class Named:
    """A network that a library or this tool knows by its name.

    Attributes:
        arch: `torchvision:NAME`, `timm:NAME` or a registered name.
        is_vit: whether it is timm's plain ViT, whose heads and pooling can be set.
        heads: of attention, of such a one.
        colours: what its own configuration normalises with.
        classifier: name of its last linear layer; "" if it has several or none.
    """

    arch: str
    is_vit: bool
    heads: int | None
    colours: Colours
    classifier: str


@cache
def named(arch: str) -> Named:
    """A network by its name.

    Raises:
        CossError: there is none.
    """
    family, _, name = arch.partition(":")
    if family == "timm":
        from timm import get_pretrained_cfg

        head = classifier_name(name)
        config = get_pretrained_cfg(name)
        model = _empty(arch)
        vit = type(model).__name__ == "VisionTransformer" and getattr(model, "blocks", None)
        heads = int(vit[0].attn.num_heads) if vit else None
        return Named(
            arch,
            bool(vit),
            heads,
            (tuple(config.mean), tuple(config.std)),
            head,
        )
    if family == "torchvision":
        linear = [k for k, m in _empty(arch).named_modules() if isinstance(m, nn.Linear)]
        return Named(arch, False, None, IMAGENET, linear[-1] if linear else "")
    return Named(arch, False, None, IMAGENET, "fc")


@cache
def _empty(arch: str) -> nn.Module:
    """The network without values."""
    family, _, name = arch.partition(":")
    if family == "timm":
        classifier_name(name)  # refuses an unknown name
        import timm

        with torch.device("meta"):
            made: nn.Module = timm.create_model(name)
        return made
    if family == "torchvision":
        with torch.device("meta"):
            empty: nn.Module = torchvision_module(name)
            return empty
    return build_encoder(arch, size=32)


@cache
def ends_of(arch: str) -> tuple[str, str]:
    """The first name of a weight of a network, and the last that is not its classifier's."""
    head = named(arch).classifier
    names = [k for k in _empty(arch).state_dict() if k.endswith("weight")]
    rest = [name for name in names if not head or not name.startswith(f"{head}.")]
    if not rest:
        raise CossError(f"{arch} has no weights that a file could hold")
    return rest[0], rest[-1]


def has_names_of(arch: str, state: State) -> bool:
    """Whether tensors have the names that a network has itself."""
    return all(name in state for name in ends_of(arch))


def named_by(tree: Tree, state: State) -> Named | None:
    """The network that a file names itself, if a library has it and its tensors have its names."""
    from torchvision import models as tv

    said = tree.said("arch", "model", "model_name")
    for family in ("torchvision", "timm"):
        known = said in tv.list_models(module=tv) if family == "torchvision" else in_timm(said)
        if known:
            arch = f"{family}:{said}"
            if has_names_of(arch, state):
                return named(arch)
    return None
