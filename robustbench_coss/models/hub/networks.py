"""Vision models of transformers as encoders: where they are cut, and what their features are.

What a family's features are is a choice that its weights do not state: `POOLINGS` has the words and
`of_family` the choice. A cut is believed only after it was tried against the library's own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.encoders.class_token import ClassTokenEncoder
from robustbench_coss.errors import CossError
from robustbench_coss.models.seams import Cut, averaging, faithful, twin
from robustbench_coss.models.wrap import OpaqueEncoder

POOLINGS = {
    "class": "the class token",
    "mean": "the mean of the patch tokens",
    "both": "the class token beside the mean of the patch tokens",
    "own": "the model's own pooling",
}
"""What the features of a model are, from its last layer."""

CLASS = ("vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit_mae", "vit_msn")
"""Families whose class token is what their papers put a linear layer on; the pooler that
transformers adds to some of them has random weights."""

MEAN = ("ijepa",)


def of_family(model_type: str) -> str:
    """What is taken of a family of models unless something else is asked for."""
    return "class" if model_type in CLASS else "mean" if model_type in MEAN else "own"


class Whole(nn.Module):
    """A model of transformers from normalised pixels to features [B, D] or logits [B, K].

    Args:
        model: with or without a classifier.
        pooling: one of `POOLINGS`; "logits" for those.
        prefixes: tokens that are no patches.
    """

    def __init__(self, model: Any, pooling: str, prefixes: int) -> None:
        super().__init__()
        self.model, self.pooling, self.prefixes = model, pooling, prefixes

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(pixel_values=x, **extras(self.model, x))
        found: Tensor
        if self.pooling == "logits":
            found = out.logits
        elif self.pooling == "own":
            pooled = getattr(out, "pooler_output", None)
            if pooled is None:
                raise CossError(
                    f"{type(self.model).__name__} has no pooling of its own, so what its features "
                    "are is not known; pass --pooling mean, or class if it has a class token"
                )
            found = pooled.flatten(1)
        else:
            found = _pooled(out.last_hidden_state, self.pooling, self.prefixes)
        return found


def _pooled(tokens: Tensor, pooling: str, prefixes: int) -> Tensor:
    if tokens.dim() == 4:
        if pooling != "mean":
            raise CossError(f"a map of features has no class token; leave out --pooling {pooling}")
        return tokens.mean(dim=(2, 3))
    if pooling == "class":
        return tokens[:, 0]
    mean = tokens[:, prefixes:].mean(dim=1)
    return mean if pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=1)


def extras(model: Any, x: Tensor) -> dict[str, Any]:
    """What a forward pass needs beside pixels [B, 3, S, S]."""
    config = model.config
    more: dict[str, Any] = {}
    if config.model_type == "vit_mae":  # nothing is masked, and tokens stay in their order
        count = (x.shape[-1] // config.patch_size) ** 2
        more["noise"] = torch.arange(count, device=x.device).expand(len(x), -1)
    made_for = getattr(getattr(config, "vision_config", config), "image_size", None)
    if getattr(model, "takes_sizes", False) and made_for != x.shape[-1]:
        more["interpolate_pos_encoding"] = True
    return more


class TokenMap(nn.Module):
    """Normalised pixels to the last patch tokens as a map [B, C, h, w]."""

    def __init__(self, model: Any, prefixes: int) -> None:
        super().__init__()
        self.model, self.prefixes = model, prefixes

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.model(pixel_values=x, **extras(self.model, x)).last_hidden_state
        return as_map(tokens[:, self.prefixes :])


def as_map(tokens: Tensor) -> Tensor:
    """[B, h·h, C] -> [B, C, h, h]."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[2], side, side)


class Passing(nn.Module):
    """In place of a block: gives what it gets."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


class LastBlockNet(ClassTokenEncoder):
    """A vision transformer of transformers whose pooling is its last block (`ClassTokenEncoder`).

    Positions that are not kept are masked out of its attention rather than left out, since rotary
    positions belong to places in the sequence.

    Args:
        model: its last block and final norm are taken out of it.
        input: the pixel contract.
        prefixes: class, distillation and register tokens.
        pooling: "both", or what gives the class token alone: "class", or a model's "own".
    """

    def __init__(self, model: Any, input: InputSpec, prefixes: int, pooling: str) -> None:
        width = model.config.hidden_size
        super().__init__(input, dim=width, prefixes=prefixes)
        blocks = next(
            part
            for part in model.modules()
            if isinstance(part, nn.ModuleList) and len(part) == model.config.num_hidden_layers
        )
        norm = next(n for n in ("layernorm", "norm", "post_layernorm") if hasattr(model, n))
        self.last, self.norm = blocks[-1], getattr(model, norm)
        # post_layernorm is CLIP's, whose patch tokens do not go through it
        self.normed = norm != "post_layernorm"
        blocks[-1] = Passing()
        setattr(model, norm, nn.Identity())
        self.model, self.pooling, self.width = model, pooling, width
        self.dim = 2 * width if pooling == "both" else width

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.model(pixel_values=x, **extras(self.model, x)).last_hidden_state
        return as_map(tokens[:, self.prefixes :]), tokens[:, : self.prefixes]

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        patches, prefix = self.split(local)
        tokens = torch.cat([prefix, patches], dim=1)
        more: dict[str, Any] = {}
        if hasattr(self.model, "rope_embeddings"):
            sides = [side * self.model.config.patch_size for side in local.shape[2:]]
            more["position_embeddings"] = self.model.rope_embeddings(local.new_empty(1, 3, *sides))
        seen = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        mask = None
        if keep is not None:
            seen[:, self.prefixes :] = keep.flatten(1)
            mask = torch.zeros_like(seen, dtype=tokens.dtype).masked_fill(~seen, -torch.inf)
            mask = mask[:, None, None].expand(-1, -1, seen.shape[1], -1)
        out = self.last(tokens, attention_mask=mask, **more)
        out = out[0] if isinstance(out, tuple) else out
        if self.pooling != "both":
            found: Tensor = self.norm(out[:, 0])
            return found
        out = self.norm(out) if self.normed else out
        weight = seen[:, self.prefixes :, None].to(out.dtype)
        mean = (out[:, self.prefixes :] * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
        return torch.cat([out[:, 0], mean], dim=1)


class AttentionPoolNet(Encoder):
    """SigLIP's vision tower: a learnt query reads the last patch tokens by attention.

    Positions that are not kept are masked out; an image with none gets zero.
    """

    def __init__(self, model: Any, input: InputSpec) -> None:
        width = model.config.hidden_size
        super().__init__(input, local_dim=width, dim=width)
        self.tokens, self.head = TokenMap(model, 0), model.head

    def local(self, x: Tensor) -> Tensor:
        found: Tensor = self.tokens(self.normalise(x))
        return found

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        head = self.head
        tokens = local.flatten(2).transpose(1, 2)
        probe = head.probe.expand(len(tokens), -1, -1)
        hidden, some = None, None
        if keep is not None:
            some = keep.flatten(1).any(dim=1, keepdim=True)
            hidden = some & ~keep.flatten(1)  # attention over nothing would not be a number
        read = head.attention(probe, tokens, tokens, key_padding_mask=hidden)[0]
        found: Tensor = (read + head.mlp(head.layernorm(read)))[:, 0]
        return found if some is None else found * some


def cut_model(model: Any, spec: InputSpec, pooling: str) -> Cut:
    """Encoder of a model, with its seam where that could be found.

    Raises:
        Exception: whatever the model raises at this image size.
    """
    image = torch.zeros(1, 3, spec.size, spec.size)
    with torch.no_grad():
        last = model(pixel_values=image, **extras(model, image)).last_hidden_state
    prefixes = _prefixes(model.config, spec.size, last)
    whole = Whole(model, pooling, prefixes).eval()
    for make in _ways(pooling, last):
        try:
            made = Cut(make(twin(model), spec, prefixes, pooling).eval(), None, None)
            if faithful(made, whole):
                return made
        except Exception:  # a family that is built otherwise has no seam here
            continue
    with torch.no_grad():
        width = whole(image).shape[1]
    return Cut(OpaqueEncoder(whole, spec, width).eval(), None, None)


def _prefixes(config: Any, size: int, last: Tensor) -> int:
    """How many of the last tokens [B, N, C] are no patches."""
    if last.dim() != 3:
        return 0
    patch = getattr(config, "patch_size", size)
    patch = patch[0] if isinstance(patch, (list, tuple)) else patch
    return max(0, last.shape[1] - (size // patch) ** 2)


Way = Callable[[Any, InputSpec, int, str], Encoder]


def _ways(pooling: str, last: Tensor) -> list[Way]:
    """What to try, in turn."""
    if pooling in ("class", "both"):
        return [LastBlockNet]
    if last.dim() == 4:
        return [_staged]
    if pooling == "mean":
        return [_averaged]
    return [lambda model, spec, *_: AttentionPoolNet(model, spec), _averaged, LastBlockNet]


def _averaged(model: Any, spec: InputSpec, prefixes: int, pooling: str) -> Encoder:
    norm = getattr(getattr(model, "pooler", None), "layernorm", None) if pooling == "own" else None
    return averaging(spec, {"local": TokenMap(model, prefixes)}, _after(norm))


def _staged(model: Any, spec: InputSpec, _: int, pooling: str) -> Encoder:
    begin = getattr(model, "embedder", None) or model.embeddings
    first, *rest = model.encoder.stages
    stages: dict[str, nn.Module] = {"stage1": nn.Sequential(begin, first)}
    stages |= {f"stage{i}": stage for i, stage in enumerate(rest, start=2)}
    norm = getattr(model, "layernorm", None) if pooling == "own" else None
    return averaging(spec, stages, _after(norm))


def _after(norm: nn.Module | None) -> nn.Module:
    return nn.Sequential(nn.Flatten(), norm or nn.Identity())
