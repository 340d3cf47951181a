"""Small models of transformers with random weights, one of each family that is read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = (
    SMALL
    | {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 60}
    | {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
)
STAGES: dict[str, Any] = {"hidden_sizes": [8, 12, 16, 32], "depths": [1, 1, 2, 1]}


def families() -> dict[str, Callable[[Any], Any]]:
    """By name, what makes a model from the module `transformers`."""
    return {
        "vit": lambda t: t.ViTModel(t.ViTConfig(**SMALL)),
        "vit-classifier": lambda t: t.ViTForImageClassification(t.ViTConfig(**SMALL, num_labels=7)),
        "deit": lambda t: t.DeiTModel(t.DeiTConfig(**SMALL)),
        "dinov2": lambda t: t.Dinov2Model(t.Dinov2Config(**SMALL)),
        "dinov2-classifier": lambda t: t.Dinov2ForImageClassification(
            t.Dinov2Config(**SMALL, num_labels=7)
        ),
        "dinov2-registers": lambda t: t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(**SMALL)
        ),
        "dinov3": lambda t: t.DINOv3ViTModel(t.DINOv3ViTConfig(**SMALL, num_register_tokens=2)),
        "mae": lambda t: t.ViTMAEForPreTraining(
            t.ViTMAEConfig(
                **SMALL,
                decoder_hidden_size=16,
                decoder_num_hidden_layers=1,
                decoder_num_attention_heads=2,
                decoder_intermediate_size=16,
            )
        ),
        "ijepa": lambda t: t.IJepaModel(t.IJepaConfig(**SMALL)),
        "clip": lambda t: t.CLIPModel(t.CLIPConfig(vision_config=SMALL, text_config=TEXT)),
        "clip-tower": lambda t: t.CLIPVisionModel(t.CLIPVisionConfig(**SMALL)),
        "siglip": lambda t: t.SiglipModel(t.SiglipConfig(vision_config=SMALL, text_config=TEXT)),
        "siglip-tower": lambda t: t.SiglipVisionModel(t.SiglipVisionConfig(**SMALL)),
        "beit": lambda t: t.BeitModel(t.BeitConfig(**SMALL, use_relative_position_bias=True)),
        "resnet": lambda t: t.ResNetModel(
            t.ResNetConfig(embedding_size=8, layer_type="basic", **STAGES)
        ),
        "resnet-classifier": lambda t: t.ResNetForImageClassification(
            t.ResNetConfig(embedding_size=8, num_labels=7, **STAGES)
        ),
        "convnext": lambda t: t.ConvNextModel(t.ConvNextConfig(image_size=64, **STAGES)),
        "swin": lambda t: t.SwinModel(
            t.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, image_size=32)
        ),
    }


def drawn(name: str) -> Any:
    """A model of `families` whose weights are far from what they are initialised to."""
    import transformers

    torch.manual_seed(0)
    model = families()[name](transformers).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor.dim():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return model


def expected(name: str, model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Features [B, D] of normalised pixels, as the library's own forward and its papers give them.

    Written down family by family: class token (ViT, DeiT, DINO), mean of patches (I-JEPA), pooler.
    """
    import transformers

    tower = model
    for inner in ("vit", "dinov2", "resnet", "vision_model"):
        tower = getattr(model, inner, tower)
    if name == "mae":
        unmasked = transformers.ViTMAEModel(copy.deepcopy(tower.config))
        unmasked.load_state_dict(tower.state_dict())
        unmasked.config.mask_ratio = 0.0
        return unmasked.eval()(pixels).last_hidden_state[:, 0]
    out = tower(pixels)
    tokens = out.last_hidden_state
    if name in ("vit", "vit-classifier", "deit", "dinov2", "dinov2-registers", "dinov3"):
        return tokens[:, 0]
    if name == "dinov2-classifier":
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
    if name == "ijepa":
        return tokens.mean(dim=1)
    return out.pooler_output.flatten(1)
