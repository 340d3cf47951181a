"""BYOL and CO-BYOL held to lightly, to the formula and to hand-worked cases."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightly.loss import NegativeCosineSimilarity
from torch import nn

from pretrain.byol import BYOL, COBYOL, regression
from pretrain.local_global import local_global_loss, over_positions, take_grid
from pretrain.method import Method
from pretrain.recipe import build_recipe
from robustbench_coss import registry
from robustbench_coss.checkpoints import build_encoder
from robustbench_coss.errors import CossError

SMALL = {"hidden": 16, "dim": 8}


def build(method: type[Method], **options: Any) -> Method:
    """A small method with fixed weights."""
    recipe = build_recipe({"options": SMALL | options}, "test")
    torch.manual_seed(0)
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    return method(encoder, recipe)


def views(seed: int = 0) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.rand(6, 3, 32, 32, generator=draws) for _ in range(2)]


def test_byol_loss_equals_lightlys_symmetric_loss() -> None:
    draws = torch.Generator().manual_seed(0)
    p, z = (torch.randn(10, 8, generator=draws) for _ in range(2))
    # The published loop doubles lightly's -cos; ours adds the constant 2 of 2 - 2·cos.
    expected = 2 + 2 * NegativeCosineSimilarity()(p, z)
    torch.testing.assert_close(regression(p, z), expected)


def test_byol_training_loss_equals_lightlys_modules_on_the_same_weights() -> None:
    method = build(BYOL)
    a, b = views()
    criterion = NegativeCosineSimilarity()
    twin = copy.deepcopy(method)  # BatchNorm statistics move in a forward pass
    total = torch.tensor(4.0)
    for source, other in ((a, b), (b, a)):
        prediction = twin.predictor(twin.projector(twin.encoder(source)))
        with torch.no_grad():
            target = twin.target_projector(twin.target_encoder(other))
        total = total + 2 * criterion(prediction, target)
    torch.testing.assert_close(method.losses(method.encode([a, b]))["loss"], total)


def test_local_global_loss_equals_the_formula_worked_by_hand() -> None:
    # One sample, two positions, identity head. cos(y1, u) = 1, cos(y2, u) = 0 in one direction;
    # -1 and 3/5 in the other: (2·0 + 2·1)/2 + (2·2 + 2·(2/5))/2 = 1 + 2.4.
    first = torch.tensor([[3.0, 0.0], [0.0, 5.0]]).view(1, 2, 1, 2)  # channels × positions
    second = torch.tensor([[-2.0, 3.0], [0.0, 4.0]]).view(1, 2, 1, 2)
    u_of_second = torch.tensor([[7.0, 0.0]])  # target for the first view's positions
    u_of_first = torch.tensor([[0.5, 0.0]])  # target for the second view's positions
    assert take_grid(first, None).tolist() == [[[3.0, 0.0], [0.0, 5.0]]]
    loss = local_global_loss(
        [first, second], [u_of_first, u_of_second], nn.Identity(), regression, None
    )
    one = ((2 - 2 * 1.0) + (2 - 2 * 0.0)) / 2
    two = ((2 - 2 * -1.0) + (2 - 2 * 0.6)) / 2
    torch.testing.assert_close(loss, torch.tensor(one + two))


def test_co_byol_with_no_local_weight_equals_byol_in_loss_and_gradients() -> None:
    plain, co = build(BYOL), build(COBYOL, w_s=0.0)
    results = []
    for method in (plain, co):
        loss = method.losses(method.encode(views()))["loss"]
        loss.backward()
        results.append((loss, {n: p.grad for n, p in method.encoder.named_parameters()}))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=0, atol=0)


@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
def test_co_byol_weighs_global_and_local_terms(w: float) -> None:
    losses = build(COBYOL, w_s=w).eval()
    terms = losses.losses(losses.encode(views()))
    torch.testing.assert_close(terms["loss"], (1 - w) * terms["global"] + w * terms["local"])


def test_co_byol_local_term_equals_a_loop_over_positions() -> None:
    method = build(COBYOL).eval()  # evaluation mode: BatchNorm treats every row alike
    a, b = views()
    with torch.no_grad():
        terms = method.losses(method.encode([a, b]))
        total = torch.zeros(())
        for source, other in ((a, b), (b, a)):
            target = method.target_local_projector(method.target_encoder(other))
            local = method.encoder.local(source)
            cosines = [
                torch.cosine_similarity(
                    method.local_predictor(method.local_projector(local[:, :, i, j])), target
                )
                for i in range(local.shape[2])
                for j in range(local.shape[3])
            ]
            total = total + (2 - 2 * torch.stack(cosines)).mean()
    torch.testing.assert_close(terms["local"], total)


def test_no_gradient_reaches_the_target_and_all_else_is_trained() -> None:
    method = build(COBYOL)
    method.losses(method.encode(views()))["loss"].backward()
    for name, parameter in method.named_parameters():
        if name.startswith("target_"):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name


def test_the_local_target_is_the_other_views_global_representation() -> None:
    method = build(COBYOL, w_s=1.0).eval()
    a, b = views()
    c = views(seed=1)[0]
    with torch.no_grad():
        ab = method.encode([a, b])
        ac = method.encode([a, c])
        head = nn.Sequential(method.local_projector, method.local_predictor)
        rows = over_positions(head, take_grid(ab.local[0], None))
        targets = [method.target_local_projector(o.target_pooled[1]) for o in (ab, ac)]
    assert not torch.allclose(regression(rows, targets[0]), regression(rows, targets[1]))


@pytest.mark.parametrize("name", registry.names("method"))
def test_the_target_starts_as_a_copy_heads_included(name: str) -> None:
    method = build(registry.load("method", name))
    assert method.momentum_pairs
    for online, target in method.momentum_pairs:
        for one, two in zip(online.parameters(), target.parameters(), strict=True):
            assert torch.equal(one, two)
            assert one is not two
            assert not two.requires_grad


@given(st.integers(1, 4), st.integers(4, 7), st.integers(4, 7))
def test_a_grid_takes_n_by_n_distinct_positions(n: int, height: int, width: int) -> None:
    numbered = torch.arange(float(height * width)).view(1, 1, height, width)
    taken = take_grid(numbered, n).flatten().tolist()
    assert len(set(taken)) == n * n


def test_a_full_grid_equals_all_positions() -> None:
    local = torch.rand(2, 5, 4, 4)
    torch.testing.assert_close(take_grid(local, 4), take_grid(local, None))


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


def test_collapse_measure_is_zero_when_collapsed_and_one_when_isotropic() -> None:
    method = build(BYOL)
    method.watch_collapse(torch.ones(64, 16))
    assert float(method.embedding_std) == 0
    method.watch_collapse(torch.randn(4000, 64, generator=torch.Generator().manual_seed(0)))
    assert float(method.embedding_std) == pytest.approx(1, abs=0.02)


def test_unknown_method_options_are_named() -> None:
    with pytest.raises(CossError, match=r"'w_s'.*ema, hidden, dim"):
        build(BYOL, w_s=0.5)
    with pytest.raises(CossError, match="w_s"):
        build(COBYOL, w_s=1.5)
