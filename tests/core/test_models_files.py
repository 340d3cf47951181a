"""Checkpoint files of other tools from end to end: `load_model` gives what their networks give."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models as tv

from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.models.load import load_model, wrap_module

timm = pytest.importorskip("timm", reason="needs the extra `models`")

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))  # solo-learn's

State = dict[str, Tensor]


def drawn(model: nn.Module) -> nn.Module:
    """What is constant at the start (norms, biases, positions) drawn, and batch norms run once."""
    draw = torch.Generator().manual_seed(5)
    for key, value in model.named_parameters():
        if value.std() == 0 or "pos_embed" in key or "cls_token" in key:
            value.data.add_(torch.randn(value.shape, generator=draw), alpha=0.1)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:  # untrained networks hardly tell images apart without
        with torch.no_grad():
            model.train()(torch.randn(4, 3, 64, 64, generator=draw))
    return model.eval()


def vit(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return drawn(timm.create_model("vit_tiny_patch16_224", num_classes=0, **options))


def resnet(classes: int = 0, cifar_padding: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = tv.resnet18(num_classes=classes or 1000)
    if not classes:
        model.fc = nn.Identity()
    if cifar_padding is not None:
        model.conv1 = nn.Conv2d(3, 64, 3, 1, cifar_padding, bias=False)
        model.maxpool = nn.Identity()
    return drawn(model)


def put(prefix: str, model: nn.Module) -> State:
    return {f"{prefix}{key}": value for key, value in model.state_dict().items()}


def write(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "file.pth")
    return folder / "file.pth"


def assert_gives(
    loaded: Checkpoint, network: nn.Module, colours: Any = IMAGENET, classes: int | None = None
) -> None:
    """Features (or logits, given `classes`) are the network's own for normalised pixels."""
    size = loaded.metadata["size"]
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in colours)
    with torch.inference_mode():
        expected = network((images - mean) / std)
        found = loaded.encoder.pool(loaded.encoder.local(images))
        assert (loaded.head is None, loaded.classes) == (classes is None, classes)
        if loaded.head is not None:
            found = loaded.head(found)
    largest = float(expected.abs().max())
    assert float((expected[0] - expected[1]).abs().max()) > 1e-4 * largest
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * largest)
    assert (loaded.encoder.input.mean, loaded.encoder.input.std) == colours
    assert f"mean ({', '.join(f'{v:g}' for v in colours[0])})" in loaded.preprocessing


def test_dinos_teacher_is_measured_with_imagenets_colours_though_timm_states_others(
    tmp_path: Path,
) -> None:
    teacher, student = vit(), vit()
    student.get_parameter("norm.weight").data.mul_(2)
    content = {"student": put("module.backbone.", student), "teacher": put("backbone.", teacher)}
    assert timm.get_pretrained_cfg("vit_tiny_patch16_224").mean == HALF[0]
    loaded = load_model(write(tmp_path, content))
    assert_gives(loaded, teacher)
    assert (loaded.metadata["encoder"], loaded.metadata["method"]) == ("teacher", "dino")
    assert "; its teacher network" in loaded.preprocessing


def test_solo_learns_cifar_encoder_is_measured_with_its_padding_and_colours(tmp_path: Path) -> None:
    network = resnet(cifar_padding=2)
    state = put("backbone.", network) | put("classifier.", nn.Linear(512, 10))
    parameters = {"method": "simclr", "backbone": {"name": "resnet18"}}
    content = {"pytorch-lightning_version": "2.0", "state_dict": state}
    content["hyper_parameters"] = parameters
    loaded = load_model(write(tmp_path, content))
    assert loaded.metadata["size"] == 32
    assert_gives(loaded, network, CIFAR10)


@pytest.mark.parametrize(
    ("arch", "colours"),
    [
        ("torchvision:mobilenet_v3_small", IMAGENET),
        ("torchvision:shufflenet_v2_x0_5", IMAGENET),
        ("timm:resnet10t", IMAGENET),
        ("timm:convnext_atto", IMAGENET),
        ("timm:vit_tiny_patch16_224", HALF),
    ],
)
def test_a_plain_classifier_is_measured_with_its_own_head_whatever_its_name(
    arch: str, colours: Any, tmp_path: Path
) -> None:
    library, _, name = arch.partition(":")
    torch.manual_seed(0)
    make = timm.create_model if library == "timm" else tv.get_model
    network = drawn(make(name, num_classes=7))
    size = 224 if "vit" in name else 64
    loaded = load_model(write(tmp_path, network.state_dict()), arch=arch, size=size)
    assert_gives(loaded, network, colours, classes=7)


def test_a_cifar_resnet_with_a_classifier_is_measured_with_it(tmp_path: Path) -> None:
    network = resnet(classes=10, cifar_padding=1)
    assert_gives(load_model(write(tmp_path, network.state_dict())), network, classes=10)


# ---- mmpretrain ----


def mmpretrain_names(network: nn.Module) -> State:
    """A timm ViT's weights as mmpretrain/models/backbones/vision_transformer.py names them."""
    state = {}
    for key, value in network.state_dict().items():
        key = re.sub(
            r"^norm\.", "ln1.", key.replace("patch_embed.proj.", "patch_embed.projection.")
        )
        key = re.sub(r"^blocks\.(\d+)\.norm", r"layers.\1.ln", key).replace("blocks.", "layers.")
        key = key.replace("mlp.fc1.", "ffn.layers.0.0.").replace("mlp.fc2.", "ffn.layers.1.")
        state[f"backbone.{key}"] = value
    return state


@pytest.mark.slow
@pytest.mark.parametrize("heads", [3, 12])
def test_a_vit_of_mmpretrain_is_read_and_so_is_its_classifier(heads: int, tmp_path: Path) -> None:
    network = vit(num_heads=heads)
    if heads == 12:  # MoCo v3's: as many heads with the same shapes, told by its fixed positions
        network.get_parameter("pos_embed").data[:, 0] = 0
    state = mmpretrain_names(network)
    assert_gives(load_model(write(tmp_path, {"meta": {}, "state_dict": state})), network)
    torch.manual_seed(2)
    classifier = nn.Linear(192, 9)
    state |= put("head.layers.head.", classifier)
    loaded = load_model(write(tmp_path, {"meta": {}, "state_dict": state}))
    assert_gives(loaded, nn.Sequential(network, classifier), classes=9)


class HistoryBuffer:
    """What mmengine keeps a history of losses in, to the extent that it is pickled."""

    def __init__(self) -> None:
        self._log_history, self.max_length = np.arange(3.0), 10


def test_a_checkpoint_that_mmengine_saves_while_training_is_read_without_its_histories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, name = resnet(), "mmengine.logging.history_buffer"
    history = HistoryBuffer()
    with monkeypatch.context() as patch:  # the name is known while the file is written, not after
        patch.setattr(HistoryBuffer, "__module__", name)
        for module in ("mmengine", "mmengine.logging", name):
            patch.setitem(sys.modules, module, ModuleType(module))
        sys.modules[name].HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
        hub = {"log_scalars": {"train/loss": history}}
        content = {"meta": {"epoch": 1}, "state_dict": put("backbone.", network)}
        path = write(tmp_path, content | {"message_hub": hub})
    assert "mmengine" not in sys.modules
    assert_gives(load_model(path, size=64), network)
    assert "mmengine" not in sys.modules


# ---- timm's modules, and what is refused ----


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "test_efficientnet", "test_vit"])
def test_a_module_of_timm_keeps_its_seam_head_and_weights(name: str) -> None:
    torch.manual_seed(0)
    options = {"img_size": 64} if "vit" in name else {}
    network = drawn(timm.create_model(name, num_classes=7, **options))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    loaded = wrap_module(network, name="mine", size=64, mean=HALF[0], std=HALF[1], classes=7)
    assert_gives(loaded, network, HALF, classes=7)
    local = loaded.encoder.local(torch.rand(1, 3, 64, 64))
    assert local.shape[2] * local.shape[3] > 1
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    features = wrap_module(network, name="mine", size=64, classes=5)
    assert features.head is None
    assert features.encoder.dim == network.num_features


def test_a_timm_module_with_two_classifiers_is_measured_by_its_output() -> None:
    network = drawn(
        timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7, img_size=32)
    )
    plain = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert_gives(wrap_module(network, name="mine", size=32, classes=7), network, plain, classes=7)


@pytest.mark.parametrize(
    ("where", "options", "message"),
    [
        ("torchvision:vit_b_32", {"size": 100}, r"cannot make vit_b_32 with image_size=100"),
        ("torchvision:resnet18", {"size": 0}, r"at least 1 px, got 0"),
        ("torchvision:resnet18", {"arch": "resnet18"}, r"says itself what it is; leave out --arch"),
        ("timm:resnet18:a9_in1k", {}, r"no weights 'a9_in1k' for resnet18; it has: .*a1_in1k"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(
    where: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CossError, match=message) as caught:
        load_model(where, **options)
    assert "\n" not in str(caught.value)
