"""Clean accuracy and test-time crops against references worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject
from robustbench_coss.evaluations.suites import clean
from robustbench_coss.evaluations.suites.clean import Clean
from robustbench_coss.evaluations.suites.crop import Crop, crop_and_resize, crop_corners, crop_side
from robustbench_coss.testing import pictures

CLEAN = Condition("clean", "", 0.0)


def unit(subject: Subject, batch: Batch) -> np.ndarray:
    with torch.no_grad():
        features = subject.encoder(batch.images).double().numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize("bank_size", [5, 60])
def test_knn_is_the_vote_weighted_by_exp_of_cosine_over_temperature(
    subject: Subject, bank_size: int
) -> None:
    bank, batch = pictures(bank_size, first=9000), pictures(120)
    # Labels at random make close votes, which the weights decide.
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (bank_size,), generator=draw)
    bank = Batch(bank.images, labels, bank.index)
    batch = Batch(batch.images, torch.randint(6, (120,), generator=draw), batch.index)
    suite = Clean()
    suite.prepare(subject, bank, 32)
    got = suite.measure(subject, batch, CLEAN, 0)["knn"]

    cosine = unit(subject, batch) @ unit(subject, bank).T
    expected = []
    for row, label in zip(cosine, batch.labels.tolist(), strict=True):
        votes = np.zeros(subject.classes)
        for near in np.argsort(-row)[:20]:
            votes[bank.labels[near]] += np.exp(row[near] / 0.07)
        expected.append(votes.argmax() == label)
    assert got.tolist() == expected
    assert sum(expected) > 0


class FirstTwoChannels(Encoder):
    """Features that a test can write down: the mean of the red and of the green channel."""

    def __init__(self) -> None:
        super().__init__(InputSpec(4), local_dim=2, dim=2)

    def local(self, x: Tensor) -> Tensor:
        return x[:, :2]


def test_one_close_neighbour_outvotes_three_farther_ones() -> None:
    def plain(points: list[tuple[float, float]], labels: list[int]) -> Batch:
        colours = torch.tensor([[*point, 0.0] for point in points])
        images = colours[:, :, None, None].expand(-1, -1, 4, 4)
        return Batch(images, torch.tensor(labels), range(len(labels)))

    # Cosines 0.9, and 0.7 three times: e^(0.9/0.07) = 3.8e5 beats 3 e^(0.7/0.07) = 6.6e4, while
    # the unweighted vote would go to the three.
    far = (0.7, (1 - 0.7**2) ** 0.5)
    bank = plain([(0.9, (1 - 0.9**2) ** 0.5), far, far, far], [0, 1, 1, 1])
    subject, suite = Subject(FirstTwoChannels(), nn.Linear(2, 2)), Clean()
    suite.prepare(subject, bank, 4)
    got = suite.measure(subject, plain([(1.0, 0.0)] * 2, [0, 1]), CLEAN, 0)["knn"]
    assert got.tolist() == [True, False]


def test_knn_leaves_unlabelled_images_out_of_the_bank(subject: Subject) -> None:
    bank, batch = pictures(40, first=9000), pictures(30)
    half = Batch(bank.images[:20], bank.labels[:20], bank.index[:20])
    labels = bank.labels.clone()
    labels[20:] = -1
    full, small = Clean(), Clean()
    full.prepare(subject, Batch(bank.images, labels, bank.index), 32)
    small.prepare(subject, half, 32)
    a, b = (s.measure(subject, batch, CLEAN, 0)["knn"] for s in (full, small))
    assert torch.equal(a, b)
    with pytest.raises(CossError, match="labelled"):
        Clean().prepare(subject, Batch(bank.images, labels * 0 - 1, bank.index), 32)


@pytest.mark.parametrize(("asked", "taken"), [(None, 50), (10, 10), (70, 50)])
def test_the_bank_is_all_training_images_unless_fewer_are_asked_for(
    subject: Subject, asked: int | None, taken: int
) -> None:
    images = pictures(50, first=9000)
    with torch.no_grad():
        features = subject.encoder(images.images)

    def training(count: int) -> tuple[Tensor, Tensor]:
        return features[:count], images.labels[:count]

    suite, by_hand = Clean(bank=asked), Clean()
    with_features = Subject(subject.encoder, subject.classifier, None, training)
    suite.prepare(with_features, pictures(5), 32)
    alone = Batch(images.images[:taken], images.labels[:taken], images.index[:taken])
    by_hand.prepare(subject, alone, 32)
    batch = pictures(30)
    a, b = (s.measure(subject, batch, CLEAN, 0)["knn"] for s in (suite, by_hand))
    assert torch.equal(a, b)
    assert suite.summary()["knn_bank"] == taken
    assert 1 <= suite.summary()["effective_rank"] <= subject.encoder.dim


def test_a_bank_too_large_for_the_device_answers_from_the_host(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = Clean(), Clean()
    small.prepare(subject, pictures(60, first=9000), 32)
    monkeypatch.setattr(clean, "ON_DEVICE", 0)
    large.prepare(subject, pictures(60, first=9000), 32)
    batch = pictures(60)
    a, b = (s.measure(subject, batch, CLEAN, 0)["knn"] for s in (small, large))
    assert float((a == b).double().mean()) > 0.95


def test_an_empty_bank_is_refused() -> None:
    with pytest.raises(CossError, match="at least 1 image, got 0"):
        Clean(bank=0)


def test_top5_is_whether_the_label_is_among_the_five_largest_logits(subject: Subject) -> None:
    batch = pictures(30)
    wrong = Batch(batch.images, (batch.labels + torch.arange(30)) % 6, batch.index)
    suite = Clean()
    suite.prepare(subject, pictures(20, first=9000), 32)
    got = suite.measure(subject, wrong, CLEAN, 0)["top5"]
    with torch.no_grad():
        logits = subject(batch.images).numpy()
    expected = [
        label in np.argsort(-row)[:5]
        for row, label in zip(logits, wrong.labels.tolist(), strict=True)
    ]
    assert got.tolist() == expected
    assert 0 < sum(expected) < 30


def test_top5_of_three_classes_is_always_right(subject: Subject) -> None:
    few = Subject(subject.encoder, nn.Linear(subject.encoder.dim, 3))
    batch = pictures(9)
    batch = Batch(batch.images, batch.labels % 3, batch.index)
    suite = Clean()
    suite.prepare(few, batch, 32)
    assert suite.measure(few, batch, CLEAN, 0)["top5"].all()


@pytest.mark.parametrize("group", ["centre", "random"])
def test_crop_area_one_equals_clean(subject: Subject, group: str) -> None:
    batch = pictures(30)
    suite = Crop()
    full = suite.measure(subject, batch, Condition("full", "", 1.0), 0)
    crop = suite.measure(subject, batch, Condition(f"{group}@1", group, 1.0), 0)
    assert torch.equal(full["correct"], crop["correct"])
    assert crop["agrees"].all()
    torch.testing.assert_close(crop["cosine"], torch.ones(30), rtol=0, atol=1e-6)


@pytest.mark.parametrize("area", [0.8, 0.4, 0.05])
def test_centre_crop_equals_torchvision(area: float) -> None:
    batch = pictures(4)
    side = round(area**0.5 * 32)
    corners = crop_corners(batch, area, False)
    got = crop_and_resize(batch.images, corners, crop_side(batch.images, area))
    row, column = corners[0]
    expected = transforms.resized_crop(
        batch.images, row, column, side, side, [32, 32], antialias=True
    )
    torch.testing.assert_close(got, expected.clamp(0, 1), rtol=0, atol=1e-6)
    assert abs((32 - side) / 2 - row) <= 0.5
    assert row == column


@pytest.mark.parametrize(("size", "area"), [(33, 0.6), (64, 0.1), (224, 0.05)])
def test_random_crops_equal_torchvision_at_their_own_corners(size: int, area: float) -> None:
    batch = pictures(4, size)
    side = crop_side(batch.images, area)
    corners = crop_corners(batch, area, True, 0, "crop", "random")
    got = crop_and_resize(batch.images, corners, side)
    assert len(set(corners)) > 1
    for image, result, (row, column) in zip(batch.images, got, corners, strict=True):
        expected = transforms.resized_crop(
            image, row, column, side, side, [size, size], antialias=True
        )
        torch.testing.assert_close(result, expected.clamp(0, 1), rtol=0, atol=1e-6)


def test_random_crops_reach_every_place_about_equally() -> None:
    images = torch.zeros(1, 3, 32, 32).expand(4000, -1, -1, -1)
    batch = Batch(images, torch.zeros(4000, dtype=torch.int64), range(4000))
    side = crop_side(images, 0.8)  # round(√0.8 · 32) = 29, so 4 × 4 places
    assert side == 29
    corners = crop_corners(batch, 0.8, True, 0, "crop", "random@0.8")
    counts = np.zeros((4, 4))
    for row, column in corners:
        counts[row, column] += 1
    # 16 places, 250 expected in each, s.d. √(4000 · 1/16 · 15/16) = 15.3: five of them is 77.
    assert np.abs(counts - 250).max() < 77


@given(st.integers(8, 64), st.floats(0.01, 1.0), st.integers(0, 2**40))
def test_random_crops_stay_inside_the_image(size: int, area: float, index: int) -> None:
    images = torch.zeros(1, 3, size, size)
    side = crop_side(images, area)
    assert abs(side - area**0.5 * size) <= 1
    batch = Batch(images, torch.zeros(1, dtype=torch.int64), [index])
    ((row, column),) = crop_corners(batch, area, True, 3)
    assert 0 <= row <= size - side
    assert 0 <= column <= size - side


def test_crop_columns_are_agreement_and_cosine_with_the_full_image(subject: Subject) -> None:
    batch = pictures(30)
    wrong = Batch(batch.images, (batch.labels + 1) % 6, batch.index)
    got = Crop().measure(subject, wrong, Condition("centre@0.1", "centre", 0.1), 0)
    # √0.1 · 32 = 10.1, so rows and columns 11 to 20.
    cut = transforms.resize(batch.images[:, :, 11:21, 11:21], [32, 32], antialias=True)
    cut_batch = Batch(cut, batch.labels, batch.index)
    with torch.no_grad():
        a, b = subject(batch.images).argmax(1), subject(cut).argmax(1)
    assert torch.equal(got["agrees"], a == b)
    assert torch.equal(got["correct"], b == wrong.labels)
    cosine = (unit(subject, batch) * unit(subject, cut_batch)).sum(1)
    np.testing.assert_allclose(got["cosine"].numpy(), cosine, atol=1e-5)
    assert 0 < got["agrees"].float().mean() < 1


def test_areas_are_those_asked_for_from_large_to_small(subject: Subject) -> None:
    suite = Crop(areas=[0.25, 0.5])
    conditions = suite.conditions(subject)
    assert [c.name for c in conditions] == [
        "full",
        "centre@0.5",
        "centre@0.25",
        "random@0.5",
        "random@0.25",
    ]
    assert suite.config()["areas"] == [0.5, 0.25]
    assert len(suite.metrics(conditions)[0].conditions) == 4
    assert Crop(areas=0.3).config()["areas"] == [0.3]


@pytest.mark.parametrize("areas", [[0.5, 1.0], [], "small", [0.0], [0.5, 0.5], [None]])
def test_areas_out_of_range_are_refused_in_one_line(areas: object) -> None:
    with pytest.raises(CossError, match=r"^crop\.areas must .*got") as raised:
        Crop(areas=areas)
    assert "\n" not in str(raised.value)


def test_of_features_that_are_no_numbers_nothing_is_right() -> None:
    class Spoilt(FirstTwoChannels):
        def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
            return super().pool(local, keep) * torch.nan

    batch = Batch(torch.rand(6, 3, 4, 4), torch.arange(6), range(6))
    suite = Clean()
    suite.prepare(Subject(FirstTwoChannels(), nn.Linear(2, 6)), batch, 4)
    found = suite.measure(Subject(Spoilt(), nn.Linear(2, 6)), batch, CLEAN, 0)
    assert not any(found[name].any() for name in ("correct", "top5", "knn"))
