"""What tests of evaluations share: the tiny model that suites measure."""

from __future__ import annotations

import pytest

from robustbench_coss.evaluations.protocol import Subject
from robustbench_coss.testing import tiny_subject


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_subject()
