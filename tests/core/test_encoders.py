"""Encoders: torchvision's features, receptive fields, the seam between local and pool."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustbench_coss import registry
from robustbench_coss.encoders.base import multiply_accumulates, parameters
from robustbench_coss.encoders.receptive_field import field_by_gradient, field_of
from robustbench_coss.encoders.resnet import (
    RESNET50,
    ResNet,
    bagnet,
    bounded_kernels,
    chain,
    resnet18,
    resnet50,
    rf29_resnet18,
    rf99_resnet50,
    stem_for,
)
from robustbench_coss.errors import CossError
from robustbench_coss.figures.architectures import draw
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint, save_encoder
from robustbench_coss.testing import check_encoder

NAMES = registry.names("encoder")
BAGNETS = ["bagnet9", "bagnet17", "bagnet33"]
FAMILIES = [n for n in NAMES if n.startswith("rf") and "_resnet" in n] + BAGNETS


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
    reference.fc = torch.nn.Identity()
    encoder.load_state_dict(reference.state_dict())
    x = images(2, 96)
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.inference_mode():
        expected = reference(normalise(x))
        # Rounding differs with the number of threads: relative to the largest feature.
        largest = expected.abs().max().item()
        torch.testing.assert_close(encoder.eval()(x), expected, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("name", NAMES)
def test_receptive_field_by_formula_equals_that_by_gradient(name: str) -> None:
    size = 32 if "_resnet18" in name else 224
    encoder = build_encoder(name, size=size, width=1 / 64)
    field = encoder.field
    assert isinstance(field, int)
    assert field_by_gradient(encoder, field) == field


@pytest.mark.parametrize("name", FAMILIES)
def test_the_field_is_the_one_in_the_name_at_every_size(name: str) -> None:
    stated = int("".join(c for c in name.split("_")[0] if c.isdigit()))
    assert [build_encoder(name, size=s, width=1 / 64).field for s in (32, 224)] == [stated, stated]


@pytest.mark.parametrize(
    ("name", "size", "reach"),
    [
        # ResNet-50: 11 after the stem, +8·3 = 35, +8 +16·3 = 91, +16 +32·5 = 267, +32 +64·2 = 427.
        ("resnet50", 224, [(11, 4), (35, 4), (91, 8), (267, 16), (427, 32)]),
        # One of jump 4 fewer: 83; then +16, the strided first of stage 3.
        ("rf99_resnet50", 224, [(11, 4), (35, 4), (83, 8), (99, 16), (99, 32)]),
        # 3, +2·4 = 11, +2 +4·3 = 25, then +4.
        ("rf29_resnet18", 32, [(3, 1), (11, 1), (25, 2), (29, 4), (29, 8)]),
        # One 3×3 in the first block of each stage, before its stride: +2, +4, +8, +16.
        ("bagnet33", 224, [(3, 1), (5, 2), (9, 4), (17, 8), (33, 8)]),
    ],
)
def test_fields_and_jumps_after_each_stage_are_those_worked_out_by_hand(
    name: str, size: int, reach: list[tuple[int, int]]
) -> None:
    assert build_encoder(name, size=size, width=1 / 64).reach == reach


@pytest.mark.parametrize("name", ["rf9_resnet18", "rf45_resnet18", "rf59_resnet50", *BAGNETS])
def test_pixels_outside_the_field_do_not_change_a_local_representation(name: str) -> None:
    encoder = build_encoder(name, size=96, width=1 / 16).eval()
    assert isinstance(encoder, ResNet)
    x, y = images(1, 96), images(1, 96, seed=1)
    # Odd kernels padded by half of them: local representation i is centred on pixel i · jump.
    place = 48 // encoder.jump
    centre, radius = place * encoder.jump, encoder.field // 2
    sides = slice(centre - radius, centre + radius + 1)
    outside, inside = y.clone(), x.clone()
    outside[:, :, sides, sides] = x[:, :, sides, sides]
    inside[:, :, sides, sides] = y[:, :, sides, sides]
    with torch.inference_mode():
        one, same, other = (encoder.local(v)[0, :, place, place] for v in (x, outside, inside))
    torch.testing.assert_close(same, one)
    assert not torch.allclose(other, one)


def test_a_field_below_the_jump_leaves_pixels_unseen() -> None:
    # rf19_resnet50: centres 32 px apart that see 9 px to each side; columns 10 to 22 are between.
    encoder = build_encoder("rf19_resnet50", size=96, width=1 / 16).eval()
    x = images(2, 96)
    x[1] = x[0]
    x[1, :, :, 10:23] = 0
    with torch.inference_mode():
        first, second = encoder.local(x)
        torch.testing.assert_close(first, second)
        x[1, :, :, 9] = 0
        assert not torch.allclose(*encoder.local(x))


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


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in {"rf99_resnet50", *BAGNETS}])
def test_rf_resnets_are_cut_at_one_layer(name: str) -> None:
    encoder = build_encoder(name, size=32, width=1 / 64)
    assert isinstance(encoder, ResNet)
    sides = [side for stage in encoder.kernels for block in stage for side in block]
    assert len(sides) == 16
    assert sides == sorted(sides, reverse=True)


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


def test_rf_resnets_of_a_depth_have_the_same_mlp() -> None:
    # Linear D·h, BatchNorm 2·h, Linear h·D + D; h is 512 and 2256.
    for name, features, hidden in (("rf9_resnet18", 512, 512), ("rf19_resnet50", 2048, 2256)):
        mlp = build_encoder(name, size=32).mlp
        assert parameters(mlp) == 2 * features * hidden + 2 * hidden + features  # type: ignore[arg-type]


def test_the_mlp_after_pooling_is_switched_on_and_off() -> None:
    x = images(2, 32)
    for name, own in (("resnet18", False), ("rf29_resnet18", True), ("bagnet9", False)):
        for mlp in (None, False, True):
            encoder = build_encoder(name, size=32, width=1 / 16, mlp=mlp).eval()
            averages = torch.equal(encoder(x), encoder.local(x).mean((2, 3)))
            assert averages is not (own if mlp is None else mlp), (name, mlp)
    plain, bounded = (build_encoder(n, size=32, mlp=True) for n in ("resnet18", "rf29_resnet18"))
    assert parameters(plain.mlp) == parameters(bounded.mlp)  # type: ignore[arg-type]


def test_the_mlp_switch_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(size: int, width: float = 1.0) -> ResNet:
        return resnet18(size, width)

    monkeypatch.setattr(registry, "load", lambda kind, name: plain)
    assert build_encoder("mine", size=32, width=1 / 16).dim == 32
    with pytest.raises(CossError, match="mine has no MLP after pooling"):
        build_encoder("mine", size=32, mlp=False)


@pytest.mark.parametrize(
    ("arch", "mlp"), [("resnet18", True), ("rf29_resnet18", False), ("bagnet9", None)]
)
def test_checkpoints_load_back_with_their_mlp(tmp_path: Path, arch: str, mlp: bool | None) -> None:
    torch.manual_seed(1)
    encoder = build_encoder(arch, size=32, width=1 / 16, mlp=mlp).eval()
    metadata = {"arch": arch, "size": 32, "width": 1 / 16, "mlp": mlp}
    save_encoder(tmp_path / "encoder.safetensors", encoder, metadata)
    loaded = load_checkpoint(tmp_path).encoder
    x = images(2, 32)
    assert torch.equal(loaded(x), encoder(x))


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
    check_encoder(registry.load("encoder", name))


@pytest.mark.parametrize("name", ["resnet50", "rf29_resnet18", "bagnet17"])
def test_stages_one_to_four_compose_to_the_local_map(name: str) -> None:
    encoder = build_encoder(name, size=32, width=1 / 16).eval()
    x = images(2, 32)
    found = encoder.maps(x)
    assert list(found) == ["stage1", "stage2", "stage3", "stage4"]
    assert torch.equal(found["stage4"], encoder.local(x))
    jumps = [jump for _, jump in encoder.reach[1:]]  # type: ignore[union-attr, index]
    assert [m.shape[2] for m in found.values()] == [32 // jump for jump in jumps]


def test_bagnets_are_resnet_50_with_the_block_counts_of_the_paper() -> None:
    # Convolutions by hand, bottleneck of inner width p and input c: c·p + k²·p² + 4·p².
    blocks = zip((64, 128, 256, 512), (3, 4, 6, 3), (1, 1, 1, 0), strict=True)
    total, inputs = 3 * 64 + 9 * 64 * 64 + 2 * 64, 64
    for p, count, wide in blocks:
        total += inputs * 4 * p + 2 * 4 * p  # shortcut and its BatchNorm
        for number in range(count):
            total += inputs * p + (9 if number < wide else 1) * p * p + 4 * p * p + 2 * 6 * p
            inputs = 4 * p
    assert parameters(bagnet((1, 1, 1, 0), 224)) == total


def test_maps_of_bagnets_have_an_eighth_of_the_side_of_the_image() -> None:
    for name in BAGNETS:
        local = build_encoder(name, size=64, width=1 / 32).eval().local(images(1, 64))
        assert local.shape[2:] == (8, 8)


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


# ---- the picture ----


def test_the_picture_has_a_row_per_encoder_and_the_same_bytes_each_time() -> None:
    encoders = {n: build_encoder(n, size=32, width=1 / 64) for n in ("bagnet9", "rf13_resnet18")}
    one, two = (
        draw({n: encoders[n] for n in chosen})  # type: ignore[misc]
        for chosen in (["bagnet9"], ["bagnet9", "rf13_resnet18"])
    )
    assert draw(encoders) == two  # type: ignore[arg-type]
    heights = [Image.open(io.BytesIO(picture)).height for picture in (one, two)]
    assert heights[0] < heights[1]


def test_the_picture_is_dark_where_convolutions_are_wide() -> None:
    def share(field: int) -> float:
        encoder = build_encoder(f"rf{field}_resnet18", size=224, width=1 / 64)
        pixels = np.asarray(Image.open(io.BytesIO(draw({"same name": encoder}))).convert("RGB"))  # type: ignore[dict-item]
        return float((pixels == (0x00, 0x72, 0xB2)).all(-1).mean())

    three, nine = share(9), share(29)  # 3 and 9 dark cells of the 16, beside legend and field
    assert 2 < nine / three < 3


def test_arch_draws_and_describes_several_encoders(
    bench: Callable[..., Any], tmp_path: Path
) -> None:
    picture = tmp_path / "fields.png"
    names = ("rf9_resnet18", "rf13_resnet18")
    outcome = bench("arch", *names, "--width", 0.0625, "--no-mlp", "--picture", picture)
    assert outcome.code == 0, outcome.err
    for name, field in zip(names, (9, 13), strict=True):
        assert f"{name} at 32 px" in outcome.out
        assert re.search(rf"receptive field \(gradient\) +{field} px", outcome.out)
    assert Image.open(picture).format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("rf9_resnet18 --picture fields.jpg", "name that ends in .png, not fields.jpg"),
        ("timm:test_vit --picture fields.png", "--picture draws ResNets, RF-ResNets and BagNets"),
        ("timm:test_vit --mlp", "timm:test_vit has no MLP after pooling"),
        ("rf10_resnet18", "unknown encoder 'rf10_resnet18'; did you mean rf"),
    ],
)
def test_arch_refuses_in_one_line(
    bench: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: str,
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = bench("arch", *arguments.split(), "--image-size", 32)
    assert outcome.code == 1
    assert expected in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
