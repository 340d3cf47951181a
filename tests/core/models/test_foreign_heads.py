"""Linear classifiers in files of their own join the encoder that they were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import layouts
from helpers.foreign_files import State, put
from helpers.layouts import assert_computes
from torch import nn

from robustbench_coss.errors import CossError
from robustbench_coss.models.load import load_model


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def linear(features: int, classes: int = 5) -> Any:
    torch.manual_seed(7)
    return nn.Linear(features, classes)


FILES: dict[str, Any] = {
    # dino/eval_linear.py and swav/eval_linear.py; moco/main_lincls.py; solo/methods/linear.py
    "DINO, SwAV": lambda layer: {"epoch": 1, "state_dict": put("module.linear.", layer)},
    "MoCo": lambda layer: {
        "arch": "resnet18",
        "state_dict": put("module.fc.", layer) | put("module.", {"conv1.weight": torch.zeros(1)}),
    },
    "solo-learn": lambda layer: layouts.lightning(put("classifier.", layer)),
    "plain": lambda layer: layer,
}


@pytest.mark.parametrize("kind", FILES)
def test_a_classifier_joins_its_encoder(kind: str, tmp_path: Path) -> None:
    content, network = layouts.moco()
    layer = linear(64)
    encoder = saved(tmp_path / "encoder.pth", content)
    head = saved(tmp_path / "head.pth", FILES[kind](dict(layer.state_dict())))
    loaded = load_model(encoder, head=head, size=64)
    assert loaded.classes == 5
    assert "with the classifier of head.pth" in loaded.preprocessing
    assert_computes(loaded, nn.Sequential(network, layer), 64)
    assert loaded.sha256 != load_model(encoder, size=64).sha256


@pytest.mark.parametrize("form", ["dino", "dinov2"])
def test_a_classifier_on_both_tokens_reads_them_in_the_order_of_its_code(
    form: str, tmp_path: Path
) -> None:
    content, network = layouts.dino(8) if form == "dino" else layouts.dinov2()
    layer = linear(256)

    def logits(x: torch.Tensor) -> torch.Tensor:
        tokens = network.forward_features(x)
        first, mean = tokens[:, 0], tokens[:, 1:].mean(dim=1)
        both = torch.stack([first, mean], dim=-1).flatten(1)  # dino/eval_linear.py
        found: torch.Tensor = layer(both if form == "dino" else torch.cat([first, mean], dim=1))
        return found

    encoder = saved(tmp_path / "encoder.pth", content)
    head = saved(tmp_path / "head.pth", {"state_dict": put("linear.", dict(layer.state_dict()))})
    assert_computes(load_model(encoder, head=head, pooling="both"), logits, 32)
    if form == "dino":  # which may as well read two class tokens
        with pytest.raises(CossError, match=r"reads 256 features.*gives 128; .*--pooling both"):
            load_model(encoder, head=head)


def test_maes_probe_joins_the_file_of_pretraining_with_its_batch_norm(tmp_path: Path) -> None:
    encoder = saved(tmp_path / "encoder.pth", layouts.mae()[0])
    content, network = layouts.mae_probe()
    head = saved(tmp_path / "head.pth", content)
    assert_computes(load_model(encoder, head=head), network, 32)


def several() -> State:
    layer = dict(linear(64).state_dict())
    return put("a.fc.", layer) | put("b.fc.", layer)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (lambda: put("fc.", dict(linear(300).state_dict())), "reads 300 features.*gives 64"),
        (lambda: {"conv.weight": torch.zeros(1)}, "holds no linear classifier"),
        (several, r"several classifiers that fit \(a\.fc\.weight, b\.fc\.weight\)"),
    ],
)
def test_a_classifier_that_does_not_fit_is_named(head: Any, says: str, tmp_path: Path) -> None:
    encoder = saved(tmp_path / "encoder.pth", layouts.moco()[0])
    with pytest.raises(CossError, match=says):
        load_model(encoder, head=saved(tmp_path / "head.pth", head()), size=64)
