"""Models of the Hub's libraries at another size than they were made for: equal, or refused."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.hub_models import SMALL, STAGES, TEXT, drawn

from robustbench_coss.errors import CossError
from robustbench_coss.models.load import load_model

transformers = pytest.importorskip("transformers")

WITH_HEAD = {"num_labels": 7}
BOTH: dict[str, Any] = {"vision_config": SMALL, "text_config": TEXT, **WITH_HEAD}
SWIN: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "ViT": SMALL | WITH_HEAD,
    "DeiT": SMALL | WITH_HEAD,
    "Dinov2WithRegisters": SMALL | WITH_HEAD,
    "IJepa": SMALL | WITH_HEAD,
    "ViTMSN": SMALL | WITH_HEAD,
    "Siglip": BOTH,
    "CLIP": BOTH,
    "Swin": SWIN | WITH_HEAD | {"image_size": 32},
    "ConvNext": STAGES | WITH_HEAD | {"image_size": 64},
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
@torch.no_grad()
def test_a_classifier_takes_another_size_as_its_encoder_does(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**CLASSIFIERS[kind])
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    model.save_pretrained(tmp_path)
    found = load_model(tmp_path, size=48)
    assert found.encoder.input.size == 48
    assert found.classes == 7
    assert found.head is not None
    tower: Any = getattr(model, model.base_model_prefix, None) or model.vision_model
    takes = "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters
    x = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    more = {"interpolate_pos_encoding": True} if takes else {}
    wanted = model(pixel_values=found.encoder.normalise(x), **more).logits
    torch.testing.assert_close(found.head(found.encoder(x)), wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_masked_autoencoder_takes_another_size(tmp_path: Path) -> None:
    model = drawn("mae")
    model.save_pretrained(tmp_path)
    encoder = load_model(tmp_path, size=48).encoder
    plain = transformers.ViTMAEModel(copy.deepcopy(model.vit.config)).eval()
    plain.load_state_dict(model.vit.state_dict())
    plain.config.mask_ratio = 0.0
    x = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    out = plain(encoder.normalise(x), interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(encoder(x), out[:, 0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_file_of_open_clip_takes_another_size_as_open_clip_does(tmp_path: Path) -> None:
    clip = pytest.importorskip("open_clip")
    vision = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 8}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "sized-vit.json").write_text(json.dumps(config))
    paths = list(clip.factory._MODEL_CONFIG_PATHS)
    clip.add_model_config(tmp_path)
    try:
        path = tmp_path / "whole.pt"
        torch.save(clip.create_model("sized-vit").state_dict(), path)
        found = load_model(f"open_clip:sized-vit:{path}", size=48).encoder
        wanted = clip.create_model("sized-vit", pretrained=str(path), force_image_size=48).eval()
    finally:
        clip.factory._MODEL_CONFIG_PATHS[:] = paths
        clip.factory._rescan_model_configs()
    x = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    expected = wanted.encode_image(found.normalise(x))
    torch.testing.assert_close(found(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["test_vit", "mixer_s32_224"])
def test_a_folder_of_timm_at_another_size_is_read_or_says_to_leave_it_out(
    name: str, tmp_path: Path
) -> None:
    timm = pytest.importorskip("timm")
    timm.models.save_for_hf(timm.create_model(name, num_classes=3), tmp_path)
    if name == "test_vit":
        assert load_model(tmp_path, size=64).encoder.input.size == 64
        return
    with pytest.raises(CossError, match="leave out --size") as caught:
        load_model(tmp_path, size=64)
    assert "network" not in str(caught.value)
