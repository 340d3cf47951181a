"""What tests of the command line share.

Commands are called in this process where they can be: starting Python and torch takes seconds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial

# Several processes share the cores: a thread each, read by torch when it is first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from helpers.bench import Bench, Outcome

from robustbench_coss import cli
from robustbench_coss.pretrain import beside_controls, monitors


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """`coss-bench` with the given arguments, as its entry point runs it."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("warnings.formatwarning", None)  # set by main(); restored after the test

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["coss-bench", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def small_bank() -> Iterator[None]:
    """kNN accuracy during training, the costliest part of tiny runs, on fewer images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitors, "look_at", partial(monitors.look_at, bank=200, queries=100))
        patch.setattr(beside_controls, "BANK", 200)
        patch.setattr(beside_controls, "QUERIES", 100)
        yield
