"""Image towers of CLIP, and ViTs in the names of transformers, from files of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.foreign_files import put, write
from helpers.layouts import assert_computes, drawn

from robustbench_coss.errors import CossError
from robustbench_coss.models.load import load_model

CLIP = (0.48145466, 0.4578275, 0.40821073)


def clip(quick: bool = False) -> Any:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra `hub`")
    vision = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8, "head_width": 64}
    text = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
    return drawn(open_clip.CLIP(32, vision, text, quick_gelu=quick))


@pytest.mark.parametrize("kind", ["whole", "training", "tower"])
def test_a_tower_of_open_clip_gives_its_embedding(kind: str, tmp_path: Path) -> None:
    network = clip()
    state = network.state_dict()
    content = {
        "whole": state,
        "training": {"epoch": 3, "name": "a", "state_dict": put("module.", state), "optimizer": {}},
        "tower": network.visual.state_dict(),
    }[kind]
    loaded = load_model(write(tmp_path, content))
    assert loaded.metadata["source"] == "clip checkpoint"
    assert loaded.encoder.input.mean == CLIP
    assert "its embedding of an image; assumed" in loaded.preprocessing
    assert "the exact GELU" in loaded.preprocessing
    assert (loaded.head, loaded.encoder.dim) == (None, 32)
    assert_computes(loaded, network.visual, 32)
    assert loaded.encoder.local(torch.rand(1, 3, 32, 32)).shape[2:] == (4, 4)


def test_openais_own_weights_have_its_quick_gelu(tmp_path: Path) -> None:
    network = clip(quick=True)
    told = {key: torch.tensor(8) for key in ("input_resolution", "context_length", "vocab_size")}
    loaded = load_model(write(tmp_path, network.state_dict() | told))
    assert "GELU" not in loaded.preprocessing
    assert_computes(loaded, network.visual, 32)


SHAPE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 256, "image_size": 32, "patch_size": 8}

MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    # name of its class -> its configuration's, more of that, what its feature is
    "ViTModel": ("ViTConfig", {}, "class"),
    "Dinov2Model": ("Dinov2Config", {"use_swiglu_ffn": True}, "class"),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", {"num_register_tokens": 4}, "class"),
    "IJepaModel": ("IJepaConfig", {}, "mean"),
    "CLIPVisionModel": ("CLIPVisionConfig", {"hidden_act": "gelu"}, "pooled"),
}


@pytest.mark.parametrize("prefix", ["", "encoder.vit."])
@pytest.mark.parametrize("name", MODELS)
def test_weights_in_the_names_of_transformers_are_read(
    name: str, prefix: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra `hub`")
    kind, more, token = MODELS[name]
    options = {k: v for k, v in SHAPE.items() if "Dinov2" not in name or k != "intermediate_size"}
    network = drawn(getattr(transformers, name)(getattr(transformers, kind)(**options | more)))

    def feature(x: torch.Tensor) -> torch.Tensor:
        found = network(x)
        if token == "pooled":
            pooled: torch.Tensor = found.pooler_output
            return pooled
        tokens: torch.Tensor = found.last_hidden_state
        return tokens[:, 0] if token == "class" else tokens.mean(dim=1)

    loaded = load_model(write(tmp_path, put(prefix, network.state_dict())))
    assert_computes(loaded, feature, 32)


def test_siglips_weights_are_sent_to_their_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra `hub`")
    network = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SHAPE))
    with pytest.raises(CossError, match="hf:ORG/NAME"):
        load_model(write(tmp_path, network.state_dict()))
