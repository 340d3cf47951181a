"""Linear classifiers on the tokens of several last blocks, as DINO, iBOT and DINOv2 train them."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import layouts
from helpers.foreign_files import State, put
from helpers.layouts import assert_computes
from torch import Tensor, nn

from robustbench_coss.errors import CossError
from robustbench_coss.models.load import load_model

DEPTH, WIDTH = 6, 128


@cache
def network() -> Any:
    return layouts.vit(depth=DEPTH, init_values=1.0)


def content(form: str) -> Any:
    """dino/main_dino.py, ibot/main_ibot.py, dinov2's published backbones, a plain state dict."""
    state = network().state_dict()
    both = {"teacher": put("backbone.", state), "student": put("backbone.", layouts.changed(state))}
    return {
        "dino": both | {"dino_loss": {}},
        "ibot": both | {"ibot_loss": {"center": torch.zeros(1)}},
        "dinov2": state | {"mask_token": torch.zeros(1, WIDTH)},
        "torchvision": state,
    }[form]


def last_tokens(x: Tensor, count: int) -> list[Tensor]:
    """`get_intermediate_layers`: the tokens of the last blocks, each after the final norm."""
    found = []
    x = network().norm_pre(network()._pos_embed(network().patch_embed(x)))
    for number, block in enumerate(network().blocks):
        x = block(x)
        if DEPTH - number <= count:
            found.append(network().norm(x))
    return found


def features(x: Tensor, form: str, blocks: int, avgpool: bool) -> Tensor:
    """dino/eval_linear.py; ibot/evaluation/eval_linear.py and dinov2/eval/linear.py."""
    tokens = last_tokens(x, blocks)
    output = torch.cat([t[:, 0] for t in tokens], dim=-1)
    if avgpool:
        mean = torch.mean(tokens[-1][:, 1:], dim=1)
        if form == "dino":
            return torch.cat((output.unsqueeze(-1), mean.unsqueeze(-1)), dim=-1).flatten(1)
        output = torch.cat((output, mean), dim=-1)
    return output


def linear(tokens: int) -> Any:
    torch.manual_seed(7)
    return nn.Linear(tokens * WIDTH, 5)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("form", "blocks", "avgpool", "pooling"),
    [
        ("dino", 4, False, None),  # its default, with ViT-S
        ("dino", 1, True, "both"),  # with ViT-B
        ("dino", 2, False, "class"),
        ("ibot", 4, False, None),
        ("ibot", 1, True, "both"),
        ("ibot", 4, True, "both"),
        ("dinov2", 1, False, None),
        ("dinov2", 1, True, None),  # dinov2_vits14_linear_head.pth
        ("dinov2", 4, False, None),
        ("dinov2", 4, True, None),  # dinov2_vits14_linear4_head.pth
        ("dinov2", 3, True, "both"),
        ("torchvision", 4, False, None),  # dino_deitsmall16_pretrain.pth and its linear weights
        ("torchvision", 4, True, "both"),
    ],
)
def test_a_classifier_gets_the_tokens_of_as_many_blocks_as_it_was_trained_on(
    form: str, blocks: int, avgpool: bool, pooling: str | None, tmp_path: Path
) -> None:
    layer = linear(blocks + avgpool)

    def logits(x: Tensor) -> Tensor:
        found: Tensor = layer(features(x, form, blocks, avgpool))
        return found

    encoder = saved(tmp_path / "encoder.pth", content(form))
    state = put("module.linear.", dict(layer.state_dict()))
    head = saved(tmp_path / "head.pth", {"epoch": 1, "state_dict": state})
    loaded = load_model(encoder, head=head, pooling=pooling)
    assert_computes(loaded, logits, 32)
    assert loaded.encoder.dim == (blocks + avgpool) * WIDTH
    if blocks > 1:
        assert f"the class token of its last {blocks} blocks" in loaded.preprocessing
    assert ("--format dino if" in loaded.preprocessing) == (avgpool and form == "torchvision")
    # What the record says reads it so again.
    assert loaded.metadata["reading"]["pooling"] == ("both" if avgpool else "class")
    again = load_model(encoder, head=head, pooling=loaded.metadata["reading"]["pooling"])
    assert again.sha256 == loaded.sha256


@torch.no_grad()
def test_positions_left_out_are_left_out_of_all_blocks_that_are_read(tmp_path: Path) -> None:
    encoder = saved(tmp_path / "encoder.pth", content("dinov2"))
    head = saved(tmp_path / "head.pth", dict(linear(5).state_dict()))
    loaded = load_model(encoder, head=head).encoder
    local = loaded.local(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    keep = torch.zeros(1, 4, 4, dtype=torch.bool)
    keep[0, 1:3] = True
    elsewhere = torch.where(keep[:, None], local, local + 1)
    elsewhere[:, WIDTH:] = local[:, WIDTH:]  # the class token that every position carries
    found = loaded.pool(local, keep)
    assert torch.equal(loaded.pool(elsewhere, keep), found)
    patches, prefix = loaded.split(local)
    tokens = torch.cat([prefix, patches[:, keep.flatten()]], dim=1)
    wanted = []
    for block in network().blocks[-4:]:
        tokens = block(tokens)
        wanted.append(network().norm(tokens)[:, 0])
    wanted.append(network().norm(tokens)[:, 1:].mean(dim=1))
    torch.testing.assert_close(found, torch.cat(wanted, dim=1))


def dinov2_classifiers(*names: str) -> State:
    state: State = {}
    for name in names:
        blocks, mean = int(name.split("_")[1]), "True" in name
        state |= put(f"classifiers_dict.{name}.linear.", dict(linear(blocks + mean).state_dict()))
    return state


def test_the_name_of_a_classifier_of_dinov2_says_what_it_reads(tmp_path: Path) -> None:
    encoder = saved(tmp_path / "encoder.pth", content("dinov2"))
    state = dinov2_classifiers("classifier_5_blocks_avgpool_False_lr_0_00500")
    head = saved(tmp_path / "head.pth", {"model": state, "iteration": 3})
    loaded = load_model(encoder, head=head)
    assert "the class token of its last 5 blocks" in loaded.preprocessing
    assert loaded.metadata["reading"]["pooling"] == "class"


def test_of_many_classifiers_one_is_saved_with_the_line_that_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = saved(tmp_path / "encoder.pth", content("dinov2"))
    names = [f"classifier_4_blocks_avgpool_True_lr_0_0{n}" for n in ("1000", "0500")]
    state = put("module.", dinov2_classifiers(*names))
    head = saved(tmp_path / "head.pth", {"model": state})
    with pytest.raises(CossError, match="several classifiers that fit") as caught:
        load_model(encoder, head=head)
    line = str(caught.value).partition("`")[2].partition("`")[0]
    monkeypatch.chdir(tmp_path)
    exec(shlex.split(line)[2], {})
    assert load_model(encoder, head=tmp_path / "head.pth").classes == 5


@pytest.mark.parametrize(
    ("form", "tokens", "pooling", "says"),
    [
        ("dino", 2, None, r"reads 256 features.*gives 128; .*--pooling class.*--pooling both"),
        ("ibot", 5, None, "last 5 blocks .--pooling class. or of the last 4 and the mean"),
        ("dino", 3, "both", "reads 384 features"),
        ("dinov2", 3, None, "last 3 blocks"),
        ("dino", 1, "both", "leave out --pooling both"),
        ("dino", 6, None, "class tokens of 6 blocks, which .* has not"),
    ],
)
def test_a_classifier_whose_tokens_are_not_told_is_named(
    form: str, tokens: int, pooling: str | None, says: str, tmp_path: Path
) -> None:
    encoder = saved(tmp_path / "encoder.pth", content(form))
    head = saved(tmp_path / "head.pth", dict(linear(tokens).state_dict()))
    with pytest.raises(CossError, match=says) as caught:
        load_model(encoder, head=head, pooling=pooling)
    assert "\n" not in str(caught.value)
