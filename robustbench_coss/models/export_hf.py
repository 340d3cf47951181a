"""Encoders as folders of transformers: `AutoModel.from_pretrained` loads them, without own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import safetensors.torch
from torch import nn

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.encoders.resnet import Layout, ResNet
from robustbench_coss.files import canonical_json
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.models.export_resnet import layout_of, planes_of, resnet_state
from robustbench_coss.models.export_source import SOURCE, quoted, source, use

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"


def refuses(encoder: Encoder, arch: str) -> str | None:
    """Why transformers has no architecture for an encoder, or None if it has one."""
    if layout_of(encoder) is None:
        return f"of this tool's encoders, transformers has ResNet-18 and ResNet-50, not {arch}"
    net = cast(ResNet, encoder)
    if isinstance(net.maxpool, nn.Identity):
        return "transformers' ResNets have ImageNet's stem, and this one has the small one"
    if net.mlp is not None:
        return "transformers' ResNets have no MLP after pooling"
    return None


def content(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files of the folder by name."""
    net = cast(ResNet, checkpoint.encoder)
    layout, planes = cast(Layout, layout_of(net)), planes_of(net)
    state = {_name(key): value for key, value in resnet_state(net).items()}
    origin = source(checkpoint)
    # One key: safetensors writes several in no fixed order; equal encoders should be equal files.
    weights = safetensors.torch.save(state, metadata={"format": "pt"})
    size = net.input.size
    config = {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": planes[0],
        "hidden_sizes": [width * (4 if layout.bottleneck else 1) for width in planes],
        "depths": list(layout.blocks),
        "layer_type": "bottleneck" if layout.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "image_size": size,
        "dtype": "float32",
        SOURCE: json.loads(canonical_json(origin)),
    }
    return {
        WEIGHTS: bytes(weights),
        PROCESSOR: _text(processor_config(net)),
        CONFIG: _text(config),
    }


def processor_config(encoder: Encoder) -> dict[str, Any]:
    """What makes of a picture the pixels that an encoder of this tool is measured with."""
    size = encoder.input.size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": round(size * 256 / 224)},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(encoder.input.mean),
        "image_std": list(encoder.input.std),
        "do_convert_rgb": True,
    }


def lines(checkpoint: Checkpoint, path: Path) -> str:
    """Python that loads the folder."""
    *before, last = use(checkpoint)
    return "\n".join(
        [
            "import torch",
            "from torchvision.transforms import Normalize",
            "from transformers import AutoModel",
            "",
            f"model = AutoModel.from_pretrained({quoted(path)})",
            *before,
            f"{last}.pooler_output.flatten(1)",
        ]
    )


def _name(key: str) -> str:
    """What transformers calls a weight of torchvision's ResNet."""
    if not key.startswith("layer"):
        layer, rest = key.split(".", 1)
        kind = "convolution" if layer == "conv1" else "normalization"
        return f"embedder.embedder.{kind}.{rest}"
    stage, block, part, rest = key.split(".", 3)
    where = f"encoder.stages.{int(stage.removeprefix('layer')) - 1}.layers.{block}"
    if part == "downsample":
        index, rest = rest.split(".", 1)
        return f"{where}.shortcut.{'convolution' if index == '0' else 'normalization'}.{rest}"
    kind = "convolution" if part.startswith("conv") else "normalization"
    return f"{where}.layer.{int(part[-1]) - 1}.{kind}.{rest}"


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
