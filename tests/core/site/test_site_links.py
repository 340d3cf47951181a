"""Where a model's page leads on to."""

from __future__ import annotations

import pytest

from robustbench_coss.pages.site.links import links_of

ARXIV = "https://arxiv.org/abs/"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"name": "mine", "method": "co-dino-mc"}, [f"{ARXIV}2104.14294", f"{ARXIV}2501.02860"]),
        (
            {"name": "timm-resnet18-a1_in1k", "arch": "timm:resnet18"},
            [
                "https://github.com/huggingface/pytorch-image-models",
                "https://huggingface.co/timm/resnet18.a1_in1k",
            ],
        ),
        (
            {"name": "timm-resnet18-untrained", "arch": "timm:resnet18"},
            ["https://github.com/huggingface/pytorch-image-models"],
        ),
        (
            {"name": "mine", "arch": "timm:hf-hub:timm/resnet18.a1_in1k"},
            [
                "https://github.com/huggingface/pytorch-image-models",
                "https://huggingface.co/timm/resnet18.a1_in1k",
            ],
        ),
        (
            {"name": "torchvision-resnet18-DEFAULT", "arch": "torchvision:resnet18"},
            ["https://github.com/pytorch/vision"],
        ),
        (
            {"name": "facebook-dinov2-small", "arch": "hf:facebook/dinov2-small"},
            ["https://huggingface.co/facebook/dinov2-small"],
        ),
        ({"name": "folder", "arch": "hf:Dinov2Model"}, []),
        ({"name": "run-1", "method": "of-my-own"}, []),
    ],
)
def test_links_follow_from_the_record(model: dict[str, str], expected: list[str]) -> None:
    assert [address for _, address in links_of(model)] == expected
