"""`pretrain --logger`: Lightning's loggers beside `metrics.csv`, all of them offline."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from helpers.bench import Bench

from robustbench_coss.errors import CossError
from robustbench_coss.pretrain.loggers import LOGGERS, check_logger, logging_to
from robustbench_coss.pretrain.recipe import Recipe, build_recipe
from robustbench_coss.pretrain.train import pretrain

pytestmark = pytest.mark.usefixtures("small_bank")
TINY: dict[str, Any] = {
    "method": "byol",
    "width": 1 / 16,
    "epochs": 1,
    "batch_size": 16,
    "limit": 32,
    "options": {"hidden": 16, "dim": 8},
    "views": {"blur": (0.0, 0.0)},
}


@pytest.fixture
def tiny() -> Recipe:
    return build_recipe(TINY, "test")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"MODE": "offline", "SILENT": "true", "DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def last_row(path: Path) -> dict[str, str]:
    with path.open() as file:
        return list(csv.DictReader(file))[-1]


def test_none_leaves_the_run_folders_own_files_alone(tmp_path: Path, tiny: Recipe) -> None:
    pretrain(tiny, tmp_path / "run", device="cpu", logger="none")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"metrics.csv", "recipe.yaml", "encoder.safetensors"} <= names
    assert not names & {"tensorboard", "csv", "wandb", "mlruns", "lightning_logs"}


def test_csv_has_the_metrics_of_the_run_folder(tmp_path: Path, tiny: Recipe, bench: Bench) -> None:
    (tmp_path / "tiny.yaml").write_text(
        "method: byol\nwidth: 0.0625\nepochs: 1\nbatch_size: 16\nlimit: 32\n"
        "options: {hidden: 16, dim: 8}\nviews: {blur: [0.0, 0.0]}\n"
    )
    run = tmp_path / "run"
    options = ("--recipe", tmp_path / "tiny.yaml", "--out", run, "--device", "cpu")
    done = bench("pretrain", *options, "--logger", "csv")
    assert done.code == 0, done.err
    ours = last_row(run / "metrics.csv")
    theirs = last_row(run / "csv" / "version_0" / "metrics.csv")
    assert float(theirs["train/loss"]) == pytest.approx(float(ours["train/loss"]), rel=1e-5)
    assert not (run / "tensorboard").exists()


def test_the_logger_changes_no_weight(tmp_path: Path, tiny: Recipe, offline: None) -> None:
    plain = pretrain(tiny, tmp_path / "plain", device="cpu").read_bytes()
    assert pretrain(tiny, tmp_path / "csv", device="cpu", logger="csv").read_bytes() == plain


@pytest.mark.slow
def test_weights_and_biases_logs_offline_and_resumes_the_same_run(
    tmp_path: Path, tiny: Recipe, offline: None
) -> None:
    wandb = pytest.importorskip("wandb")
    run = tmp_path / "run"
    pretrain(tiny, run, device="cpu", logger="wandb")
    assert wandb.run is None  # the next run of this process is another one
    name = (run / "wandb-id").read_text()
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert folder.name.endswith(name)
    assert (folder / f"run-{name}.wandb").stat().st_size > 0
    with logging_to("wandb", run, tiny) as logger:
        assert not isinstance(logger, bool)
        assert logger.version == name


def test_mlflow_logs_into_the_run_folder(tmp_path: Path, tiny: Recipe, offline: None) -> None:
    pytest.importorskip("mlflow", reason="does not resolve beside torchattacks")
    run = tmp_path / "run"
    pretrain(tiny, run, device="cpu", logger="mlflow")
    (found,) = (run / "mlruns").glob("*/*/metrics/train/loss")
    assert float(found.read_text().split()[1]) == pytest.approx(
        float(last_row(run / "metrics.csv")["train/loss"]), rel=1e-5
    )


def test_an_unknown_logger_and_a_missing_package_are_one_line_before_anything_is_written(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = bench("pretrain", "--logger", "tensorbord")
    assert (wrong.code, wrong.err.count("\n")) == (1, 1)
    assert "unknown logger 'tensorbord'; did you mean tensorboard" in wrong.err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, says in {"wandb": "robustbench-coss[wandb]", "mlflow": "mlflow-skinny"}.items():
        with pytest.raises(CossError, match=f"--logger {name} needs the package {name}") as caught:
            check_logger(name)
        assert says in str(caught.value)
    check_logger("tensorboard")
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_cannot_be_reached_is_one_line(
    tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unreachable:
        @property
        def experiment(self) -> None:
            raise ConnectionError("no route\nto host")

    monkeypatch.setitem(LOGGERS, "csv", lambda out, recipe: Unreachable())  # type: ignore[arg-type, return-value]
    with pytest.raises(CossError, match="--logger csv cannot begin") as caught:
        pretrain(tiny, tmp_path / "run", device="cpu", logger="csv")
    assert "\n" not in str(caught.value)
