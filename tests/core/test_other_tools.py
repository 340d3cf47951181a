"""Checkpoints laid out as other tools save them give back the encoder that was put in."""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import safetensors.torch
import timm
import torch
from lightly.models import ResNetGenerator
from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
from torch import Tensor, nn
from torchvision.models import get_model, resnet18

from robustbench_coss.errors import CossError
from robustbench_coss.files import sha256_of
from robustbench_coss.models.checkpoint import build_encoder, save_encoder
from robustbench_coss.models.export import export
from robustbench_coss.models.load import load_model
from robustbench_coss.models.other_tools import FORMATS, Foreign, load_state, read_foreign

State = dict[str, Tensor]


@cache
def drawn_resnet() -> nn.Module:
    """A ResNet-18 whose batch norms are not at their initial values; never changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet18()
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-0.5, 0.5)
    return model.eval()


@cache
def drawn_vit(name: str = "vit_tiny_patch16_224", size: int = 224) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: nn.Module = timm.create_model(name, num_classes=0, img_size=size)
    return model.eval()


def numbered(shapes: State) -> State:
    """A state dict whose tensors each repeat a number of their own: one number is all it stores."""
    return {
        key: torch.full((), number, dtype=value.dtype).expand(value.shape)
        for number, (key, value) in enumerate(shapes.items(), start=1)
    }


@cache
def shapes_of(name: str) -> State:
    with torch.device("meta"):
        return dict(get_model(name).state_dict())


def whole() -> State:
    return numbered(shapes_of("resnet18"))


def backbone() -> State:
    return {k: v for k, v in whole().items() if not k.startswith("fc.")}


def in_sequential() -> State:
    """The backbone's tensors in the names of a Sequential of a torchvision ResNet's children."""
    with torch.device("meta"):
        names = nn.Sequential(*list(resnet18().children())[:-1]).state_dict()
    return dict(zip(names, backbone().values(), strict=True))


def backbone_of(model: nn.Module) -> State:
    return {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}


def put(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def other(state: State) -> State:
    """Another network of the same names."""
    return {k: (v.flatten()[0] + 1000).expand(v.shape) for k, v in state.items()}


def cifar_resnet() -> nn.Module:
    model = copy.deepcopy(drawn_resnet())
    model.conv1 = nn.Conv2d(3, 64, 3, padding=2, bias=False)
    model.maxpool = nn.Identity()
    model.fc = nn.Identity()
    return model


def write(folder: Path, content: Any) -> Path:
    path = folder / "file.pth"
    torch.save(content, path)
    return path


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


def projector() -> State:
    return {"0.weight": torch.zeros(4, 512), "1.running_mean": torch.zeros(4)}


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
    return lightning(put("encoder.", net) | {"queue": torch.zeros(2, 4)})


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


def vicreg() -> dict[str, Any]:
    net = put("module.backbone.", backbone())
    return {"epoch": 2, "model": net | put("module.projector.", projector()), "optimizer": {}}


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
    "solo-learn, older": (solo_old, "solo-learn", "", None),
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
    assert (found.classes, found.size, found.heads, found.padding) == (None, 224, None, None)
    assert_state(found, backbone())
    assert_state(read_foreign(path, format=form), backbone())


@pytest.mark.parametrize("form", ["dino", "vicreg"])
def test_a_published_backbone_is_of_the_method_that_the_user_names(
    form: str, tmp_path: Path
) -> None:
    found = read_foreign(write(tmp_path, whole()), format=form)
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
    found = read_foreign(write(tmp_path, {"student": whole["student"]}), format="dino")
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
    load_state(built, found, path=path, allow_partial=False)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(built(images), source(images))
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
    with pytest.raises(CossError, match="--format mocov3"):
        read_foreign(path)
    assert read_foreign(path, arch="timm:vit_tiny_patch16_224").heads is None


@pytest.mark.parametrize(("classes", "mean"), [(10, 0.4914), (100, 0.5071)])
def test_solo_learns_cifar_encoder_computes_as_in_solo_learn(
    classes: int, mean: float, tmp_path: Path
) -> None:
    source = cifar_resnet()
    state = put("backbone.", source.state_dict())
    state |= {"classifier.weight": torch.zeros(classes, 512), "classifier.bias": torch.zeros(10)}
    path = write(tmp_path, lightning(state))
    found = read_foreign(path)
    assert (found.format, found.arch, found.size) == ("solo-learn", "resnet18", 32)
    assert found.mean is not None
    assert found.mean[0] == mean
    encoder = build_encoder(found.arch, size=found.size)
    load_state(encoder, found, path=path, allow_partial=False)
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
    assert (found.format, found.arch, found.padding) == ("lightly", "resnet18", None)
    encoder = build_encoder(found.arch, size=found.size).eval()
    load_state(encoder, found, path=path, allow_partial=False)
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
    save_encoder(
        tmp_path / "encoder.safetensors", encoder, {"arch": "rf29_resnet18", "size": 32, "width": 1}
    )
    path = export(tmp_path, "torchvision").path
    with pytest.raises(CossError, match=r"unexpected fc\.0\.weight"):
        load_state(
            build_encoder("resnet18", size=32), read_foreign(path), path=path, allow_partial=False
        )


# ---- architectures ----


@pytest.mark.parametrize(
    "name",
    ["resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "resnext50_32x4d"],
)
def test_the_depth_and_width_of_a_resnet_are_inferred(name: str, tmp_path: Path) -> None:
    found = read_foreign(write(tmp_path, numbered(shapes_of(name))))
    assert (found.arch, found.classes) == (f"torchvision:{name}", 1000)


@pytest.mark.parametrize(
    "name", ["vit_small_patch8_224", "vit_base_patch16_224", "vit_large_patch16_224"]
)
def test_the_size_and_patch_of_a_vit_are_inferred(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = timm.create_model(name, num_classes=0).state_dict()
    found = read_foreign(write(tmp_path, numbered(shapes)))
    assert (found.arch, found.size) == (f"timm:{name}", 224)


def test_an_unsettled_architecture_is_asked_for(tmp_path: Path) -> None:
    state = {k: v for k, v in backbone().items() if "layer3" not in k}
    path = write(tmp_path, state)
    with pytest.raises(CossError, match=r"does not settle its architecture; pass --arch NAME"):
        read_foreign(path)
    assert read_foreign(path, arch="torchvision:resnet18").arch == "torchvision:resnet18"


def test_a_named_architecture_may_have_any_names(tmp_path: Path) -> None:
    state = get_model("squeezenet1_1").state_dict()
    path = write(tmp_path, state)
    found = read_foreign(path, arch="torchvision:squeezenet1_1")
    module = get_model("squeezenet1_1")
    load_state(module, found, path=path, allow_partial=False)
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


# ---- loading ----


def damaged(tmp_path: Path) -> tuple[Path, Foreign]:
    state = backbone()
    del state["layer1.0.conv1.weight"]
    state["stranger"] = torch.zeros(1)
    state["layer4.1.bn2.weight"] = torch.zeros(3)
    path = write(tmp_path, state)
    return path, read_foreign(path)


def test_keys_that_do_not_match_are_named_in_one_line(tmp_path: Path) -> None:
    path, found = damaged(tmp_path)
    with pytest.raises(CossError) as caught:
        load_state(resnet18(), found, path=path, allow_partial=False)
    message = str(caught.value)
    assert "3 keys" in message
    assert "missing layer1.0.conv1.weight" in message
    assert "unexpected stranger" in message
    assert "layer4.1.bn2.weight of shape [3], not [512]" in message
    assert "--allow-partial" in message
    assert "\n" not in message


def test_what_fits_is_loaded_if_the_user_says_so(tmp_path: Path) -> None:
    path, found = damaged(tmp_path)
    module = resnet18()
    before = module.layer1[0].conv1.weight.clone()
    load_state(module, found, path=path, allow_partial=True)
    assert torch.equal(module.layer1[0].conv1.weight, before)
    assert torch.equal(module.conv1.weight, whole()["conv1.weight"])


def test_a_model_loaded_in_part_says_so_is_another_model_and_the_same_each_time(
    tmp_path: Path,
) -> None:
    path, _ = damaged(tmp_path)
    first = load_model(str(path), allow_partial=True, arch="torchvision:resnet18")
    torch.rand(7)  # what was drawn before must not matter
    again = load_model(str(path), allow_partial=True, arch="torchvision:resnet18")
    assert "loaded in part, 3 keys: missing layer1.0.conv1.weight" in first.preprocessing
    assert first.sha256 == again.sha256 != sha256_of(path)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(first.encoder(images), again.encoder(images))


def test_a_file_of_which_nothing_fits_is_refused_even_in_part(tmp_path: Path) -> None:
    path = write(tmp_path, drawn_vit().state_dict())
    found = read_foreign(path, arch="torchvision:resnet18")
    with pytest.raises(CossError, match="no weight fits torchvision:resnet18"):
        load_state(resnet18(), found, path=path, allow_partial=True)


def test_at_most_five_keys_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, backbone())
    with pytest.raises(CossError) as caught:
        load_state(get_model("resnet34"), read_foreign(path), path=path, allow_partial=False)
    assert str(caught.value).count("missing") == 5


# ---- refusals ----


class Malicious:
    """Unpickled, it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["args", "optimizer"])
def test_a_malicious_pickle_is_refused_and_does_nothing(
    where: str, zipped: bool, tmp_path: Path
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "file.pth"
    content = {"state_dict": backbone(), where: Malicious(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CossError, match=r"holds an object of type \S+, which is not opened") as e:
        read_foreign(path)
    assert "\n" not in str(e.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # so the file was malicious


def test_a_refused_type_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"model": {}, "args": re.compile("a")})
    with pytest.raises(CossError, match=r"type re\._compile"):
        read_foreign(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_called_so(kept: float, zipped: bool, tmp_path: Path) -> None:
    full, cut = tmp_path / "full.pth", tmp_path / "cut.pth"
    torch.save(drawn_resnet().layer1.state_dict(), full, _use_new_zipfile_serialization=zipped)
    content = full.read_bytes()
    cut.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CossError, match="truncated"):
        read_foreign(cut)


def test_a_truncated_safetensors_file_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(safetensors.torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)})[:-8])
    with pytest.raises(CossError, match="truncated"):
        read_foreign(path)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], "text", torch.zeros(3), {"a": {}}])
def test_a_file_without_named_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(CossError, match="holds no tensors under names"):
        read_foreign(write(tmp_path, content))


def test_a_file_of_no_known_format_shows_some_of_its_keys(tmp_path: Path) -> None:
    path = write(tmp_path, {"net": {"first\n<b>": torch.zeros(1)}, "second": torch.zeros(1)})
    with pytest.raises(CossError, match=r"no known format; it has net/first<b>, second; ") as e:
        read_foreign(path)
    assert "\n" not in str(e.value)


def test_a_format_that_the_file_does_not_have_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, backbone())
    with pytest.raises(CossError, match="not laid out as vissl saves"):
        read_foreign(path, format="vissl")


def test_an_unknown_format_gets_near_names(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="did you mean mocov3"):
        read_foreign(tmp_path, format="moco-v3")


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="is a folder"):
        read_foreign(tmp_path)
    with pytest.raises(CossError, match="does not exist"):
        read_foreign(tmp_path / "none.pth")


def test_barlow_twins_is_not_taken_for_vicreg(tmp_path: Path) -> None:
    content = vicreg()
    content["model"]["module.bn.running_mean"] = torch.zeros(4)
    with pytest.raises(CossError, match="no known format"):
        read_foreign(write(tmp_path, content))


def test_every_format_has_a_file_here() -> None:
    assert {form for _, form, _, _ in RESNET_FILES.values()} == set(FORMATS) - {"auto"}
