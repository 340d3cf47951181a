"""What is passed between methods, targets, optimisers and views: momentum, step, epoch, seed, rate.

Expected values are worked out here, by formulas and by a second path: the target networks get noise
first, since those that equal the online ones would hide which of them was taken.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from robustbench_coss import registry
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain.data import TrainingBatch
from robustbench_coss.pretrain.loop import quieten_lightning
from robustbench_coss.pretrain.methods.base import Method, MomentumMethod, build_optimizer
from robustbench_coss.pretrain.methods.byol import BYOL
from robustbench_coss.pretrain.methods.local_global import take_grid
from robustbench_coss.pretrain.methods.mocov3 import MoCoV3
from robustbench_coss.pretrain.recipe import OptimizerOptions, build_recipe
from robustbench_coss.pretrain.views import make_views

SIZES = {"hidden": 16, "dim": 8, "bottleneck": 8, "prototypes": 12}
TEMPERATURE, STUDENT, TEACHER = 0.3, 0.1, 0.07


def build(name: str, options: dict[str, Any] | None = None, **values: Any) -> Method:
    """A small method whose targets and centres are unlike those of a first step."""
    kind: type[Method] = registry.load("method", name)
    sizes = {key: value for key, value in SIZES.items() if key in kind.Options.model_fields}
    recipe = build_recipe({"method": name, "options": sizes | (options or {})} | values, "test")
    torch.manual_seed(0)
    method = kind(build_encoder("rf29_resnet18", size=32, width=1 / 16), recipe, 3)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, target in method.momentum_pairs:
            for p in target.parameters():
                p.add_(0.2 * torch.randn(p.shape, generator=draws))
        for name_, buffer in method.named_buffers():
            if name_.endswith("centre"):
                buffer.add_(torch.randn(buffer.shape, generator=draws))
    for module in method.modules():
        if hasattr(module, "centre"):
            module.temperature = TEACHER
    return method


def pictures(seed: int = 0) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.rand(6, 3, 32, 32, generator=draws) for _ in range(2)]


def paired(name: str, p: Tensor, u: Tensor, centre: Tensor | None) -> Tensor:
    """The loss of predictions [B, K] for targets [B, K], by the papers' formulas."""
    unit = nn.functional.normalize
    if name.endswith("byol"):
        return (2 - 2 * (unit(p) * unit(u)).sum(1)).mean()
    if name.endswith("dino"):
        assert centre is not None
        wanted = ((u - centre) / TEACHER).exp()
        given = (p / STUDENT).exp()
        shares = given / given.sum(1, keepdim=True)
        return -(wanted / wanted.sum(1, keepdim=True) * shares.log()).sum(1).mean()
    similar = (unit(p) @ unit(u).T / TEMPERATURE).exp()
    loss = -(similar.diag() / similar.sum(1)).log().mean()
    return 2 * TEMPERATURE * loss if name.endswith("mocov3") else loss


# ---- whose representations the targets are ----


@pytest.mark.parametrize("kind", [BYOL, MoCoV3])
def test_targets_are_those_of_the_moving_averages(kind: type[Method]) -> None:
    name = "byol" if kind is BYOL else "mocov3"
    method = build(name, {"temperature": TEMPERATURE} if kind is MoCoV3 else {}).eval()
    a, b = pictures()
    with torch.no_grad():
        expected = torch.zeros(())
        for source, other in ((a, b), (b, a)):
            p = method.predictor(method.projector(method.encoder(source)))
            u = method.target_projector(method.target_encoder(other))
            expected = expected + paired(name, p, u, None)
        found = method.losses(method.encode([a, b]))["loss"]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("target", ["other", "same"])
@pytest.mark.parametrize("heads", ["separate", "shared"])
@pytest.mark.parametrize("name", ["co-byol", "co-mocov3", "co-simclr", "co-dino"])
def test_a_local_predicts_the_averaged_global_of_the_chosen_view(
    name: str, heads: str, target: str
) -> None:
    options: dict[str, Any] = {"heads": heads, "target": target}
    if name in ("co-mocov3", "co-simclr"):
        options["temperature"] = TEMPERATURE
    method = build(name, options).eval()  # evaluation mode: BatchNorm treats every row alike
    prefix = "" if heads == "shared" else "local_"
    projector, predictor, pairing = method.branch(prefix)
    centre = pairing.centre.clone() if name == "co-dino" else None  # as it is before the step
    online = not isinstance(method, MomentumMethod)
    target_encoder = method.encoder if online else method.target_encoder
    target_head = projector if online else getattr(method, f"target_{prefix}projector")
    a, b = pictures()
    with torch.no_grad():
        expected = torch.zeros(())
        for source, other in ((a, b), (b, a)):
            u = target_head(target_encoder(source if target == "same" else other))
            local = method.encoder.local(source)
            places = [
                paired(name, predictor(projector(local[:, :, i, j])), u, centre)
                for i in range(local.shape[2])
                for j in range(local.shape[3])
            ]
            expected = expected + torch.stack(places).mean()
        if not method.sums_directions:
            expected = expected / 2
        found = method.losses(method.encode([a, b]))["local"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("side", "n", "places"),
    [
        (4, 1, [2]),
        (4, 2, [0, 3]),
        (7, 1, [3]),
        (7, 2, [0, 6]),
        (7, 3, [0, 3, 6]),
        (9, 3, [0, 4, 8]),
        (9, 5, [0, 2, 4, 6, 8]),
    ],
)
def test_a_grid_reaches_from_edge_to_edge_and_one_place_is_in_the_middle(
    side: int, n: int, places: list[int]
) -> None:
    numbered = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side)
    expected = [side * row + column for row in places for column in places]
    assert take_grid(numbered, n).flatten().tolist() == expected


# ---- what a run passes on: by training for real ----


class Record(pl.Callback):
    """After every optimiser step: weights, targets and the learning rate; and all views."""

    def __init__(self, method: Method) -> None:
        self.online: list[list[Tensor]] = []
        self.target: list[list[Tensor]] = [self.copies(method, 1)]
        self.views: list[list[Tensor]] = []
        encode = method.encode

        def noted(views: list[Tensor]) -> Any:
            self.views.append([view.clone() for view in views])
            return encode(views)

        method.encode = noted  # type: ignore[method-assign]

    @staticmethod
    def copies(method: Method, which: int) -> list[Tensor]:
        pairs = method.momentum_pairs
        return [p.detach().clone() for pair in pairs for p in pair[which].parameters()]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.peak = trainer.optimizers[0].param_groups[0]["initial_lr"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > len(self.online):
            self.online.append(self.copies(pl_module, 0))
            self.target.append(self.copies(pl_module, 1))


def trained(method: Method, micro: int, batches: int) -> tuple[Record, list[TrainingBatch]]:
    """Train for the epochs of the recipe on a few random batches."""
    draws = torch.Generator().manual_seed(2)
    data = [
        TrainingBatch(
            torch.randint(0, 256, (micro, 3, 32, 32), dtype=torch.uint8, generator=draws),
            torch.zeros(micro, dtype=torch.int64),
            [micro * number + i for i in range(micro)],
        )
        for number in range(batches)
    ]
    record = Record(method)
    quieten_lightning()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=method.recipe.epochs,
        accumulate_grad_batches=method.recipe.accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[record],
    )
    trainer.fit(method, DataLoader(data, batch_size=None))  # type: ignore[arg-type]
    return record, data


@pytest.mark.parametrize("name", ["byol", "co-dino"])
def test_a_target_takes_its_share_of_the_new_weights_once_per_step(name: str) -> None:
    lr, ema = 0.2, 0.5
    method = build(
        name,
        {"ema": ema},
        epochs=2,
        batch_size=8,
        accumulate=2,
        optimizer={"lr": lr, "warmup_epochs": 0},
    )
    record, _ = trained(method, micro=4, batches=4)
    steps = 4  # two epochs of four micro-batches, two a step
    assert len(record.online) == steps
    for step in range(steps):
        # From `ema` at the first step to 1 at the last, along a cosine.
        m = 1 - (1 - ema) * (1 + math.cos(math.pi * step / (steps - 1))) / 2
        pairs = zip(record.target[step], record.online[step], record.target[step + 1], strict=True)
        for before, online, after in pairs:
            torch.testing.assert_close(after, m * before + (1 - m) * online)
    # Linear scaling is by the batch of a step, however many pieces it comes in.
    assert record.peak == pytest.approx(lr * 8 / 256)


@pytest.mark.parametrize("seed", [0, 5])
def test_a_run_sees_the_views_of_its_own_seed_and_of_each_epoch(seed: int) -> None:
    method = build("simclr", epochs=2, batch_size=4, seed=seed)
    record, data = trained(method, micro=4, batches=2)
    assert len(record.views) == 4
    for number, seen in enumerate(record.views):
        epoch, batch = number // 2, data[number % 2]
        made = make_views(batch.images, batch.index, seed, epoch, 2, method.recipe.views)
        for one, two in zip(seen, made, strict=True):
            torch.testing.assert_close(one, two)
    assert not torch.equal(record.views[0][0], record.views[2][0])  # one batch, two epochs


# ---- optimisers ----


def moved(options: dict[str, Any], steps: int = 3) -> Iterator[Tensor]:
    """A weight (3, 4) under the constant gradient (0, 1), after each step, at learning rate 0.1."""
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    groups: list[dict[str, Any]] = [{"params": [weight]}]
    optimizer = build_optimizer(OptimizerOptions(**options), groups, 0.1, fused=False)
    for _ in range(steps):
        weight.grad = torch.tensor([0.0, 1.0])
        optimizer.step()
        yield weight.detach().clone()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_steps_have_momentum_and_decay_as_asked(name: str, momentum: float, decay: float) -> None:
    # v ← m · v + r · (g + d · w), w ← w - 0.1 · v; r is 1, or LARS's trust (You et al. 2017,
    # arXiv 1708.03888, equation 6): 0.001 · |w| / (|g| + d · |w|), where there is decay.
    weight, speed, g = torch.tensor([3.0, 4.0]), torch.zeros(2), torch.tensor([0.0, 1.0])
    for found in moved({"name": name, "momentum": momentum, "weight_decay": decay}):
        trust = 1.0
        if name == "lars" and decay:
            trust = 0.001 * float(weight.norm()) / (float(g.norm()) + decay * float(weight.norm()))
        speed = momentum * speed + trust * (g + decay * weight)
        weight = weight - 0.1 * speed
        torch.testing.assert_close(found, weight)


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    # A constant gradient gives steps of the learning rate's size; decay shrinks by 1 - 0.1 · 0.5.
    first = next(moved({"name": "adamw", "weight_decay": 0.5}))
    expected = torch.tensor([3.0 * 0.95, 4.0 * 0.95 - 0.1])
    torch.testing.assert_close(first, expected)


def test_noise_on_the_targets_reaches_the_loss() -> None:
    """The tests above would hold nothing if it did not."""
    method = build("co-byol").eval()
    same = copy.deepcopy(method)
    with torch.no_grad():
        for online, target in same.momentum_pairs:
            target.load_state_dict(online.state_dict())
        one, two = (m.losses(m.encode(pictures())) for m in (method, same))
    for term in ("global", "local"):
        assert abs(float(one[term] - two[term])) > 1e-3
