"""Files and folders as people have them: other names, nestings, adapters, shards, damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import layouts
from helpers.foreign_files import State, put, write
from helpers.layouts import assert_computes, changed, lightning, small_resnet, vit
from safetensors.torch import save_file

from robustbench_coss.errors import CossError
from robustbench_coss.models.load import load_model


def refused(where: Any, **options: Any) -> str:
    with pytest.raises(CossError) as caught:
        load_model(where, **options)
    said = str(caught.value)
    assert "\n" not in said
    return said


# ---- names and nestings ----


@pytest.mark.parametrize("name", ["linear", "classifier", "fc.1", "head.1", "last_linear"])
def test_a_classifier_by_another_name_is_the_networks_own(name: str, tmp_path: Path) -> None:
    network = small_resnet()
    state = {k.replace("fc.", f"{name}."): v for k, v in network.state_dict().items()}
    loaded = load_model(write(tmp_path, {"model": state}))
    assert loaded.classes == 10
    assert f"with its classifier {name}" in loaded.preprocessing
    assert_computes(loaded, network, 32)


def test_the_head_of_a_vit_may_have_another_name(tmp_path: Path) -> None:
    network = vit(num_classes=5)
    state = {k.replace("head.", "classifier."): v for k, v in network.state_dict().items()}
    assert_computes(load_model(write(tmp_path, state)), network, 32)


@pytest.mark.parametrize("names", [("linear.0", "linear.2"), ("head.0", "head.1")])
def test_a_projector_is_no_classifier(names: tuple[str, str], tmp_path: Path) -> None:
    state = layouts.without_head(small_resnet())
    state |= {f"{names[0]}.weight": torch.zeros(32, 64), f"{names[1]}.weight": torch.zeros(9, 32)}
    assert "--allow-partial" in refused(write(tmp_path, state))


NESTED: dict[str, Callable[[State], Any]] = {
    "compiled under DDP, with its average": lambda state: {
        "model_ema": put("module._orig_mod.backbone.", state),
        "model": put("module._orig_mod.backbone.", changed(state)),
    },
    "three dictionaries down": lambda state: {"a": {"b": {"nets": put("net.encoder.", state)}}},
    "beside an optimizer": lambda state: {"optimizer": {"state": {0: {}}}, "state": state},
    "with numbers among the keys": lambda state: {0: torch.zeros(3), "model": state},
}


@pytest.mark.parametrize("kind", NESTED)
def test_a_network_is_found_wherever_it_lies(kind: str, tmp_path: Path) -> None:
    network = small_resnet()
    assert_computes(load_model(write(tmp_path, NESTED[kind](network.state_dict()))), network, 32)


@pytest.mark.parametrize("prefix", ["net.encoder", "net.encoder."])
def test_a_prefix_needs_no_dot_at_its_end(prefix: str, tmp_path: Path) -> None:
    content = {"nets": put("net.encoder.", small_resnet().state_dict())}
    loaded = load_model(write(tmp_path, content), weights=f"nets:{prefix}")
    assert loaded.metadata["reading"]["weights"] == "nets:net.encoder."
    assert_computes(loaded, small_resnet(), 32)


def test_a_second_network_in_a_file_is_named(tmp_path: Path) -> None:
    """An average that a callback of Lightning keeps under a key of its own."""
    state = small_resnet().state_dict()
    averages = {"EMA": {"ema_weights": put("model.", changed(state))}}
    path = write(tmp_path, lightning(put("model.", state), callbacks=averages))
    said = load_model(path).preprocessing
    assert "the network at state_dict:model., not callbacks/EMA/ema_weights:model." in said
    asked = load_model(path, weights="callbacks/EMA/ema_weights:model.")
    assert "the network at" not in asked.preprocessing


# ---- weights that are not those of the network ----

LORA = {"blocks.0.attn.qkv.lora_A.default.weight": torch.zeros(4, 128)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s | LORA, "adapters of PEFT"),
        (lambda s: {k.replace("qkv.", "qkv.base_layer."): v for k, v in s.items()}, "adapters"),
        (
            lambda s: {k.replace("proj.weight", "proj.parametrizations.weight.original1"): v
                       for k, v in s.items()},
            "parametrizations",
        ),
        (lambda s: s | {"norm.bias": s["norm.bias"] * float("nan")}, "norm.bias holds values"),
    ],
)  # fmt: skip
def test_weights_that_the_network_does_not_compute_with_are_named(
    change: Callable[[State], State], says: str, tmp_path: Path
) -> None:
    path = write(tmp_path, change(vit().state_dict()))
    for options in ({}, {"allow_partial": True}):
        assert says in refused(path, **options)


@pytest.mark.filterwarnings("ignore")
def test_a_network_quantised_by_torch_is_called_so(tmp_path: Path) -> None:
    import copy

    made = torch.ao.quantization.quantize_dynamic(copy.deepcopy(vit()), {torch.nn.Linear})
    assert "quantised weights" in refused(write(tmp_path, made.state_dict()))


def test_a_list_of_states_is_saved_with_the_line_that_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex

    path = write(tmp_path, [{"epoch": 1}, small_resnet().state_dict()])
    line = refused(path).partition("`")[2].partition("`")[0]
    exec(shlex.split(line)[2], {})
    made = path.with_suffix(".pth" if path.suffix != ".pth" else ".state.pth")
    assert_computes(load_model(made), small_resnet(), 32)


# ---- folders and files of other kinds ----


def folder(path: Path, **files: Any) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(content)
    return path


def test_folders_of_others_say_what_to_pass(tmp_path: Path) -> None:
    config = json.dumps({"model_type": "vit"})
    adapter = folder(tmp_path / "adapter", adapter_config__json="{}")
    assert "an adapter of PEFT" in refused(adapter)
    folder(tmp_path / "out" / "checkpoint-500", config__json=config)
    assert "folders of models (checkpoint-500)" in refused(tmp_path / "out")
    folder(tmp_path / "models--org--net" / "snapshots" / "abc", config__json=config)
    assert "pass hf:org/net" in refused(tmp_path / "models--org--net")
    bare = folder(tmp_path / "bare", pytorch_model__bin="x")
    assert "no config.json that says of what" in refused(bare)
    flax = folder(tmp_path / "flax", config__json=config, flax_model__msgpack="x")
    assert "of another library (flax_model.msgpack)" in refused(flax)
    quantised = {"model_type": "vit", "quantization_config": {"quant_method": "gptq"}}
    assert "is quantised (gptq)" in refused(
        folder(tmp_path / "q", config__json=json.dumps(quantised))
    )


def test_files_of_others_say_what_they_are(tmp_path: Path) -> None:
    shard = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"a": torch.zeros(2)}, shard)
    assert "pass their folder" in refused(shard)
    for name, start, says in (("a.gguf", b"GGUF", "a GGUF file"), ("a.msgpack", b"\x81", "Flax")):
        (tmp_path / name).write_bytes(start + bytes(64))
        assert says in refused(tmp_path / name)


def test_weights_beside_their_configuration_are_read_with_it(tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in vit().state_dict().items()},
              tmp_path / "model.safetensors")  # fmt: skip
    (tmp_path / "config.json").write_text("{}")
    assert f"pass the folder {tmp_path}" in refused(tmp_path / "model.safetensors")
    alone = load_model(tmp_path / "model.safetensors", format="torchvision")
    assert_computes(alone, vit(), 32)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("facebook/dinov2-small", "pass hf:facebook/dinov2-small"),
        ("HF:facebook/dinov2-small", "pass hf:facebook/dinov2-small"),
        ("torchvison:resnet18", "names begin with torchvision:"),
    ],
)
def test_a_name_of_the_hub_without_its_beginning_is_understood(name: str, says: str) -> None:
    assert says in refused(name)
