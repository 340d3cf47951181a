"""What tests of the site share: records of all suites, and their site."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import simulate

from robustbench_coss.pages.site import write_site


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, three seeds, six suites; a failed check among them."""
    folder = tmp_path_factory.mktemp("results")
    simulate.all_suites(folder, seeds=3, n=60)
    return folder


@pytest.fixture(scope="module")
def site(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "site"
    assert write_site(results, out) == out / "index.html"
    return out
