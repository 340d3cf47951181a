"""Models of transformers from folders: features, seams, classifiers, preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.hub_models import SMALL, drawn, expected, families
from PIL import Image
from torchvision.transforms.functional import to_tensor

from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.models.hub.networks import AttentionPoolNet, LastBlockNet
from robustbench_coss.models.hub.read import transformers_model
from robustbench_coss.models.load import load_model
from robustbench_coss.models.seams import AveragingNet

transformers = pytest.importorskip("transformers")

NAMES = list(families())
Read = dict[str, tuple[Any, Checkpoint]]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Of each family, the library's model and what is read of its folder."""
    found = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        model = drawn(name)
        model.save_pretrained(folder)
        found[name] = model, load_model(folder)
    return found


def images(checkpoint: Checkpoint) -> torch.Tensor:
    size = checkpoint.encoder.input.size
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    assert found.shape == wanted.shape
    return bool((found - wanted).abs().max() <= 1e-4 * wanted.abs().max())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_features_are_those_of_the_librarys_own_forward(read: Read, name: str) -> None:
    model, checkpoint = read[name]
    encoder, x = checkpoint.encoder, images(checkpoint)
    wanted = expected(name, model, encoder.normalise(x))
    assert wanted.std(dim=0).max() > 1e-3  # not the same for every image
    assert close(encoder(x), wanted)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_every_family_has_its_seam(read: Read, name: str) -> None:
    _, checkpoint = read[name]
    encoder = checkpoint.encoder
    assert isinstance(encoder, (LastBlockNet, AttentionPoolNet, AveragingNet))
    x = images(checkpoint)
    local = encoder.local(x)
    assert local.shape[:2] == (3, encoder.local_dim)
    everything = torch.ones(3, *local.shape[2:], dtype=torch.bool)
    assert close(encoder.pool(local, everything), encoder(x))
    some = everything.clone()
    some[:, : local.shape[2] // 2] = False
    kept = encoder.pool(local, some)
    assert not close(kept, encoder(x))
    # What is not kept does not count, whatever it is.
    changed = torch.where(some[:, None], local, local + 1) if name != "dinov2" else local
    if not isinstance(encoder, LastBlockNet):  # whose class token travels with every position
        assert close(encoder.pool(changed, some), kept)


@pytest.mark.parametrize("name", ["vit", "dinov3", "clip", "deit"])
@torch.no_grad()
def test_positions_left_out_are_as_if_the_sequence_had_none_of_them(read: Read, name: str) -> None:
    """Against the block itself run on the shorter sequence (rotary positions stay in place)."""
    _, checkpoint = read[name]
    encoder = checkpoint.encoder
    assert isinstance(encoder, LastBlockNet)
    local = encoder.local(images(checkpoint)[:1])
    keep = torch.rand(1, *local.shape[2:], generator=torch.Generator().manual_seed(2)) > 0.5
    patches, prefix = encoder.split(local)
    chosen = patches[:, keep.flatten()]
    more = {}
    if name == "dinov3":
        cos, sin = encoder.model.rope_embeddings(torch.zeros(1, 3, 32, 32))
        more["position_embeddings"] = tuple(part[..., keep.flatten(), :] for part in (cos, sin))
    out = encoder.last(torch.cat([prefix, chosen], dim=1), attention_mask=None, **more)
    assert close(encoder.pool(local, keep), encoder.norm(out[:, 0]))


def test_convolutional_families_have_stages(read: Read) -> None:
    for name in ("resnet", "resnet-classifier", "convnext"):
        assert list(read[name][1].encoder.stages()) == ["stage1", "stage2", "stage3", "stage4"]


@pytest.mark.parametrize("name", ["vit-classifier", "dinov2-classifier", "resnet-classifier"])
@torch.no_grad()
def test_a_classifier_is_measured_with_its_own_head(read: Read, name: str) -> None:
    model, checkpoint = read[name]
    assert checkpoint.head is not None
    assert checkpoint.classes == 7
    x = images(checkpoint)
    wanted = model(checkpoint.encoder.normalise(x)).logits
    assert close(checkpoint.head(checkpoint.encoder(x)), wanted)


@torch.no_grad()
def test_a_masked_autoencoder_sees_all_patches_and_answers_the_same_twice(read: Read) -> None:
    model, checkpoint = read["mae"]
    x = images(checkpoint)
    assert torch.equal(checkpoint.encoder(x), checkpoint.encoder(x))
    assert model.vit.config.mask_ratio == 0.75  # the library's own would have masked
    local = checkpoint.encoder.local(x)
    assert local.shape[2:] == (4, 4)


@pytest.mark.parametrize("pooling", ["class", "mean", "both"])
@torch.no_grad()
def test_other_poolings_can_be_asked_for_and_make_another_model(
    tmp_path: Path, pooling: str
) -> None:
    model = drawn("dinov2-registers")
    model.save_pretrained(tmp_path)
    plain, found = (transformers_model(str(tmp_path), None, p) for p in (None, pooling))
    x = images(found)
    tokens = model(found.encoder.normalise(x)).last_hidden_state
    parts = {"class": tokens[:, 0], "mean": tokens[:, 5:].mean(dim=1)}
    wanted = parts.get(pooling, torch.cat(list(parts.values()), dim=1))
    assert close(found.encoder(x), wanted)
    assert (found.sha256 == plain.sha256) == (pooling == "class")
    assert found.metadata["reading"]["pooling"] == pooling


PROCESSORS: dict[str, dict[str, Any]] = {
    "BitImageProcessor": {  # as DINOv2's
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "ViTImageProcessor": {
        "size": {"height": 32, "width": 32},
        "resample": 2,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
    },
    "CLIPImageProcessor": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    "SiglipImageProcessor": {"size": {"height": 32, "width": 32}},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 32}, "crop_pct": 0.8},
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_model_sees_what_its_own_processor_makes(tmp_path: Path, kind: str) -> None:
    drawn("dinov2").save_pretrained(tmp_path)
    stated = {"image_processor_type": kind, **PROCESSORS[kind]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    encoder = load_model(tmp_path).encoder
    noise = np.random.default_rng(0).integers(256, size=(9, 13, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((70, 50), Image.Resampling.BICUBIC)
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    wanted = theirs(picture, return_tensors="pt")["pixel_values"]
    size = encoder.input.size
    found = encoder.normalise(to_tensor(encoder.input.geometry.cut(picture, size))[None])
    assert wanted.shape == found.shape == (1, 3, 32, 32)
    assert bool((wanted - found).abs().max() < 1e-4)


def test_the_processor_is_in_the_key_and_what_it_makes_in_the_record(tmp_path: Path) -> None:
    drawn("dinov2").save_pretrained(tmp_path)
    digests = {load_model(tmp_path).sha256}
    for changed in (
        {},
        {"image_mean": [0.5] * 3},
        {"resample": 3},
        {"size": {"height": 32, "width": 32}},
    ):
        stated = {"image_processor_type": "ViTImageProcessor"}
        stated |= {**PROCESSORS["ViTImageProcessor"], **changed}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
        if changed == {"size": {"height": 32, "width": 32}}:
            assert load_model(tmp_path).sha256 in digests  # says the same
            continue
        found = load_model(tmp_path)
        assert found.sha256 not in digests
        assert found.metadata["reading"]["mean"] == pytest.approx(stated["image_mean"])
        digests.add(found.sha256)


def test_a_folder_without_a_processor_says_what_was_taken(read: Read) -> None:
    line = read["dinov2"][1].preprocessing
    assert "mean (0.485, 0.456, 0.406)" in line
    assert "has no preprocessor_config.json" in line
    assert read["clip"][1].encoder.input.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    assert read["siglip"][1].encoder.input.mean == (0.5, 0.5, 0.5)


@torch.no_grad()
def test_another_size_interpolates_positions_as_the_library_does(tmp_path: Path) -> None:
    model = drawn("vit")
    model.save_pretrained(tmp_path)
    encoder = load_model(tmp_path, size=48).encoder
    x = torch.rand(2, 3, 48, 48)
    out = model(encoder.normalise(x), interpolate_pos_encoding=True).last_hidden_state
    assert close(encoder(x), out[:, 0])
    with pytest.raises(CossError, match="does not take images of 3 px"):
        load_model(tmp_path, size=3)


class Touch:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_bad_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(says: str, **options: Any) -> None:
        with pytest.raises(CossError, match=says) as caught:
            load_model(tmp_path, **options)
        assert "\n" not in str(caught.value)

    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    drawn("vit").save_pretrained(tmp_path)
    good = config.read_text()
    refused("leave out --arch", arch="resnet18")
    for damaged in ("", "[1]", "{", '"x"', "\x00"):
        config.write_text(damaged)
        refused("is damaged")
    config.write_text("{}")
    refused("neither the model_type of transformers nor")
    config.write_text(json.dumps({"model_type": "no-such-model"}))
    refused("does not know the model type 'no-such-model'")
    config.write_text(json.dumps({"model_type": "own", "auto_map": {"AutoModel": "own.Own"}}))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    refused("needs code of its own")
    assert not (tmp_path / "ran").exists()
    config.write_text(json.dumps(json.loads(good) | {"hidden_size": 64}))
    refused("cannot be read")
    config.write_text(json.dumps(json.loads(good) | {"num_hidden_layers": 3}))
    refused("lacks 1[0-9] weights")
    config.write_text(good)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "Nonsense"}')
    refused("preprocessor_config.json in .* cannot be used")
    (tmp_path / "preprocessor_config.json").unlink()
    weights.write_bytes(weights.read_bytes()[:2000])
    refused("cannot be read")
    weights.unlink()
    refused("holds no weights")
    torch.save({"embeddings.cls_token": Touch(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    refused("only safetensors and plain tensors")
    assert not (tmp_path / "ran").exists()


def test_weights_of_plain_tensors_are_read_where_there_are_no_safetensors(tmp_path: Path) -> None:
    model = drawn("vit")
    model.save_pretrained(tmp_path)
    whole = load_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert load_model(tmp_path).sha256 == whole.sha256


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_taken_into_single(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    drawn("vit").to(dtype).save_pretrained(tmp_path)
    encoder = load_model(tmp_path).encoder
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert encoder.input.size == SMALL["image_size"]


def test_what_is_no_encoder_of_single_images_is_refused_in_one_line(tmp_path: Path) -> None:
    text = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    small = {key: SMALL[key] for key in ("hidden_size", "intermediate_size")}
    patches = {k: v for k, v in SMALL.items() if k != "image_size"} | {"num_patches": 16}
    makers = {
        "is it an encoder of single images": [
            lambda t: t.BertModel(t.BertConfig(**small, **text)),
            lambda t: t.Siglip2VisionModel(t.Siglip2VisionConfig(**patches)),
        ],
        "pass --pooling mean": [
            lambda t: t.Data2VecVisionModel(t.Data2VecVisionConfig(**SMALL)),
        ],
        "timm:hf-hub:ORG/NAME": [
            lambda t: t.TimmWrapperModel(t.TimmWrapperConfig(architecture="resnet10t")),
        ],
    }
    for says, made in makers.items():
        for number, make in enumerate(made):
            folder = tmp_path / f"{says[:4]}{number}"
            make(transformers).save_pretrained(folder)
            with pytest.raises(CossError, match=says) as caught:
                load_model(folder)
            assert "\n" not in str(caught.value)


@torch.no_grad()
def test_a_map_without_pooling_of_its_own_is_averaged_if_asked_for(tmp_path: Path) -> None:
    config = transformers.PoolFormerConfig(hidden_sizes=[8, 12, 16, 32], depths=[1, 1, 1, 1])
    model = transformers.PoolFormerModel(config).eval()
    model.save_pretrained(tmp_path)
    encoder = load_model(tmp_path, pooling="mean", size=64).encoder
    x = torch.rand(2, 3, 64, 64)
    wanted = model(encoder.normalise(x)).last_hidden_state.mean(dim=(2, 3))
    assert close(encoder(x), wanted)
    with pytest.raises(CossError, match="leave out --pooling class"):
        load_model(tmp_path, pooling="class", size=64)
    assert "ImageNet, for want of" in load_model(tmp_path, pooling="mean").preprocessing
