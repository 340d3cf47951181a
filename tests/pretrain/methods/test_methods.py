"""Methods held to lightly, to published formulas and to hand-worked cases."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_methods import build, encoded, gradients, views
from lightly.loss import DINOLoss as LightlyDINOLoss
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import DINOProjectionHead
from torch import nn

from robustbench_coss import registry
from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.errors import CossError
from robustbench_coss.pretrain import train
from robustbench_coss.pretrain.methods.base import Method, MomentumMethod
from robustbench_coss.pretrain.methods.byol import BYOL, COBYOL, MultiCropBYOL
from robustbench_coss.pretrain.methods.dino import DINO, MultiCropDINO
from robustbench_coss.pretrain.methods.losses import (
    BYOLLoss,
    DINOLoss,
    InfoNCE,
    across_views,
)
from robustbench_coss.pretrain.methods.mocov3 import MoCoV3
from robustbench_coss.pretrain.methods.simclr import SimCLR
from robustbench_coss.pretrain.methods.supervised import Supervised
from robustbench_coss.pretrain.recipe import build_recipe

NAMES = registry.names("method")


# ---- pairings ----


def test_byols_pairing_equals_lightlys_symmetric_loss() -> None:
    p, z = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(0))
    # The published loop doubles lightly's -cos; ours adds the constant 2 of 2 - 2·cos.
    torch.testing.assert_close(BYOLLoss()(p, z), 2 + 2 * NegativeCosineSimilarity()(p, z))


def test_infonce_equals_a_case_worked_by_hand() -> None:
    # Two samples with orthogonal targets, T = 1/2: the logits of sample 1 are (2, 0), those of
    # sample 2 are (2·4/5, 2·3/5).
    targets = torch.tensor([[5.0, 0.0], [0.0, 0.1]])
    predictions = torch.tensor([[3.0, 0.0], [4.0, 3.0]])
    first = math.log(1 + math.exp(-2))
    second = math.log(1 + math.exp(1.6 - 1.2))
    expected = torch.tensor((first + second) / 2)
    torch.testing.assert_close(InfoNCE(0.5)(predictions, targets), expected)
    torch.testing.assert_close(InfoNCE(0.5, scale=3)(predictions, targets), 3 * expected)


@pytest.mark.parametrize("pairing", [BYOLLoss(), InfoNCE(0.2), DINOLoss(5, 0.1, 0.9)])
def test_several_predictions_of_one_target_give_the_mean_of_their_losses(pairing: Any) -> None:
    draws = torch.Generator().manual_seed(0)
    predictions = torch.randn(4, 3, 5, generator=draws)
    targets = torch.randn(4, 5, generator=draws)
    each = torch.stack([pairing(predictions[:, i], targets) for i in range(3)])
    torch.testing.assert_close(pairing(predictions, targets), each.mean())


def test_centred_cross_entropy_equals_a_case_worked_by_hand() -> None:
    pairing = DINOLoss(2, student_temperature=0.5, centre_momentum=0.9)
    pairing.temperature = 0.25
    pairing.centre = torch.tensor([0.0, 1.0])
    # Teacher: softmax((0 - 0, 1.25 - 1) / 0.25) = softmax(0, 1); student: softmax(1, 0).
    e = math.e
    wanted = (1 / (1 + e), e / (1 + e))
    expected = -(wanted[0] * math.log(e / (1 + e)) + wanted[1] * math.log(1 / (1 + e)))
    loss = pairing(torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 1.25]]))
    assert float(loss) == pytest.approx(expected)
    # The centre moves a tenth of the way to the mean over views and samples, (2, 3).
    pairing.observe([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])])
    torch.testing.assert_close(pairing.centre, torch.tensor([0.2, 1.2]))


# ---- base methods ----


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


def lightly_head(head: nn.Sequential) -> DINOProjectionHead:
    """lightly's DINO head with the weights of ours."""
    theirs = DINOProjectionHead(head[0].in_features, 16, 8, 12)
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    for target, source in zip(theirs.layers[::2], linear[:3], strict=True):
        target.load_state_dict(source.state_dict())
    theirs.last_layer.weight_v.data = linear[3].weight.data
    return theirs


@pytest.mark.parametrize(("kind", "crops"), [(DINO, 0), (MultiCropDINO, 3)])
def test_dino_equals_lightlys_head_and_loss_over_steps(kind: type[Method], crops: int) -> None:
    method = build(kind, warmup_teacher_temperature=0.04)
    method.on_train_epoch_start = None  # type: ignore[method-assign, assignment]
    method.pairing.temperature = 0.04
    with torch.no_grad():  # a teacher that differs from the student
        for p in (*method.target_encoder.parameters(), *method.target_projector.parameters()):
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    criterion = LightlyDINOLoss(12, warmup_teacher_temp=0.04, warmup_teacher_temp_epochs=0)
    for step in range(2):  # the second sees a centre that has moved
        images = views(seed=step) + views(seed=9 + step, count=crops, side=16)
        twin = copy.deepcopy(method)
        features = [twin.encoder(v) for v in images[:2]]
        if crops:
            features += list(twin.encoder(torch.cat(images[2:])).chunk(crops))
        student = [lightly_head(twin.projector)(h) for h in features]
        with torch.no_grad():
            teacher = [
                lightly_head(twin.target_projector)(twin.target_encoder(v)) for v in images[:2]
            ]
        loss = method.losses(method.encode(images))["loss"]
        torch.testing.assert_close(loss, criterion(teacher, student))
        torch.testing.assert_close(method.pairing.centre, criterion.center[0, 0])


def test_dinos_temperature_warms_up_as_lightlys() -> None:
    method = build(
        DINO,
        warmup_teacher_temperature=0.02,
        teacher_temperature=0.07,
        warmup_teacher_temperature_epochs=5,
    )
    theirs = LightlyDINOLoss(
        4, warmup_teacher_temp=0.02, teacher_temp=0.07, warmup_teacher_temp_epochs=5
    )
    ours = [method.teacher_temperature(epoch) for epoch in range(8)]
    assert ours == pytest.approx([*theirs.teacher_temp_schedule.tolist(), 0.07, 0.07, 0.07])


def test_dinos_prototypes_stay_while_they_are_frozen_and_the_teacher_is_exported() -> None:
    method = build(DINO, freeze_last_layer=1)
    method.losses(encoded(method))["loss"].backward()  # type: ignore[no-untyped-call]
    weight = method.projector[-1].weight
    assert weight.grad is not None
    method.on_after_backward()  # epoch 0
    assert weight.grad is None
    assert method.exported == "teacher"
    assert method.exported_encoder() is method.target_encoder


def test_mocov3_equals_the_published_formula_on_the_same_weights() -> None:
    method = build(MoCoV3, temperature=0.2)
    a, b = views()
    twin = copy.deepcopy(method)
    total = torch.zeros(())
    for source, other in ((a, b), (b, a)):
        q = nn.functional.normalize(twin.predictor(twin.projector(twin.encoder(source))), dim=1)
        with torch.no_grad():
            k = nn.functional.normalize(twin.target_projector(twin.target_encoder(other)), dim=1)
        similarity = (q @ k.T / 0.2).exp()  # moco/builder.py, contrastive_loss, times 2·T
        total = total - 2 * 0.2 * (similarity.diag() / similarity.sum(dim=1)).log().mean()
    torch.testing.assert_close(method.losses(method.encode([a, b]))["loss"], total)


def test_mocov3_heads_are_those_of_the_published_code() -> None:
    method = build(MoCoV3)
    kinds = [type(layer).__name__ for layer in method.projector]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert not method.projector[-1].affine
    assert [type(layer).__name__ for layer in method.predictor] == kinds[:-1]
    assert all(m.bias is None for m in method.projector if isinstance(m, nn.Linear))


def test_simclr_equals_nt_xent_worked_out_pair_by_pair() -> None:
    method = build(SimCLR, temperature=0.5)
    a, b = views()
    twin = copy.deepcopy(method)
    rows = [nn.functional.normalize(twin.projector(twin.encoder(v)), dim=1) for v in (a, b)]
    z = torch.cat(rows).double()
    total = 0.0
    for i in range(12):  # equation 1 of the paper
        j = (i + 6) % 12
        others = [k for k in range(12) if k != i]
        below = sum(math.exp(float(z[i] @ z[k]) / 0.5) for k in others)
        total -= math.log(math.exp(float(z[i] @ z[j]) / 0.5) / below) / 12
    loss = method.losses(method.encode([a, b]))["loss"]
    assert float(loss) == pytest.approx(total, rel=1e-5)


def test_supervised_training_is_cross_entropy_of_one_view() -> None:
    method = build(Supervised)
    outputs = encoded(method)
    logits = method.classifier(outputs.pooled[0])
    expected = -logits.log_softmax(1)[torch.arange(6), torch.arange(6) % 3].mean()
    assert len(outputs.pooled) == method.views == 1
    torch.testing.assert_close(method.losses(outputs)["loss"], expected)


def test_supervised_training_refuses_images_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    images = ArraySet("some", "train", pixels, torch.full((8,), -1), ("a", "b"), 32)
    monkeypatch.setattr(train, "_open", lambda *_: (images, images))
    recipe = build_recipe({"method": "supervised", "batch_size": 4}, "test")
    with pytest.raises(CossError, match="supervised learns from labels"):
        train.pretrain(recipe, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_multi_crop_byol_without_crops_equals_byol_and_crops_predict_both_targets() -> None:
    plain, multi = build(BYOL), build(MultiCropBYOL)
    torch.testing.assert_close(
        plain.losses(encoded(plain))["loss"], multi.losses(encoded(multi))["loss"]
    )
    one, two, crop = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
    u, w = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
    d = BYOLLoss()
    expected = (d(two, u) + d(crop, u)) / 2 + (d(one, w) + d(crop, w)) / 2
    torch.testing.assert_close(across_views([one, two, crop], [u, w], d), expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_learns_from_its_views_and_counts_its_crops(name: str) -> None:
    method = build(registry.load("method", name))
    crops = views(seed=2, count=method.local_crops, side=16)
    outputs = encoded(method, views()[: method.views] + crops)
    assert len(outputs.small_pooled) == (6 if method.multi_crop else 0)
    loss = method.losses(outputs)["loss"]
    assert loss.isfinite()
    assert loss.shape == ()
    assert any(g is not None and g.abs().sum() > 0 for g in gradients(method, loss).values())


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_reaches_a_target_and_all_else_is_trained(name: str) -> None:
    method = build(registry.load("method", name))
    outputs = encoded(method)
    method.losses(outputs)["loss"].backward()  # type: ignore[no-untyped-call]
    for parameter_name, parameter in method.named_parameters():
        if parameter_name.startswith("target_"):
            assert parameter.grad is None, parameter_name
        else:
            assert parameter.grad is not None, parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_a_target_starts_as_a_copy_heads_included(name: str) -> None:
    method = build(registry.load("method", name))
    assert bool(method.momentum_pairs) == isinstance(method, MomentumMethod)
    trained_heads = [n for n, _ in method.named_children() if n.endswith("projector")]
    if method.momentum_pairs:
        assert 2 * (len(method.momentum_pairs) - 1) == len(trained_heads)
    for online, target in method.momentum_pairs:
        for one, two in zip(online.parameters(), target.parameters(), strict=True):
            assert torch.equal(one, two)
            assert one is not two
            assert not two.requires_grad


# ---- what all share ----


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
    with pytest.raises(CossError, match="separate"):
        build(COBYOL, heads="both")
