"""Runs of several processes: the same results as one process, and what happens when one dies."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ranks
from helpers.forked import Forked, torchrun
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from robustbench_coss.errors import CossError
from robustbench_coss.pretrain import distributed
from robustbench_coss.pretrain.distributed import SyncBatchNorm, join, launch
from robustbench_coss.pretrain.recipe import dump_recipe
from robustbench_coss.pretrain.train import pretrain

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_tasks(call: Callable[[], None]) -> list[Forked]:
    """A function in two tasks as srun starts them."""
    here = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
    meeting = {"SLURM_NODEID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    def task(number: str) -> None:
        place = {"SLURM_PROCID": number, "SLURM_LOCALID": number}
        os.environ |= ENVIRONMENT | SLURM | here | meeting | place
        call()

    return [Forked(partial(task, number)) for number in "01"]


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """This process computes as those of `ranks.main` do."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        ranks.prepare(patch)
        yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    made = tmp_path_factory.mktemp("ranks")
    ranks.stop_after_first_epoch(made / "begun by one")
    for task in start_tasks(partial(ranks.check, made)):
        said = task.communicate(timeout=300)
        assert task.returncode == 0, said
    return made


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What each rank noted."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def rows(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv without their timing."""
    with (run / "metrics.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    return [{k: float(v) for k, v in row.items() if v and k != "seconds"} for row in read]


def exported_weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the encoder."""
    weights: dict[str, torch.Tensor] = load_file(run / "encoder.safetensors")
    return weights


def all_weights(run: Path) -> dict[str, torch.Tensor]:
    """Of networks, heads and targets, with their running statistics."""
    stored = torch.load(run / "last.ckpt", weights_only=True)
    weights: dict[str, torch.Tensor] = stored["state_dict"]
    return weights


def assert_equal_runs(run: Path, other: Path, epochs: int = 2) -> None:
    """Equal up to the rounding of float64, and to the six digits that metrics.csv has."""
    assert [row["epoch"] for row in rows(run)] == list(range(1, epochs + 1))
    for row, expected in zip(rows(run), rows(other), strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    for state in (exported_weights, all_weights):
        torch.testing.assert_close(state(run), state(other), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", ranks.METHODS)
def test_two_processes_train_as_one_with_the_same_batch(
    method: str, folder: Path, tmp_path: Path
) -> None:
    pretrain(ranks.recipe(method), tmp_path / "one", device="cpu")
    assert_equal_runs(folder / "two" / method, tmp_path / "one")


def test_two_processes_accumulate_and_clip_as_one(folder: Path, tmp_path: Path) -> None:
    pretrain(ranks.recipe("co-byol", **ranks.SPLIT), tmp_path / "one", device="cpu")
    assert_equal_runs(folder / "two" / "split", tmp_path / "one")


def test_a_run_goes_on_with_more_or_fewer_processes(folder: Path, tmp_path: Path) -> None:
    longer, undisturbed = ranks.recipe("co-byol", **ranks.LONGER), tmp_path / "undisturbed"
    pretrain(longer, undisturbed, device="cpu")
    assert_equal_runs(folder / "begun by one", undisturbed)
    begun = folder / "begun by two"
    assert [row["epoch"] for row in rows(begun)] == [1]
    pretrain(longer, begun, device="cpu", resume=True)
    assert_equal_runs(begun, undisturbed)


def test_only_the_first_process_writes_and_every_file_once(found: list[dict[str, Any]]) -> None:
    first, second = (rank["writes"] for rank in found)
    assert second == []
    renamed = [Path(what).name for what in first if what.startswith("rename")]
    assert sorted(renamed) == sorted(
        ["recipe.yaml", *["metrics.csv", "last.ckpt"] * 2, "encoder.safetensors"]
    )


def test_shared_batchnorm_is_batchnorm_of_the_whole_batch(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert max(rank["batchnorm"]) < 1e-12


def test_gathered_rows_carry_the_gradient_of_all_ranks(found: list[dict[str, Any]]) -> None:
    assert max(rank["gather"] for rank in found) < 1e-12


def test_an_error_anywhere_stops_all_and_one_rank_reports_it(found: list[dict[str, Any]]) -> None:
    first, second = (rank["outcomes"] for rank in found)
    assert first == ["fine", "rank 0 failed", "elsewhere: rank 1 failed", "rank 0 failed"]
    assert second == [
        *("fine", "elsewhere: rank 0 failed", "rank 1 failed", "elsewhere: rank 0 failed")
    ]


def test_a_batch_must_split_over_processes_and_micro_batches(found: list[dict[str, Any]]) -> None:
    for rank in found:
        uneven, single, fine = rank["refusals"]
        assert "batch_size 9 is not a multiple of accumulate 1 times 2 processes" in uneven
        assert "batches of 1 sample" in single
        assert fine == "accepted"


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(2, 5), min_size=2, max_size=4),
    momentum=st.none() | st.floats(0, 1),
    affine=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_shared_batchnorm_of_one_process_is_batchnorm(
    shape: list[int], momentum: float | None, affine: bool, seed: int
) -> None:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    plain = kind(shape[1], momentum=momentum, affine=affine).double()
    shared = SyncBatchNorm(shape[1], momentum=momentum, affine=affine).double()
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draws, dtype=torch.float64) * 2 + 1
    for mode in (True, True, False):
        plain.train(mode)
        shared.train(mode)
        torch.testing.assert_close(shared(x), plain(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(shared.state_dict(), plain.state_dict())
    torch.testing.assert_close(
        *(
            torch.autograd.functional.jacobian(lambda v, m=m: (m.train()(v) ** 3).sum(), x)
            for m in (shared, plain)
        ),
        rtol=1e-7,
        atol=1e-7,
    )


def test_shared_batchnorm_keeps_half_precision_outside_and_computes_inside_in_full() -> None:
    x = (torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) + 300).bfloat16()
    plain, shared = nn.BatchNorm1d(3, dtype=torch.float32), SyncBatchNorm(3, dtype=torch.float32)
    assert shared(x).dtype == torch.bfloat16
    torch.testing.assert_close(shared(x), plain(x), rtol=1e-2, atol=1e-2)


SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "coss",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
    "SLURM_NNODES": "2",
    "SLURM_NODELIST": "node[07-08]",
}


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of the seventh of eight tasks that srun started on two machines."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_slurm_says_how_many_processes_there_are_and_which_this_is(
    slurm: pytest.MonkeyPatch,
) -> None:
    started = launch()
    assert (started.world, started.rank, started.local_world, started.local_rank) == (8, 6, 4, 2)
    assert started.environment.main_address == "node07"
    assert not started.environment.auto_requeue  # type: ignore[attr-defined]


def test_slurm_jobs_that_would_wait_for_ever_are_refused(slurm: pytest.MonkeyPatch) -> None:
    slurm.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(CossError, match="--ntasks-per-node instead of --ntasks"):
        launch()
    slurm.delenv("SLURM_STEP_ID")
    with pytest.raises(CossError, match="srun did not start this process"):
        launch()


def test_a_slurm_job_of_one_task_trains_alone(
    slurm: pytest.MonkeyPatch, tmp_path: Path, alone: None
) -> None:
    for name in ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"):
        slurm.setenv(name, "1")
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
        slurm.setenv(name, "0")
    assert launch().world == 1
    pretrain(ranks.recipe("byol", epochs=1), tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "encoder.safetensors").is_file()


def test_more_processes_than_gpus_are_refused(slurm: pytest.MonkeyPatch) -> None:
    slurm.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(CossError, match=r"4 processes on this machine, but each sees 1 GPU\(s\)"):
        join(torch.device("cuda"))
    assert distributed.world_size() == 1


EPOCHS = 5
STORY: dict[str, Any] = {"limit": 40, "epochs": EPOCHS, "monitor_every": 1}


def wait_for_epoch(process: Forked, run: Path, epoch: int) -> None:
    """Return when the checkpoint of an epoch is there."""
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline:
        path = run / "last.ckpt"
        if path.exists() and torch.load(path, weights_only=True)["epoch"] + 1 >= epoch:
            return
        time.sleep(0.05)
    pytest.fail(f"ended or was too slow: {process.communicate(timeout=60)}")


def command(run: Path) -> list[str]:
    """`ranks.py` as `coss-bench pretrain`."""
    options = ["pretrain", f"--recipe={run.parent / 'story.yaml'}", f"--out={run}", "--device=cpu"]
    return [ranks.__file__, *options, *["--resume"] * run.exists()]


def train_slowly(run: Path) -> None:
    """One process of it."""
    sys.argv = command(run)
    ranks.pretrain_slowly()


def test_a_killed_process_stops_the_others_and_any_number_of_them_goes_on(
    tmp_path: Path, alone: None
) -> None:
    story, run, whole = ranks.recipe("co-byol", **STORY), tmp_path / "run", tmp_path / "whole"
    (tmp_path / "story.yaml").write_text(dump_recipe(story))

    # As srun starts them: nobody but the other process notices the death of one.
    first, second = start_tasks(partial(train_slowly, run))
    wait_for_epoch(first, run, 1)
    second.send_signal(signal.SIGKILL)
    err = first.communicate(timeout=60)[1]
    assert second.communicate(timeout=60)[0] == ""  # only the first one talks
    assert first.returncode == 1
    assert err.splitlines()[-1].startswith("error: process 0 of 2 lost contact with another one")
    assert err.splitlines()[-1].endswith(f"--resume --out {run}")
    assert "Traceback" not in err
    done = torch.load(run / "last.ckpt", weights_only=True)["epoch"] + 1
    assert done < EPOCHS - 1

    # Two of torchrun go on, until Ctrl-C.
    both = Forked(
        lambda: torchrun(["--nproc-per-node=2", f"--master-port={free_port()}", *command(run)])
    )
    wait_for_epoch(both, run, done + 1)
    both.send_signal(signal.SIGINT)
    err = both.communicate(timeout=60)[1]
    assert both.returncode != 0
    said = [line for line in err.splitlines() if line.startswith("interrupted; go on with")]
    assert said == [f"interrupted; go on with: the same command and --resume --out {run}"]
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] + 1 < EPOCHS

    # One ends it, as one that nothing happened to.
    pretrain(story, run, device="cpu", resume=True)
    pretrain(story, whole, device="cpu")
    assert_equal_runs(run, whole, epochs=EPOCHS)
