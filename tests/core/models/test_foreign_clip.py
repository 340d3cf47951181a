"""Towers of CLIP that are no plain ViT: its ResNets, and networks of timm with what follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.foreign_files import put, write
from helpers.layouts import assert_computes, drawn

from robustbench_coss.errors import CossError
from robustbench_coss.models.load import load_model

open_clip = pytest.importorskip("open_clip", reason="needs the extra `hub`")
timm = pytest.importorskip("timm")

CLIP = (0.48145466, 0.4578275, 0.40821073)
TEXT = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
KINDS = ("whole", "training", "tower")


def content(network: Any, kind: str) -> Any:
    state = network.state_dict()
    return {
        "whole": state,
        "training": {"epoch": 3, "name": "a", "state_dict": put("module.", state), "optimizer": {}},
        "tower": network.visual.state_dict(),
    }[kind]


# ---- ResNets ----


def resnet() -> Any:
    vision = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "head_width": 64}
    return drawn(open_clip.CLIP(24, vision, TEXT))


@pytest.mark.parametrize("kind", KINDS)
def test_a_resnet_of_clip_gives_its_embedding(kind: str, tmp_path: Path) -> None:
    network = resnet()
    loaded = load_model(write(tmp_path, content(network, kind)))
    assert loaded.metadata["source"] == "clip checkpoint"
    assert loaded.encoder.input.mean == CLIP
    assert (loaded.head, loaded.encoder.dim, loaded.encoder.input.size) == (None, 24, 64)
    assert "its embedding of an image" in loaded.preprocessing
    assert_computes(loaded, network.visual, 64)


def test_openais_own_resnet_is_in_half_precision(tmp_path: Path) -> None:
    network = resnet()
    told = {key: torch.tensor(8) for key in ("input_resolution", "context_length", "vocab_size")}
    half = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    loaded = load_model(write(tmp_path, half | told))
    network.load_state_dict(half)
    assert_computes(loaded, network.visual, 64)


def test_a_resnet_of_clip_without_a_layer_is_refused(tmp_path: Path) -> None:
    state = resnet().state_dict()
    del state["visual.layer2.1.conv2.weight"]
    with pytest.raises(CossError, match=r"missing stages\.1\.1\.conv2_kxk\.conv\.weight"):
        load_model(write(tmp_path, state))


# ---- networks of timm ----

POOLED: dict[str, Any] = {"class_token": False, "global_pool": "map"}
AVERAGED: dict[str, Any] = {"class_token": False, "global_pool": "avg", "fc_norm": False}
NETWORKS: dict[str, tuple[dict[str, Any], str, str, int]] = {
    # options of timm's ViT; timm_pool, timm_proj and channels of the embedding in open_clip
    "SigLIP": (POOLED, "map", "none", 128),
    "SigLIP with a linear projection": (POOLED, "map", "linear", 48),
    "SigLIP with an MLP": (POOLED, "map", "mlp", 48),
    "mean and a linear projection": (AVERAGED, "avg", "linear", 48),
}


@pytest.fixture(params=NETWORKS)
def tower(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A CustomTextCLIP of open_clip over a small ViT of timm."""
    from timm.models import _registry, vision_transformer

    options, pool, proj, width = NETWORKS[request.param]
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2}

    def vit_small_tower(**more: Any) -> Any:
        make = vision_transformer._create_vision_transformer
        return make("vit_base_patch16_siglip_224", **small | options | more)

    monkeypatch.setitem(_registry._model_entrypoints, "vit_small_tower", vit_small_tower)
    vision = {"image_size": 32, "timm_model_name": "vit_small_tower", "timm_pool": pool}
    vision |= {"timm_model_pretrained": False, "timm_proj": proj}
    return drawn(open_clip.CustomTextCLIP(width, vision, TEXT, init_logit_bias=-10.0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_of_timm_gives_open_clips_embedding(tower: Any, kind: str, tmp_path: Path) -> None:
    loaded = load_model(write(tmp_path, content(tower, kind)))
    siglip = any(".attn_pool." in key for key in tower.state_dict())
    assert loaded.encoder.input.mean == ((0.5,) * 3 if siglip else CLIP)
    assert ("CLIP's mean and std (--mean" in loaded.preprocessing) == (not siglip)
    assert loaded.head is None
    assert_computes(loaded, tower.visual, 32)


def test_another_pooling_behind_a_tower_is_sent_to_open_clip(tmp_path: Path) -> None:
    network = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=1, num_heads=2, num_classes=0
    )
    state = put("visual.trunk.", network.state_dict())
    state |= {"visual.head.pool.qkv.weight": torch.zeros(9, 3)}
    with pytest.raises(CossError, match="pass open_clip:NAME:"):
        load_model(write(tmp_path, state))
