"""What tests of the command line share.

Commands are called in this process where they can be: starting Python and torch takes seconds.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial

# Several processes share the cores: a thread each, read by torch when it is first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has Ctrl-C ignored, and so would what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if gc.isenabled():  # not until the libraries are loaded and the tests found: what they make stays
    gc.disable()

import pytest
from helpers import FEW
from helpers.bench import Bench, Outcome
from hypothesis import HealthCheck, settings

# The project is imported where it is used: the process that only hands out tests to others loads
# this file before it starts them, and they would wait for torch three times.

# The same examples every time; pytest --hypothesis-profile default looks for others.
# On a busy machine, drawing three numbers can take longer than it is allowed to.
settings.register_profile(
    "same",
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("same")

# Files of tests that take long, the longest first, and those that need what not everyone has.
SLOW = (
    "test_docs_commands.py",
    "test_learning.py",
    "test_sweep_jobs.py",
    "test_cluster.py",
    "test_kills.py",
    "test_parts.py",
    "test_one_number.py",
    "test_resume.py",
    "test_verify.py",
    "test_wheel.py",
    "test_hostile_checkpoint.py",
    "test_figures.py",
    "test_export.py",
    "test_torchattacks.py",
    "test_distributed.py",
    "test_site_browser.py",
    "test_measured_controls.py",
    "test_suites_corruption.py",
    "test_allocator.py",
    "test_example_rotation.py",
    "test_fast_accuracy.py",
    "test_claims_error_rates.py",
    "test_sweep.py",
    "test_export_onnx.py",
    "test_fuzz.py",
    "test_commands.py",
)
NEEDS = {"test_cluster.py": pytest.mark.cluster, "test_site_browser.py": pytest.mark.browser}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the files above, and begin with them: the last to end is then a short one."""
    for item in items:
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)
        if item.path.name in NEEDS:
            item.add_marker(NEEDS[item.path.name])
    place = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.name, len(SLOW)))


def pytest_collection_finish() -> None:
    """Libraries and tests are a million objects that stay: Python need not look through them
    again and again for what it could free.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def work_done_once() -> Iterator[None]:
    from helpers.once import work_once

    with pytest.MonkeyPatch.context() as patch:
        work_once(patch)
        yield


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """`coss-bench` with the given arguments, as its entry point runs it."""
    from robustbench_coss import cli

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
def few_pictures() -> Iterator[dict[str, int]]:
    """Generated pictures by the hundred: probes and kNN take all that there are. Gives how many
    there are without this.
    """
    from robustbench_coss.datasets.parts import COUNTS

    before = dict(COUNTS)
    with pytest.MonkeyPatch.context() as patch:
        for role, count in FEW.items():
            patch.setitem(COUNTS, role, count)
        yield before


@pytest.fixture(scope="module")
def small_bank() -> Iterator[None]:
    """kNN accuracy during training, the costliest part of tiny runs, on fewer images."""
    from robustbench_coss.pretrain import beside_controls, monitors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitors, "look_at", partial(monitors.look_at, bank=200, queries=100))
        patch.setattr(beside_controls, "BANK", 200)
        patch.setattr(beside_controls, "QUERIES", 100)
        yield
