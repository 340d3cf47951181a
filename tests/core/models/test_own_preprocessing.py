"""Models of timm and torchvision see pictures as their libraries cut them, bit by bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models as tv

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.geometry import Geometry, geometry_of
from robustbench_coss.datasets.pictures import as_tensor
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError
from robustbench_coss.models.load import load_model

timm = pytest.importorskip("timm", reason="needs the extra `models`")

SHAPES = [(500, 375), (333, 500), (64, 64), (229, 231), (40, 301), (299, 301), (1, 90)]  # W × H


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in SHAPES
    ]


def seen(picture: Image.Image, encoder: Encoder) -> Tensor:
    """What the layers of an encoder get of a picture, along the way of an evaluation."""
    spec = encoder.input
    pixels = as_tensor(spec.geometry.cut(picture, spec.size))
    assert pixels.dtype == torch.uint8
    return encoder.normalise(pixels[None].float().div_(255))[0]


def timm_sees(config: dict[str, Any], picture: Image.Image) -> Tensor:
    found: Tensor = timm.data.create_transform(**config)(picture)
    return found


# Their configurations differ in size, crop_pct, interpolation, mean and std.
TIMM = ["resnet10t", "test_vit", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", TIMM)
def test_timm_models_see_what_timm_gives_them(name: str) -> None:
    encoder = load_model(f"timm:{name}").encoder
    known = timm.get_pretrained_cfg(name).to_dict()
    config = timm.data.resolve_data_config(pretrained_cfg=known)
    assert encoder.input.size == config["input_size"][-1]
    for picture in pictures():
        assert torch.equal(seen(picture, encoder), timm_sees(config, picture)), picture.size


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("kind", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("crop", [0.875, 0.95, 1.0])
def test_every_way_of_timm_to_cut_is_the_same_here(mode: str, kind: str, crop: float) -> None:
    encoder = load_model("timm:test_vit").encoder
    mean, size = (0.5, 0.4, 0.3), 32
    config = {
        "input_size": (3, size, size),
        "crop_pct": crop,
        "crop_mode": mode,
        "interpolation": kind,
        "mean": mean,
        "std": (0.2, 0.25, 0.3),
    }
    fill = (round(255 * 0.5), round(255 * 0.4), round(255 * 0.3))
    cut = Geometry(int(size / crop), kind, mode, fill)
    spec = replace(encoder.input, size=size, mean=mean, std=config["std"], geometry=cut)
    for picture in pictures()[:-1]:  # of one pixel's width, nothing is left in timm's border mode
        assert torch.equal(seen(picture, Encoder(spec, 1, 1)), timm_sees(config, picture))


def test_at_the_size_that_timm_names_for_tests_its_crop_for_tests_is_used() -> None:
    known = timm.get_pretrained_cfg("resnet10t").to_dict()
    test = timm.data.resolve_data_config(pretrained_cfg=known, use_test_size=True)
    assert test["crop_pct"] != timm.data.resolve_data_config(pretrained_cfg=known)["crop_pct"]
    encoder = load_model("timm:resnet10t", size=test["input_size"][-1]).encoder
    for picture in pictures():
        assert torch.equal(seen(picture, encoder), timm_sees(test, picture))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", "IMAGENET1K_V1"),  # 256, bilinear, 224
        ("mobilenet_v3_small", "DEFAULT"),
        ("regnet_y_400mf", "IMAGENET1K_V2"),  # 232
        ("efficientnet_b0", "DEFAULT"),  # bicubic
        ("inception_v3", "DEFAULT"),  # 342, 299
        ("swin_t", "DEFAULT"),  # 232, bicubic
        ("convnext_tiny", "DEFAULT"),
    ],
)
def test_torchvision_models_see_what_their_weights_state(
    name: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tiny(nn.Module):
        """In place of a network that cannot be downloaded here."""

        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) @ torch.ones(3, 1000)

    monkeypatch.setattr(tv, "get_model", lambda *a, **k: Tiny())
    encoder = load_model(f"torchvision:{name}:{weights}").encoder
    transform = tv.get_model_weights(name)[weights].transforms()
    assert encoder.input.size == transform.crop_size[0]
    for picture in pictures():
        found, expected = seen(picture, encoder), transform(picture)
        assert torch.equal(found, expected), picture.size


def test_the_usual_preprocessing_is_no_news_for_a_record_however_it_is_said() -> None:
    assert Geometry().stored(224) == Geometry(256).stored(224) == {}
    assert Geometry(256, fill=(9, 9, 9)).stored(224) == {}  # there is no border
    assert Geometry(256, "bicubic").stored(224) == {
        "resize": 256,
        "interpolation": "bicubic",
        "mode": "center",
        "fill": [0, 0, 0],
    }
    assert Geometry(235).stored(224)["resize"] == 235


def test_an_unknown_way_of_cutting_is_refused_by_name() -> None:
    with pytest.raises(CossError, match="unknown mode of cutting 'centre'; known: center, squash"):
        Geometry(mode="centre")
    with pytest.raises(CossError, match="unknown interpolation 'cubic'; known: nearest"):
        Geometry(interpolation="cubic")


def test_pictures_of_a_folder_are_cut_as_asked(tmp_path: Path) -> None:
    picture = pictures()[0]
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
        picture.save(tmp_path / part / "cat" / "0.png")
    geometry = Geometry(40, "lanczos", "squash")
    images = open_dataset("imagefolder", "test", size=32, root=tmp_path, geometry=geometry)
    assert geometry_of(images) == geometry.stored(32)
    assert torch.equal(images.images([0])[0], as_tensor(geometry.cut(picture, 32)))
    usual = open_dataset("imagefolder", "test", size=32, root=tmp_path)
    assert geometry_of(usual) == {}
    assert not torch.equal(usual.images([0]), images.images([0]))
