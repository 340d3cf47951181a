"""Training as a whole: EMA, schedules, data order, exports, monitors."""

from __future__ import annotations

import copy
import csv
import math
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_coss.datasets.base import ArraySet, ImageSet, open_dataset
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint
from robustbench_coss.pretrain import beside_controls, data, monitors
from robustbench_coss.pretrain.data import EpochOrder, subset, training_loader
from robustbench_coss.pretrain.loop import ClipGradients, StopOnSignal, compile_stages
from robustbench_coss.pretrain.methods.base import Method
from robustbench_coss.pretrain.methods.byol import BYOL
from robustbench_coss.pretrain.monitors import OnlineProbe
from robustbench_coss.pretrain.recipe import (
    Recipe,
    build_recipe,
    differing_keys,
    dump_recipe,
    merge,
)
from robustbench_coss.pretrain.train import pretrain

pytestmark = pytest.mark.usefixtures("small_bank")
TINY: dict[str, Any] = {
    "method": "co-byol",
    "width": 1 / 16,
    "epochs": 2,
    "batch_size": 16,
    "limit": 64,
    "options": {"hidden": 16, "dim": 8, "ema": 0.9},
    "views": {"blur": (0.0, 0.0)},
}


def tiny(**changes: Any) -> Recipe:
    return build_recipe(merge(TINY, changes), "test")


@pytest.fixture(scope="module")
def parts() -> ArraySet:
    opened = open_dataset("parts", "train")
    assert isinstance(opened, ArraySet)
    return opened


def test_epochs_visit_every_sample_once_in_a_new_order() -> None:
    chosen = torch.arange(100, 150)
    order = EpochOrder(chosen, 50, seed=0, micro=5)
    seen = []
    for epoch in range(2):
        order.set_epoch(epoch)
        keys = list(order)
        assert {e for e, _ in keys} == {epoch}
        seen.append([i for _, i in keys])
    assert sorted(seen[0]) == sorted(seen[1]) == chosen.tolist()
    assert seen[0] != seen[1]
    again = EpochOrder(chosen, 50, seed=0, micro=10)
    assert [i for _, i in again] == seen[0]


def test_processes_share_out_the_order_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [i for _, i in EpochOrder(torch.arange(100), 48, seed=3, micro=12)]
    monkeypatch.setattr(data, "world_size", lambda: 3)
    shares = []
    for number in range(3):
        monkeypatch.setattr(data, "rank", lambda number=number: number)
        order = EpochOrder(torch.arange(100), 48, seed=3, micro=4)
        shares.append([i for _, i in order])
        assert len(order) == len(shares[-1]) == 16
    # At any time the three hold, one after the other, what one process holds: 12 samples.
    for step in range(4):
        together = [i for share in shares for i in share[4 * step : 4 * step + 4]]
        assert together == whole[12 * step : 12 * step + 12]


def test_a_smaller_training_subset_lies_in_a_larger_one() -> None:
    assert set(subset(1000, 50).tolist()) < set(subset(1000, 200).tolist())


def test_the_loader_drops_the_incomplete_batch(parts: ArraySet) -> None:
    loader = training_loader(parts, tiny(limit=70), views=2)
    batches = list(loader)
    assert [len(b) for b in batches] == [16] * 4
    assert batches[0].images.dtype == torch.uint8
    assert torch.equal(batches[0].labels, parts.labels[batches[0].index])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"batch_size": 16, "accumulate": 16}, "batches of 1 sample"),
        ({"batch_size": 16, "accumulate": 3}, "multiple"),
        ({"batch_size": 128}, "do not fill"),
    ],
)
def test_batches_that_cannot_work_are_refused(
    parts: ArraySet, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(CossError, match=complaint):
        training_loader(parts, tiny(**changes), views=2)


def test_a_recipe_survives_writing_and_reading() -> None:
    import yaml

    recipe = tiny()
    assert build_recipe(yaml.safe_load(dump_recipe(recipe)), "again") == recipe
    assert differing_keys(recipe, tiny(optimizer={"lr": 0.5}, seed=3)) == ["optimizer.lr", "seed"]


def test_a_finished_run_holds_what_it_promises(tmp_path: Path) -> None:
    exported = pretrain(tiny(), tmp_path / "run", device="cpu")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["step"] for row in rows] == ["4", "8"]
    for row in rows:
        w = 0.3
        combined = (1 - w) * float(row["train/global"]) + w * float(row["train/local"])
        assert float(row["train/loss"]) == pytest.approx(combined, rel=1e-4)
        assert 0 <= float(row["validation/knn_top1"]) <= 1
        assert float(row["train/embedding_std"]) > 0
        assert float(row["train/effective_rank"]) >= 1
    # EMA momentum rises along a cosine from 0.9 to 1; the mean of the first four of eight steps.
    ema = [1 - 0.1 * (math.cos(math.pi * k / 7) + 1) / 2 for k in range(8)]
    assert float(rows[0]["train/ema_momentum"]) == pytest.approx(sum(ema[:4]) / 4, rel=1e-5)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert (tmp_path / "run" / "last.ckpt").is_file()

    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.path == exported
    assert checkpoint.name == "run"
    meta = checkpoint.metadata
    assert (meta["method"], meta["arch"], meta["encoder"]) == ("co-byol", "rf29_resnet18", "online")
    assert meta["training"]["images"] == 64
    assert meta["training"]["steps"] == 8
    assert not checkpoint.encoder.training

    stored = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in checkpoint.encoder.state_dict().items():
        assert torch.equal(tensor, stored[f"encoder.{name}"]), name


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_file(tmp_path: Path) -> None:
    one, two = (pretrain(tiny(), tmp_path / name, device="cpu") for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    other = pretrain(tiny(seed=1), tmp_path / "three", device="cpu")
    assert other.read_bytes() != one.read_bytes()


def test_accumulated_steps_move_the_target_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import robustbench_coss.pretrain.methods.base as method_module

    moves = []
    real = method_module.update_momentum

    def counting(online: Any, target: Any, m: float) -> None:
        moves.append(m)
        before = [p.clone() for p in target.parameters()]
        real(online, target, m=m)
        for old, new, source in zip(before, target.parameters(), online.parameters(), strict=True):
            torch.testing.assert_close(new.data, m * old + (1 - m) * source.data)

    monkeypatch.setattr(method_module, "update_momentum", counting)
    recipe = tiny(method="byol", epochs=1, accumulate=4)
    pretrain(recipe, tmp_path / "run", device="cpu")
    assert len(moves) == 4 * 2  # four optimiser steps, two pairs (encoder and projector)


def test_the_learning_rate_warms_up_and_falls_to_zero_and_scales_with_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    real = Method.optimizer_step

    def watching(self: Method, *args: Any, **kwargs: Any) -> None:
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        real(self, *args, **kwargs)

    monkeypatch.setattr(Method, "optimizer_step", watching)
    recipe = tiny(epochs=4, optimizer={"name": "sgd", "lr": 0.8, "warmup_epochs": 1.0})
    pretrain(recipe, tmp_path / "run", device="cpu")
    peak = 0.8 * 16 / 256
    assert max(rates) == pytest.approx(peak)
    assert rates[:4] == pytest.approx([peak * (k + 1) / 4 for k in range(4)])
    falling = rates[4:]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 0.05 * peak


def test_norms_and_biases_are_not_decayed_and_targets_not_trained() -> None:
    recipe = build_recipe({"method": "byol", "options": {"hidden": 16, "dim": 8}}, "test")
    method = BYOL(build_encoder("rf29_resnet18", size=32, width=1 / 16), recipe)
    method._trainer = SimpleNamespace(estimated_stepping_batches=8)  # type: ignore[assignment]
    optimizers, _ = method.configure_optimizers()
    decayed, plain = optimizers[0].param_groups
    assert decayed["weight_decay"] > 0
    assert plain["weight_decay"] == 0
    assert all(p.dim() > 1 for p in decayed["params"])
    assert all(p.dim() == 1 for p in plain["params"])
    trained = [id(p) for group in (decayed, plain) for p in group["params"]]
    wanted = [id(p) for n, p in method.named_parameters() if not n.startswith("target_")]
    assert sorted(trained) == sorted(wanted)


def test_the_online_probe_learns_separable_features_and_resumes() -> None:
    probe = OnlineProbe(dim=4, classes=2, seed=0)
    module = type("M", (), {"device": torch.device("cpu"), "log": lambda *a, **k: None})()
    features = torch.cat([torch.randn(32, 4) + 2, torch.randn(32, 4) - 2])
    labels = torch.arange(64) // 32
    outputs = {"features": features, "labels": labels}
    for _ in range(20):
        probe.on_train_batch_end(None, module, outputs, None, 0)  # type: ignore[arg-type]
    predicted = probe.layer(probe.norm(features)).argmax(1)
    assert (predicted == labels).all()
    twin = OnlineProbe(dim=4, classes=2, seed=1)
    twin.load_state_dict(copy.deepcopy(probe.state_dict()))
    for p in (probe, twin):
        p.on_train_batch_end(None, module, outputs, None, 0)  # type: ignore[arg-type]
    assert torch.equal(twin.layer.weight, probe.layer.weight)


def test_collapse_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Method, "watch_collapse", lambda self, z: None)  # stays at zero
    with pytest.warns(UserWarning, match="collapsing"):
        pretrain(tiny(epochs=1), tmp_path / "run", device="cpu")


def test_representations_along_few_directions_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitors, "look_at", lambda *_: monitors.Look(0.5, 2.5))
    with pytest.warns(UserWarning, match=r"few directions.*2\.5 of"):
        pretrain(tiny(epochs=1), tmp_path / "run", device="cpu")


class OneDirection(Encoder):
    """Features along one line, whatever the image: their effective rank is 1."""

    def __init__(self) -> None:
        super().__init__(InputSpec(32), local_dim=6, dim=6)

    def local(self, x: Tensor) -> Tensor:
        return x.mean(dim=(1, 2, 3))[:, None, None, None] * torch.arange(1.0, 7).view(6, 1, 1)


def test_a_look_at_an_encoder_finds_its_rank_and_leaves_its_mode(parts: ArraySet) -> None:
    validation = open_dataset("parts", "validation")
    encoder = OneDirection().train()
    cpu = torch.device("cpu")
    seen = monitors.look_at(encoder, cpu, parts, validation)
    assert seen.effective_rank == pytest.approx(1, abs=1e-3)
    assert 0 <= seen.knn_top1 <= 1
    assert encoder.training
    bare = copy.copy(parts)
    bare.labels = torch.full_like(parts.labels, -1)
    assert math.isnan(monitors.look_at(encoder, cpu, bare, validation).knn_top1)


@pytest.mark.slow
def test_a_run_is_set_beside_pixels_and_the_encoder_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = pretrain(tiny(epochs=1, seed=3), tmp_path / "run", device="cpu")
    cpu = torch.device("cpu")
    line = beside_controls.beside_controls(exported, device=cpu, data_root=Path("data"))
    found = re.fullmatch(
        r"kNN on 100 validation images: ([\d.]+)% \(pixels ([\d.]+)%, untrained ([\d.]+)%\); "
        r"effective rank ([\d.]+) of \d+(; NOT ABOVE .*)?",
        line,
    )
    assert found is not None, line
    trained, *others = (float(value) for value in found.groups()[:3])
    # The pixels' share by hand: cosines, exp(cosine / 0.07), the same images.
    train, validation = (open_dataset("parts", role) for role in ("train", "validation"))
    bank, queries = data.subset(len(train), 200), data.subset(len(validation), 100)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def unit(images: ImageSet, chosen: Tensor) -> Tensor:
        pixels = images.images(chosen.tolist()).float() / 255
        return torch.nn.functional.normalize(((pixels - mean) / std).flatten(1), dim=1)

    near = (unit(validation, queries) @ unit(train, bank).T).topk(20, dim=1)
    votes = torch.zeros(100, len(train.classes))
    votes.scatter_add_(1, train.labels[bank][near.indices], (near.values / 0.07).exp())
    right = (votes.argmax(dim=1) == validation.labels[queries]).double().mean()
    assert others[0] == pytest.approx(100 * float(right), abs=0.06)
    assert (found[5] is not None) == (trained <= max(others))


@pytest.mark.slow
def test_bf16_trains_on_a_cpu_too(tmp_path: Path) -> None:
    exported = pretrain(tiny(precision="bf16", epochs=1), tmp_path / "run", device="cpu")
    half, full = load_checkpoint(exported), pretrain(tiny(epochs=1), tmp_path / "full")
    assert half.metadata["training"]["recipe"]["precision"] == "bf16"
    for weight, other in zip(
        half.encoder.parameters(), load_checkpoint(full).encoder.parameters(), strict=True
    ):
        assert weight.dtype == torch.float32  # mixed: bf16 is for activations only
        torch.testing.assert_close(weight, other, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_a_second_one_at_once(number: signal.Signals) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    stop = StopOnSignal()
    nothing: Any = None
    try:
        stop.on_train_start(nothing, nothing)
        stop.on_train_batch_end(nothing, nothing, nothing, nothing, 0)
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            stop.on_train_batch_end(nothing, nothing, nothing, nothing, 1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


def test_compiled_stages_are_used_and_leave_names_and_outputs_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def compile_as_is(stage: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        def compiled(x: torch.Tensor) -> torch.Tensor:
            calls.append(stage)
            return stage(x)

        return compiled

    monkeypatch.setattr(torch, "compile", compile_as_is)
    method = BYOL(build_encoder("rf29_resnet18", size=32, width=1 / 16), tiny(method="byol"))
    method.eval()
    names, x = list(method.state_dict()), torch.rand(2, 3, 32, 32)
    expected = method.encoder(x), method.target_encoder(x)
    compile_stages(method)
    assert torch.equal(method.encoder(x), expected[0])
    assert len(calls) == 4
    assert torch.equal(method.target_encoder(x), expected[1])
    assert len(calls) == 8
    assert list(method.state_dict()) == names


def test_gradients_are_scaled_down_to_the_norm_and_never_up() -> None:
    recipe = tiny(method="byol")
    method = BYOL(build_encoder("rf29_resnet18", size=32, width=1 / 16), recipe)
    weight = method.encoder.conv1.weight
    for norm, expected in ((5.0, 3.0), (100.0, 6.0)):
        weight.grad = torch.zeros_like(weight)
        weight.grad.view(-1)[:2] = torch.tensor([6.0, 8.0])  # of norm 10
        ClipGradients(norm).on_before_optimizer_step(None, method, None)  # type: ignore[arg-type]
        assert float(weight.grad.view(-1)[0]) == pytest.approx(expected)
