"""What tests of attacks share: short attacks."""

from __future__ import annotations

import pytest

from robustbench_coss.evaluations.attacks import run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacks whose length is fixed, shortened."""
    monkeypatch.setattr(run, "QUERIES", 40)
    monkeypatch.setattr(run, "AUTOATTACK_STEPS", 3)
