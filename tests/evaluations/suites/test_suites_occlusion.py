"""Masks, internal occlusion, internal noise and grey patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.protocol import Condition, Subject
from robustbench_coss.evaluations.suites.masks import block_mask, random_mask, rectangles
from robustbench_coss.evaluations.suites.occlusion import (
    KINDS,
    Occlusion,
    channel_std,
    mask_for,
    masked_count,
    normal,
    paint_grey,
)
from robustbench_coss.testing import pictures, tiny_subject

sides = st.integers(1, 9)


@given(sides, sides, st.data())
def test_random_masks_set_exactly_the_wanted_number(h: int, w: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, h * w))
    mask = random_mask([0, 7, 10**12], (h, w), count, 1, "mask")
    assert mask.shape == (3, h, w)
    assert mask.dtype == torch.bool
    assert mask.sum(dim=(1, 2)).tolist() == [count] * 3


def test_random_masks_reach_every_position_equally() -> None:
    share = random_mask(range(4000), (3, 3), 3, 1, "mask").float().mean(0)
    # Each position is masked with probability 1/3, s.d. √(2/9 / 4000) = 0.0075: five is 0.037.
    assert (share - 1 / 3).abs().max() < 0.037


@settings(deadline=None)
@given(sides, sides, st.data())
def test_block_masks_are_one_rectangle_with_the_nearest_count(
    h: int, w: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, h * w))
    index = data.draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=4))
    areas = {a * b for a in range(1, h + 1) for b in range(1, w + 1)} - {h * w} | {0}
    if count == h * w:
        areas = {count}
    elif count > 0 and h * w > 1:
        areas -= {0}
    nearest = min(abs(area - count) for area in areas)
    for mask in block_mask(index, (h, w), count, "mask"):
        area = int(mask.sum())
        assert abs(area - count) == nearest
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if area:
            height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
            assert area == height * width  # fills its bounding box: one solid rectangle


def test_blocks_take_the_squarest_rectangle_of_the_right_area() -> None:
    assert rectangles((4, 4), 4) == [(2, 2)]
    assert sorted(rectangles((4, 4), 8)) == [(2, 4), (4, 2)]
    assert rectangles((4, 4), 5) == [(2, 2)]  # 4 and 6 are equally near: the smaller
    assert sorted(rectangles((4, 4), 15)) == [(3, 4), (4, 3)]  # 16 would hide everything
    assert rectangles((4, 4), 16) == [(4, 4)]


def test_blocks_are_placed_everywhere_and_turned_both_ways() -> None:
    masks = block_mask(range(500), (4, 4), 2, "mask")
    # Two positions in a row or in a column: 4 · 3 places each way.
    assert len(torch.unique(masks.flatten(1).int(), dim=0)) == 24


@pytest.mark.parametrize("group", [*KINDS, "input-patches", "noise"])
def test_mask_ratio_zero_equals_clean(subject: Subject, group: str) -> None:
    suite, batch = Occlusion(), pictures(60)
    suite.prepare(subject, pictures(20, first=900), 32)
    clean = suite.measure(subject, batch, Condition("clean", "", 0.0), 0)
    none = suite.measure(subject, batch, Condition(f"{group}@0", group, 0.0), 0)
    assert torch.equal(clean["correct"], none["correct"])
    assert 0 < clean["correct"].float().mean() < 1


def pooled(
    monkeypatch: pytest.MonkeyPatch, subject: Subject, condition: Condition
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Clean local representations, those given to `pool`, `keep`, and the features it gave."""
    suite, batch, seen = Occlusion(), pictures(60), []
    suite.prepare(subject, pictures(300, first=900), 32)
    pool = subject.encoder.pool

    def spy(local: Tensor, keep: Tensor | None = None) -> Tensor:
        seen.append((local, keep, pool(local, keep)))
        return seen[-1][2]

    monkeypatch.setattr(subject.encoder, "pool", spy)
    suite.measure(subject, batch, condition, 0)
    ((local, keep, features),) = seen
    with torch.inference_mode():
        return subject.encoder.local(batch.images), local, keep, features


@pytest.mark.parametrize("shape", ["random", "block"])
def test_zeroed_positions_are_zero_and_the_others_untouched(
    monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    condition = Condition(f"{shape}-zero@0.5", f"{shape}-zero", 0.5)
    clean, local, keep, _ = pooled(monkeypatch, tiny_subject(), condition)
    changed = (local != clean).any(1)
    assert keep is None
    assert (local.movedim(1, -1)[changed] == 0).all()
    # A position whose channels are all zero already cannot be seen to change.
    hidden = changed | (clean == 0).all(1)
    assert (changed.sum((1, 2)) <= 8).all()
    assert (hidden.sum((1, 2)) >= 8).all()


@pytest.mark.parametrize("shape", ["random", "block"])
def test_dropped_positions_do_not_enter_the_mean(
    monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    subject = tiny_subject()
    condition = Condition(f"{shape}-drop@0.5", f"{shape}-drop", 0.5)
    clean, local, keep, features = pooled(monkeypatch, subject, condition)
    assert torch.equal(local, clean)
    assert keep is not None
    assert (keep.sum((1, 2)) == 8).all()
    rows = [image[:, kept].mean(1) for image, kept in zip(clean, keep, strict=True)]
    with torch.inference_mode():
        expected = subject.encoder.head(torch.stack(rows))
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_noise_is_sigma_times_each_channel_s_standard_deviation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = tiny_subject()
    clean, local, _, _ = pooled(monkeypatch, subject, Condition("noise@2", "noise", 2.0))
    with torch.inference_mode():
        reference = subject.encoder.local(pictures(300, first=900).images).double()
    expected = 2 * reference.transpose(0, 1).flatten(1).std(1, correction=0)
    alive = expected > 0
    noise = (local - clean).double().transpose(0, 1).flatten(1)
    assert (noise[~alive] == 0).all()
    # 60 · 16 = 960 draws a channel: s.d. of the estimate is 1/√1920 = 2.3 %; five is 11.5 %.
    assert alive.sum() > 10
    assert (noise[alive].std(1) / expected[alive] - 1).abs().max() < 0.115
    assert (noise[alive].mean(1) / expected[alive]).abs().max() < 5 / 960**0.5


def test_channel_deviations_of_unlike_chunks_are_those_of_all_images_together(
    staged: Subject,
) -> None:
    images = pictures(150).images
    images[64:] *= 0.2  # later chunks of 64 are dark, so the chunks' means differ
    with torch.inference_mode():
        got = channel_std(staged.encoder, images, ["first", "second"])
        maps = staged.encoder.maps(images)
    assert set(got) == {"first", "second"}
    for stage, std in got.items():
        expected = maps[stage].double().transpose(0, 1).flatten(1).std(1, correction=0)
        torch.testing.assert_close(std.flatten().double(), expected, rtol=1e-4, atol=1e-6)


def test_noise_draws_are_standard_normal_and_differ_between_samples() -> None:
    draws = normal(torch.zeros(4, 8, 20, 20), [0, 1, 2, 3], 1, "noise").double()
    assert abs(draws.mean()) < 5 / draws.numel() ** 0.5
    assert abs(draws.var() - 1) < 5 * (2 / draws.numel()) ** 0.5
    correlation = np.corrcoef(draws.flatten(1).numpy()) - np.eye(4)
    assert np.abs(correlation).max() < 5 / 3200**0.5


def test_the_control_paints_the_patch_of_every_masked_position_grey() -> None:
    images = torch.zeros(1, 3, 8, 8)
    mask = torch.tensor([[[True, False], [False, False], [False, True], [False, False]]])
    expected = torch.zeros(8, 8)
    expected[0:2, 0:4] = expected[4:6, 4:8] = 0.5  # 4 × 2 patches of 2 × 4 px
    assert torch.equal(paint_grey(images, mask), expected.expand(1, 3, 8, 8))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(9, 40))
def test_patches_of_all_positions_cover_the_image_evenly(h: int, w: int, size: int) -> None:
    masks = torch.eye(h * w, dtype=torch.bool).view(h * w, h, w)
    painted = paint_grey(torch.zeros(h * w, 3, size, size), masks)[:, 0] == 0.5
    assert (painted.sum(0) == 1).all()  # each pixel belongs to one position
    heights, widths = painted.any(2).sum(1), painted.any(1).sum(1)
    assert heights.max() - heights.min() <= 1
    assert widths.max() - widths.min() <= 1
    assert (heights * widths == painted.sum((1, 2))).all()  # rectangles


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.95])
def test_the_control_hides_the_share_and_the_places_that_random_zero_hides_inside(
    monkeypatch: pytest.MonkeyPatch, ratio: float
) -> None:
    subject, suite, batch, seen = tiny_subject(), Occlusion(), pictures(20), []
    suite.prepare(subject, pictures(20, first=900), 32)
    local = subject.encoder.local

    def spy(x: Tensor) -> Tensor:
        seen.append(x)
        return local(x)

    monkeypatch.setattr(subject.encoder, "local", spy)
    name = f"input-patches@{ratio:g}"
    suite.measure(subject, batch, Condition(name, "input-patches", ratio), 3)
    (images,) = seen
    names = (3, "occlusion", f"random-zero@{ratio:g}")
    mask = mask_for("random-zero", ratio, batch.index, (4, 4), *names)
    hidden = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert torch.equal(images, batch.images.masked_fill(hidden[:, None], 0.5))
    assert hidden.float().mean() == masked_count(ratio, 16, leave_one=False) / 16


@pytest.mark.parametrize(
    ("ratio", "positions", "leave_one", "expected"),
    [
        (0.1, 16, False, 2),
        (0.5, 49, False, 25),  # 24.5 rounds up
        (0.95, 16, False, 15),
        (0.95, 4, False, 4),
        (0.95, 4, True, 3),
        (0.0, 9, True, 0),
    ],
)
def test_masked_count_rounds_half_up_and_leaves_one_to_pool(
    ratio: float, positions: int, leave_one: bool, expected: int
) -> None:
    assert masked_count(ratio, positions, leave_one=leave_one) == expected


def test_a_map_of_one_position_is_refused() -> None:
    with pytest.raises(CossError, match="one at 8 px"):
        Occlusion().prepare(tiny_subject(8), pictures(4, 8), 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": [0.5, 1.0]}, "occlusion.ratios must be numbers above 0 and below 1"),
        ({"ratios": []}, "occlusion.ratios"),
        ({"ratios": "half"}, "occlusion.ratios"),
        ({"ratios": [0.5, None]}, "occlusion.ratios"),
        ({"ratios": [float("nan")]}, "occlusion.ratios"),
        ({"ratios": [0.5, 0.50000001]}, "must differ"),
        ({"sigmas": [0.0]}, "occlusion.sigmas must be numbers above 0, such as"),
        ({"sigmas": [True]}, "occlusion.sigmas"),
        ({"stages": []}, "occlusion.stages"),
        ({"stages": [2]}, "occlusion.stages"),
        ({"stages": {"local": 1}}, "occlusion.stages"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(CossError, match=message) as raised:
        Occlusion(**options)
    assert "\n" not in str(raised.value)


def test_one_number_is_a_list_of_one_and_order_does_not_matter() -> None:
    assert Occlusion(ratios=0.5).config() == Occlusion(ratios=[0.5]).config()
    assert Occlusion(ratios=[0.5, 0.1]).config() == Occlusion(ratios=(0.1, 0.5)).config()
