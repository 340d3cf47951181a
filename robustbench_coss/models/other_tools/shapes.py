"""Which network the names and shapes of weights show."""

from __future__ import annotations

import re

from robustbench_coss.models.other_tools import transformers as nets
from robustbench_coss.models.other_tools.resnets import clip_shape, shape_of, usual_name
from robustbench_coss.models.other_tools.tree import State
from robustbench_coss.models.wide_resnet import wide_shape


def shaped(state: State) -> tuple[str, str] | None:
    """Kind and name of the network that the shapes of weights settle."""
    if nets.is_vit(state):
        return "vit", nets.vit_name(state)
    if nets.is_swin(state):
        depths, _, window, patch, dim = nets.swin_shape(state)
        return "swin", f"swin[{'-'.join(map(str, depths))}]×{dim}_patch{patch}_window{window}"
    if nets.is_convnext(state):
        depths_, dims = nets.convnext_shape(state)
        return "convnext", f"convnext[{'-'.join(map(str, depths_))}]×{dims[0]}"
    if (convnext := nets.torchvision_convnext(state)) is not None:
        return "named", f"torchvision:{convnext}"
    if (clip := clip_shape(state)) is not None:
        return "clip_resnet", f"clip_resnet[{'-'.join(map(str, clip[0]))}]×{clip[1] / 64:g}"
    if (wide := wide_shape(state)) is not None:
        return "wide", f"wrn{6 * wide[1] + 4}-{wide[0][1] // 16}"
    if (shape := shape_of(state)) is not None:
        plain = state["conv1.weight"].shape[-1] == 7 and not set("[×") & set(shape[0])
        return "resnet", f"torchvision:{shape[0]}" if plain else shape[0]
    if (usual := usual_name(state)) is not None:  # then what is missing is named
        return "named", f"torchvision:{usual}"
    return None


def features_of(state: State) -> int | None:
    """Features that a network gives, by the shapes of its weights."""
    for norm in ("norm.weight", "fc_norm.weight", "head.norm.weight"):
        if norm in state:
            return len(state[norm])
    if (wide := wide_shape(state)) is not None:
        return wide[0][-1]
    shape = shape_of(state)
    if shape is not None:
        return shape[1]
    for norm in ("layer4.0.bn3.weight", "layer4.0.bn2.weight"):
        if norm in state:
            return len(state[norm])
    return None


def other_name(state: State, features: int | None) -> str:
    """What else than `fc` or `head` the linear classifier of a network is called; "" if nothing is.

    A layer alone under its name that reads the features; projectors have several.
    """
    if features is None or {"fc.weight", "head.weight", "head.fc.weight"} & state.keys():
        return ""
    found = [
        match[1]
        for key, value in state.items()
        if (match := CLASSIFIER.fullmatch(key)) and value.dim() == 2 and value.shape[1] == features
    ]
    if len(found) != 1:
        return ""
    family = found[0].partition(".")[0]
    parts = {f"{found[0]}.weight", f"{found[0]}.bias"}
    return found[0] if {k for k in state if k.startswith(f"{family}.")} <= parts else ""


CLASSIFIER = re.compile(
    r"(classifier|linear|last_linear|logits|(?:fc|head|heads|classifier)\.(?:\d+|fc|head|linear))\.weight"
)
