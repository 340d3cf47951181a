"""Commands in processes of their own that are forked from this one, with all libraries loaded.

For tests of what happens to a process: signals, kills, two at once. Starting Python and torch takes
seconds and is not what they are about; where it is, `subprocess` starts a fresh interpreter.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class Forked:
    """A function that runs in a child; as `subprocess.Popen` with its output in files.

    Args:
        call: what to do there; its end is that of the process, SystemExit gives the status.
        inherit: whether it writes where this process does, and not to files.
    """

    def __init__(self, call: Callable[[], None], inherit: bool = False) -> None:
        self._files = [
            tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  (read at the end)
            for _ in range(0 if inherit else 2)
        ]
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                code = self._child(call)
            finally:
                os._exit(code)

    def __del__(self) -> None:
        if getattr(self, "pid", 0) and self.returncode is None:  # a test failed before its end
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)

    def _child(self, call: Callable[[], None]) -> int:
        import torch

        # What the parent left to be collected stays: a finaliser may wait for a thread that is not
        # here.
        gc.freeze()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream, file in enumerate(self._files, 1):
            os.dup2(file.fileno(), stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", 1)
        warnings.resetwarnings()
        torch.set_num_threads(1)  # those of the parent are not here
        try:
            call()
            code: object = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        return code if isinstance(code, int) else 0 if code is None else 1

    def poll(self) -> int | None:
        """The status if it has ended; -N if signal N ended it."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 200) -> int:
        """The status, once it has ended; kills it after so many seconds."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"not at its end after {timeout} s: {self._said()}")
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float = 200) -> tuple[str, str]:
        """What it wrote to stdout and stderr, once it has ended."""
        self.wait(timeout)
        return self._said()

    def _said(self) -> tuple[str, str]:
        return self.said(0), self.said(1)

    def said(self, stream: int) -> str:
        """What it wrote so far to stdout (0) or stderr (1)."""
        number = self._files[stream].fileno()
        # The child writes where the common position is: it must stay.
        return os.pread(number, os.fstat(number).st_size, 0).decode("utf-8")


def start_command(
    *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> Forked:
    """`coss-bench` with the given arguments."""

    def call() -> None:
        from robustbench_coss import cli

        os.environ |= {"OMP_NUM_THREADS": "1"} | dict(environment or {})
        if cwd is not None:
            os.chdir(cwd)
        sys.argv = ["coss-bench", *map(str, arguments)]
        cli.main()

    return Forked(call)


def run_python(words: Sequence[str]) -> None:
    """Do what `python` does with a script, or after -m a module; for a process of its own."""
    module, name, *rest = words if words[0] == "-m" else ["", *words]
    sys.argv = [name, *rest]
    sys.path.insert(0, str(Path.cwd() if module else Path(name).parent.absolute()))
    if module:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(name, run_name="__main__")


def torchrun(words: Sequence[str]) -> None:
    """Do what `torchrun` does, with its workers forked in place of new interpreters; for a process
    of its own.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    def start(_: object, command: tuple[str, ...], environment: dict[str, str]) -> Any:
        assert command[:2] == (sys.executable, "-u")

        def call() -> None:
            os.environ.clear()
            os.environ.update(environment)
            run_python(command[2:])

        worker = Forked(call, inherit=True)
        os.setpgid(worker.pid, worker.pid)  # signals go to the group that it leads
        return worker

    subprocess_handler.SubprocessHandler._popen = start  # type: ignore[method-assign]
    run.main(list(words))
