"""What tests of suites share: the tiny model, its encoder in two stages."""

from __future__ import annotations

import pytest
from helpers.occluded import in_stages

from robustbench_coss.evaluations.protocol import Subject


@pytest.fixture(scope="module")
def staged() -> Subject:
    return in_stages()
