"""What no weight shows of a network: told by the file, or assumed, said and set by an option."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers import layouts
from helpers.foreign_files import put, write
from helpers.layouts import assert_computes
from torch import Tensor, nn

from robustbench_coss.errors import CossError
from robustbench_coss.models.load import load_model

# ---- stems ----

STEMS = {
    "stride=1,padding=1,pool=none": {},
    "stride=2,padding=1,pool=max": {"stride": 2, "pool": True},
    "padding=2": {"padding": 2},
    "stride=2,padding=3,pool=none": {"kernel": 7, "stride": 2, "padding": 3},
}


@pytest.mark.parametrize("stem", STEMS)
def test_the_stem_that_is_asked_for_is_the_one_that_computes(stem: str, tmp_path: Path) -> None:
    network = layouts.small_resnet(**STEMS[stem])
    path = write(tmp_path, network.state_dict())
    loaded = load_model(path, stem=stem, size=64)
    assert_computes(loaded, network, 64)
    assert "--stem" not in loaded.preprocessing
    unasked = load_model(path, size=64)
    assert "assumed, as nothing in the file tells: stem" in unasked.preprocessing
    same = loaded.metadata["reading"]["stem"] == unasked.metadata["reading"]["stem"]
    assert (loaded.sha256 == unasked.sha256) == same


def test_the_stem_is_told_by_the_files_architecture_or_its_tool(tmp_path: Path) -> None:
    network = layouts.resnet()
    for content in (
        {"arch": "resnet18", "state_dict": network.state_dict()},
        {"model": put("backbone.", network.state_dict()) | put("projector.", layouts.PROJECTOR)},
    ):
        assert "stem" not in load_model(write(tmp_path, content), size=64).preprocessing


def test_a_sequential_without_a_child_for_it_has_no_pooling(tmp_path: Path) -> None:
    network = layouts.small_resnet(kernel=7, stride=2, padding=3)
    children = [part for name, part in network.named_children() if name not in ("maxpool", "fc")]
    sequence = nn.Sequential(*children, nn.Flatten())
    loaded = load_model(write(tmp_path, put("f.", sequence.state_dict())), size=64)
    assert_computes(loaded, sequence, 64)


@pytest.mark.parametrize("name", ["resnet34", "resnet18"])
@pytest.mark.parametrize("size", [32, 96])
def test_small_stems_go_with_any_depth_and_size(name: str, size: int, tmp_path: Path) -> None:
    network = layouts.small_resnet(name)
    assert_computes(load_model(write(tmp_path, network.state_dict()), size=size), network, size)


@pytest.mark.parametrize("fixmatch", [False, True])
def test_a_wide_resnet_is_read_in_both_ports(fixmatch: bool, tmp_path: Path) -> None:
    from robustbench_coss.models.wide_resnet import WideResNet

    network = layouts.drawn(WideResNet((16, 32, 64, 128), 2, fixmatch, 10))
    loaded = load_model(write(tmp_path, {"net": network.state_dict()}))
    assert loaded.metadata["arch"] == "wrn16-2"
    assert_computes(loaded, network, 32)
    assert loaded.encoder.local(torch.rand(1, 3, 32, 32)).shape[2:] == (8, 8)


# ---- ViTs ----


def tokens(network: Any, x: Tensor) -> Tensor:
    found: Tensor = network.forward_features(x)
    return found


def test_the_tokens_that_are_asked_for_are_the_feature(tmp_path: Path) -> None:
    network = layouts.vit()
    path = write(tmp_path, network.state_dict())
    expected: dict[Any, Any] = {
        None: lambda x: tokens(network, x)[:, 0],
        "class": lambda x: tokens(network, x)[:, 0],
        "mean": lambda x: tokens(network, x)[:, 1:].mean(dim=1),
        "both": lambda x: torch.cat(
            [tokens(network, x)[:, 0], tokens(network, x)[:, 1:].mean(1)], 1
        ),
    }
    found = {pooling: load_model(path, pooling=pooling) for pooling in expected}
    for pooling, loaded in found.items():
        assert_computes(loaded, expected[pooling], 32)
        assert ("its class token (--pooling)" in loaded.preprocessing) == (pooling is None)
    assert len({loaded.sha256 for loaded in found.values()}) == 3


def test_the_heads_that_are_asked_for_are_those_that_attend(tmp_path: Path) -> None:
    network = layouts.vit(embed_dim=192, num_heads=12)
    path = write(tmp_path, network.state_dict())
    assert "3 attention heads (--heads)" in load_model(path).preprocessing
    assert_computes(load_model(path, heads=12), network, 32)
    with pytest.raises(CossError, match="does not divide"):
        load_model(path, heads=5)


@pytest.mark.parametrize("method", ["mae", "mocov3"])
def test_solo_learns_small_vits_of_fixed_positions_have_twelve_heads(
    method: str, tmp_path: Path
) -> None:
    network = copy.deepcopy(layouts.vit(embed_dim=192, num_heads=12))
    network.pos_embed.data[:, 0] = 0
    state = put("backbone.", network.state_dict())
    if method == "mae":
        state |= {"decoder.mask_token": torch.zeros(1)}
    parameters = {"method": method, "backbone": {"name": "vit_tiny"}}
    loaded = load_model(write(tmp_path, layouts.lightning(state, hyper_parameters=parameters)))
    assert (loaded.metadata["source"], loaded.metadata["method"]) == (
        "solo-learn checkpoint",
        method,
    )
    assert_computes(loaded, network, 32)


def test_options_that_a_network_has_no_use_for_are_refused(tmp_path: Path) -> None:
    resnet = write(tmp_path, layouts.resnet().state_dict())
    for options in ({"heads": 3}, {"pooling": "mean"}):
        with pytest.raises(CossError, match=f"no plain ViT; leave out --{next(iter(options))}"):
            load_model(resnet, **options)
    vit = write(tmp_path, layouts.vit().state_dict())
    with pytest.raises(CossError, match="no ResNet; leave out --stem"):
        load_model(vit, stem="pool=none")
    content, _ = layouts.ijepa()
    with pytest.raises(CossError, match="has no class token; leave out --pooling class"):
        load_model(write(tmp_path, content), pooling="class")
    with pytest.raises(CossError, match="leave out --pooling, --mean, --std"):
        load_model("timm:test_vit", pooling="mean", mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stem": "stride=0"}, "stride must be at least 1"),
        ({"stem": "pool=yes"}, r"not understood at 'pool=yes'"),
        ({"weights": "net"}, "write ema, raw or KEY:PREFIX"),
        ({"pooling": "cls"}, "unknown pooling 'cls'.*class"),
        ({"heads": 0}, "--heads must be at least 1"),
        ({"mean": (0.5, 0.5, 0.5)}, "--mean and --std go together"),
        ({"mean": (0, 0, 0), "std": (1, 0, 1)}, "must not be 0"),
    ],
)
def test_an_option_that_cannot_be_meant_is_one_line(options: Any, says: str) -> None:
    with pytest.raises(CossError, match=says):
        load_model("no file", **options)


# ---- normalisation ----


def test_normalisation_is_what_the_call_the_file_or_its_settings_say(tmp_path: Path) -> None:
    state = layouts.resnet().state_dict()
    mine = ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    settings = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}
    text = (
        "data_preprocessor = dict(mean=[127.5, 102.0, 76.5], std=[51.0, 51.0, 25.5])\n"
        "model = dict(type='ImageClassifier')\n"
    )
    plain = write(tmp_path, state)
    assert "ImageNet's mean and std (--mean, --std)" in load_model(plain).preprocessing
    asked = load_model(plain, mean=mine[0], std=mine[1])
    args = load_model(write(tmp_path, {"arch": "resnet18", "state_dict": state, "args": settings}))
    mmengine = {"meta": {"cfg": text}, "state_dict": put("backbone.", state)}
    for loaded in (asked, args, load_model(write(tmp_path, mmengine))):
        assert (loaded.encoder.input.mean, loaded.encoder.input.std) == mine
        assert torch.allclose(loaded.encoder.mean.flatten(), torch.tensor(mine[0]))
        assert "--mean" not in loaded.preprocessing


# ---- which weights ----


def two() -> tuple[Any, Any]:
    first = layouts.small_resnet()
    second = copy.deepcopy(first)
    second.load_state_dict(layouts.changed(first.state_dict()), strict=True)
    return first, second.eval()


@pytest.mark.parametrize("keys", [("state_dict", "state_dict_ema"), ("model", "model_ema")])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_average_is_read_unless_the_raw_weights_are_asked_for(
    keys: tuple[str, str], prefix: str, tmp_path: Path
) -> None:
    raw, average = two()
    states = [put(prefix, network.state_dict()) for network in (raw, average)]
    path = write(tmp_path, dict(zip(keys, states, strict=True)))
    loaded = load_model(path)
    assert "its average network (--weights raw" in loaded.preprocessing
    assert loaded.metadata["encoder"] == "average"
    assert_computes(loaded, average, 32)
    assert_computes(load_model(path, weights="ema"), average, 32)
    assert_computes(load_model(path, weights="raw"), raw, 32)


def test_the_student_is_read_where_the_raw_weights_are_asked_for(tmp_path: Path) -> None:
    content, network = layouts.dino()
    student = copy.deepcopy(network)
    student.load_state_dict(layouts.changed(network.state_dict()))
    loaded = load_model(write(tmp_path, content), weights="raw")
    assert loaded.metadata["encoder"] == "online"
    assert_computes(loaded, student, 32)


@pytest.mark.parametrize(
    ("root", "prefix"),
    [("", "net."), ("a/b/c", ""), ("state_dict", "learner.online.encoder."), ("x", "module.net.")],
)
def test_a_network_of_ones_own_training_code_is_found_where_it_is_said_to_lie(
    root: str, prefix: str, tmp_path: Path
) -> None:
    network, other = two()
    content: Any = put(prefix, network.state_dict())
    content |= put("other.", other.state_dict()) if prefix else {}
    for key in reversed(root.split("/") if root else []):
        content = {key: content}
    path = write(tmp_path, content)
    assert_computes(load_model(path, weights=f"{root}:{prefix}"), network, 32)
    if prefix:
        with pytest.raises(CossError, match=r"several networks: .*--weights KEY:PREFIX"):
            load_model(path)
    with pytest.raises(CossError, match=r"no tensors at --weights nowhere:; it has "):
        load_model(path, weights="nowhere:")


@pytest.mark.parametrize("prefix", ["encoder.", "net.", "model.", "model.backbone.", "module."])
@pytest.mark.parametrize("root", ["", "model_state_dict", "net"])
def test_one_network_is_found_wherever_it_lies(root: str, prefix: str, tmp_path: Path) -> None:
    network = layouts.small_resnet()
    state = put(prefix, network.state_dict())
    assert_computes(load_model(write(tmp_path, {root: state} if root else state)), network, 32)


# ---- files that look like another tool's ----


def test_ones_own_lightning_module_is_not_taken_for_solo_learns(tmp_path: Path) -> None:
    network = layouts.small_resnet(classes=0)
    state = put("backbone.", network.state_dict()) | put("projector.", layouts.PROJECTOR)
    state |= {"classifier.weight": torch.zeros(10, 64), "classifier.bias": torch.zeros(10)}
    loaded = load_model(write(tmp_path, layouts.lightning(state)))
    assert_computes(loaded, network, 32)
    assert "stem stride=1,padding=1,pool=none (--stem)" in loaded.preprocessing
    assert "ImageNet's mean and std (--mean, --std)" in loaded.preprocessing


def test_a_librarys_untouched_classifier_is_nobodys(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = layouts.TinyResNet(classes=1000).eval()
    loaded = load_model(write(tmp_path, network.state_dict()), size=64)
    assert loaded.head is None
    assert "fc has its initial values and is no classifier" in loaded.preprocessing
    network.fc.weight.data *= 1.2  # a trained one leaves the bounds
    assert load_model(write(tmp_path, network.state_dict()), size=64).classes == 1000


def test_a_convnext_of_the_original_code_is_read_behind_ddp(tmp_path: Path) -> None:
    network = layouts.drawn(
        timm.models.ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num_classes=5)
    )
    names = (
        ("stem.", "downsample_layers.0."),
        (".blocks.", "."),
        (".conv_dw.", ".dwconv."),
        (".mlp.fc", ".pwconv"),
        ("head.norm.", "norm."),
        ("head.fc.", "head."),
    )
    state = {}
    for key, value in network.state_dict().items():
        if ".downsample." in key:
            key = key.replace("stages.", "downsample_layers.").replace(".downsample.", ".")
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        state[f"module.{key}"] = value
    loaded = load_model(write(tmp_path, {"model": state}), size=64)
    assert loaded.classes == 5
    assert_computes(loaded, network, 64)
