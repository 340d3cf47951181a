"""A checkpoint restores what this tool wrote and nothing else, whoever made the file."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bench import Bench
from helpers.sweeps import SMALL

from robustbench_coss.pretrain import monitors
from robustbench_coss.pretrain.loop import AtomicCheckpointIO
from robustbench_coss.pretrain.recipe import build_recipe
from robustbench_coss.pretrain.train import pretrain

pytestmark = pytest.mark.usefixtures("small_bank")
RECIPE: dict[str, Any] = SMALL | {"method": "byol", "epochs": 3}


class Stopped(BaseException):
    """Raised in place of a kill."""


def run_to(out: Path, epoch: int, **changes: Any) -> Path:
    """A run that ends before the checkpoint of an epoch (from 0) is written."""
    real = AtomicCheckpointIO.save_checkpoint

    def save(self: AtomicCheckpointIO, checkpoint: dict[str, Any], *args: Any, **more: Any) -> None:
        if checkpoint["epoch"] == epoch:
            raise Stopped
        real(self, checkpoint, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", save)
        with pytest.raises(Stopped):
            pretrain(build_recipe(RECIPE | changes, "test"), out, device="cpu")
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, small_bank: None) -> Path:
    """A run with the checkpoint of its first epoch."""
    return run_to(tmp_path_factory.mktemp("stopped") / "run", 1)


@pytest.fixture
def begun(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(stopped, tmp_path / "begun")


def resume(bench: Bench, run: Path, change: Callable[[dict[str, Any]], None]) -> Any:
    stored = torch.load(run / "last.ckpt", weights_only=True)
    change(stored)
    torch.save(stored, run / "last.ckpt")
    return bench("pretrain", "--resume", "--out", run, "--device", "cpu")


@pytest.mark.parametrize("scheme", ["", "file://", "local:///"])
def test_resuming_removes_nothing_that_a_checkpoint_names(
    begun: Path, bench: Bench, tmp_path: Path, scheme: str
) -> None:
    """The state is as Lightning 2.6 writes it for its ModelCheckpoint, with other paths."""
    victim = tmp_path / "victim"
    (victim / "years").mkdir(parents=True)
    key = (
        "ModelCheckpoint{'monitor': None, 'mode': 'min', 'every_n_train_steps': 0, "
        "'every_n_epochs': 1, 'train_time_interval': None}"
    )

    def change(stored: dict[str, Any]) -> None:
        stored["callbacks"][key] = {
            "monitor": None,
            "best_model_score": None,
            "best_model_path": f"{scheme}{victim}",
            "current_score": None,
            "dirpath": str(begun),
            "best_k_models": {f"{scheme}{victim}": torch.tensor(0.0)},
            "kth_best_model_path": f"{begun}/../victim",
            "kth_value": torch.tensor(0.0),
            "last_model_path": f"{begun}/../victim",
        }

    outcome = resume(bench, begun, change)
    assert outcome.code == 0, outcome.err
    assert (begun / "encoder.safetensors").exists()
    assert (victim / "years").is_dir()


def optimizer(stored: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = stored["optimizer_states"][0]
    return found


def probe(stored: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = stored["callbacks"]["OnlineProbe"]
    return found


def fit(stored: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = stored["loops"]["fit_loop"]
    return found


def weights(stored: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = stored["state_dict"]
    return found


CONV = "encoder.conv1.weight"
WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "epoch a word": lambda s: s.update(epoch="1"),
    "epoch negative": lambda s: s.update(epoch=-1),
    "epoch beyond the recipe": lambda s: s.update(epoch=3),
    "epoch a flag": lambda s: s.update(epoch=True),
    "step beyond the recipe": lambda s: s.update(global_step=10**9),
    "no loops": lambda s: s.pop("loops"),
    "loops a list": lambda s: s.update(loops=[1]),
    "fit loop a list": lambda s: s["loops"].update(fit_loop=[]),
    "fit loop empty": lambda s: s["loops"].update(fit_loop={}),
    "count a word": lambda s: fit(s)["epoch_progress"]["current"].update(ready="x"),
    "count negative": lambda s: fit(s)["epoch_progress"]["total"].update(processed=-5),
    "count huge": lambda s: fit(s)["epoch_loop.batch_progress"]["total"].update(ready=10**400),
    "no callbacks": lambda s: s.pop("callbacks"),
    "callbacks a list": lambda s: s.update(callbacks=["OnlineProbe"]),
    "no probe": lambda s: s.update(callbacks={}),
    "probe empty": lambda s: s["callbacks"].update(OnlineProbe={}),
    "probe of other classes": lambda s: probe(s)["layer"].update(weight=torch.zeros(3, 32)),
    "probe's optimiser a list": lambda s: probe(s).update(optimizer=[]),
    "probe's momentum of another shape": lambda s: probe(s)["optimizer"]["state"][0].update(
        momentum_buffer=torch.zeros(2)
    ),
    "no optimiser": lambda s: s.update(optimizer_states=[]),
    "two optimisers": lambda s: s.update(optimizer_states=s["optimizer_states"] * 2),
    "optimiser a word": lambda s: s.update(optimizer_states=["sgd"]),
    "momentum of another shape": lambda s: optimizer(s)["state"][0].update(
        momentum_buffer=torch.zeros(2, 2)
    ),
    "momentum a list": lambda s: optimizer(s)["state"][0].update(momentum_buffer=[0.0]),
    "momentum of a foreign name": lambda s: optimizer(s)["state"][0].update(extra=torch.zeros(1)),
    "state of a parameter that is not there": lambda s: optimizer(s)["state"].update(
        {10**6: optimizer(s)["state"][0]}
    ),
    "fewer groups": lambda s: optimizer(s)["param_groups"].pop(),
    "rate a word": lambda s: optimizer(s)["param_groups"][0].update(lr="fast"),
    "rate infinite": lambda s: optimizer(s)["param_groups"][0].update(lr=float("inf")),
    "rate beyond the recipe's": lambda s: optimizer(s)["param_groups"][0].update(lr=1e300),
    "weights of another shape": lambda s: weights(s).update({CONV: torch.zeros(3)}),
    "weights of another type": lambda s: weights(s).update({CONV: weights(s)[CONV].double()}),
    "weights sparse": lambda s: weights(s).update({CONV: weights(s)[CONV].to_sparse()}),
    "weights a list": lambda s: weights(s).update({CONV: [0.0]}),
    "no weights": lambda s: s.pop("state_dict"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_checkpoint_with_a_wrong_part_is_refused_in_one_line(
    begun: Path, bench: Bench, what: str
) -> None:
    outcome = resume(bench, begun, WRONG[what])
    assert outcome.code == 1
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.err.startswith(f"error: {begun / 'last.ckpt'} does not fit the recipe beside it")
    assert "delete it to train from the beginning" in outcome.err
    assert not (begun / "encoder.safetensors").exists()


def test_what_a_checkpoint_adds_changes_nothing(begun: Path, bench: Bench, stopped: Path) -> None:
    """Hyperparameters are the recipe's, whatever the file says of them."""

    def change(stored: dict[str, Any]) -> None:
        for group in optimizer(stored)["param_groups"]:
            group.update(momentum=0.0, weight_decay=9.0, maximize=True, foreach="x")
        probe(stored)["optimizer"]["param_groups"][0].update(lr=50.0)
        stored["lr_schedulers"][0].update(base_lrs=[5.0, 5.0], warmup_epochs=1000)
        stored["hyper_parameters"] = {"lr": 3}
        stored["hparams_name"] = "kwargs"
        stored["native_amp_scaling_state"] = {"scale": 2.0}
        stored["loops"]["test_loop"] = "x"

    other = shutil.copytree(stopped, begun.parent / "other")
    assert resume(bench, other, lambda stored: None).code == 0
    assert resume(bench, begun, change).code == 0
    assert (begun / "encoder.safetensors").read_bytes() == (
        other / "encoder.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_every_optimiser_goes_on_from_its_own_checkpoint(tmp_path: Path, name: str) -> None:
    recipe = build_recipe(RECIPE | {"optimizer": {"name": name, "lr": 0.01}}, "test")
    undisturbed = pretrain(recipe, tmp_path / "whole", device="cpu").read_bytes()
    run_to(tmp_path / "run", 2, optimizer={"name": name, "lr": 0.01})
    assert pretrain(recipe, tmp_path / "run", device="cpu", resume=True).read_bytes() == undisturbed


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_metric_stands_in_the_epochs_that_measured_it_and_survives_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With monitor_every=2, epochs 2, 4, … and the last are measured."""
    looks = []
    real = monitors.look_at

    def look(*args: Any, **more: Any) -> monitors.Look:
        looks.append(real(*args, **more))
        return looks[-1]

    monkeypatch.setattr(monitors, "look_at", look)
    recipe = build_recipe(RECIPE | {"epochs": 5}, "test")
    pretrain(recipe, tmp_path / "whole", device="cpu")
    expected = ["", looks[0], "", looks[1], looks[2]]
    found = metrics(tmp_path / "whole")
    assert len(looks) == 3
    for name, attribute in (
        ("validation/knn_top1", "knn_top1"),
        ("train/effective_rank", "effective_rank"),
    ):
        wanted = [f"{getattr(look, attribute):.6g}" if look else "" for look in expected]
        assert [row[name] for row in found] == wanted
    for epoch in range(1, 5):
        run = run_to(tmp_path / f"killed-{epoch}", epoch, epochs=5)
        pretrain(recipe, run, device="cpu", resume=True)
        assert metrics(run) == found
        assert list(metrics(run)[0]) == list(found[0])


@pytest.mark.parametrize("content", ["", "epoch\nx\n", "a,b\n1,2\n", "epoch,seconds\n7,1\n", "\0"])
def test_metrics_that_are_damaged_are_named(begun: Path, bench: Bench, content: str) -> None:
    (begun / "metrics.csv").write_text(content)
    outcome = bench("pretrain", "--resume", "--out", begun, "--device", "cpu")
    assert outcome.code == 1
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error")]
    assert str(begun / "metrics.csv") in line
    assert "restore it" in line
    assert "Traceback" not in outcome.err
