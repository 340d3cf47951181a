"""What is logged of an epoch: the means over its steps, of all processes where that is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustbench_coss.pretrain.methods.base import Method
from robustbench_coss.pretrain.recipe import build_recipe
from robustbench_coss.pretrain.train import pretrain

pytestmark = pytest.mark.usefixtures("small_bank")


def test_means_are_over_all_steps_and_only_what_lies_on_the_device_is_averaged_over_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: dict[str, list[float]] = {}
    logged: dict[str, list[float]] = {}
    synced: set[str] = set()
    note, log = Method.note, Method.log

    def spied_note(self: Method, name: str, value: Any) -> None:
        noted.setdefault(name, []).append(float(value))
        note(self, name, value)

    def spied_log(self: Method, name: str, value: Any, **options: Any) -> None:
        if name.removeprefix("train/") in noted:
            logged.setdefault(name.removeprefix("train/"), []).append(float(value))
            synced.update({name.removeprefix("train/")} if options["sync_dist"] else ())
        log(self, name, value, **options)

    monkeypatch.setattr(Method, "note", spied_note)
    monkeypatch.setattr(Method, "log", spied_log)
    values = {"method": "co-byol", "width": 1 / 16, "epochs": 2, "batch_size": 8, "limit": 24}
    values |= {"options": {"hidden": 16, "dim": 8}}
    pretrain(build_recipe(values, "test"), tmp_path / "run", device="cpu")
    assert {"loss", "embedding_std", "lr", "ema_momentum"} <= noted.keys() == logged.keys()
    for name, steps in noted.items():
        assert len(steps) == 6
        means = [sum(steps[:3]) / 3, sum(steps[3:]) / 3]
        assert logged[name] == pytest.approx(means, rel=1e-5), name
    # NCCL averages nothing that lies in the host's memory, as the learning rate does.
    assert synced == noted.keys() - {"embedding_std", "lr", "ema_momentum"}
