"""Files laid out as other tools save them give the features that those tools compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, layouts
from helpers.foreign_files import write
from helpers.layouts import assert_computes
from torch import nn

from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.models.load import load_model
from robustbench_coss.models.other_tools.formats import FORMATS, markdown

# Layout -> format, role of the network, method, what is said of the feature.
FILES: dict[Callable[[], layouts.Layout], tuple[str, str | None, str | None, str]] = {
    layouts.moco: ("mocov2", "online", "moco", ""),
    layouts.simsiam: ("simsiam", None, "simsiam", ""),
    layouts.barlow_twins: ("barlowtwins", None, "barlowtwins", ""),
    layouts.swav: ("swav", None, "swav", "0.228"),
    layouts.doubled_swav: ("swav", None, "swav", "0.228"),
    layouts.supcon: ("supcon", None, None, "0.5071, 0.4867, 0.4408"),
    layouts.byol_pytorch: ("byol-pytorch", "online", "byol", "assumed"),
    layouts.simclr_port: ("simclr", None, "simclr", "mean (0, 0, 0), std (1, 1, 1)"),
    layouts.lightly_generator: ("lightly", None, None, "ImageNet's mean and std (--mean, --std)"),
    layouts.dino: ("dino", "teacher", "dino", "class token"),
    layouts.ibot: ("ibot", "teacher", "ibot", "class token"),
    layouts.swin_teacher: ("dino", "teacher", "dino", ""),
    layouts.mae: ("mae", None, "mae", "class token"),
    layouts.mae_published: ("mae", None, "mae", "class token"),
    layouts.mae_fine_tuned: ("mae", None, "mae", "mean of its patch tokens"),
    layouts.mae_probe: ("mae", None, "mae", "with the classifier of the file itself"),
    layouts.ijepa: ("ijepa", "teacher", "ijepa", "mean of its patch tokens"),
    layouts.msn: ("msn", "teacher", "msn", "class token"),
    layouts.dinov2: ("dinov2", "teacher", "dinov2", "class token"),
    layouts.dinov2_teacher: ("dinov2", "teacher", "dinov2", "class token"),
    layouts.dinov2_registers: ("dinov2", "teacher", "dinov2", "class token"),
    layouts.dinov2_giant: ("dinov2", "teacher", "dinov2", "class token"),
    layouts.lightly_msn: ("lightly", "teacher", None, "2 attention heads (--heads)"),
    layouts.lightly_dinov2: ("lightly", "teacher", None, "2 attention heads (--heads)"),
    layouts.lightly_simmim: ("lightly", None, None, "2 attention heads (--heads)"),
}


@pytest.mark.parametrize("layout", FILES, ids=lambda layout: layout.__name__)
def test_a_file_of_another_tool_gives_the_features_of_its_own_code(
    layout: Callable[[], layouts.Layout], tmp_path: Path
) -> None:
    form, encoder, method, said = FILES[layout]
    content, network = layout()
    path = write(tmp_path, content)
    transformer = not isinstance(network, nn.Module) or "conv1.weight" not in network.state_dict()
    loaded = load_model(path, size=None if transformer else 64)
    assert loaded.metadata["source"] == f"{form} checkpoint"
    assert (loaded.metadata["encoder"], loaded.metadata["method"]) == (encoder, method)
    assert said in loaded.preprocessing
    assert_computes(loaded, network, loaded.encoder.input.size)
    again = load_model(path, size=None if transformer else 64, **read_again(loaded))
    assert again.sha256 == loaded.sha256


def read_again(loaded: Checkpoint) -> Any:
    """The options that a record says read the file in this way."""
    reading = dict(loaded.metadata["reading"])
    return reading | {key: tuple(reading[key]) for key in ("mean", "std")}


def test_every_format_has_a_file_here_or_beside() -> None:
    beside = {
        "auto",
        "vissl",
        "mocov3",
        "vicreg",
        "mmpretrain",
        "solo-learn",
        "clip",
        "torchvision",
    }
    assert {form for form, *_ in FILES.values()} | beside == set(FORMATS)


def test_the_table_in_the_documentation_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert markdown() in page
