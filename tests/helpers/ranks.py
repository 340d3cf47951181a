"""What each process of `test_distributed.py` does, and the runs that one process repeats.

`check` does all that needs two processes, `pretrain_slowly`, and this file as a script, is
`coss-bench pretrain` with small networks and epochs that last long enough to be interrupted. In
float64: rounding, which training amplifies step by step, then hides nothing.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_coss import cli, registry
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.pretrain import monitors, train
from robustbench_coss.pretrain.data import training_loader
from robustbench_coss.pretrain.distributed import (
    ReportedElsewhere,
    SyncBatchNorm,
    gather,
    join,
    rank,
    reported_once,
    same_outcome,
    sum_over_ranks,
    synchronise_batchnorm,
    world_size,
)
from robustbench_coss.pretrain.recipe import Recipe, build_recipe

METHODS = registry.names("method")
SMALL = {"hidden": 16, "dim": 8}
SMALL_DINO = {"hidden": 256, "bottleneck": 8, "prototypes": 16}  # its narrow heads start near 0


class SmallEncoder(Encoder):
    """Two convolutions with BatchNorm: quick where every BatchNorm asks the other rank."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(InputSpec(16), local_dim=12, dim=12)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.BatchNorm2d(12),
        )

    def local(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(self.normalise(x))
        return out


def recipe(method: str, **changes: Any) -> Recipe:
    """Two epochs of one step, and four images that do not fill another batch."""
    known = registry.load("method", method).Options.model_fields
    small = SMALL_DINO if "prototypes" in known else SMALL
    values = {
        "method": method,
        "size": 16,
        "epochs": 2,
        "limit": 20,
        "batch_size": 16,
        "monitor_every": 2,
        "optimizer": {"lr": 1e-4},
        "options": {key: value for key, value in small.items() if key in known},
    }
    return build_recipe(values | changes, "test")


LONGER: dict[str, Any] = {"limit": 40}
"""Changes to a recipe that give epochs of two steps."""
SPLIT: dict[str, Any] = LONGER | {"accumulate": 2, "optimizer": {"lr": 1e-4, "clip": 0.5}}


def prepare(patch: pytest.MonkeyPatch) -> None:
    """Small networks in float64 and a small bank for kNN."""
    patch.setattr(train, "build_encoder", SmallEncoder)
    patch.setattr(train, "open_dataset", functools.cache(open_dataset))
    small_bank = functools.partial(monitors.look_at, bank=101, queries=51)  # uneven shares
    patch.setattr(monitors, "look_at", small_bank)
    single = Tensor.float
    patch.setattr(Tensor, "float", lambda x: x if x.dtype == torch.float64 else single(x))
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)


def stop_after_first_epoch(out: Path) -> None:
    """A run of CO-BYOL that stops in its second epoch on all ranks, and can go on."""

    def fail(*args: object) -> None:
        raise reported_once(CossError("stopped on purpose"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitors, "look_at", fail)
        with pytest.raises(CossError, match="on purpose"):
            train.pretrain(recipe("co-byol", **LONGER), out, device="cpu")


def deviation_of_batchnorm(shape: tuple[int, ...], **options: Any) -> float:
    """Largest difference to BatchNorm on the batch of all ranks: outputs, gradients, buffers."""
    torch.manual_seed(0)
    x = torch.randn(shape).mul_(3).add_(5)
    weights = torch.randn(shape)
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    plain = nn.Sequential(kind(shape[1], **options))
    shared = nn.Sequential(kind(shape[1], **options))
    synchronise_batchnorm(shared, torch.device("cpu"))
    assert isinstance(shared[0], SyncBatchNorm)
    assert shared.state_dict().keys() == plain.state_dict().keys()
    whole = x.clone().requires_grad_()
    mine = x.chunk(world_size())[rank()].clone().requires_grad_()
    outputs = []
    for model, rows, factors in (
        (plain, whole, weights),
        (shared, mine, weights.chunk(world_size())[rank()]),
    ):
        out = model(rows)
        (out * factors).sum().backward()
        outputs.append(out.detach())
    pairs = [(gather(outputs[1]), outputs[0])]
    assert whole.grad is not None
    assert mine.grad is not None
    pairs.append((gather(mine.grad), whole.grad))
    for one, two in zip(shared.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        pairs.append((sum_over_ranks(one.grad), two.grad))
    pairs += zip(shared.buffers(), plain.buffers(), strict=True)
    pairs.append((shared.eval()(x), plain.eval()(x)))
    return max(float((one - two).abs().max()) for one, two in pairs)


def deviation_of_gather() -> float:
    """Of the gradient of Σ cos(row, row') over all pairs of rows, of which each rank adds its own.

    By hand: Σ_ij r_i · r_j has the gradient 2 Σ_j r_j in every row.
    """
    torch.manual_seed(0)
    rows = torch.randn(6, 3)
    mine = rows.chunk(world_size())[rank()].clone().requires_grad_()
    (mine @ gather(mine).T).sum().backward()
    assert mine.grad is not None
    return float((mine.grad - 2 * rows.sum(0)).abs().max())


def outcome_of(failing: set[int]) -> str:
    """How `same_outcome` ends on this rank when those ranks fail."""
    try:
        with same_outcome():
            if rank() in failing:
                raise CossError(f"rank {rank()} failed")
    except ReportedElsewhere as error:
        return f"elsewhere: {error}"
    except CossError as error:
        return str(error)
    return "fine"


def refusal(**changes: Any) -> str:
    """What the loader says to a recipe."""
    try:
        training_loader(open_dataset("parts", "train", size=16), recipe("byol", **changes), 2)
    except CossError as error:
        return str(error)
    return "accepted"


def watch_writes(folder: Path) -> list[str]:
    """From now on, the names of files that this process opens for writing or renames to there."""
    writes: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            path, mode, flags = arguments
            writing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writing or (isinstance(mode, str) and set(mode) & set("wax+")):
                note(f"open {path}")
        elif event == "os.rename":
            note(f"rename {arguments[1]}")
        elif event in ("os.mkdir", "os.remove"):
            note(f"{event} {arguments[0]}")

    def note(what: str) -> None:
        if str(folder) in what:
            writes.append(what)

    sys.addaudithook(hook)
    return writes


def pretrain_slowly() -> None:
    """`coss-bench` with the arguments of this process."""
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        quick = monitors.look_at

        def slow(*arguments: Any) -> float:
            time.sleep(1)
            return quick(*arguments)

        patch.setattr(monitors, "look_at", slow)
        cli.main()


def check(folder: Path) -> None:
    """Everything that needs two processes, in one start of them."""
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        join(torch.device("cpu"))
        found: dict[str, Any] = {
            "batchnorm": [
                deviation_of_batchnorm((8, 3, 5, 4)),
                deviation_of_batchnorm((8, 6)),
                deviation_of_batchnorm((8, 6), affine=False, momentum=0.3),
                deviation_of_batchnorm((4, 2, 3, 3), momentum=None, eps=0.1),
            ],
            "gather": deviation_of_gather(),
            "outcomes": [outcome_of(failing) for failing in (set(), {0}, {1}, {0, 1})],
            "refusals": [refusal(batch_size=9), refusal(accumulate=8), refusal(accumulate=4)],
        }
        writes = watch_writes(folder / "two" / "co-byol")
        for method in METHODS:
            train.pretrain(recipe(method), folder / "two" / method, device="cpu")
        found["writes"] = writes
        train.pretrain(recipe("co-byol", **SPLIT), folder / "two" / "split", device="cpu")
        longer = recipe("co-byol", **LONGER)
        train.pretrain(longer, folder / "begun by one", device="cpu", resume=True)
        stop_after_first_epoch(folder / "begun by two")
        (folder / f"{rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    pretrain_slowly()
