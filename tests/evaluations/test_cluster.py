"""Sweeps and evaluations on a real Ray of this machine: a lost worker costs a task at most."""

from __future__ import annotations

import builtins
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.bench import Bench
from helpers.forked import Forked, start_command
from helpers.sweeps import SMALL

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.machine.executors import attempt, on_ray
from robustbench_coss.models.checkpoint import FILE_NAME, build_encoder, save_encoder
from robustbench_coss.pretrain.sweep import Run, Sweep, plan, state, train
from robustbench_coss.records.record import read_record

CONTENT: dict[str, Any] = {
    "base": SMALL | {"epochs": 20, "monitor_every": 20},
    "grid": {"method": ["co-byol", "byol"], "seed": [0]},
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What Ray gives a task of one CPU; sums depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Ray's files, in a folder with a short name: paths of sockets may have 107 characters."""
    pytest.importorskip("ray")
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's workers stand back, by 15, else
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # Ray's own is 1
    yield folder
    for pid in processes_of(folder):  # none are left unless the test failed
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:  # it has ended meanwhile
        return ""


def processes_of(folder: Path) -> list[int]:
    """Processes of the Ray whose files lie in a folder."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if str(folder) in command_line(pid)]


def gone(folder: Path) -> bool:
    """Whether the Ray whose files lie in a folder ends within a minute."""
    deadline = time.monotonic() + 60
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes_of(folder)


def wait_until(holds: Callable[[], bool], process: Forked) -> None:
    deadline = time.monotonic() + 300
    while not holds() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert holds(), process.communicate()


def trainers(run: Run) -> list[int]:
    """Processes that have trained a run: each left a file of events, `…HOST.PID.NUMBER`."""
    return [int(path.name.split(".")[-2]) for path in run.folder.glob("tensorboard/events*")]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_a_sweep_on_ray_that_loses_a_worker_ends_with_the_bytes_of_one_in_this_process(
    tmp_path: Path, ray_folder: Path, one_thread: None
) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    runs = plan(Sweep.model_validate(CONTENT), tmp_path / "ray")
    options = ("--cluster", "auto", "--device", "cpu", "--out", "ray")
    process = start_command("sweep", "s.yaml", *options, cwd=tmp_path)
    try:
        wait_until(lambda: any((run.folder / "last.ckpt").exists() for run in runs), process)
        victim = next(run for run in runs if (run.folder / "last.ckpt").exists())
        (worker,) = trainers(victim)
        assert "ray::" in command_line(worker)
        assert state(victim) == "interrupted"
        os.kill(worker, signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.returncode == 0, err
    assert len(trainers(victim)) == 2
    # One line per run, then the table; of Ray and its workers no word but the loss of one.
    assert sorted(line.partition(": ")[0] for line in err.splitlines()) == ["byol-s0", "co-byol-s0"]
    table = [line.split() for line in out.splitlines() if "raylet" not in line]
    assert [line[:2] for line in table[1:3]] == [
        ["co-byol-s0", "finished"],
        ["byol-s0", "finished"],
    ]
    assert gone(ray_folder)

    for run in plan(Sweep.model_validate(CONTENT), tmp_path / "here"):
        train(run, device="cpu", data_root=Path("data"))
        there = tmp_path / "ray" / run.name
        assert (there / FILE_NAME).read_bytes() == (run.folder / FILE_NAME).read_bytes()
        assert (there / "recipe.yaml").read_bytes() == (run.folder / "recipe.yaml").read_bytes()


def measurers(folder: Path) -> list[int]:
    """Processes at work on a task of the Ray whose files lie in a folder."""
    found = []
    for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            inherited = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if str(folder).encode() in inherited and command_line(pid).startswith("ray::_attempt"):
            found.append(pid)
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_an_evaluation_on_ray_that_loses_a_worker_leaves_the_records_of_one_in_this_process(
    tmp_path: Path, ray_folder: Path, one_thread: None
) -> None:
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    metadata = {"arch": "rf29_resnet18", "width": 1 / 16, "size": 32, "dataset": "parts"}
    save_encoder(tmp_path / "run" / FILE_NAME, encoder, metadata)
    # More images than a unit has: shards are put together again.
    few: dict[str, Any] = {"limit": 2_100, "batch_size": 100, "device": "cpu"}
    options = [f"--{key.replace('_', '-')}={value}" for key, value in few.items()]
    options += ["--probe-train=500", "--results=ray", "--cluster=auto"]
    # One is written while the other is measured.
    process = start_command("eval", "run", "--suite", "crop,occlusion", *options, cwd=tmp_path)
    try:
        wait_until(lambda: any((tmp_path / "ray" / "records").rglob("crop*.json")), process)
        victim = measurers(ray_folder)[0]
        os.kill(victim, signal.SIGKILL)
        _, err = process.communicate(timeout=300)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.returncode == 0, err
    assert gone(ray_folder)

    probe = ProbeConfig(max_train=500)
    asked = Evaluation(["crop", "occlusion"], results=tmp_path / "here", probe=probe, **few)
    for path in evaluate_run(tmp_path / "run", asked):
        there = tmp_path / "ray" / path.relative_to(tmp_path / "here")
        record = read_record(there)
        assert all("true_class" in cell.outcomes for cell in record.cells)  # probabilities as well
        assert record.digest() == read_record(path).digest()


def test_results_and_errors_come_back_from_ray(ray_folder: Path) -> None:
    def check(number: int) -> int:
        if number < 0:
            raise CossError("a user's mistake")
        if number == 0:
            raise ValueError("a defect")
        return 10 * number

    with on_ray("auto", 0) as execute:
        found = dict(execute(check, [1, 0, -1]))
        unreadable = dict(execute(not_there, [1]))
    assert gone(ray_folder)
    assert found[1] == 10
    assert str(found[0]) == "ValueError: a defect"
    assert str(found[-1]) == "a user's mistake"
    assert all(isinstance(found[key], CossError) for key in (0, -1))
    # Its module is this file, which workers do not find, or not what it imports.
    assert isinstance(unreadable[1], CossError)
    assert re.search(r"No module named '(test_cluster|helpers)'$", str(unreadable[1]))


def not_there(number: int) -> int:
    return number


def test_an_error_that_nobody_foresaw_is_told_in_one_line() -> None:
    def fail(item: str) -> None:
        raise RuntimeError(item)

    assert str(attempt(fail, "first\nsecond")) == "RuntimeError: first second"
    assert str(attempt(fail, "")) == "RuntimeError"


@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:9", "refused"), ("nonsense", "it is neither HOST:PORT nor auto")],
)
def test_a_cluster_that_does_not_answer_is_an_error_in_one_line(
    tmp_path: Path, bench: Bench, address: str, reason: str
) -> None:
    pytest.importorskip("ray")
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    outcome = bench("sweep", tmp_path / "s.yaml", "--out", tmp_path, "--cluster", address)
    assert (outcome.code, outcome.err.count("\n")) == (1, 1), outcome.err
    assert f"cannot use the Ray cluster {address!r}" in outcome.err
    assert reason in outcome.err


def test_without_ray_the_error_says_what_to_install(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without_ray(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "ray":
            raise ModuleNotFoundError("No module named 'ray'")
        return original(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    outcome = bench("sweep", tmp_path / "s.yaml", "--out", tmp_path, "--cluster", "auto")
    assert (outcome.code, outcome.err) == (
        1,
        "error: running on a cluster needs Ray; install it: "
        "pip install 'robustbench-coss[cluster]'\n",
    )
