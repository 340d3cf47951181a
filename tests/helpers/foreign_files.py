"""Checkpoints laid out as other tools save them, by what their code says."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model, resnet18

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


def put(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def write(folder: Path, content: Any) -> Path:
    path = folder / "file.pth"
    torch.save(content, path)
    return path


def projector() -> State:
    return {"0.weight": torch.zeros(4, 512), "1.running_mean": torch.zeros(4)}


def vicreg() -> dict[str, Any]:
    net = put("module.backbone.", backbone())
    return {"epoch": 2, "model": net | put("module.projector.", projector()), "optimizer": {}}
