"""Files with unusual tensors: measured as the same weights would be, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models as tv

from robustbench_coss.encoders.resnet import resnet18
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import Checkpoint, load_checkpoint, save_encoder
from robustbench_coss.models.load import load_model

SIZE = 32
State = dict[str, Tensor]


def state(arch: str = "resnet18", classes: int = 7) -> State:
    torch.manual_seed(0)
    found: State = tv.get_model(arch, num_classes=classes).state_dict()
    return found


def write(content: State, path: Path) -> Path:
    torch.save(content, path)
    return path


@torch.inference_mode()
def logits(model: Checkpoint) -> Tensor:
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    assert model.head is not None
    found: Tensor = model.head(model.encoder(images))
    return found


@torch.inference_mode()
def by_torchvision(content: State, arch: str = "resnet18") -> Tensor:
    network = tv.get_model(arch, num_classes=7)
    network.load_state_dict(content)
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    found: Tensor = network.eval()((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    return found


def every(change: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda s: {k: change(v) if v.is_floating_point() else v for k, v in s.items()}


def one(key: str, change: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda s: s | {key: change(s[key])}


SAME: dict[str, tuple[Callable[[State], State], Callable[[State], State]]] = {
    "sparse": (one("fc.weight", lambda v: v.to_sparse()), lambda s: s),
    "csr": (one("fc.weight", lambda v: v.to_sparse_csr()), lambda s: s),
    "sparse convolution": (one("conv1.weight", lambda v: v.to_sparse()), lambda s: s),
    "double": (every(lambda v: v.double()), lambda s: s),
    "bfloat16": (every(lambda v: v.bfloat16()), every(lambda v: v.bfloat16().float())),
    "half": (every(lambda v: v.half()), every(lambda v: v.half().float())),
    "transposed": (one("fc.weight", lambda v: v.t().contiguous().t()), lambda s: s),
    "needs a gradient": (one("fc.weight", torch.nn.Parameter), lambda s: s),
    "no bias": (
        lambda s: {k: v for k, v in s.items() if k != "fc.bias"},
        one("fc.bias", torch.zeros_like),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAME)
def test_a_file_is_measured_as_the_weights_that_it_stands_for(kind: str, tmp_path: Path) -> None:
    change, meant = SAME[kind]
    content = state()
    model = load_model(write(change(content), tmp_path / "model.pth"), size=SIZE)
    assert model.classes == 7
    torch.testing.assert_close(logits(model), by_torchvision(meant(content)))


def test_bfloat16_weights_of_a_safetensors_file_are_read_exactly(tmp_path: Path) -> None:
    content = every(lambda v: v.bfloat16())(state())
    save_file(content, tmp_path / "model.safetensors")
    model = load_model(tmp_path / "model.safetensors", size=SIZE)
    torch.testing.assert_close(logits(model), by_torchvision(every(lambda v: v.float())(content)))


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "densenet121"])
def test_a_head_of_another_name_without_bias_is_measured_too(arch: str, tmp_path: Path) -> None:
    content = state(arch)
    (bias,) = [k for k in content if content[k].shape == (7,)]
    path = write({k: v for k, v in content.items() if k != bias}, tmp_path / "model.pth")
    model = load_model(path, arch=f"torchvision:{arch}", size=SIZE)
    expected = by_torchvision(one(bias, torch.zeros_like)(content), arch)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def quantised(value: Tensor) -> Tensor:
    return torch.quantize_per_tensor(value.float(), 0.01, 0, torch.qint8)


REFUSED: dict[str, tuple[Callable[[State], State], str]] = {
    "quantised": (one("layer1.0.conv1.weight", quantised), "layer1.0.conv1.weight is quantised"),
    "quantised head": (one("fc.weight", quantised), "fc.weight is quantised"),
    "float8": (one("fc.weight", lambda v: v.to(torch.float8_e4m3fn)), "is quantised .float8"),
    "meta": (one("fc.weight", lambda v: v.to("meta")), "fc.weight lies on the device 'meta'"),
    "all meta": (every(lambda v: v.to("meta")), "conv1.weight lies on the device 'meta'"),
    "int8": (one("conv1.weight", lambda v: (9 * v).char()), "conv1.weight holds int8"),
    "int8 head": (one("fc.weight", lambda v: (9 * v).char()), "fc.weight holds int8"),
    "int64 bias": (one("fc.bias", lambda v: v.long()), "fc.bias holds int64"),
    "bool": (one("bn1.weight", lambda v: v > 0), "bn1.weight holds bool"),
    "complex": (one("conv1.weight", lambda v: 1j * v), "conv1.weight holds complex numbers"),
    "narrow head": (
        one("fc.weight", lambda v: v[:, :99]),
        r"fc.weight of shape \[7, 99\]|unexpected fc.weight",
    ),
    "short bias": (
        one("fc.bias", lambda v: v[:3]),
        r"fc.bias of shape \[3\], not \[7\]|unexpected fc",
    ),
    "bias alone": (
        lambda s: {k: v for k, v in state(classes=1000).items() if k != "fc.weight"},
        "fc.bias without fc.weight",
    ),
}


@pytest.mark.parametrize("cifar", [False, True])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_weight_is_refused_by_name(kind: str, cifar: bool, tmp_path: Path) -> None:
    """Also where this tool has the architecture, and builds the head itself."""
    change, said = REFUSED[kind]
    content = change(state())
    if cifar and content["conv1.weight"].layout == torch.strided:
        content["conv1.weight"] = content["conv1.weight"][:, :, 2:5, 2:5]
    with pytest.raises(CossError, match=said) as error:
        load_model(write(content, tmp_path / "model.pth"), size=SIZE)
    assert "\n" not in str(error.value)
    assert str(tmp_path / "model.pth") in str(error.value)


def test_a_sparse_tensor_too_large_to_write_out_is_refused(tmp_path: Path) -> None:
    huge: Any = torch.sparse_coo_tensor([[0], [0]], [1.0], (2**20, 2**20), check_invariants=True)
    path = write(state() | {"fc.weight": huge}, tmp_path / "model.pth")
    with pytest.raises(CossError, match=r"fc.weight is sparse and has 1,099,511,627,776 values"):
        load_model(path, size=SIZE)


def test_whole_numbers_in_a_file_of_this_tool_are_refused(tmp_path: Path) -> None:
    encoder = resnet18(size=32, width=0.125)
    encoder.conv1.weight = torch.nn.Parameter(encoder.conv1.weight.char(), requires_grad=False)
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, encoder, {"arch": "resnet18", "width": 0.125, "size": 32})
    with pytest.raises(CossError, match=r"conv1.weight holds int8"):
        load_checkpoint(path)
