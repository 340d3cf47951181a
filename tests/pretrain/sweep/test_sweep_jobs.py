"""Runs of a sweep side by side: those of one after the other, and none lost when one is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.bench import Bench
from helpers.forked import Forked, start_command
from helpers.sweeps import SMALL, write

from robustbench_coss.cli.sweep import RUNNING, _table
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import FILE_NAME
from robustbench_coss.pretrain import sweep as sweeps
from robustbench_coss.pretrain import sweep_memory
from robustbench_coss.pretrain.sweep import Run, Sweep, plan, read_sweep, state
from robustbench_coss.pretrain.sweep_memory import Memory, check_memory, free_memory, measure

pytestmark = pytest.mark.usefixtures("small_bank")
LONG = SMALL | {"epochs": 14, "monitor_every": 14}
GRID = {"method": ["byol", "co-byol"], "seed": [0]}
TWO = {"base": LONG, "grid": GRID}
GIB = 2.0**30


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with one thread per process in whatever is started there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 500
    while not all(path.exists() for path in paths) and time.monotonic() < deadline:
        time.sleep(0.01)


def children(process: Forked) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_a_killed_run_stops_no_other_ctrl_c_stops_all_and_both_come_to_the_same_end(
    folder: Path,
) -> None:
    write(folder / "two.yaml", TWO)
    first, second = runs = plan(read_sweep("two.yaml"), Path("runs/two"))
    process = start_command("sweep", "two.yaml", "--jobs", 2, "--device", "cpu")
    wait_for(first.folder / "last.ckpt")
    pids = children(process)
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGKILL)
    killed = f"{first.name}: failed: its process was killed by SIGKILL"
    deadline = time.monotonic() + 100
    while f"\n{killed}" not in f"\n{process.said(1)}" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert f"\n{killed}" in f"\n{process.said(1)}"
    wait_for(second.folder / "last.ckpt")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert "Traceback" not in err
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert [state(run) for run in runs] == ["interrupted", "interrupted"]
    # Taken up again they give the same bytes as runs with nothing beside them and without a stop.
    alone = plan(read_sweep("two.yaml"), Path("alone"))
    for run in (*runs, *alone):
        sweeps.train(run, device="cpu", data_root=Path("data"))
    for run, undisturbed in zip(runs, alone, strict=True):
        encoder = run.folder / FILE_NAME
        assert encoder.read_bytes() == (undisturbed.folder / FILE_NAME).read_bytes()


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_jobs_at_all_are_refused_in_one_line(folder: Path, bench: Bench, jobs: int) -> None:
    outcome = bench("sweep", write(folder / "two.yaml", TWO), "--jobs", jobs)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        f"error: --jobs must be at least 1, got {jobs}; leave it out for one at a time\n"
    )


def test_jobs_are_not_for_a_cluster(folder: Path, bench: Bench) -> None:
    two = write(folder / "two.yaml", TWO)
    outcome = bench("sweep", two, "--jobs", 2, "--cluster", "auto")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "--jobs is for this machine" in outcome.err


def test_the_error_says_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = plan(Sweep.model_validate({"base": LONG, "grid": {"seed": [0]}}), Path("out"))
    found = Memory(needed=3 * GIB, free=7 * GIB, where="in memory")
    monkeypatch.setattr(sweep_memory, "side_by_side", lambda *_: iter([(run, found)]))
    how: dict[str, Any] = {"device": "cpu", "data_root": Path("data")}
    check_memory([run], 2, 1, lambda *_: None, **how)
    with pytest.raises(CossError) as error:
        check_memory([run], 3, 1, lambda *_: None, **how)
    assert str(error.value) == (
        "--jobs 3 takes about 9 GiB in memory, 3 GiB a run by a dry run of co-byol-s0, and "
        "7 GiB are free; --jobs 2 fits"
    )


def test_the_memory_of_a_run_grows_by_what_each_further_image_keeps() -> None:
    def needed(images: int) -> float:
        values = LONG | {"width": 0.25, "size": 64, "limit": 4096, "batch_size": images}
        run = plan(Sweep.model_validate({"base": values, "grid": {"seed": [0]}}), Path("out"))[0]
        return measure(run, device="cpu", data_root=Path("data")).needed

    # Two views of the map after the stem alone: 16 channels of 64² floats, before and after ReLU.
    least = 2 * 2 * 16 * 64**2 * 4
    assert needed(2048) - needed(1024) > 1024 * least


def test_free_memory_is_what_the_system_says_and_a_container_allows(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == float("inf")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    assert free_memory(tmp_path) == 5000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for limit, free in (("max", 5000 * 1024), ("3000000", 2_500_000), ("9000000", 5000 * 1024)):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text("1000000\n")
        (group / "memory.stat").write_text("anon 500000\nfile 500000\n")
        assert free_memory(tmp_path) == free


def test_the_table_shows_how_far_a_run_is(tmp_path: Path) -> None:
    runs = plan(Sweep.model_validate(TWO), tmp_path)
    runs[0].folder.mkdir()
    (runs[0].folder / "metrics.csv").write_text(
        "epoch,step,validation/knn_top1,seconds\n1,2,0.25,1.5\n2,4,0.5,2.5\n"
    )
    table = _table({runs[0]: RUNNING, runs[1]: "to start"})
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["byol-s0", "co-byol-s0"]
    assert list(map(str, cells[1])) == ["epoch 2/14", "to start"]
    assert cells[2] == ["50.0", "–"]
    assert cells[3] == ["4", "–"]


def test_of_methods_alike_the_one_that_takes_most_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"method": ["byol-mc", "byol"], "batch_size": [4, 2], "seed": [0, 1]}
    runs = plan(Sweep.model_validate({"base": LONG, "grid": grid}), Path("out"))
    asked: list[str] = []

    def measured(*given: Any) -> Iterator[tuple[Run, Memory]]:
        for run in given[-1]:
            asked.append(f"{run.recipe.method} {run.recipe.batch_size}")
            needed = 3 * GIB if run.recipe.method == "byol-mc" else GIB
            yield run, Memory(needed, 7 * GIB, "in memory")

    monkeypatch.setattr(sweep_memory, "side_by_side", measured)
    with pytest.raises(CossError, match=r"3 GiB a run by a dry run of byol-mc-.*--jobs 2 fits"):
        check_memory(runs, 3, 1, lambda *_: None, device="cpu", data_root=Path("data"))
    assert sorted(asked) == ["byol 4", "byol-mc 4"]
