"""Tasks side by side: so many at a time, none in another's way, and no process left behind."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from robustbench_coss.errors import CossError
from robustbench_coss.machine.side_by_side import side_by_side

KILL_ITSELF = "__import__('os').kill(__import__('os').getpid(), 9)"
NAP = "print(__import__('os').getpid(), flush=True) or __import__('time').sleep(60)"
PARENT = f"""
from robustbench_coss.machine.side_by_side import side_by_side
def told(item, line):
    print(line + "\\n", end="", flush=True)  # in one piece: two threads tell of processes
for _ in side_by_side(2, 1, told, eval, [{NAP!r}] * 3):
    pass
"""


def quiet(item: object, line: str) -> None:
    pass


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, and nobody has asked yet


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_results_and_errors_come_back_and_a_killed_task_stops_no_other() -> None:
    items = ["6 * 7", "1 / 0", KILL_ITSELF, "__import__('sys').exit(3)", "6 * 8"]
    found = dict(side_by_side(2, 1, quiet, eval, items))
    assert found["6 * 7"] == 42
    assert found["6 * 8"] == 48
    errors = [found[item] for item in items[1:4]]
    assert all(isinstance(error, CossError) for error in errors)
    assert str(errors[0]) == "ZeroDivisionError: division by zero"
    assert str(errors[1]).startswith("its process was killed by SIGKILL")
    assert str(errors[2]) == "its process ended with status 3"


def test_each_process_has_its_share_of_threads_and_what_it_prints_is_told_with_its_item() -> None:
    told: list[tuple[str, str]] = []
    item = "print('first\\nsecond') or __import__('os').environ['OMP_NUM_THREADS']"
    with closing(side_by_side(1, 3, lambda *line: told.append(line), eval, [item])) as outcomes:
        assert list(outcomes) == [(item, "3")]
    deadline = time.monotonic() + 10
    while len(told) < 2 and time.monotonic() < deadline:  # a thread reads
        time.sleep(0.01)
    assert told == [(item, "first"), (item, "second")]


@pytest.mark.parametrize("jobs", [1, 3])
def test_so_many_run_at_a_time_and_an_item_is_taken_when_there_is_room(jobs: int) -> None:
    taken = 0

    def items() -> object:
        nonlocal taken
        for _ in range(5):
            taken += 1
            yield math.inf  # `math.isinf` of it is at once true

    ended = 0
    for _, outcome in side_by_side(jobs, 1, quiet, math.isinf, items()):  # type: ignore[arg-type]
        assert outcome is True
        assert taken - ended <= jobs
        ended += 1
    assert (taken, ended) == (5, 5)


def test_closing_the_iterator_ends_all_processes() -> None:
    told: list[str] = []
    items = ["__import__('time').sleep(2)", NAP, NAP]
    outcomes = side_by_side(3, 1, lambda item, line: told.append(line), eval, items)
    assert next(outcomes) == (items[0], None)
    outcomes.close()
    assert len(told) == 2
    assert gone([int(line) for line in told], 0)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_command(number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(map(alive, pids))
    parent.send_signal(number)
    try:
        parent.wait(30)
        assert gone(pids, 20 if number is signal.SIGKILL else 0)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("size", [1 << 16, 1 << 20])
def test_a_result_of_more_than_a_pipe_holds_comes_back(size: int) -> None:
    item = f"'x' * {size}"
    assert list(side_by_side(1, 1, quiet, eval, [item])) == [(item, "x" * size)]


def test_a_process_that_ends_well_without_a_result_is_an_error() -> None:
    item = "__import__('os')._exit(0)"
    ((_, error),) = side_by_side(1, 1, quiet, eval, [item])
    assert isinstance(error, CossError)
    assert str(error) == "its result cannot be read (EOFError: Ran out of input)"
