"""The suite `rf`: sizes of fields worked out by hand, and the suite's checks and picture."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.simulate import record as simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, InputSpec, Stage
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.protocol import Subject
from robustbench_coss.evaluations.suites.receptive_field import (
    EffectiveField,
    field_columns,
    gradient_energy,
    mean_field,
    theoretical_fields,
)
from robustbench_coss.figures.receptive_fields import draw_fields, field_sizes, read_fields
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.records.record import Cell, Record
from robustbench_coss.testing import CLASSES, TinyEncoder, pictures, tiny_subject

SIDE = 17


class Chain(Encoder):
    """Layers without normalisation, as one stage each."""

    def __init__(self, *layers: nn.Module, channels: int = 1, size: int = SIDE) -> None:
        super().__init__(InputSpec(size), local_dim=channels, dim=channels)
        self.layers = nn.ModuleList(layers)

    def stages(self) -> dict[str, Stage]:
        return {f"layer{number}": layer for number, layer in enumerate(self.layers, start=1)}


def ones(kernel: int, inputs: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, 1, kernel, padding=kernel // 2, bias=False)
    nn.init.ones_(layer.weight)
    return layer


def sizes(*layers: Callable[[Tensor], Tensor], count: int = 2) -> dict[str, float]:
    energy = gradient_energy(layers, torch.rand(count, 3, SIDE, SIDE), range(count), "test")
    found = field_columns(energy)
    assert all((column == column[0]).all() for column in found.values())
    return {name: column[0].item() for name, column in found.items()}


def suite_of(encoder: Encoder) -> tuple[EffectiveField, Subject]:
    suite, subject = EffectiveField(), Subject(encoder, nn.Linear(encoder.dim, CLASSES))
    suite.conditions(subject)
    return suite, subject


def measured(encoder: Encoder, size: int, count: int = 4) -> tuple[EffectiveField, list[Cell]]:
    suite, subject = suite_of(encoder)
    batch = pictures(count, size)
    suite.prepare(subject, batch, size)
    cells = []
    for condition in suite.conditions(subject):
        outcomes = suite.measure(subject, batch, condition, 0)
        columns = {name: column.numpy() for name, column in outcomes.items()}
        cells.append(Cell(condition.name, condition.group, condition.level, columns))
    return suite, cells


# ---- sizes by hand ----


@pytest.mark.parametrize(("kernel", "side_50"), [(1, 1), (3, 3), (5, 5), (7, 5)])
def test_a_convolution_of_ones_has_a_uniform_field_of_its_kernel(kernel: int, side_50: int) -> None:
    found = sizes(ones(kernel, 3))
    # The variance of 1 … k is (k² − 1) / 12 along each of two axes.
    assert found["radius"] == pytest.approx(math.sqrt((kernel**2 - 1) / 6))
    assert found["extent"] == kernel
    # A square of side s holds s² / k²: 1/9 of 3×3, 9/25 of 5×5, but 25/49 of 7×7.
    assert found["side_50"] == pytest.approx(side_50)
    assert found["side_95"] == pytest.approx(kernel)


def test_two_convolutions_of_ones_have_a_triangle_as_their_field() -> None:
    found = sizes(ones(3, 3), ones(3))
    # Along an axis the gradient is 1 2 3 2 1, its energy 1 4 9 4 1 (sum 19, second moment 16).
    assert found["radius"] == pytest.approx(math.sqrt(2 * 16 / 19))
    # The middle 3×3 holds (17 / 19)² = 80 %, the whole 5×5 everything, the middle alone 22 %.
    assert found["side_50"] == pytest.approx(3)
    assert found["side_95"] == pytest.approx(5)
    assert found["extent"] == 5


def test_the_identity_has_a_field_of_one_pixel() -> None:
    assert sizes(nn.Identity()) == {"radius": 0, "side_50": 1, "side_95": 1, "extent": 1}


def test_a_patch_of_even_side_is_held_by_a_square_of_its_side() -> None:
    layer = nn.Conv2d(3, 1, 4, stride=4, bias=False)
    nn.init.ones_(layer.weight)
    found = sizes(layer)
    assert found["radius"] == pytest.approx(math.sqrt((4**2 - 1) / 6))
    # About the middle of the patch there are squares of 2 (25 %) and of 4 pixels.
    assert found["side_50"] == pytest.approx(4)
    assert found["extent"] == 4


def test_a_unit_that_answers_to_nothing_has_a_field_of_zero() -> None:
    def silent(x: Tensor) -> Tensor:
        return 0 * x

    assert set(sizes(silent).values()) == {0.0}


def test_gradients_far_below_the_smallest_float_squared_count() -> None:
    def faint(x: Tensor) -> Tensor:
        return x * 1e-30

    assert sizes(ones(3, 3), faint) == pytest.approx(sizes(ones(3, 3)))


def test_a_map_of_one_position_sees_the_whole_image() -> None:
    found = sizes(nn.AvgPool2d(SIDE))
    assert found["extent"] == SIDE
    assert found["radius"] == pytest.approx(math.sqrt((SIDE**2 - 1) / 6))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 4))
def test_sizes_move_with_the_field_and_grow_with_it(seed: int, up: int, left: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    field = torch.zeros(1, 24, 24, dtype=torch.float64)
    field[0, 8:14, 8:14] = 0.1 + torch.rand(6, 6, generator=draw, dtype=torch.float64)
    before = field_columns(field)
    moved = field_columns(7 * field.roll((-up, -left), dims=(1, 2)))
    doubled = field_columns(field.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, 8:32, 8:32])
    for name in before:
        torch.testing.assert_close(moved[name], before[name])
    assert before["extent"] == 6
    assert doubled["extent"] == 12
    # Each pixel becomes four at ±1/2 of twice its distance: 1/4 more along each axis.
    assert doubled["radius"].square() == pytest.approx(4 * float(before["radius"]) ** 2 + 0.5)
    assert before["side_50"] <= before["side_95"]


def test_signs_keep_a_layer_norm_from_cancelling_its_channels() -> None:
    class Norm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)

    torch.manual_seed(0)
    layer, norm = nn.Conv2d(3, 16, 3, padding=1), Norm()
    x = torch.rand(1, 3, SIDE, SIDE, requires_grad=True)
    middle = norm(layer(x))[0, :, SIDE // 2, SIDE // 2]
    (with_ones,) = torch.autograd.grad(middle.sum(), x)
    assert with_ones.abs().max() < 1e-5
    signs = gradient_energy([layer, norm], x.detach(), [0], "test")
    assert field_columns(signs)["extent"] == 3


def test_the_mean_over_signs_is_the_energy_of_all_channels() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    image = torch.rand(1, 3, 7, 7)
    # The derivative of each channel is its own kernel: exact energies of the nine pixels.
    exact = layer.weight.detach().square().sum(dim=(0, 1)).double()
    draws = 4000
    x = image.expand(draws, -1, -1, -1).requires_grad_(True)
    found = gradient_energy([layer], x.detach(), range(draws), "test")[:, 2:5, 2:5]
    assert found.sum(dim=(1, 2)) == pytest.approx(torch.ones(draws, dtype=torch.float64))
    # Each image counts as shares, so compare shares: close, as the sums vary little beside noise.
    assert found.mean(dim=0).numpy() == pytest.approx((exact / exact.sum()).numpy(), abs=0.03)


# ---- the suite ----


def test_the_fields_after_the_stages_are_those_the_encoder_states() -> None:
    rf29 = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    # docs/rf-resnet.md: 3×3 up to the first of stage 3; 3 + 4·2 = 11, + 2 + 3·4 = 25, + 4 = 29.
    expected = {"stage1": 11, "stage2": 25, "stage3": 29, "stage4": 29}
    assert theoretical_fields(rf29) == expected
    assert theoretical_fields(TinyEncoder()) == {"local": None}
    tiny = TinyEncoder()
    tiny.field = 13  # type: ignore[assignment]
    assert theoretical_fields(tiny) == {"local": 13}


def test_an_encoder_s_gradient_lies_within_its_field() -> None:
    torch.manual_seed(0)
    suite, cells = measured(build_encoder("rf13_resnet18", size=32, width=1 / 16).eval(), 32)
    assert [c.condition for c in cells] == ["clean", *(f"field@stage{n}" for n in (1, 2, 3, 4))]
    assert all(check.passed for check in suite.checks(cells))
    for cell, field in zip(cells[1:], (11, 13, 13, 13), strict=True):
        assert (cell.outcomes["extent"] <= field).all()
        assert (cell.outcomes["extent"] >= field - 2).all()
        assert (cell.outcomes["side_95"] <= field).all()


def test_a_gradient_outside_the_stated_field_fails_the_check() -> None:
    encoder = Chain(ones(3, 3), ones(5))
    encoder.field = 5  # type: ignore[assignment]
    suite, cells = measured(encoder, SIDE)
    outside, reaches = suite.checks(cells)
    assert not outside.passed
    assert outside.detail == "layer2: extent 7 px at most, field 5 px"
    assert reaches.passed


def test_units_without_a_gradient_fail_the_check() -> None:
    class Dead(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 28).relu()  # nine pixels of three colours give 27 at most

    suite, cells = measured(Chain(ones(3, 3), Dead()), SIDE)
    (reaches,) = suite.checks(cells)
    assert not reaches.passed
    assert reaches.detail.startswith("layer2: no gradient at all for 100.0% of the images")


def test_a_transformer_sees_everything_from_its_only_map() -> None:
    encoder = build_encoder("timm:test_vit", size=64).eval()
    suite, cells = measured(encoder, 64, count=2)
    assert [c.condition for c in cells] == ["clean", "field@local"]
    assert cells[1].outcomes["extent"].tolist() == [64, 64]
    assert [check.name for check in suite.checks(cells)] == ["the gradient reaches the image"]


def test_gradients_of_parameters_are_left_alone() -> None:
    subject = tiny_subject()
    suite = EffectiveField()
    _, condition = suite.conditions(subject)
    suite.measure(subject, pictures(3), condition, 0)
    assert all(p.grad is None and not p.requires_grad for p in subject.parameters())


# ---- the picture ----


def test_the_mean_field_is_the_root_of_the_mean_energy_scaled_to_one() -> None:
    energy = torch.zeros(2, 2, 2, dtype=torch.float64)
    energy[0, 0, 0], energy[1, 0, 0], energy[1, 1, 1] = 1, 0.8, 0.2
    expected = [[1, 0], [0, round(math.sqrt(0.2 / 1.8), 4)]]
    assert mean_field(energy).tolist() == expected
    assert mean_field(torch.zeros(2, 3, 3)).tolist() == [[0] * 3] * 3
    assert mean_field(torch.rand(1, 224, 200)).shape == (64, 64)


@pytest.fixture(scope="module")
def field_record() -> Record:
    suite, cells = measured(Chain(ones(3, 3), ones(3)), SIDE)
    found = simulated(cells, [], suite="rf")
    found.extra = json.loads(json.dumps(suite.summary(), allow_nan=False))
    return found


def test_the_summary_holds_the_average_field_of_each_stage(field_record: Record) -> None:
    fields = read_fields(field_record)
    assert list(fields) == ["layer1", "layer2"]
    second = fields["layer2"]
    line = np.array([1, 2, 3, 2, 1]) / 3
    expected = np.zeros((SIDE, SIDE))
    expected[6:11, 6:11] = np.outer(line, line)
    assert second.map == pytest.approx(expected, abs=1e-4)
    assert (second.size, second.centre, second.field) == (SIDE, (8, 8), None)
    assert second.radius == pytest.approx(math.sqrt(2 * 16 / 19))


def test_the_figure_draws_every_field_with_its_numbers(field_record: Record) -> None:
    fields = read_fields(field_record)
    vit = {"local": fields["layer1"]}
    figure = draw_fields({"$a_b$": fields, "other": vit}, {"$a_b$": "9 images", "other": ""})
    assert len(figure.axes) == 3
    assert figure.axes[2].get_position().x0 == figure.axes[1].get_position().x0
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "9 images" in [text.get_text() for text in figure.texts]
    assert texts.count("radius 1.15 px") == 2  # √(8 / 6)
    assert texts.count("radius 1.3 px") == 1  # √(32 / 19)
    data = field_sizes({"$a_b$": fields, "other": vit})
    assert data[["model", "stage"]].to_numpy().tolist() == [
        ["$a_b$", "layer1"],
        ["$a_b$", "layer2"],
        ["other", "local"],
    ]


@pytest.mark.parametrize(
    "damage",
    [
        {"fields": {"layer1": {"map": [[0, 1], [0]]}}},
        {"fields": {"layer1": {}}},
        {"fields": ["layer1"]},
        {"fields": {"nowhere": {"map": [[1.0]], "centre": [0, 0], "field": None, "size": 1}}},
        {"fields": {"layer1": {"map": [[float("nan")]]}}},
    ],
)
def test_damaged_fields_are_one_clear_line(field_record: Record, damage: dict[str, Any]) -> None:
    copy = Record(**vars(field_record) | {"extra": damage})
    with pytest.raises(CossError, match=r"damaged fields .* measure it again"):
        read_fields(copy)


def test_a_record_without_fields_has_none(field_record: Record) -> None:
    assert read_fields(Record(**vars(field_record) | {"extra": {}})) == {}
