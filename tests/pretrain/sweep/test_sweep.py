"""A sweep is the runs it names: each as `coss-bench pretrain` writes it, none trained twice."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.bench import Bench
from helpers.forked import start_command
from helpers.sweeps import SMALL, write

from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import FILE_NAME
from robustbench_coss.pretrain import sweep as sweeps
from robustbench_coss.pretrain.methods.base import ViewOutputs
from robustbench_coss.pretrain.methods.byol import BYOL
from robustbench_coss.pretrain.sweep import Sweep, plan, read_sweep, results, state

pytestmark = pytest.mark.usefixtures("small_bank")
TWO = {"base": SMALL, "grid": {"method": ["byol", "co-byol"], "seed": [0]}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def swept(small_bank: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished runs of `TWO`."""
    out = tmp_path_factory.mktemp("swept")
    runs = plan(Sweep.model_validate(TWO), out)
    for run in runs:
        sweeps.train(run, device="cpu", data_root=Path("data"))
    return out


def test_a_run_is_what_pretrain_writes_and_either_counts_for_the_other(
    folder: Path, swept: Path, bench: Bench
) -> None:
    write(folder / "base.yaml", SMALL)
    options = ("--recipe", "base.yaml", "--set", "method=byol", "--device", "cpu")
    assert bench("pretrain", *options, "--out", "runs/two/byol-s0").code == 0
    by_hand, by_sweep = folder / "runs" / "two" / "byol-s0", swept / "byol-s0"
    for name in ("recipe.yaml", FILE_NAME):
        assert (by_hand / name).read_bytes() == (by_sweep / name).read_bytes()
    outcome = bench("sweep", write(folder / "two.yaml", TWO), "--dry-run")
    assert outcome.out.splitlines()[-1] == "2 runs in runs/two: 1 finished, 1 to go"
    first, second = outcome.out.splitlines()[1:3]
    assert first.split()[:2] == ["byol-s0", "finished"]
    assert second.split() == ["co-byol-s0", "to", "start", "–", "–"]


def test_a_finished_sweep_trains_nothing_and_shows_accuracy_and_time(
    folder: Path, swept: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustbench_coss.pretrain.train.pretrain", None)  # calling it would fail
    outcome = bench("sweep", write(folder / "two.yaml", TWO), "--out", swept)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    for run in ("byol-s0", "co-byol-s0"):
        knn, seconds = results(swept / run)
        assert knn is not None
        assert seconds is not None
        shown = f"{run} finished {100 * knn:.1f} {seconds:.0f}"
        assert shown in " ".join(outcome.out.split())


def test_accuracy_is_that_of_the_last_epoch_and_time_that_of_all(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,validation/knn_top1,seconds\n1,2,,1.5\n2,4,0.25,2.25\n3,6,0.5,3.0\n"
    )
    assert results(tmp_path) == (0.5, 6.75)
    (tmp_path / "metrics.csv").write_text("epoch,step,seconds\n1,2,1.5\n")
    assert results(tmp_path) == (None, 1.5)
    assert results(tmp_path / "nowhere") == (None, None)


def test_a_folder_with_another_recipe_is_an_error_that_names_the_keys(
    folder: Path, swept: Path, bench: Bench
) -> None:
    other = TWO | {"base": SMALL | {"epochs": 3, "views": {"min_crop": 0.5}}}
    outcome = bench("sweep", write(folder / "two.yaml", other), "--out", swept)
    assert outcome.code == 1
    assert (
        f"{swept / 'byol-s0'} holds a run of another recipe: epochs, views.min_crop differ; "
        "move it away, or pass another --out" in outcome.err
    )


def test_a_folder_that_is_no_run_is_not_touched(tmp_path: Path) -> None:
    first, second = plan(Sweep.model_validate(TWO), tmp_path)
    first.folder.mkdir()
    assert state(first) == "new"  # an empty folder is in nobody's way
    (first.folder / "thesis.tex").write_text("precious")
    second.folder.write_text("a file")
    for run in (first, second):
        with pytest.raises(CossError, match="is in the way: it is no run folder; move it away"):
            state(run)


class Fail:
    """Makes the loss of runs with a given seed go wrong."""

    def __init__(self, seed: int, answer: Callable[[], torch.Tensor]) -> None:
        self.seed, self.answer, self.original = seed, answer, BYOL.global_loss

    def __call__(self, method: BYOL, outputs: ViewOutputs) -> torch.Tensor:
        if method.recipe.seed == self.seed:
            return self.answer() * self.original(method, outputs)
        return self.original(method, outputs)


def defect() -> torch.Tensor:
    raise ValueError("a defect\nwith details")


@pytest.mark.parametrize(
    ("answer", "mark", "reason"),
    [
        (lambda: torch.tensor(float("nan")), "diverged", "the loss is nan in epoch 1"),
        (defect, "failed", "ValueError: a defect"),
    ],
    ids=["diverged", "failed"],
)
def test_a_run_that_fails_stops_no_other_and_is_named_at_the_end(
    folder: Path,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[], torch.Tensor],
    mark: str,
    reason: str,
) -> None:
    fail = Fail(0, answer)
    monkeypatch.setattr(BYOL, "global_loss", lambda method, outputs: fail(method, outputs))
    content = {"base": SMALL, "grid": {"method": ["byol"], "seed": [0, 1]}}
    outcome = bench("sweep", write(folder / "s.yaml", content), "--device", "cpu")
    assert outcome.code == 1
    assert f"byol-s0: {mark}: {reason}" in outcome.err
    assert f"byol-s0 {mark} – –" in " ".join(outcome.out.split())
    assert "byol-s1: finished, kNN " in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: 1 of 2 runs did not finish: byol-s0; ")
    assert "Traceback" not in outcome.err
    assert (folder / "runs" / "s" / "byol-s1" / FILE_NAME).is_file()
    # With its cause gone, the same command does what is left.
    monkeypatch.setattr(BYOL, "global_loss", fail.original)
    outcome = bench("sweep", "s.yaml", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert "[1/1] byol-s0" in outcome.err


def test_missing_data_is_one_error_before_the_first_run(folder: Path, bench: Bench) -> None:
    content = {"base": {"dataset": "cifar10"}, "grid": {"seed": [0, 1]}}
    outcome = bench("sweep", write(folder / "s.yaml", content), "--device", "cpu")
    assert (outcome.code, outcome.err.count("\n"), outcome.out) == (1, 1, "")
    assert "cifar" in outcome.err
    assert not (folder / "runs").exists()


def test_a_share_of_a_gpu_is_for_clusters(bench: Bench) -> None:
    outcome = bench("sweep", "crop", "--gpus-per-run", 0.5)
    assert outcome.code == 1
    assert "--gpus-per-run is for --cluster" in outcome.err


def test_a_killed_sweep_goes_on_where_it_was(folder: Path) -> None:
    longer = {"base": SMALL | {"epochs": 8, "monitor_every": 8}}
    write(folder / "two.yaml", longer | {"grid": {"method": ["co-byol", "byol"]}})
    run = folder / "runs" / "two" / "co-byol-s0"
    process = start_command("sweep", "two.yaml", "--device", "cpu")
    deadline = time.monotonic() + 120
    while not (run / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (first, second) = plan(read_sweep("two.yaml"), Path("runs/two"))
    assert (state(first), state(second)) == ("interrupted", "new")
    sweeps.train(first, device="cpu", data_root=Path("data"))
    assert state(first) == "finished"
    # It went on: the fit before the kill and the one after it each left a file of events, and
    # every epoch has one row.
    assert len(list(run.glob("tensorboard/events*"))) == 2
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + 8


def test_ctrl_c_exits_130_and_says_how_to_go_on(
    folder: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustbench_coss.pretrain.train.pretrain", interrupted)
    outcome = bench("sweep", write(folder / "two.yaml", TWO))
    assert outcome.code == 130
    assert outcome.err.splitlines() == [
        "[1/2] byol-s0",
        "interrupted; run the same command again to go on",
    ]
