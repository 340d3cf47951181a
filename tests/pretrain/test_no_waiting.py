"""Nothing in a training step makes the host wait for a device."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightly.utils.lars import LARS as LightlysLARS
from torch.utils._python_dispatch import TorchDispatchMode

from robustbench_coss.pretrain.monitors import Watch
from robustbench_coss.pretrain.optimizers import LARS
from robustbench_coss.pretrain.recipe import build_recipe
from robustbench_coss.pretrain.train import pretrain
from robustbench_coss.pretrain.upload import pack, unpack, upload

pytestmark = pytest.mark.usefixtures("small_bank")


class Questions(TorchDispatchMode):
    """Counts what needs a tensor's values on the host, which a GPU would have to compute first."""

    ASKED = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        if name in ("index", "index_put_") and any(_is_mask(x) for x in args[1]):
            name = "nonzero"
        if name.startswith(self.ASKED):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def _is_mask(index: torch.Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool


def asked_in_a_run(out: Path, steps: int, **changes: Any) -> Counter[str]:
    """Questions of a run of one epoch of so many steps."""
    values = {"width": 1 / 16, "epochs": 1, "batch_size": 8, "limit": 8 * steps} | changes
    with Questions() as questions:
        pretrain(build_recipe(values, "test"), out, device="cpu")
    return questions.seen


def counted(calls: Counter[str], name: str, plain: Any) -> Any:
    def call(self: torch.Tensor, *args: Any, **more: Any) -> Any:
        calls[name] += 1
        return plain(self, *args, **more)

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "optimizer", "options"),
    [
        ("co-byol", "lars", {"hidden": 16, "dim": 8}),
        ("simclr", "sgd", {"hidden": 16, "dim": 8}),
        ("co-mocov3", "sgd", {"hidden": 16, "dim": 8}),
        ("dino-mc", "lars", {"hidden": 16, "bottleneck": 8, "prototypes": 16}),
        ("supervised", "sgd", {}),
    ],
)
def test_more_steps_ask_no_more_questions(
    method: str,
    optimizer: str,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies: Counter[str] = Counter()
    for name in ("cpu", "tolist"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, counted(copies, name, plain))
    # The watch reads the loss of every step on a CPU, on a GPU of every fiftieth.
    monkeypatch.setattr(Watch, "on_train_batch_end", lambda *_: None)
    run = {"method": method, "optimizer": {"name": optimizer}, "options": options}
    few = asked_in_a_run(tmp_path / "2", 2, **run) + copies
    copies.clear()
    more = asked_in_a_run(tmp_path / "4", 4, **run) + copies
    assert few["_local_scalar_dense"] > 0, "an epoch's metrics are read"
    assert few == more


def test_the_counter_sees_questions() -> None:
    with Questions() as questions:
        x = torch.arange(3.0)
        assert (float(x[1]), bool(x[2] > 0)) == (1, True)
        x[x > 0].sum().item()
        assert questions.seen == {"_local_scalar_dense": 3, "nonzero": 1}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lars_is_that_of_lightly(momentum: float) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (4,), (2, 3, 3, 3), (6,), (1,)]
    start = [torch.randn(shape, generator=draw) for shape in shapes]
    start[3].zero_()  # no size: not scaled
    sides = []
    for make in (LARS, LightlysLARS):
        weights = [torch.nn.Parameter(value.clone()) for value in start]
        groups = [{"params": weights[:4]}, {"params": weights[4:], "weight_decay": 0.0}]
        optimizer = make(groups, lr=0.7, momentum=momentum, weight_decay=1e-2)
        sides.append((weights, optimizer))
    for step in range(20):
        slopes = [torch.randn(shape, generator=draw) * 3 ** (step % 5) for shape in shapes]
        slopes[1].zero_()  # no slope: neither scaled nor decayed
        for weights, optimizer in sides:
            for weight, slope in zip(weights, slopes, strict=True):
                weight.grad = slope.clone()
            if step == 3:
                weights[0].grad = None
            for group in optimizer.param_groups:
                group["lr"] = 0.7 / (1 + step)
            optimizer.step()
    for mine, theirs, before in zip(sides[0][0], sides[1][0], start, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
        assert not torch.equal(mine, before) or before is start[1]


def test_arrays_of_several_types_travel_as_one() -> None:
    arrays = [
        np.arange(5),
        np.array([], np.int64),
        np.array([[1.5, -2.0, 0.25]], np.float32),
        np.array([True, False, True]),
        np.arange(12).reshape(3, 4)[:, ::2],  # not in one piece
    ]
    staged = torch.full((500,), 255, dtype=torch.uint8)
    pack(arrays, staged)
    for array, packed, plain in zip(
        arrays, unpack(arrays, staged), upload(arrays, torch.device("cpu")), strict=True
    ):
        assert packed.dtype == plain.dtype
        np.testing.assert_array_equal(packed.numpy(), array)
        np.testing.assert_array_equal(plain.numpy(), array)
