"""Checkpoints laid out as other tools save them give back the encoder that was put in."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import timm
import torch
from helpers.foreign_files import (
    State,
    backbone,
    drawn_resnet,
    drawn_vit,
    projector,
    put,
    vicreg,
    whole,
    write,
)
from lightly.models import ResNetGenerator
from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
from torch import nn
from torchvision.models import resnet18

from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import build_encoder, save_encoder
from robustbench_coss.models.export import export
from robustbench_coss.models.load import load_model
from robustbench_coss.models.other_tools.asked import Asked
from robustbench_coss.models.other_tools.build import load_state
from robustbench_coss.models.other_tools.foreign import Foreign
from robustbench_coss.models.other_tools.read import read_foreign


def in_sequential() -> State:
    """The backbone's tensors in the names of a Sequential of a torchvision ResNet's children."""
    with torch.device("meta"):
        names = nn.Sequential(*list(resnet18().children())[:-1]).state_dict()
    return dict(zip(names, backbone().values(), strict=True))


def backbone_of(model: nn.Module) -> State:
    return {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}


def other(state: State) -> State:
    """Another network of the same names."""
    return {k: (v.flatten()[0] + 1000).expand(v.shape) for k, v in state.items()}


def cifar_resnet() -> nn.Module:
    model = copy.deepcopy(drawn_resnet())
    model.conv1 = nn.Conv2d(3, 64, 3, padding=2, bias=False)
    model.maxpool = nn.Identity()
    model.fc = nn.Identity()
    return model


def assert_state(found: Foreign, expected: State) -> None:
    assert set(found.state) == set(expected)
    for key, value in expected.items():
        assert torch.equal(found.state[key], value), key


def lightning(state: State, **more: Any) -> dict[str, Any]:
    """What a trainer of PyTorch Lightning adds, with a numpy number as metrics often are."""
    return {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state,
        "loops": {},
        "callbacks": {"ModelCheckpoint": {"best_model_score": np.float64(0.5)}},
        "optimizer_states": [{"state": {0: {"mu": torch.zeros(2)}}, "param_groups": []}],
        "lr_schedulers": [],
        **more,
    }


def lightly_named() -> dict[str, Any]:
    net = backbone()
    extra = put("projection_head.layers.", projector()) | put("online_classifier.", projector())
    return lightning(put("backbone.", net) | put("teacher_backbone.", other(net)) | extra)


def lightly_moco() -> dict[str, Any]:
    net = in_sequential()
    return lightning(put("backbone.", net) | put("backbone_momentum.", other(net)))


def lightly_dino() -> dict[str, Any]:
    net = in_sequential()
    return lightning(put("teacher_backbone.", net) | put("student_backbone.", other(net)))


def lightly_dino_benchmark() -> dict[str, Any]:
    net = backbone()
    return lightning(put("backbone.", net) | put("student_backbone.", other(net)))


def lightly_compiled() -> dict[str, Any]:
    return lightning(put("backbone._orig_mod.", backbone()))


def solo() -> dict[str, Any]:
    net = backbone()
    state = put("backbone.", net) | put("momentum_backbone.", other(net))
    state |= {"classifier.weight": torch.zeros(7, 512), "classifier.bias": torch.zeros(7)}
    parameters = {"method": "byol", "optimizer": argparse.Namespace(lr=0.1)}
    return lightning(state | put("projector.", projector()), hyper_parameters=parameters)


def solo_old() -> dict[str, Any]:
    net = backbone()
    parameters = {"method": "mocov2plus", "encoder": "resnet18"}
    state = put("encoder.", net) | {"queue": torch.zeros(2, 4)}
    return lightning(state, hyper_parameters=parameters)


def vissl() -> dict[str, Any]:
    trunk = put("_feature_blocks.", backbone())
    model = {"trunk": trunk, "heads": put("0.clf.", projector())}
    return {
        "phase_idx": 5,
        "loss": {"name": "simclr"},
        "classy_state_dict": {
            "base_model": {"model": model, "meters": {}},
            "optimizer": {"state": {}},
            "train": True,
        },
    }


def mocov3(net: State, head: str) -> dict[str, Any]:
    mlp = put(head, projector())
    base = put("module.base_encoder.", net | mlp)
    momentum = put("module.momentum_encoder.", other(net | mlp))
    rest = put("module.predictor.", projector())
    return {"epoch": 9, "arch": "a", "state_dict": base | momentum | rest, "optimizer": {}}


def dino(net: State, ddp: str) -> dict[str, Any]:
    head = put("module.head.mlp.", projector())
    return {
        "student": put("module.backbone.", other(net)) | head,
        "teacher": put(f"{ddp}backbone.", net) | put(f"{ddp}head.mlp.", projector()),
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 1,
        "args": argparse.Namespace(arch="vit_small", lr=0.1),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }


def mmpretrain_byol() -> dict[str, Any]:
    net = backbone()
    state = put("backbone.", net) | put("target_net.module.0.", other(net))
    state |= put("neck.", projector()) | put("head.predictor.", projector())
    state |= {"data_preprocessor.mean": torch.zeros(3, 1, 1)}
    return {"meta": {"epoch": 200, "seed": 1}, "state_dict": state}


RESNET_FILES: dict[str, tuple[Callable[[], Any], str, str, str | None]] = {
    # content, format, encoder, method
    "lightly BYOL, torchvision's names": (lightly_named, "lightly", "online", None),
    "lightly MoCo, Sequential": (lightly_moco, "lightly", "online", None),
    "lightly DINO, example": (lightly_dino, "lightly", "teacher", None),
    "lightly DINO, benchmark": (lightly_dino_benchmark, "lightly", "teacher", None),
    "lightly, compiled": (lightly_compiled, "lightly", "", None),
    "solo-learn": (solo, "solo-learn", "online", "byol"),
    "solo-learn, older": (solo_old, "solo-learn", "", "mocov2plus"),
    "VISSL": (vissl, "vissl", "online", None),
    "MoCo v3": (lambda: mocov3(backbone(), "fc."), "mocov3", "online", "mocov3"),
    "DINO": (lambda: dino(backbone(), "module."), "dino", "teacher", "dino"),
    "VICReg": (vicreg, "vicreg", "", "vicreg"),
    "mmpretrain BYOL": (mmpretrain_byol, "mmpretrain", "online", None),
    "backbone": (lambda: backbone(), "torchvision", "", None),
}


@pytest.mark.parametrize("kind", RESNET_FILES)
def test_a_resnet_in_another_tools_layout_is_read_key_by_key(kind: str, tmp_path: Path) -> None:
    make, form, encoder, method = RESNET_FILES[kind]
    path = write(tmp_path, make())
    found = read_foreign(path)
    assert (found.format, found.arch) == (form, "torchvision:resnet18")
    assert (found.encoder, found.method) == (encoder, method)
    assert (found.classes, found.size, found.heads) == (None, 224, None)
    assert str(found.stem) == "stride=2,padding=3,pool=max"
    assert_state(found, backbone())
    assert_state(read_foreign(path, Asked(format=form)), backbone())


@pytest.mark.parametrize("form", ["dino", "vicreg"])
def test_a_published_backbone_is_of_the_method_that_the_user_names(
    form: str, tmp_path: Path
) -> None:
    found = read_foreign(write(tmp_path, whole()), Asked(format=form))
    assert (found.format, found.method, found.classes) == (form, form, None)
    assert_state(found, backbone())


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
@pytest.mark.parametrize("ddp", ["", "module."])
def test_a_plain_state_dict_keeps_its_classifier(key: str | None, ddp: str, tmp_path: Path) -> None:
    state = put(ddp, whole())
    found = read_foreign(write(tmp_path, state if key is None else {key: state, "epoch": 1}))
    assert (found.format, found.classes) == ("torchvision", 1000)
    assert_state(found, whole())


def test_the_classifier_of_mmpretrain_gets_torchvisions_name(tmp_path: Path) -> None:
    state = {("head." if k.startswith("fc.") else "backbone.") + k: v for k, v in whole().items()}
    found = read_foreign(write(tmp_path, {"meta": {}, "state_dict": state}))
    assert (found.format, found.classes) == ("mmpretrain", 1000)
    assert_state(found, whole())


@pytest.mark.parametrize("ddp", ["module.", ""])
def test_dinos_teacher_is_read_with_the_colours_it_was_trained_on(ddp: str, tmp_path: Path) -> None:
    net = drawn_vit("vit_tiny_patch16_224").state_dict()
    found = read_foreign(write(tmp_path, dino(net, ddp)))
    assert (found.arch, found.encoder) == ("timm:vit_tiny_patch16_224", "teacher")
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert_state(found, net)


def test_the_student_is_read_where_there_is_no_teacher(tmp_path: Path) -> None:
    whole = dino(drawn_vit().state_dict(), "")
    found = read_foreign(write(tmp_path, {"student": whole["student"]}), Asked(format="dino"))
    assert found.encoder == "online"
    assert_state(found, other(drawn_vit().state_dict()))


def test_lightlys_masked_vit_is_read_without_its_mask_token(tmp_path: Path) -> None:
    inner = copy.deepcopy(drawn_vit())
    masked = MaskedVisionTransformerTIMM(vit=inner)
    found = read_foreign(write(tmp_path, lightning(put("backbone.", masked.state_dict()))))
    assert (found.format, found.arch) == ("lightly", "timm:vit_tiny_patch16_224")
    assert_state(found, inner.state_dict())


# ---- the network is the one that was trained, not only its weights ----


def moco_vit(size: int = 32) -> nn.Module:
    """A small-size ViT-Ti as MoCo v3's class would build it: 12 heads, fixed sines."""
    model: Any = timm.models.VisionTransformer(
        img_size=size, embed_dim=192, depth=12, num_heads=12, num_classes=0
    )
    model.pos_embed.data[:, 0] = 0
    return model.eval()


def test_mocov3s_vit_computes_with_its_own_number_of_heads(tmp_path: Path) -> None:
    source = moco_vit()
    path = write(tmp_path, mocov3(source.state_dict(), "head."))
    found = read_foreign(path)
    assert (found.arch, found.size) == ("timm:vit_tiny_patch16_224", 32)
    assert_state(found, source.state_dict())
    built = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).eval()
    encoder = load_model(path).encoder
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = source(encoder.normalise(images))
        torch.testing.assert_close(encoder(images), expected, atol=1e-4, rtol=1e-4)
        built.load_state_dict(source.state_dict())
        for block in built.blocks:
            block.attn.num_heads, block.attn.head_dim, block.attn.scale = 3, 64, 64**-0.5
        assert (built(images) - source(images)).abs().max() > 1e-3  # what timm's own would give


def test_a_linear_probe_of_mocov3_keeps_its_classifier(tmp_path: Path) -> None:
    head = {"head.weight": torch.zeros(5, 192), "head.bias": torch.zeros(5)}
    state = moco_vit().state_dict() | head
    found = read_foreign(write(tmp_path, {"arch": "a", "state_dict": put("module.", state)}))
    assert (found.format, found.classes, found.heads) == ("mocov3", 5, 12)
    assert_state(found, state)


def test_a_plain_file_that_may_have_mocov3s_heads_is_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path, moco_vit().state_dict())
    with pytest.raises(CossError, match="--heads 12 or --heads 3"):
        read_foreign(path)
    assert read_foreign(path, Asked(arch="timm:vit_tiny_patch16_224")).heads == 3
    assert read_foreign(path, Asked(heads=12)).heads == 12


@pytest.mark.parametrize(("classes", "mean"), [(10, 0.4914), (100, 0.5071)])
def test_solo_learns_cifar_encoder_computes_as_in_solo_learn(
    classes: int, mean: float, tmp_path: Path
) -> None:
    source = cifar_resnet()
    state = put("backbone.", source.state_dict())
    state |= {"classifier.weight": torch.zeros(classes, 512), "classifier.bias": torch.zeros(10)}
    groups = [{"name": "backbone", "lr": 0.3}, {"name": "classifier", "lr": 0.1}]
    optimizers = [{"state": {}, "param_groups": groups}]
    path = write(tmp_path, lightning(state) | {"optimizer_states": optimizers})
    found = read_foreign(path)
    assert (found.format, found.arch, found.size) == ("solo-learn", "resnet18", 32)
    assert found.mean is not None
    assert found.mean[0] == mean
    encoder = load_model(path).encoder
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = source.eval()(encoder.normalise(images))
        torch.testing.assert_close(encoder.eval()(images), expected)


def test_lightlys_own_cifar_resnet_computes_as_in_lightly(tmp_path: Path) -> None:
    # As in its CIFAR-10 examples. Its ReLU after the stem is no child, so the copy has none.
    source = nn.Sequential(
        *list(ResNetGenerator("resnet-18").children())[:-1], nn.AdaptiveAvgPool2d(1)
    ).eval()
    path = write(tmp_path, lightning(put("backbone.", source.state_dict())))
    found = read_foreign(path)
    assert (found.format, found.arch) == ("lightly", "resnet18")
    encoder = load_model(path).encoder
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = source(encoder.normalise(images)).flatten(1)
        torch.testing.assert_close(encoder(images), expected)


def test_positions_are_resampled_for_another_size_as_timm_does(tmp_path: Path) -> None:
    path = write(tmp_path, drawn_vit().state_dict())
    found = read_foreign(path)
    built = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=96)
    load_state(built, found, path=path, allow_partial=False)
    expected = copy.deepcopy(drawn_vit())
    expected.set_input_size(img_size=96)
    torch.testing.assert_close(built.pos_embed, expected.pos_embed)


# ---- real tools ----


class LightlyDINO(pl.LightningModule):
    """The modules of lightly's DINO example."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.student_backbone = nn.Sequential(*list(resnet18().children())[:-1])
        self.student_head = DINOProjectionHead(512, 8, 4, 16)
        self.teacher_backbone = nn.Sequential(*list(drawn_resnet().children())[:-1])
        self.teacher_head = DINOProjectionHead(512, 8, 4, 16)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.student_head.parameters(), lr=0.1)


def test_a_checkpoint_that_lightnings_trainer_saves_is_read(tmp_path: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.strategy.connect(LightlyDINO())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    found = read_foreign(tmp_path / "last.ckpt")
    assert (found.format, found.encoder) == ("lightly", "teacher")
    assert_state(found, backbone_of(drawn_resnet()))


@pytest.mark.parametrize(
    ("name", "arch", "size", "read"),
    [
        ("torchvision", "resnet18", 72, "torchvision:resnet18"),
        ("torchvision", "resnet18", 32, "resnet18"),
        ("lightly", "resnet18", 72, "torchvision:resnet18"),
        ("timm", "resnet18", 32, "resnet18"),
        ("timm", "timm:vit_tiny_patch16_224", 64, "timm:vit_tiny_patch16_224"),
        ("timm", "timm:resnet10t", 64, "timm:resnet10t"),
    ],
)
def test_what_this_tool_exports_is_read_back(
    name: str, arch: str, size: int, read: str, tmp_path: Path
) -> None:
    encoder = build_encoder(arch, size=size)
    stated = {"arch": arch, "size": size, "width": 1.0, "method": "co-byol", "encoder": "online"}
    save_encoder(tmp_path / "encoder.safetensors", encoder, stated)
    found = read_foreign(export(tmp_path, name).path)
    assert (found.arch, found.size, found.method) == (read, size, "co-byol")
    assert found.mean == pytest.approx(encoder.input.mean)
    inner = encoder.model if arch.startswith("timm:") else encoder
    assert_state(found, inner.state_dict())


def test_an_exports_mlp_is_not_left_out_in_silence(tmp_path: Path) -> None:
    encoder = build_encoder("rf29_resnet18", size=32)
    stated = {"arch": "rf29_resnet18", "size": 32, "width": 1}
    save_encoder(tmp_path / "encoder.safetensors", encoder, stated)
    path = export(tmp_path, "torchvision").path
    with pytest.raises(CossError, match=r"unexpected fc\.0\.weight"):
        load_model(path)
