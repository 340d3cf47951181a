"""What tests of claims share: a result of `coss-bench claims` on simulated records."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import simulate
from helpers.claim_cases import with_options


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    simulate.all_suites(results, ("byol", "co-byol", "dino", "co-dino", "simclr"), seeds=3, n=100)
    with_options(results)
    return results
