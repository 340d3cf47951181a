"""Training that is killed, interrupted or fails goes on to the same bytes as an undisturbed run."""

from __future__ import annotations

import csv
import errno
import os
import pickle
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bench import Bench
from helpers.forked import Forked, start_command
from safetensors.torch import load_file
from torch import Tensor

from robustbench_coss.datasets.base import ImageSet, open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.pretrain import monitors
from robustbench_coss.pretrain.methods.base import ViewOutputs
from robustbench_coss.pretrain.methods.byol import BYOL
from robustbench_coss.pretrain.recipe import build_recipe
from robustbench_coss.pretrain.train import pretrain

pytestmark = pytest.mark.usefixtures("small_bank")
EPOCHS = 6
RECIPE: dict[str, Any] = {
    "arch": "rf29_resnet18",
    "dataset": "parts",
    "width": 1 / 16,
    "size": 16,
    "limit": 256,
    "batch_size": 32,
    "epochs": EPOCHS,
    "monitor_every": EPOCHS,
    "options": {"hidden": 64, "dim": 16},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them: bits are compared at one number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(out: Path, method: str, resume: bool = False, **changes: Any) -> Path:
    recipe = build_recipe(RECIPE | {"method": method} | changes, "test")
    return pretrain(recipe, out, device="cpu", resume=resume)


@pytest.fixture(scope="module")
def undisturbed(small_bank: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each method that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for method in ("byol", "co-byol"):
        train(folder / method, method)
    return {method: folder / method for method in ("byol", "co-byol")}


def start(out: Path, method: str) -> Forked:
    """`coss-bench pretrain` of the same recipe in a process of its own."""
    options = [
        *(f"--method={method}", f"--arch={RECIPE['arch']}", f"--dataset={RECIPE['dataset']}"),
        *(f"--width={RECIPE['width']}", f"--image-size={RECIPE['size']}", f"--epochs={EPOCHS}"),
        *(f"--limit={RECIPE['limit']}", f"--batch-size={RECIPE['batch_size']}"),
        *("--set=options={hidden: 64, dim: 16}", f"--set=monitor_every={EPOCHS}"),
        *("--device=cpu", f"--out={out}"),
    ]
    return start_command("pretrain", *options)


def stop_once(process: Forked, path: Path, how: signal.Signals) -> str:
    """Send a signal as soon as a file is there; what the process wrote to stderr."""
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists(), process.communicate()
    process.send_signal(how)
    return process.communicate(timeout=60)[1]


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without their timing."""
    with (run / "metrics.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    for row in read:
        assert float(row.pop("seconds")) >= 0
    return read


def assert_equal_runs(run: Path, other: Path, epochs: int = EPOCHS) -> None:
    weights, expected = (load_file(r / "encoder.safetensors") for r in (run, other))
    assert weights.keys() == expected.keys()
    for name in expected:
        assert torch.equal(weights[name], expected[name]), name
    # The metadata too: settings, monitors, versions and device, and nothing that varies by run.
    assert (run / "encoder.safetensors").read_bytes() == (
        other / "encoder.safetensors"
    ).read_bytes()
    assert [row["epoch"] for row in rows(run)] == [str(n + 1) for n in range(epochs)]
    assert rows(run) == rows(other)


def test_a_killed_run_resumes_to_the_same_bits(
    tmp_path: Path, undisturbed: dict[str, Path], bench: Bench
) -> None:
    run = tmp_path / "run"
    process = start(run, "co-byol")
    stop_once(process, run / "last.ckpt", signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (run / "encoder.safetensors").exists()
    done = torch.load(run / "last.ckpt", weights_only=True)["epoch"] + 1
    assert 1 <= done < EPOCHS
    outcome = bench("pretrain", "--resume", "--out", run, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert_equal_runs(run, undisturbed["co-byol"])


def test_a_run_killed_before_its_first_checkpoint_starts_again_and_ends_the_same(
    tmp_path: Path, undisturbed: dict[str, Path]
) -> None:
    run = tmp_path / "run"
    stop_once(start(run, "co-byol"), run / "recipe.yaml", signal.SIGKILL)
    assert not (run / "last.ckpt").exists()
    train(run, "co-byol", resume=True)
    assert_equal_runs(run, undisturbed["co-byol"])


def test_ctrl_c_exits_130_and_the_command_it_names_goes_on(
    tmp_path: Path, undisturbed: dict[str, Path], bench: Bench
) -> None:
    run = tmp_path / "run"
    process = start(run, "byol")
    err = stop_once(process, run / "last.ckpt", signal.SIGINT)
    assert process.returncode == 130, err
    message = err.splitlines()[-1]
    assert message.startswith("interrupted; go on with: coss-bench pretrain --resume --out ")
    assert "Traceback" not in err
    assert bench(*message.partition("coss-bench ")[2].split()).code == 0
    assert_equal_runs(run, undisturbed["byol"])


def test_a_terminated_run_says_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, "byol")
    err = stop_once(process, run / "last.ckpt", signal.SIGTERM)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("interrupted; go on with: coss-bench pretrain --resume")
    assert "Traceback" not in err
    assert not (run / "encoder.safetensors").exists()


def test_a_run_stopped_between_its_last_epoch_and_the_export_is_only_exported(
    tmp_path: Path, undisturbed: dict[str, Path]
) -> None:
    run = shutil.copytree(undisturbed["byol"], tmp_path / "run")
    (run / "encoder.safetensors").unlink()
    before = (run / "metrics.csv").read_bytes()
    train(run, "byol", resume=True)
    assert (run / "metrics.csv").read_bytes() == before
    assert_equal_runs(run, undisturbed["byol"])


def test_resuming_a_finished_run_does_no_work(
    undisturbed: dict[str, Path], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = undisturbed["byol"]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    monkeypatch.setattr(
        "robustbench_coss.pretrain.train.open_dataset", None
    )  # calling it would fail
    outcome = bench("pretrain", "--resume", "--out", run)
    assert outcome.code == 0, outcome.err
    assert f"encoder: {run / 'encoder.safetensors'}" in outcome.out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_resuming_with_other_options_names_them(undisturbed: dict[str, Path], bench: Bench) -> None:
    run = undisturbed["byol"]
    outcome = bench(
        *("pretrain", "--resume", "--out", run, "--epochs", 9, "--set", "options.ema=0.5")
    )
    assert outcome.code == 1
    assert "another recipe: epochs, options.ema differ; resume without" in outcome.err
    assert len(rows(run)) == EPOCHS


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stopped after its first epoch of two, and can go on."""

    def fail(*args: object) -> None:
        raise CossError("stopped on purpose")

    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitors, "look_at", fail)  # called at the end of the last epoch
        with pytest.raises(CossError, match="on purpose"):
            train(run, "byol", epochs=2, limit=64, monitor_every=2)
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 0
    return run


@pytest.fixture
def begun(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(stopped, tmp_path / "begun")


def test_a_run_whose_images_have_changed_is_not_resumed(
    begun: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(name: str, role: str, **options: Any) -> ImageSet:
        images = open_dataset(name, role, **options)
        images.fingerprint = "of other images"
        return images

    monkeypatch.setattr("robustbench_coss.pretrain.train.open_dataset", changed)
    before = (begun / "last.ckpt").read_bytes()
    outcome = bench("pretrain", "--resume", "--out", begun)
    assert outcome.code == 1
    assert outcome.err.startswith("error: the training images of parts are not those that")
    assert len(outcome.err.splitlines()) == 1
    assert (begun / "last.ckpt").read_bytes() == before


class Bomb:
    """Its unpickling makes a file, as a malicious pickle would do worse."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign", "no state", "pickle"])
def test_a_checkpoint_that_cannot_be_resumed_is_refused_in_one_line(
    begun: Path, bench: Bench, damage: str, recwarn: pytest.WarningsRecorder
) -> None:
    path, marker = begun / "last.ckpt", begun.parent / "executed"
    whole = path.read_bytes()
    stored = torch.load(path, weights_only=True)
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not a checkpoint\n")
    elif damage == "foreign":
        torch.save(stored | {"state_dict": {"weight": torch.zeros(3)}}, path)
    elif damage == "no state":
        torch.save({"state_dict": stored["state_dict"]}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(marker)))
    damaged = path.read_bytes()
    outcome = bench("pretrain", "--resume", "--out", begun)
    assert outcome.code == 1
    assert len(outcome.err.splitlines()) == 1
    assert not recwarn.list  # nor a warning, which the test run would have caught
    assert str(path) in outcome.err
    assert "delete it to train from the beginning with --resume" in outcome.err
    assert not marker.exists()
    assert path.read_bytes() == damaged


def test_without_its_checkpoint_a_run_starts_from_the_beginning(
    stopped: Path, begun: Path, bench: Bench
) -> None:
    (begun / "last.ckpt").unlink()
    assert bench("pretrain", "--resume", "--out", begun).code == 0
    assert bench("pretrain", "--resume", "--out", stopped).code == 0
    assert_equal_runs(begun, stopped, epochs=2)


def test_unpickling_the_bomb_would_execute_it(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_a_damaged_recipe_of_a_run_is_named(begun: Path, bench: Bench) -> None:
    for content, reason in (("a: [", "not valid YAML"), ("3", "mapping"), ("epoch: 3", "'epoch'")):
        (begun / "recipe.yaml").write_text(content)
        outcome = bench("pretrain", "--resume", "--out", begun)
        assert outcome.code == 1
        assert reason in outcome.err
        assert "recipe.yaml" in outcome.err


def test_a_loss_of_nan_stops_with_one_line_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    whole = BYOL.global_loss

    def spoilt(self: BYOL, outputs: ViewOutputs) -> Tensor:
        return whole(self, outputs) * (1.0 if self.current_epoch == 0 else float("nan"))

    monkeypatch.setattr(BYOL, "global_loss", spoilt)
    run = tmp_path / "run"
    outcome = bench(
        *("pretrain", "--method", "byol", "--width", 1 / 16, "--limit", 64, "--batch-size", 32),
        *("--epochs", 3, "--set", "options.hidden=64", "--device", "cpu", "--out", run),
    )
    assert outcome.code == 1
    line = outcome.err.splitlines()[-1]
    assert line.startswith("error: the loss is nan in epoch 2, step 3: training stopped")
    assert "lower learning rate" in line
    assert "Traceback" not in outcome.err
    assert not (run / "encoder.safetensors").exists()
    assert [row["epoch"] for row in rows(run)] == ["1"]
    stored = torch.load(run / "last.ckpt", weights_only=True)
    assert stored["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in stored["state_dict"].values())
    monkeypatch.setattr(BYOL, "global_loss", whole)
    assert bench("pretrain", "--resume", "--out", run, "--device", "cpu").code == 0


def test_weights_that_overflow_are_caught_before_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def too_fast(options: Any, groups: Any, lr: float, fused: bool) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=3e38, weight_decay=1e10)

    monkeypatch.setattr("robustbench_coss.pretrain.methods.base.build_optimizer", too_fast)
    # One step: its loss is finite, the weights it leaves are not.
    with pytest.raises(CossError, match="weights are NaN or infinite in epoch 1"):
        train(run, "byol", epochs=1, limit=32, optimizer={"warmup_epochs": 0})
    assert not (run / "last.ckpt").exists()


def test_a_disk_that_fills_up_keeps_the_last_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    run, replace, written = tmp_path / "run", os.replace, []

    def full(source: Any, target: Any) -> None:
        if Path(target).name == "last.ckpt":
            written.append(target)
            if len(written) > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    outcome = bench(
        *("pretrain", "--method", "byol", "--width", 1 / 16, "--limit", 64, "--batch-size", 32),
        *("--epochs", 2, "--set", "options.hidden=64", "--device", "cpu", "--out", run),
    )
    assert outcome.code == 1
    assert f"cannot write {run / 'last.ckpt'}: No space left on device; free" in outcome.err
    assert "Traceback" not in outcome.err
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 0
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    monkeypatch.setattr(os, "replace", replace)
    assert bench("pretrain", "--resume", "--out", run, "--device", "cpu").code == 0
    assert [row["epoch"] for row in rows(run)] == ["1", "2"]
