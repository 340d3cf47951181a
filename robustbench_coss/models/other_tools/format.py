"""What a row of the table of formats says, and the constants that rows share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from robustbench_coss.models.other_tools.tree import Tree

Colour = tuple[float, float, float]
Colours = tuple[Colour, Colour]

IMAGENET: Colours = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SWAV: Colours = ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))  # swav/eval_linear.py
CLIP: Colours = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF: Colours = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
AS_IS: Colours = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and standard deviation of pixels in [0, 1]."""

CIFAR: dict[str, dict[str, Colours]] = {
    # solo-learn/solo/data/pretrain_dataloader.py, MEANS_N_STD
    "solo-learn": {
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    },
    # SupContrast/main_supcon.py, set_loader
    "supcon": {
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    },
}
"""Of CIFAR, which every tool states with other digits."""


@dataclass(frozen=True)
class Source:
    """A place in a file where the weights of a network may lie.

    Attributes:
        root: keys that lead to the state dict; () is the file itself.
        prefix: what the names of the network's tensors begin with, without wrappers.
        encoder: "online", "teacher", "average" or "" if the file has one network.
        beside: a beginning of names that must occur as well; it tells the role of the network.
        head: names of the classifier, with alternatives; "" if what is called so belongs to
            pretraining. Relative to the network; a name with "/" is one of the whole dictionary.
    """

    root: tuple[str, ...]
    prefix: str
    encoder: str = ""
    beside: str = ""
    head: str = ""


def sixty_four(dim: int, fixed: bool = False) -> int:
    """Attention heads of 64 channels each, as ViT has them but for ViT-H and ViT-g (16)."""
    return {1280: 16, 1408: 16}.get(dim, max(1, dim // 64))


def twelve(dim: int, fixed: bool = True) -> int:
    """MoCo v3's ViT-S (moco-v3/vits.py), and the ViT-Ti that others add, have 12 heads."""
    return {192: 12, 384: 12}.get(dim, sixty_four(dim))


def twelve_if_fixed(dim: int, fixed: bool) -> int:
    """Fixed positions are of MoCo v3 and of solo-learn's MAE (solo/backbones/vit/vit_mae.py)."""
    return twelve(dim) if fixed else sixty_four(dim)


@dataclass(frozen=True)
class Format:
    """How a tool saves its checkpoints.

    Attributes:
        name: for `--format`.
        what: which files and keys, for people.
        recognise: whether a file is of this tool, if one of `sources` is there too.
        sources: in order of preference; the first that is there is read.
        network: which one is read, for people.
        classifier: which is read with it, for people.
        method: what the tool trains with, or None if it has several methods or does not matter.
        drop: beginnings of names, after the prefix, that belong to no encoder.
        colours: what the tool normalises with, by the file; None if that is the user's choice.
        stems: whether its ResNets with a 7×7 convolution are torchvision's.
        small: stride, padding and pooling of its ResNets with a 3×3 one, if they are told.
        heads: attention heads of its ViTs by channels and by whether their positions are fixed, if
            they are told.
        pooling: which token is the feature of its ViTs, if they have a class token and the tool's
            own evaluation says.
        by: where it says so, for people.
    """

    name: str
    what: str
    recognise: Callable[[Tree], bool]
    sources: tuple[Source, ...]
    network: str = "the only one"
    classifier: str = "none"
    method: str | None = None
    drop: tuple[str, ...] = ()
    colours: Callable[[Tree], Colours | None] = lambda tree: IMAGENET
    stems: bool = True
    small: str = ""
    heads: Callable[[int, bool], int] | None = sixty_four
    pooling: str = "class"
    by: str = ""
