"""What tests of figures share: records of all suites, and their figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import simulate

from robustbench_coss.figures.write import write_figures


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of all suites, two methods by two seeds."""
    folder = tmp_path_factory.mktemp("results")
    simulate.all_suites(folder, seeds=2, n=60)
    return folder


@pytest.fixture(scope="module")
def drawn(results: Path) -> Path:
    """The folder of all figures of them."""
    write_figures(results)
    return results / "figures" / "parts-32px"
