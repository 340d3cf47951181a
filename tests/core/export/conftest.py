"""What tests of exports share: runs of a wide and a narrow encoder, one of them as ONNX."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.exported import make_run

from robustbench_coss.models.export import Export, export


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "narrow"
    make_run(folder, "rf29_resnet18", 32, 1 / 8, method="dino", encoder="teacher")
    return folder


@pytest.fixture(scope="module")
def onnx_export(narrow: Path) -> Export:
    return export(narrow, "onnx")
