"""Checkpoints of other tools that do not fit, are damaged, or say too little."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from helpers.foreign_files import (
    backbone,
    drawn_resnet,
    drawn_vit,
    numbered,
    shapes_of,
    vicreg,
    whole,
    write,
)
from torchvision.models import get_model, resnet18

from robustbench_coss.errors import CossError
from robustbench_coss.models.load import load_model
from robustbench_coss.models.other_tools.asked import Asked
from robustbench_coss.models.other_tools.build import load_state
from robustbench_coss.models.other_tools.foreign import Foreign
from robustbench_coss.models.other_tools.read import read_foreign

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
    assert read_foreign(path, Asked(arch="torchvision:resnet18")).arch == "torchvision:resnet18"


def test_a_named_architecture_may_have_any_names(tmp_path: Path) -> None:
    state = get_model("squeezenet1_1").state_dict()
    path = write(tmp_path, state)
    found = read_foreign(path, Asked(arch="torchvision:squeezenet1_1"))
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


@pytest.mark.parametrize("partial", [False, True])
def test_missing_weights_are_named_in_one_line_and_never_forgiven(
    partial: bool, tmp_path: Path
) -> None:
    path, found = damaged(tmp_path)
    with pytest.raises(CossError) as caught:
        load_state(resnet18(), found, path=path, allow_partial=partial)
    message = str(caught.value)
    assert "3 keys" in message
    assert "missing layer1.0.conv1.weight" in message
    assert "unexpected stranger" in message
    assert "layer4.1.bn2.weight of shape [3], not [512]" in message
    assert "--allow-partial" not in message
    assert "\n" not in message


def surplus(tmp_path: Path) -> Path:
    return write(tmp_path, backbone() | {"stranger": torch.zeros(1)})


def test_surplus_weights_are_left_out_if_the_user_says_so(tmp_path: Path) -> None:
    path = surplus(tmp_path)
    with pytest.raises(CossError, match=r"1 key: unexpected stranger; .*--allow-partial"):
        load_model(path)
    module = resnet18()
    found = read_foreign(path, Asked(arch="torchvision:resnet18"))
    load_state(module, found, path=path, allow_partial=True)
    assert torch.equal(module.conv1.weight, whole()["conv1.weight"])


def test_a_model_loaded_in_part_says_so_and_is_another_model(tmp_path: Path) -> None:
    path = surplus(tmp_path)
    first, again = (load_model(path, allow_partial=True) for _ in range(2))
    assert "loaded in part, 1 key: unexpected stranger" in first.preprocessing
    assert first.sha256 == again.sha256 != load_model(write(tmp_path, backbone())).sha256


def test_a_file_of_which_nothing_fits_is_refused_even_in_part(tmp_path: Path) -> None:
    path = write(tmp_path, drawn_vit().state_dict())
    found = read_foreign(path, Asked(arch="torchvision:resnet18"))
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


def test_an_object_of_a_stranger_beside_the_weights_is_not_made(tmp_path: Path) -> None:
    path = write(tmp_path, {"model": backbone(), "args": re.compile("a")})
    assert read_foreign(path).arch == "torchvision:resnet18"


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
        read_foreign(path, Asked(format="vissl"))


def test_an_unknown_format_gets_near_names(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="did you mean mocov3"):
        read_foreign(tmp_path, Asked(format="moco-v3"))


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="is a folder"):
        read_foreign(tmp_path)
    with pytest.raises(CossError, match="does not exist"):
        read_foreign(tmp_path / "none.pth")


def test_barlow_twins_is_not_taken_for_vicreg(tmp_path: Path) -> None:
    content = vicreg()
    content["model"]["module.bn.running_mean"] = torch.zeros(4)
    assert read_foreign(write(tmp_path, content)).method == "barlowtwins"
