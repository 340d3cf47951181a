"""Linear classifiers that other tools train on frozen features and save in files of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import torch
from torch import Tensor, nn

from robustbench_coss.errors import CossError, few
from robustbench_coss.models.other_tools.foreign import Foreign
from robustbench_coss.models.other_tools.opening import read_file
from robustbench_coss.models.other_tools.tree import Root, State, Tree
from robustbench_coss.models.tensors import ordinary

NAMES = re.compile(
    # dino and swav eval_linear.py; moco main_lincls.py and others; mae main_linprobe.py;
    # solo-learn linear.py; dinov2 eval/linear.py
    r"(.*\.)?(linear|fc|head|head\.1|head\.fc|classifier|heads\.head)\.weight|weight"
)
BATCH_NORM = 1e-6
"""ε of the batch norm, without weights, before MAE's linear probe (mae/main_linprobe.py)."""

INTERLEAVED, BEHIND = ("dino",), ("ibot", "dinov2", "msn")
"""Whose linear evaluation puts each channel of the mean behind that of the class token
(dino/eval_linear.py), and whose puts the whole mean behind the whole token
(ibot/evaluation/eval_linear.py, dinov2/eval/linear.py, msn/src/deit.py)."""

USUAL = {2: (1, True), 4: (4, False), 5: (4, True)}
"""What DINOv2's linear evaluation reads (dinov2/eval/linear.py, `n_last_blocks_list=[1, 4]`), by
how many tokens wide it is: class tokens of so many blocks, and whether the mean of the patches."""

NAMED = re.compile(r"classifier_(\d+)_blocks_avgpool_(True|False)_")
"""How DINOv2 names its classifiers."""


@dataclass(frozen=True)
class Head:
    """A classifier [B, D] -> [B, K].

    Attributes:
        layer: in eval mode.
        classes: K.
        blocks: of how many last blocks of a ViT it reads the class token, one behind the other.
        both: whether it reads the mean of the last patch tokens behind them.
    """

    layer: nn.Module
    classes: int
    blocks: int = 1
    both: bool = False

    def reads(self, form: str) -> str:
        """What it reads of an encoder from a file of `form`; "" if its feature as it is."""
        if self.blocks == 1 and not self.both:
            return ""
        last = "block" if self.blocks == 1 else f"{self.blocks} blocks"
        said = f", which reads the class token of its last {last}"
        if not self.both:
            return said
        order = ("channel by channel", "as a whole")[form not in INTERLEAVED]
        known = form in (*INTERLEAVED, *BEHIND)
        other = "" if known else f" (--format {INTERLEAVED[0]} if channel by channel)"
        return f"{said} and, {order} behind, the mean of its patch tokens{other}"


def read_head(path: Path, file: Foreign, dim: int, pooling: str | None = None) -> Head:
    """The linear classifier in a file, for the features of an encoder.

    Args:
        path: what `--head` names.
        file: the encoder.
        dim: D of its features; of a ViT with a class token, channels of that.
        pooling: which tokens it reads, if that was said.

    Raises:
        CossError: the file holds none or several, or one for other features.
    """
    content, export = read_file(path)
    found = [
        (key, state, root)
        for root, state in Tree(content, export).states.items()
        for key, value in state.items()
        if NAMES.fullmatch(key) and value.dim() == 2
    ]
    if not found:
        raise CossError(f"{path} holds no linear classifier; pass the file that --head means")
    fitting = [
        (key, state, root, read)
        for key, state, root in found
        if (read := _read_by(key, state[key].shape[1], file, dim, pooling)) is not None
    ]
    if not fitting:
        key, state, _ = found[0]
        raise CossError(_misfit(path, key, state[key], file, dim))
    if len(fitting) > 1:
        raise CossError(_several(path, fitting[0][2], [key for key, *_ in fitting]))
    key, state, _, (blocks, both) = fitting[0]
    start = key.removesuffix("weight")
    tensors = ordinary({k: v for k, v in state.items() if k.startswith(start[:-2])}, path)
    weight, bias = tensors[key].float(), tensors.get(f"{start}bias")
    if both and file.format in INTERLEAVED:
        weight = torch.cat([weight[:, 0::2], weight[:, 1::2]], dim=1)
    classes, width = weight.shape
    linear = nn.Linear(width, classes)
    linear.load_state_dict(
        {"weight": weight, "bias": torch.zeros(classes) if bias is None else bias.float()}
    )
    before = _batch_norm(tensors, start, width)
    layer: nn.Module = linear if before is None else nn.Sequential(before, linear)
    return Head(layer.eval(), classes, blocks, both)


def _read_by(
    key: str, width: int, file: Foreign, dim: int, pooling: str | None
) -> tuple[int, bool] | None:
    """How many blocks' class tokens a classifier reads, and whether the mean of the patches.

    None where it does not fit, or where its width may mean one as well as the other.
    """
    times, rest = divmod(width, dim)
    if rest or times < 1:
        return None
    if times == 1 or file.pooling not in ("class", "both") or file.embedding:
        return (1, False) if times == 1 and pooling != "both" else None
    if named := NAMED.search(key):
        read = int(named[1]), named[2] == "True"
        return read if sum(read) == times else None
    if pooling is None and file.format == "dinov2":
        return USUAL.get(times)
    mean_possible = times == 2 or file.format not in INTERLEAVED
    if pooling == "both":
        return (times - 1, True) if mean_possible else None
    if pooling is None and mean_possible and times != 4:
        return None
    return times, False


def _batch_norm(state: State, start: str, dim: int) -> nn.Module | None:
    """The batch norm before MAE's probe, which is child 0 of a Sequential, the layer child 1."""
    if not start.endswith("head.1."):
        return None
    outer = start.removesuffix("1.")
    mean, variance = (state.get(f"{outer}0.running_{part}") for part in ("mean", "var"))
    if mean is None or variance is None:
        return None
    norm = nn.BatchNorm1d(dim, eps=BATCH_NORM, affine=False)
    norm.load_state_dict({"running_mean": mean, "running_var": variance}, strict=False)
    return norm


def _several(path: Path, root: Root, keys: list[str]) -> str:
    """That a file holds several classifiers, and the line that saves one of them alone."""
    at = "".join(f"[{key!r}]" for key in root)
    part = keys[0].removesuffix("weight")
    code = (
        f"import torch; s = torch.load({str(path)!r}, map_location='cpu'){at}; "
        f"torch.save({{k: v for k, v in s.items() if {part!r} in k}}, 'head.pth')"
    )
    return (
        f"{path} holds several classifiers that fit ({few(keys, 4)}); save one alone, such as with "
        f"`python -c {quote(code)}`"
    )


def _misfit(path: Path, key: str, weight: Tensor, file: Foreign, dim: int) -> str:
    """Why a classifier does not fit, and what it may be for."""
    wanted = weight.shape[1]
    times = wanted // dim if wanted % dim == 0 else 0
    why = "pass the classifier that was trained on this encoder"
    if times == 1 and file.pooling == "both":
        why = "it reads the class token alone: leave out --pooling both"
    elif file.heads is not None and times > 1 and not file.embedding:
        why = (
            f"it may read the class tokens of the last {times} blocks (--pooling class) or of the "
            f"last {times - 1 if times > 2 else 'one'} and the mean of the patches (--pooling both)"
        )
    elif file.kind == "swin":
        why = "those on several last blocks of a Swin (n_last_blocks) are not measured here"
    return (
        f"{path}: its classifier {key.removesuffix('.weight')} reads {wanted} features, and "
        f"{file.arch} gives {dim}; {why}"
    )
