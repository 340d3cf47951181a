"""Where to read on about a model: addresses that follow from what its record says."""

from __future__ import annotations

from typing import Any

ARXIV = "https://arxiv.org/abs/"
PAPERS = {
    "byol": "2006.07733",
    "dino": "2104.14294",
    "mocov3": "2104.02057",
    "simclr": "2002.05709",
}
CO_SSL = "2501.02860"
HUB = "https://huggingface.co/"
CODE = {
    "timm": "https://github.com/huggingface/pytorch-image-models",
    "torchvision": "https://github.com/pytorch/vision",
}


def links_of(model: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """(what, address) of a model's papers, code and weights.

    Args:
        model: metadata of a record.
    """
    method = str(model.get("method") or "")
    base = method.removeprefix("co-").removesuffix("-mc")
    papers = [PAPERS[base]] if base in PAPERS else []
    papers += [CO_SSL] if method.startswith("co-") else []
    found = [(f"Paper, arXiv {number}", ARXIV + number) for number in papers]
    library, _, name = str(model["name"]).partition(":")
    weights = {"timm": f"{HUB}timm/{name.removeprefix('hf-hub:timm/')}", "hf": f"{HUB}{name}"}
    found += [("Code", CODE[library])] if name and library in CODE else []
    return (*found, *(("Weights", weights[library]) for _ in [0] if name and library in weights))
