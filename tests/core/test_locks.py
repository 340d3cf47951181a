"""Two processes in one folder: the second gets one line, and nothing of the first is touched."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import simulate
from helpers.bench import Bench
from helpers.forked import start_command

from robustbench_coss.errors import CossError
from robustbench_coss.files import LOCK, alone, remove_leftovers, write_atomically

HOLD = """
import sys, time
from pathlib import Path
from robustbench_coss.files import alone
with alone(Path(sys.argv[1]), "holding it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path: Path) -> Any:
    """Has another process hold a lock; gives that process."""
    started: list[subprocess.Popen[str]] = []

    def hold(lock: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def test_a_held_lock_is_refused_and_a_dead_process_holds_none(tmp_path: Path, held: Any) -> None:
    lock = tmp_path / "new" / LOCK
    process = held(lock)
    with (
        pytest.raises(CossError, match="another process is waiting; wait for it, or stop it"),
        alone(lock, "waiting"),
    ):
        raise AssertionError("two have it")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lock.exists()
    with alone(lock, "waiting"):
        pass
    assert not lock.exists()
    assert (tmp_path / "new").is_dir()  # the other process made it


def test_a_lock_leaves_no_folder_behind_that_it_made(tmp_path: Path) -> None:
    with alone(tmp_path / "a" / "b" / LOCK, "waiting"):
        assert (tmp_path / "a" / "b" / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


COMMANDS = {
    "pretrain": ("pretrain --method byol --limit 8 --out {0}/run", "run", "training in"),
    "sweep": ("sweep crop --out {0}/runs", "runs", "running a sweep in"),
    "leaderboard": ("leaderboard --results {0}/results", "results", "writing tables to"),
    "plot": ("plot --results {0}/results --out {0}/figures", "figures", "writing figures to"),
    "site": ("site --results {0}/results --out {0}/site", "site", "writing a site to"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_second_of_two_commands_in_one_folder_gets_one_line(
    command: str, tmp_path: Path, bench: Bench, held: Any
) -> None:
    words, folder, doing = COMMANDS[command]
    simulate.save(tmp_path / "results", simulate.clean(0.5))
    held(tmp_path / folder / LOCK)
    before = sorted(tmp_path.rglob("*"))
    outcome = bench(*words.format(tmp_path).split())
    assert outcome.code == 1
    (line,) = [x for x in outcome.err.splitlines() if x.startswith("error")]
    assert f"another process is {doing} {tmp_path / folder}; wait for it, or stop it" in line
    assert "Traceback" not in outcome.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_of_two_runs_that_start_at_once_one_is_whole_and_one_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    common = ["pretrain", "--device", "cpu"]
    common += ["--dataset", "parts", "--width", "0.0625", "--image-size", "16", "--limit", "64"]
    common += ["--batch-size", "32", "--epochs", "1", "--out", str(out)]
    both = [
        start_command(*common, "--method", method, "--set", "options={hidden: 32, dim: 16}")
        for method in ("byol", "co-byol")
    ]
    errors = [process.communicate(timeout=240)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], errors
    refused = errors[[process.returncode for process in both].index(1)]
    assert "Traceback" not in refused
    assert len(refused.splitlines()) == 1
    assert f"another process is training in {out}" in refused or "is not empty" in refused
    winner = ("byol", "co-byol")[[process.returncode for process in both].index(0)]
    from robustbench_coss.models.checkpoint import load_checkpoint

    assert f"method: {winner}\n" in (out / "recipe.yaml").read_text()
    assert load_checkpoint(out).metadata["method"] == winner
    assert not list(out.glob(".coss*"))


def write_often(path: str, letter: str, count: int) -> None:
    for _ in range(count):
        write_atomically(Path(path), letter * 100_000)


def test_writers_at_once_leave_whole_files_and_nothing_else(tmp_path: Path) -> None:
    """Each cleans up what the others might have left, and takes none of their files for that."""
    context = multiprocessing.get_context("fork")
    path = tmp_path / "file"
    writers = [
        context.Process(target=write_often, args=(str(path), letter, 60)) for letter in "abcd"
    ]
    for writer in writers:
        writer.start()
    deadline = time.monotonic() + 60
    while any(writer.is_alive() for writer in writers) and time.monotonic() < deadline:
        if path.exists():
            found = path.read_text()
            assert len(found) == 100_000
            assert len(set(found)) == 1
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_leftovers_go_and_other_hidden_files_stay(tmp_path: Path) -> None:
    (tmp_path / ".coss-abcd_123.tmp").write_text("half")
    (tmp_path / ".coss-notes.txt").write_text("mine")
    (tmp_path / ".hidden").write_text("mine")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".coss-notes.txt", ".hidden"]


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(CossError, match="not a regular file"):
        write_atomically(path, "x")
    assert not path.is_file()
    assert list(tmp_path.iterdir()) == [path]
