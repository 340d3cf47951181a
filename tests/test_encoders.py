"""Encoders: torchvision's features, receptive fields, the seam between local and pool."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_coss import registry
from robustbench_coss.checkpoints import build_encoder
from robustbench_coss.encoders.base import parameters
from robustbench_coss.encoders.receptive_field import field_by_gradient, field_of
from robustbench_coss.encoders.resnet import (
    RESNET50,
    bounded_kernels,
    chain,
    multiply_accumulates,
    resnet18,
    resnet50,
    rf29_resnet18,
    rf99_resnet50,
    stem_for,
)
from robustbench_coss.errors import CossError

NAMES = registry.names("encoder")


def images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_weights_give_torchvision_features(name: str) -> None:
    torch.manual_seed(0)
    reference = getattr(torchvision.models, name)().eval()
    for module in reference.modules():  # untrained statistics would hide a wrong eps or order
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    encoder = build_encoder(name, size=96)
    encoder.load_torchvision(reference.state_dict())  # type: ignore[operator]
    reference.fc = torch.nn.Identity()
    x = images(2, 96)
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.inference_mode():
        torch.testing.assert_close(encoder.eval()(x), reference(normalise(x)), rtol=0, atol=1e-5)


def test_weights_of_another_architecture_are_refused_in_one_line() -> None:
    weights = torchvision.models.resnet50().state_dict()
    with pytest.raises(CossError, match="do not fit") as caught:
        resnet18(224).load_torchvision(weights)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_receptive_field_by_formula_equals_that_by_gradient(name: str) -> None:
    size = 32 if name.startswith("rf29") else 224
    encoder = build_encoder(name, size=size, width=1 / 32)
    field = encoder.field
    assert isinstance(field, int)
    assert field_by_gradient(encoder, field) == field


@pytest.mark.parametrize(
    ("name", "size", "field"),
    [("resnet50", 224, 427), ("rf99_resnet50", 224, 99), ("rf29_resnet18", 32, 29)],
)
def test_receptive_fields_are_those_worked_out_by_hand(name: str, size: int, field: int) -> None:
    # ResNet-50: 11 after the stem, +8·3 +8 +16·3 +16 +32·5 +32 +64·2 = 427.
    assert build_encoder(name, size=size, width=1 / 16).field == field


def test_the_gradient_measures_the_field_and_not_the_formula() -> None:
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)  # 32 channels at the top
    wider = torch.nn.Conv2d(32, 32, 3, padding=1, bias=False)
    encoder.layer4[1].conv2 = wider  # type: ignore[index, union-attr]
    assert field_by_gradient(encoder, 64) == 29 + 2 * 8


@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 3)), max_size=8))
def test_field_formula_equals_counting_inputs_backwards(layers: list[tuple[int, int]]) -> None:
    # Independent definition: one output needs k inputs; n outputs need (n - 1)·s + k inputs.
    needed = 1
    for kernel, stride in reversed(layers):
        needed = (needed - 1) * stride + kernel
    assert field_of(layers)[0] == needed


@settings(deadline=None)
@given(st.integers(11, 427))
def test_bounded_kernels_hit_the_field_or_say_the_nearest_above(field: int) -> None:
    try:
        kernels = bounded_kernels(RESNET50, "imagenet", field)
    except CossError as error:
        reached = int(str(error).split()[-2])
        assert reached > field
    else:
        assert field_of(chain("imagenet", kernels))[0] == field


def test_parameter_counts_are_those_of_the_papers() -> None:
    assert round(parameters(resnet50(224)) / 1e6, 1) == 23.5  # torchvision: 25.6 with fc (2.05)
    assert round(parameters(rf99_resnet50(224)) / 1e6, 1) == 23.7  # CO-SSL paper
    reference = torchvision.models.resnet18()
    fc = 512 * 1000 + 1000
    assert parameters(resnet18(224)) == sum(p.numel() for p in reference.parameters()) - fc


def test_multiply_accumulates_equal_the_sum_over_convolutions_worked_by_hand() -> None:
    encoder = resnet18(224)
    total = 0
    sizes: list[tuple[torch.nn.Conv2d, int]] = []
    hooks = [
        m.register_forward_hook(lambda m, _, out: sizes.append((m, out.shape[2] * out.shape[3])))
        for m in encoder.modules()
        if isinstance(m, torch.nn.Conv2d)
    ]
    encoder.eval()(images(1, 224))
    for hook in hooks:
        hook.remove()
    for conv, area in sizes:
        total += area * conv.out_channels * conv.in_channels * conv.kernel_size[0] ** 2
    assert multiply_accumulates(encoder) == total


@pytest.mark.parametrize("name", NAMES)
def test_every_encoder_keeps_the_contract(name: str) -> None:
    encoder = build_encoder(name, size=32, width=1 / 8).eval()
    x = images(3, 32)
    with torch.inference_mode():
        local = encoder.local(x)
        pooled = encoder(x)
        assert local.shape[:2] == (3, encoder.local_dim)
        assert pooled.shape == (3, encoder.dim)
        torch.testing.assert_close(encoder.pool(local), pooled)
        everything = torch.ones(3, *local.shape[2:], dtype=torch.bool)
        torch.testing.assert_close(encoder.pool(local, everything), pooled)
    assert not encoder.training


def test_dropping_positions_averages_the_kept_ones() -> None:
    encoder = resnet18(32, width=1 / 8)
    local = images(1, 4).repeat(2, 1, 1, 1)
    keep = torch.zeros(2, 4, 4, dtype=torch.bool)
    keep[0, 1, 2] = keep[0, 3, 3] = True
    pooled = encoder.pool(local, keep)
    torch.testing.assert_close(pooled[0], (local[0, :, 1, 2] + local[0, :, 3, 3]) / 2)
    assert (pooled[1] == 0).all()  # nothing kept


def test_width_scales_channels_and_wrong_widths_are_refused() -> None:
    assert resnet18(32, width=0.25).dim == 128
    for wrong in (0.0, -1.0, 9.0, float("nan")):
        with pytest.raises(CossError, match="width"):
            resnet18(32, width=wrong)


def test_small_images_get_the_cifar_stem() -> None:
    assert stem_for(32) == "cifar"
    assert stem_for(96) == "imagenet"
    local = rf29_resnet18(32, width=1 / 8).eval().local(images(1, 32))
    assert local.shape[2:] == (4, 4)


def test_an_unknown_architecture_is_answered_with_near_names() -> None:
    with pytest.raises(CossError, match="resnet18"):
        build_encoder("resnet19", size=32)
