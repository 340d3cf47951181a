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
    library, _, name = str(model.get("arch") or "").partition(":")
    found += [("Code", CODE[library])] if name and library in CODE else []
    repository = _repository(library, name.removeprefix("hf-hub:"), str(model["name"]))
    return (*found, *(("Weights", HUB + each) for each in [repository] if each))


def _repository(library: str, name: str, called: str) -> str:
    """Where the Hub has the weights of an architecture, "" where they are not there.

    Args:
        called: what the model is, "timm-resnet18-a1_in1k" of the weights a1_in1k.
    """
    if "/" in name and library in ("timm", "hf", "open_clip"):
        return name
    _, found, tag = called.partition(f"timm-{name}-")
    return f"timm/{name}.{tag}" if library == "timm" and found and tag != "untrained" else ""
