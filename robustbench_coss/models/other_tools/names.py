"""What other codes call the tensors of a network, and what timm or torchvision call them.

One table, `NAMINGS`: how a naming is told, and what is renamed. Every naming that is there is
translated, whatever tool wrote the file. No tensor changes but where two codes lay out the same
numbers differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from robustbench_coss.models.other_tools.tree import State

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Naming:
    """How a code names tensors.

    Attributes:
        what: for people.
        marker: what a name begins with that only this code has, a regular expression.
        rules: patterns of names and their replacements, all of them in order.
        after: what else is needed, on the renamed tensors.
    """

    what: str
    marker: str
    rules: Rules = ()
    after: Callable[[State], State] | None = None


# ---- tensors that are laid out differently ----


def _numbered(state: State) -> State:
    """A ResNet whose children were put into a Sequential, by the numbers of its stages.

    torchvision's gives children 0, 1 and 4 to 7, as its ReLU and its max pooling count; without
    the pooling 3 to 6; lightly's own (lightly/models/resnet.py) gives 0 to 5.
    """
    children = sorted({int(key.split(".")[0]) for key in state if key.split(".")[0].isdigit()})
    stages = [child for child in children if f"{child}.0.conv1.weight" in state]
    names = {str(child): f"layer{number}" for number, child in enumerate(stages, start=1)}
    names |= {"0": "conv1", "1": "bn1"}
    return {
        names.get(k.split(".")[0], k.split(".")[0]) + k[k.find(".") :]: v for k, v in state.items()
    }


def _chunks(state: State) -> State:
    """DINOv2's blocks in chunks: the second number is that of the block."""
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): v for key, v in state.items()}


def _registers(state: State) -> State:
    """DINOv2's registers get no position; timm adds that of the class token to the token."""
    positions, token = state.get("pos_embed"), state.get("cls_token")
    if positions is None or token is None:
        return state
    return state | {"cls_token": token + positions[:, :1], "pos_embed": positions[:, 1:]}


def _stacked(state: State, names: tuple[str, ...], made: str) -> State:
    """Layers side by side stacked into one, such as queries, keys and values."""
    found = dict(state)
    for key in state:
        start, first, part = key.rpartition(f".{names[0]}.")
        if first:
            parts = [found.pop(f"{start}.{name}.{part}", None) for name in names]
            there = [value for value in parts if value is not None]
            # Keys may lack the bias that queries and values have.
            parts = [torch.zeros_like(there[0]) if value is None else value for value in parts]
            found[f"{start}.{made}.{part}"] = torch.cat([p for p in parts if p is not None])
    return found


def _clip(state: State) -> State:
    """CLIP's class token and positions without batch, its projection as a linear layer."""
    found = dict(state)
    if "cls_token" in found and found["cls_token"].dim() == 1:
        found["cls_token"] = found["cls_token"][None, None]
    if "pos_embed" in found and found["pos_embed"].dim() == 2:
        found["pos_embed"] = found["pos_embed"][None]
    if "proj" in found:
        found["head.weight"] = found.pop("proj").T
    return found


def _clip_resnet(state: State) -> State:
    """CLIP's ResNet as timm's ByobNet has it: stages from 0, convolutions with their norms."""
    layers = {"1": "conv1_1x1", "2": "conv2_kxk", "3": "conv3_1x1"}
    kinds = {"conv": "conv", "bn": "bn", "0": "conv", "1": "bn"}
    found = {}
    for key, value in state.items():
        if match := re.match(r"(conv|bn)(\d)\.(.*)", key):
            key = f"stem.conv{match[2]}.{kinds[match[1]]}.{match[3]}"
        elif match := re.match(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(.*)", key):
            place = f"stages.{int(match[1]) - 1}.{match[2]}.{layers[match[4]]}"
            key = f"{place}.{kinds[match[3]]}.{match[5]}"
        elif match := re.match(r"layer(\d)\.(\d+)\.downsample\.([01])\.(.*)", key):
            place = f"stages.{int(match[1]) - 1}.{match[2]}.shortcut.conv"
            key = f"{place}.{kinds[match[3]]}.{match[4]}"
        found[key] = value
    return found


def _swin(state: State) -> State:
    """The original's Swin merges patches at the end of a stage, timm's at the start of the next."""
    found = {}
    for key, value in state.items():
        if match := re.match(r"layers\.(\d+)\.downsample\.(.*)", key):
            key = f"layers.{int(match[1]) + 1}.downsample.{match[2]}"
        found[re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", key)] = value
    return found


BLOCKS = (
    # before and since version 5
    (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.(attention\.attention|attention|self_attn)\.q(uery|_proj)\.", ".attn.q_proj."),
    (r"\.(attention\.attention|attention|self_attn)\.k(ey|_proj)\.", ".attn.k_proj."),
    (r"\.(attention\.attention|attention|self_attn)\.v(alue|_proj)\.", ".attn.v_proj."),
    (r"\.(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.mlp\.(down_proj|weights_out)\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
)
"""Names of the blocks of transformers' ViTs."""


def _blocks(state: State) -> State:
    return _stacked(
        _stacked(state, ("attn.q_proj", "attn.k_proj", "attn.v_proj"), "attn.qkv"),
        ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.fc1",
    )


NAMINGS = (
    Naming(
        "transformers' ViT",  # models/vit, dinov2 and vit_mae
        r"embeddings\.patch_embeddings\.projection\.",
        (
            (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^embeddings\.cls_token$", "cls_token"),
            (r"^embeddings\.mask_token$", "mask_token"),
            (r"^embeddings\.register_tokens$", "register_tokens"),
            (r"^embeddings\.position_embeddings$", "pos_embed"),
            (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
            (r"^layernorm\.", "norm."),
            *BLOCKS,
        ),
        _blocks,
    ),
    Naming(
        "transformers' CLIP",  # models/clip/modeling_clip.py
        r"embeddings\.patch_embedding\.",
        (
            (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
            (r"^embeddings\.class_embedding$", "cls_token"),
            (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
            (r"^pre_layrnorm\.", "norm_pre."),
            (r"^post_layernorm\.", "norm."),
            *BLOCKS,
        ),
        lambda state: _clip(_blocks(state)),
    ),
    Naming("children of a ResNet in a Sequential", r"\d+\.0\.conv1\.weight", after=_numbered),
    Naming("shortcuts", r"layer\d\.\d+\.shortcut\.", ((r"\.shortcut\.", ".downsample."),)),
    Naming(
        "mmpretrain's ViT",  # mmpretrain/models/backbones/vision_transformer.py
        r"patch_embed\.projection\.",
        (
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^layers\.(\d+)\.ln(\d)\.", r"blocks.\1.norm\2."),
            (r"^layers\.(\d+)\.attn\.", r"blocks.\1.attn."),
            (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
            (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
            (r"^ln1\.", "norm."),
        ),
    ),
    Naming("DINOv2's blocks in chunks", r"blocks\.\d+\.\d+\.norm1\.", after=_chunks),
    Naming(
        "DINOv2's SwiGLU",  # dinov2/layers/swiglu_ffn.py
        r"blocks\.\d+\.mlp\.w12\.",
        ((r"\.mlp\.w12\.", ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2.")),
    ),
    Naming(
        "DINOv2's registers",
        r"register_tokens$",
        ((r"^register_tokens$", "reg_token"),),
        _registers,
    ),
    Naming(
        "torchvision's ViT",  # torchvision/models/vision_transformer.py
        r"conv_proj\.",
        (
            (r"^class_token$", "cls_token"),
            (r"^conv_proj\.", "patch_embed.proj."),
            (r"^encoder\.pos_embedding$", "pos_embed"),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.self_attention\.in_proj_", ".attn.qkv."),
            (r"\.self_attention\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
            (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
            (r"^encoder\.ln\.", "norm."),
            (r"^heads\.head\.", "head."),
        ),
    ),
    Naming(
        "CLIP's image tower",  # CLIP/clip/model.py, open_clip/transformer.py
        r"transformer\.resblocks\.",
        (
            (r"^class_embedding$", "cls_token"),
            (r"^positional_embedding$", "pos_embed"),
            (r"^conv1\.", "patch_embed.proj."),
            (r"^ln_pre\.", "norm_pre."),
            (r"^ln_post\.", "norm."),
            (r"^transformer\.resblocks\.(\d+)\.", r"blocks.\1."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.attn\.in_proj_", ".attn.qkv."),
            (r"\.attn\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.c_fc\.", ".mlp.fc1."),
            (r"\.mlp\.c_proj\.", ".mlp.fc2."),
        ),
        _clip,
    ),
    Naming(
        "CLIP's ResNet",  # CLIP/clip/model.py, open_clip/modified_resnet.py
        r"attnpool\.",
        (
            (r"^attnpool\.positional_embedding$", "head.pos_embed"),
            (r"^attnpool\.([qkv])_proj\.", r"head.\1."),
            (r"^attnpool\.c_proj\.", "head.proj."),
        ),
        _clip_resnet,
    ),
    Naming(
        "the original ConvNeXt",  # ConvNeXt/models/convnext.py, ConvNeXt-V2/models/convnextv2.py
        r"downsample_layers\.",
        (
            (r"^downsample_layers\.0\.", "stem."),
            (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
            (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
            (r"\.dwconv\.", ".conv_dw."),
            (r"\.pwconv1\.", ".mlp.fc1."),
            (r"\.pwconv2\.", ".mlp.fc2."),
            (r"\.grn\.gamma$", ".mlp.grn.weight"),
            (r"\.grn\.beta$", ".mlp.grn.bias"),
            (r"^norm\.", "head.norm."),
            (r"^head\.(weight|bias)$", r"head.fc.\1"),
        ),
    ),
    Naming("the original Swin", r"layers\.0\.downsample\.", after=_swin),
)
"""Namings, in the order in which they are tried; one may lead to another (registers)."""

NO_PART = re.compile(
    r"(mask_token|masked_embed|mask_embed|decoder|n_averaged$|pooler\."
    r"|.*relative_position_index$|.*attn_mask$|rope\.periods$|.*position_ids$)"
)
"""Of pretraining or of bookkeeping, and no part of an encoder."""


def translated(state: State) -> State:
    """A network in timm's or torchvision's names."""
    for naming in NAMINGS:
        marker = re.compile(naming.marker)
        if not any(marker.match(key) for key in state):
            continue
        renamed = {}
        for key, value in state.items():
            for theirs, ours in naming.rules:
                key = re.sub(theirs, ours, key)
            renamed[key] = value
        state = naming.after(renamed) if naming.after is not None else renamed
    return state


def parts_of_encoder(state: State) -> State:
    """What is left without the tensors of pretraining and of bookkeeping."""
    return {key: value for key, value in state.items() if not NO_PART.match(key)}
