"""Where other tools' checkpoint files keep an encoder: one table, `TABLE`, and how it is searched.

A format is told from the keys of the file alone. Nothing here opens a file or builds a network.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """A place in a file where the weights of a network may lie.

    Attributes:
        root: keys that lead to the state dict; () is the file itself.
        prefix: what the names of the network's tensors begin with.
        encoder: "online", "teacher" or "" if the file has one network.
        beside: a prefix that must occur as well; it tells what the role of the network is.
        head: name of the classifier there, "" if what is called so belongs to pretraining.
    """

    root: tuple[str, ...]
    prefix: str
    encoder: str
    beside: str = ""
    head: str = ""


@dataclass(frozen=True)
class Format:
    """How a tool saves its checkpoints.

    Attributes:
        name: for `--format`.
        recognise: whether a file's content is of this tool, if one of `sources` is there too.
        sources: in order of preference; the first that is there is read.
        method: what the tool trains with, or None if it has several methods.
        drop: beginnings of names, after the prefix, that belong to no encoder.
        imagenet: whether the tool normalises with ImageNet's statistics.
    """

    name: str
    recognise: Callable[[dict[str, Any]], bool]
    sources: tuple[Source, ...]
    method: str | None = None
    drop: tuple[str, ...] = ()
    imagenet: bool = True


ENTRIES = re.compile(r"(vit\.)?(conv1\.weight|patch_embed\.|0\.weight|layer1\.|blocks\.)")
"""Beginnings of names of an encoder without prefix: torchvision's, timm's and lightly's."""


def tensors_at(content: Any, root: tuple[str, ...]) -> State:
    """The tensors of the dictionary at `root`, if any, without the prefix of `torch.compile`."""
    for key in root:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        return {}
    return {
        key.replace("_orig_mod.", ""): value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }


def has(state: State, prefix: str) -> bool:
    """Whether a name begins with `prefix`; without one, whether it looks like an encoder's."""
    if not prefix:
        return any(ENTRIES.match(key) for key in state)
    return any(key.startswith(prefix) for key in state)


def find_source(form: Format, content: dict[str, Any]) -> Source | None:
    """The first source of a format that a file has."""
    for source in form.sources:
        state = tensors_at(content, source.root)
        start = len(source.prefix)
        inside = {key[start:]: v for key, v in state.items() if key.startswith(source.prefix)}
        if has(inside, "") and (not source.beside or has(state, source.beside)):
            return source
    return None


def zero_class_position(state: State, prefix: str = "") -> bool:
    """Whether a ViT's class token has a position embedding of exactly zero.

    So MoCo v3 leaves it, beside fixed sines and cosines; a trained one never is.
    """
    embedding = state.get(f"{prefix}pos_embed")
    if embedding is None or embedding.dim() != 3:
        return False
    if embedding.is_meta or embedding.is_quantized or embedding.layout != torch.strided:
        return False  # as no tool saves it
    return not bool(embedding[:, 0].any())


def _vissl(content: dict[str, Any]) -> bool:
    return "classy_state_dict" in content


def _dino(content: dict[str, Any]) -> bool:
    return all(isinstance(content.get(key), dict) for key in ("student", "teacher"))


def _mocov3(content: dict[str, Any]) -> bool:
    state = tensors_at(content, ("state_dict",))
    return has(state, "module.base_encoder.") or zero_class_position(state, "module.")


def _vicreg(content: dict[str, Any]) -> bool:
    state = tensors_at(content, ("model",))
    # Barlow Twins saves the same names and `bn` after its projector.
    return has(state, "module.projector.") and not has(state, "module.bn.")


def _mmpretrain(content: dict[str, Any]) -> bool:
    return "meta" in content and "state_dict" in content


def _solo(content: dict[str, Any]) -> bool:
    if "pytorch-lightning_version" not in content:
        return False
    state = tensors_at(content, ("state_dict",))
    return "classifier.weight" in state or has(state, "encoder.")


def _anything(content: dict[str, Any]) -> bool:
    return True


LIGHTNING = ("state_dict",)

TABLE = (
    # vissl/models/trunks/resnext.py (`_feature_blocks`), feature_extractor.py (`base_model`)
    Format(
        "vissl",
        _vissl,
        tuple(
            Source(("classy_state_dict", "base_model", "model", "trunk"), prefix, "online")
            for prefix in ("_feature_blocks.", "base_model._feature_blocks.")
        ),
    ),
    # dino/main_dino.py (save_dict), utils.py (load_pretrained_weights); published files are plain
    Format(
        "dino",
        _dino,
        (
            Source(("teacher",), "module.backbone.", "teacher"),
            Source(("teacher",), "backbone.", "teacher"),
            Source(("student",), "module.backbone.", "online"),
            Source(("student",), "backbone.", "online"),
            Source((), "", "teacher"),
        ),
        method="dino",
        drop=("fc.", "head."),
    ),
    # moco-v3/moco/builder.py (fc and head are projectors), main_moco.py; main_lincls.py (module.)
    Format(
        "mocov3",
        _mocov3,
        (
            Source(LIGHTNING, "module.base_encoder.", "online"),
            Source(LIGHTNING, "base_encoder.", "online"),
            Source(LIGHTNING, "module.", "online", head="fc|head"),
        ),
        method="mocov3",
    ),
    # vicreg/main_vicreg.py: `model.pth` while it trains, `resnet50.pth` at the end
    Format(
        "vicreg",
        _vicreg,
        (
            Source(("model",), "module.backbone.", ""),
            Source(("model",), "backbone.", ""),
            Source((), "", ""),
        ),
        method="vicreg",
        drop=("fc.",),
    ),
    # mmpretrain/models/backbones/resnet.py, models/heads/linear_head.py, models/selfsup/byol.py
    Format(
        "mmpretrain",
        _mmpretrain,
        (
            Source(LIGHTNING, "backbone.", "online", beside="target_net."),
            Source(LIGHTNING, "backbone.", "online", beside="momentum_encoder."),
            Source(LIGHTNING, "backbone.", ""),
        ),
    ),
    # solo-learn/solo/methods/base.py; `encoder.` in older files. `classifier` is an online
    # probe on augmented images, not a classifier that was trained to be used.
    Format(
        "solo-learn",
        _solo,
        (
            Source(LIGHTNING, "backbone.", "online", beside="momentum_backbone."),
            Source(LIGHTNING, "backbone.", ""),
            Source(LIGHTNING, "encoder.", "online", beside="momentum_encoder."),
            Source(LIGHTNING, "encoder.", ""),
        ),
        drop=("fc.",),
    ),
    # lightly/examples/pytorch_lightning/*.py and lightly/benchmarks/imagenet/*/*.py. With a
    # student, `backbone` is the teacher (benchmarks/imagenet/resnet50/dino.py); without one it is
    # what is trained, whatever stands beside it (byol.py, moco.py).
    Format(
        "lightly",
        _anything,
        (
            Source(LIGHTNING, "teacher_backbone.", "teacher", beside="student_backbone."),
            Source(LIGHTNING, "backbone.", "teacher", beside="student_backbone."),
            Source(LIGHTNING, "student_backbone.", "online"),
            Source(LIGHTNING, "backbone.", "online", beside="teacher_backbone."),
            Source(LIGHTNING, "backbone.", "online", beside="backbone_momentum."),
            Source(LIGHTNING, "backbone.", ""),
        ),
    ),
    # torchvision/references/classification/train.py ("model"); timm/utils/checkpoint_saver.py
    # ("state_dict"); `module.` is DistributedDataParallel's
    Format(
        "torchvision",
        _anything,
        tuple(
            Source(root, prefix, "", head="fc|head")
            for prefix in ("", "module.")
            for root in ((), ("state_dict",), ("model",))
        ),
        imagenet=False,
    ),
)
"""The formats in the order in which a file is tried: those told apart most surely come first."""

FORMATS: tuple[str, ...] = (
    "auto",
    "lightly",
    "solo-learn",
    "vissl",
    "mocov3",
    "dino",
    "vicreg",
    "mmpretrain",
    "torchvision",
)


def select(form: Format, source: Source, content: dict[str, Any]) -> State:
    """The network at a source, in torchvision's or timm's names, with its classifier if usable."""
    whole = tensors_at(content, source.root)
    start = len(source.prefix)
    state = {key[start:]: v for key, v in whole.items() if key.startswith(source.prefix)}
    if form.name == "mocov3" and "base_encoder" in source.prefix:
        state = _without(state, ("fc.", "head."))  # projectors; in linear probes, classifiers
    state = _without(state, form.drop)
    if form.name == "lightly":
        state = _lightly_names(state)
    if form.name == "mmpretrain":
        state = {_timm_name(key): value for key, value in state.items()}
        for theirs, ours in MMPRETRAIN_HEADS.items():
            for part in ("weight", "bias"):
                value = whole.get(f"{theirs}.{part}")
                if value is not None:
                    state[f"{ours}.{part}"] = value
    return state


MMPRETRAIN_HEADS = {"head.fc": "fc", "head.layers.head": "head"}
"""Classifiers of mmpretrain/models/heads/linear_head.py and vision_transformer_head.py."""

MMPRETRAIN_VIT = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.ln(\d)\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.attn\.", r"blocks.\1.attn."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^ln1\.", "norm."),
)
"""Names of mmpretrain/models/backbones/vision_transformer.py, and timm's for the same."""


def _timm_name(key: str) -> str:
    for theirs, ours in MMPRETRAIN_VIT:
        key = re.sub(theirs, ours, key)
    return key


def _without(state: State, beginnings: tuple[str, ...]) -> State:
    return {key: v for key, v in state.items() if not key.startswith(beginnings)}


def _lightly_names(state: State) -> State:
    """Names of a ResNet whose children were put into a Sequential, or of a masked timm ViT.

    torchvision's ResNet gives children 0, 1 and 4 to 7, as its ReLU and its max pooling count;
    lightly's own (lightly/models/resnet.py) gives 0 to 5 and calls a downsampling `shortcut`.
    """
    if has(state, "vit."):  # lightly/models/modules/masked_vision_transformer_timm.py
        return {key[len("vit.") :]: v for key, v in state.items() if key.startswith("vit.")}
    children = sorted({int(key.split(".")[0]) for key in state if key.split(".")[0].isdigit()})
    stages = [child for child in children if f"{child}.0.conv1.weight" in state]
    names = {str(child): f"layer{number}" for number, child in enumerate(stages, start=1)}
    if stages:
        names |= {"0": "conv1", "1": "bn1"}
    renamed = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        renamed[f"{names.get(first, first)}.{rest}".replace(".shortcut.", ".downsample.")] = value
    return renamed


def lightly_bare_stem(source: Source, content: dict[str, Any]) -> bool:
    """Whether the network is the children of lightly's own ResNet in a Sequential.

    The ReLU after the stem is a function call there (lightly/models/resnet.py), so a network made
    of the children was trained without it.
    """
    return f"{source.prefix}2.0.conv1.weight" in tensors_at(content, source.root)
