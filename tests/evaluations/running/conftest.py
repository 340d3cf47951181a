"""What tests of the runner share: toy plug-ins, and a run of the toy encoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.toy_suite import ToySuite, make_run

from robustbench_coss import registry

TOYS = "helpers.toy_suite"


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toys as an installed third-party package, found as any other is."""
    info = tmp_path / "site" / "coss_toys-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: coss-toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[robustbench_coss.suites]\ntoy = {TOYS}:ToySuite\nbad = {TOYS}:BadSuite\n"
        f"linked = {TOYS}:LinkedSuite\nshy = {TOYS}:ShySuite\n"
        f"wordy = {TOYS}:WordySuite\n"
        f"[robustbench_coss.encoders]\ntoy-encoder = {TOYS}:ToyEncoder\n"
        f"[robustbench_coss.datasets]\ntoy-data = {TOYS}:TOY_DATA\n"
        f"other-data = {TOYS}:OTHER_DATA\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry._entries.cache_clear()
    ToySuite.log.clear()
    ToySuite.events.clear()
    yield
    registry._entries.cache_clear()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "toy-run")
