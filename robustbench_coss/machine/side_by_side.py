"""The executor that runs tasks side by side on this machine, each in a process of its own.

None of these processes outlives the command: they are stopped when it is interrupted or terminated,
and stop by themselves when it was killed. Run as a module, this is such a process.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar

from robustbench_coss.errors import CossError, kind_and_line
from robustbench_coss.machine.allocator import keep_freed_memory
from robustbench_coss.machine.executors import attempt
from robustbench_coss.machine.terminal import warning_line

GRACE = 10.0
"""Seconds that a process has for ending by itself after SIGTERM, before it is killed."""

POLL = 0.05  # seconds between two looks at whether a process has ended

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    jobs: int,
    threads: int,
    tell: Callable[[Item, str], None],
    task: Callable[[Item], Result],
    items: Iterable[Item],
    /,
) -> Generator[tuple[Item, Result | CossError]]:
    """Run a task on every item, several at a time, and yield (item, result or error) as they end.

    Task, items and results have to be picklable. An item is taken when there is room for it. Close
    the iterator, or let it come to its end: that is what stops the processes.

    Args:
        jobs: processes at a time, at least 1.
        threads: of each process.
        tell: called, from threads, with each line that a process prints.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; all processes are gone by then.
    """
    waiting = iter(items)
    running: dict[subprocess.Popen[bytes], tuple[Item, _Answer]] = {}
    with on_sigterm(signal.default_int_handler):  # as Ctrl-C
        try:
            while True:
                while len(running) < jobs:
                    try:
                        item = next(waiting)
                    except StopIteration:
                        break
                    process = _start(task, item, threads, tell)
                    running[process] = item, _Answer(process)
                if not running:
                    return
                ended = next((p for p in running if p.poll() is not None), None)
                if ended is None:
                    time.sleep(POLL)
                else:
                    item, answer = running.pop(ended)
                    yield item, _outcome(ended, answer)
        finally:
            _stop(list(running))


@contextmanager
def on_sigterm(handler: Callable[..., Any]) -> Iterator[None]:
    """While active, SIGTERM has this handler."""
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(
    task: Callable[[Item], Result], item: Item, threads: int, tell: Callable[[Item, str], None]
) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,  # stays open: its end tells the process that this one is gone
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C comes through us, once, and not from the terminal
    )
    assert process.stdin is not None
    assert process.stderr is not None
    with suppress(BrokenPipeError):  # killed already
        pickle.dump((task, item), process.stdin)
        process.stdin.flush()
    threading.Thread(target=_pass_on, args=(process.stderr, item, tell), daemon=True).start()
    return process


def _pass_on(stream: IO[bytes], item: Item, tell: Callable[[Item, str], None]) -> None:
    for line in stream:
        tell(item, line.decode(errors="replace").rstrip())


class _Answer(threading.Thread):
    """Takes the result of a process while it is written: of more than a pipe holds, 64 KiB, the
    process would wait for a reader and never end.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        assert process.stdout is not None
        self.stream = process.stdout
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = pickle.load(self.stream)  # written by ourselves, above all
        except Exception as error:
            self.result = CossError(f"its result cannot be read ({kind_and_line(error)})")


def _outcome(process: subprocess.Popen[bytes], answer: _Answer) -> Any:
    """What an ended process gave, or a CossError that says how it ended."""
    _kill(process)  # what it started itself
    if process.returncode == 0:
        answer.join()
        return answer.result
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        hint = ", by the system if memory was short" if name == "SIGKILL" else ""
        return CossError(f"its process was killed by {name}{hint}")
    return CossError(f"its process ended with status {process.returncode}")


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """End processes: those that do not end by themselves in time are killed."""
    try:
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + GRACE
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:  # a second Ctrl-C ends the wait
        for process in processes:
            _kill(process)
            process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _end_with_parent() -> None:
    """Wait until the process that started this one is gone, and then end as on SIGTERM."""
    os.read(0, 1)  # nothing is ever sent: this is the end of the pipe
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _main() -> None:
    answer = os.dup(1)
    os.dup2(2, 1)  # what the task prints is talk, too
    task, item = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    warnings.formatwarning = warning_line
    try:
        result = attempt(task, item)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    with os.fdopen(answer, "wb") as file:
        pickle.dump(result, file)


if __name__ == "__main__":
    _main()
