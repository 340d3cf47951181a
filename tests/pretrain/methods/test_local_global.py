"""The local term: its formula, its targets, its heads and its positions."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.small_methods import build, encoded, gradients, views
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.pretrain.methods.base import Method, MomentumMethod
from robustbench_coss.pretrain.methods.byol import BYOL, COBYOL
from robustbench_coss.pretrain.methods.dino import CODINO, DINO
from robustbench_coss.pretrain.methods.local_global import (
    local_global_loss,
    over_positions,
    take_grid,
)
from robustbench_coss.pretrain.methods.losses import BYOLLoss
from robustbench_coss.pretrain.methods.mocov3 import COMoCoV3, MoCoV3
from robustbench_coss.pretrain.methods.simclr import COSimCLR, SimCLR

PAIRS = [(BYOL, COBYOL), (DINO, CODINO), (MoCoV3, COMoCoV3), (SimCLR, COSimCLR)]
CO = [co for _, co in PAIRS]


def test_local_global_loss_equals_the_formula_worked_by_hand() -> None:
    # One sample, two positions, identity head. cos(y1, u) = 1, cos(y2, u) = 0 in one direction;
    # -1 and 3/5 in the other: (2·0 + 2·1)/2 + (2·2 + 2·(2/5))/2 = 1 + 2.4.
    first = torch.tensor([[3.0, 0.0], [0.0, 5.0]]).view(1, 2, 1, 2)  # channels × positions
    second = torch.tensor([[-2.0, 3.0], [0.0, 4.0]]).view(1, 2, 1, 2)
    u_of_second = torch.tensor([[7.0, 0.0]])  # target for the first view's positions
    u_of_first = torch.tensor([[0.5, 0.0]])  # target for the second view's positions
    assert take_grid(first, None).tolist() == [[[3.0, 0.0], [0.0, 5.0]]]
    loss = local_global_loss(
        [first, second], [u_of_first, u_of_second], nn.Identity(), BYOLLoss(), None
    )
    one = ((2 - 2 * 1.0) + (2 - 2 * 0.0)) / 2
    two = ((2 - 2 * -1.0) + (2 - 2 * 0.6)) / 2
    torch.testing.assert_close(loss, torch.tensor(one + two))


@pytest.mark.parametrize(("base", "kind"), PAIRS)
def test_no_local_weight_gives_the_base_methods_loss_and_gradients(
    base: type[Method], kind: type[Method]
) -> None:
    results = []
    for method in (build(base), build(kind, w_s=0.0)):
        loss = method.losses(encoded(method))["loss"]
        results.append((loss, gradients(method, loss)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=0, atol=0)


@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", CO)
def test_co_methods_weigh_global_and_local_terms(kind: type[Method], w: float) -> None:
    method = build(kind, w_s=w)
    terms = method.losses(encoded(method))
    torch.testing.assert_close(terms["loss"], (1 - w) * terms["global"] + w * terms["local"])


@pytest.mark.parametrize("kind", CO)
def test_the_local_term_equals_a_loop_over_positions(kind: type[Method]) -> None:
    method = build(kind).eval()  # evaluation mode: BatchNorm treats every row alike
    a, b = views()
    twin = copy.deepcopy(method)  # DINO's centre moves with every step
    with torch.no_grad():
        terms = method.losses(method.encode([a, b]))
        total = torch.zeros(())
        for source, other in ((a, b), (b, a)):
            if isinstance(method, MomentumMethod):
                target = twin.target_local_projector(twin.target_encoder(other))
            else:
                target = twin.local_projector(twin.encoder(other))
            local = twin.encoder.local(source)
            losses = [
                twin.local_pairing(
                    twin.local_predictor(twin.local_projector(local[:, :, i, j])), target
                )
                for i in range(local.shape[2])
                for j in range(local.shape[3])
            ]
            total = total + torch.stack(losses).mean()
    if kind in (CODINO, COSimCLR):  # these average over the two directions, as their base does
        total = total / 2
    torch.testing.assert_close(terms["local"], total)


@pytest.mark.parametrize("kind", CO)
@pytest.mark.parametrize("target", ["other", "same"])
def test_the_target_of_a_local_is_the_global_of_the_chosen_view(
    kind: type[Method], target: str
) -> None:
    method = build(kind, w_s=1.0, target=target).eval()
    a, b = views()
    (c,) = views(seed=1, count=1)
    projector, predictor, pairing = method.branch("local_")
    with torch.no_grad():
        # Only locals of the first view count: those of the second are made constant.
        outputs = method.encode([a, b])
        rows = over_positions(
            nn.Sequential(projector, predictor), take_grid(outputs.local[0], None)
        )
        u = method.targets("local_", outputs)
        own, other = pairing(rows, u[0]), pairing(rows, u[1])
        second = over_positions(
            nn.Sequential(projector, predictor), take_grid(outputs.local[1], None)
        )
        pairs = {
            "other": other + pairing(second, u[0]),
            "same": own + pairing(second, u[1]),
        }
        terms = method.losses(outputs)  # last: DINO's centre moves with it
        moved = method.targets("local_", method.encode([a, c]))
    scale = 1.0 if method.sums_directions else 0.5
    torch.testing.assert_close(terms["local"], scale * pairs[target])
    assert not torch.allclose(pairs["other"], pairs["same"])
    assert torch.equal(moved[0], u[0])
    assert not torch.equal(moved[1], u[1])


@pytest.mark.parametrize("kind", CO)
def test_shared_heads_serve_both_branches_and_separate_ones_one_each(kind: type[Method]) -> None:
    shared, separate = build(kind, heads="shared"), build(kind)
    assert not [name for name, _ in shared.named_modules() if "local_pro" in name]
    assert separate.local_projector is not separate.projector
    assert len(separate.momentum_pairs) == len(shared.momentum_pairs) + isinstance(
        separate, MomentumMethod
    )
    terms = shared.eval().losses(encoded(shared))
    (terms["local"]).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in shared.projector.parameters())
    separate.eval().losses(encoded(separate))["local"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in separate.projector.parameters())
    assert all(p.grad is not None for p in separate.local_projector.parameters())


def test_dinos_local_branch_keeps_a_centre_of_its_own_unless_heads_are_shared() -> None:
    separate, shared = build(CODINO), build(CODINO, heads="shared")
    for method in (separate, shared):
        method.losses(encoded(method))
    assert not torch.equal(separate.pairing.centre, separate.local_pairing.centre)
    once = build(DINO)
    once.losses(encoded(once))
    torch.testing.assert_close(shared.pairing.centre, once.pairing.centre)  # moved once, not twice


@pytest.mark.parametrize("kind", CO)
def test_locals_of_an_earlier_layer_train_nothing_above_it(kind: type[Method]) -> None:
    method = build(kind, layer="stage3", w_s=1.0)
    outputs = encoded(method)
    assert outputs.local[0].shape == (6, 16, 8, 8)  # stage 3 of the 1/16-wide encoder
    if isinstance(method, MomentumMethod):  # else gradient flows through the other view's global
        found = gradients(method, method.losses(outputs)["local"])
        assert all(g is None for name, g in found.items() if name.startswith("layer4"))
        assert all(g is not None for name, g in found.items() if name.startswith("layer3"))
    assert method.local_adapter.weight.shape == (32, 16)


def test_an_unknown_layer_is_refused_with_those_there_are() -> None:
    with pytest.raises(CossError, match=r"no stage 'stage9', only stage1, stage2, stage3, stage4"):
        build(COBYOL, layer="stage9")


def test_locals_whose_size_differs_from_the_global_pass_a_linear_map() -> None:
    class Wide(Encoder):
        """Pools 6 channels into 4 features."""

        def __init__(self) -> None:
            super().__init__(InputSpec(8), local_dim=6, dim=4)
            self.conv, self.out = nn.Conv2d(3, 6, 4, stride=4), nn.Linear(6, 4)

        def local(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x)
            return y

        def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
            y: Tensor = self.out(super().pool(local, keep))
            return y

    method = build(COBYOL, encoder=Wide())
    assert method.local_adapter.weight.shape == (4, 6)
    assert method.losses(method.encode(views(side=8)))["loss"].isfinite()


@given(st.integers(1, 4), st.integers(4, 7), st.integers(4, 7))
def test_a_grid_takes_n_by_n_distinct_positions(n: int, height: int, width: int) -> None:
    numbered = torch.arange(float(height * width)).view(1, 1, height, width)
    taken = take_grid(numbered, n).flatten().tolist()
    assert len(set(taken)) == n * n


def test_a_full_grid_equals_all_positions_and_one_position_is_the_middle() -> None:
    local = torch.rand(2, 5, 4, 4)
    torch.testing.assert_close(take_grid(local, 4), take_grid(local, None))
    assert torch.equal(take_grid(local, 1)[:, 0], local[:, :, 2, 2])


@pytest.mark.parametrize("n", [1, 2, None])
def test_the_number_of_locals_is_the_one_asked_for(n: int | None) -> None:
    method = build(COBYOL, grid=n)
    seen = []
    method.local_predictor.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    method.losses(encoded(method))
    assert seen == [6 * (16 if n is None else n * n)] * 2


def test_a_grid_larger_than_the_map_is_refused() -> None:
    with pytest.raises(CossError, match="4×4"):
        take_grid(torch.rand(1, 2, 4, 4), 5)
    with pytest.raises(CossError, match="lower `grid`"):
        build(COBYOL, grid=5)


def test_a_head_over_positions_is_a_one_by_one_convolution() -> None:
    linear = nn.Linear(5, 3)
    conv = nn.Conv2d(5, 3, 1)
    conv.weight.data = linear.weight.data[:, :, None, None]
    conv.bias.data = linear.bias.data  # type: ignore[union-attr]
    local = torch.rand(2, 5, 4, 4)
    expected = conv(local).flatten(2).transpose(1, 2)
    torch.testing.assert_close(over_positions(linear, take_grid(local, None)), expected)
