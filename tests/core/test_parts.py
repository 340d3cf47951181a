"""`parts`: what its scenes tell of their class, and what they do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest
from torch import Tensor

from robustbench_coss.datasets.base import ROLES, open_dataset
from robustbench_coss.datasets.parts import (
    COMPANIONS,
    COUNTS,
    KINDS,
    Scenes,
    companion_of,
    draw_scenes,
    render,
)
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import build_encoder


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return {role: open_dataset("parts", role) for role in ("train", "test")}


# ---- what parts tell of each other ----


def test_classes_are_balanced_in_every_role() -> None:
    for role, count in COUNTS.items():
        labels = draw_scenes(role, np.arange(count)).label
        assert np.bincount(labels).tolist() == [count // 10] * 10


def test_the_pattern_that_goes_with_a_class_is_another_one_for_every_class() -> None:
    classes = np.arange(10)
    assert sorted(companion_of(classes)) == classes.tolist()
    assert not (companion_of(classes) == classes).any()


def information(level: float) -> float:
    """I(r) of the data set's docstring in bits, for r = `level` in [0, 1]."""
    p, q = level + (1 - level) / 10, (1 - level) / 10
    return math.log2(10) + p * math.log2(p) + (9 * q * math.log2(q) if q else 0.0)


@pytest.mark.parametrize(("level", "bits"), [(0.0, 0.0), (1.0, math.log2(10))])
def test_the_ends_of_the_dial_tell_nothing_and_everything(level: float, bits: float) -> None:
    assert information(level) == pytest.approx(bits, abs=1e-12)


def counted_bits(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """Mutual information of two lists of numbers below ten, from their counts.

    Counts overestimate it by (10 - 1)² / (2 n ln 2) bits on average (Miller 1955), taken off here.
    """
    joint = np.histogram2d(first, second, bins=[np.arange(11)] * 2)[0] / len(first)
    alone = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    some = joint > 0
    found = float((joint[some] * np.log2(joint[some] / alone[some])).sum())
    return found - 81 / (2 * len(first) * math.log(2))


@pytest.mark.parametrize("level", [0.0, 0.3, 0.6, 0.9])
def test_parts_tell_of_class_and_of_each_other_what_the_formula_says(level: float) -> None:
    scenes = draw_scenes("train", np.arange(100_000), level)
    key, companions = scenes.kind[:, 0], scenes.kind[:, 1:]
    assert np.array_equal(key, scenes.label)
    for companion in companions.T:
        assert counted_bits(scenes.label, companion) == pytest.approx(information(level), abs=0.02)
    assert counted_bits(companions[:, 0], companions[:, 1]) == pytest.approx(
        information(level**2), abs=0.02
    )


def test_at_full_co_occurrence_every_part_implies_the_scene() -> None:
    scenes = draw_scenes("test", np.arange(500))
    wanted = np.repeat(companion_of(scenes.label)[:, None], COMPANIONS, axis=1)
    assert np.array_equal(scenes.kind[:, 1:], wanted)


def test_levels_differ_in_the_patterns_of_companions_only() -> None:
    low, high = (draw_scenes("test", np.arange(200), level) for level in (0.2, 0.7))
    assert not np.array_equal(low.kind, high.kind)
    assert np.array_equal(low.kind[:, 0], high.kind[:, 0])
    for name, value in vars(low).items():
        assert name == "kind" or np.array_equal(value, getattr(high, name))


def test_a_level_is_a_data_set_of_its_own(parts: dict[str, Any]) -> None:
    half = open_dataset("parts:0.5", "test")
    assert half.name == "parts:0.5"
    assert half.fingerprint != parts["test"].fingerprint
    assert open_dataset("parts:0.50", "test").name == "parts:0.5"
    full = open_dataset("parts:1.0", "test")
    assert (full.name, full.fingerprint) == ("parts", parts["test"].fingerprint)


@pytest.mark.parametrize("name", ["parts:", "parts:2", "parts:-0.1", "parts:half", "parts:nan"])
def test_what_is_no_level_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(CossError, match=r"write a number from parts:0\.0") as error:
        open_dataset(name, "test")
    assert "\n" not in str(error.value)


def test_a_data_set_without_options_refuses_one() -> None:
    with pytest.raises(CossError, match="'mnist' has no options; write mnist"):
        open_dataset("mnist:0.5", "test")


# ---- what simple classifiers see ----


def mean_colour(pixels: Tensor) -> Tensor:
    """[B, 3] mean of each channel."""
    return pixels.float().mean(dim=(2, 3))


def histograms(pixels: Tensor) -> Tensor:
    """[B, 48] shares of 16 shades in each channel."""
    bins = (pixels // 16).flatten(2)
    return torch.cat([(bins == k).float().mean(2) for k in range(16)], dim=1)


def standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = train.mean(0), train.std(0) + 1e-6
    return (train - mean) / std, (test - mean) / std


def least_squares_hits(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, ridge: float = 1e-3
) -> int:
    """Test images a linear classifier gets right (least squares on one-hot labels)."""
    x, x_test = standardise(x, x_test)
    gram = x.T @ x + ridge * len(x) * torch.eye(x.shape[1])
    weight = torch.linalg.solve(gram, x.T @ (torch.nn.functional.one_hot(y).float() - 0.1))
    return int(((x_test @ weight).argmax(1) == y_test).sum())


def neighbour_hits(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> int:
    """Test images that the majority of their 25 nearest training images gets right."""
    x, x_test = standardise(x, x_test)
    nearest = torch.cdist(x_test, x).topk(25, largest=False).indices
    votes = torch.nn.functional.one_hot(y[nearest], 10).sum(1)
    return int((votes.argmax(1) == y_test).sum())


@pytest.mark.parametrize("hits", [least_squares_hits, neighbour_hits])
def test_mean_colour_tells_nothing_of_the_class(
    parts: dict[str, Any], hits: Callable[..., int]
) -> None:
    x, y = mean_colour(parts["train"].pixels), parts["train"].labels
    x_test, y_test = mean_colour(parts["test"].pixels), parts["test"].labels
    low, high = binom.interval(0.99, len(y_test), 0.1)
    assert low <= hits(x, y, x_test, y_test) <= high
    # The same classifier does find a faint tint that goes with the class.
    tinted, tinted_test = x.clone(), x_test.clone()
    tinted[:, 0] += 20 * y
    tinted_test[:, 0] += 20 * y_test
    assert hits(tinted, y, tinted_test, y_test) > high


@pytest.mark.parametrize("size", [32, 48])
def test_colour_histograms_tell_a_linear_classifier_little(size: int) -> None:
    train, test = (open_dataset("parts", role, size=size) for role in ("train", "test"))
    x, x_test = (histograms(s.images(range(len(s)))) for s in (train, test))
    assert least_squares_hits(x, train.labels, x_test, test.labels) / len(test) < 0.2


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 1.0])
def test_grey_pixels_tell_a_linear_classifier_little(parts: dict[str, Any], ridge: float) -> None:
    train, test = parts["train"], parts["test"]
    x, x_test = (s.pixels.float().mean(1).flatten(1) for s in (train, test))
    assert least_squares_hits(x, train.labels, x_test, test.labels, ridge) / len(test) < 0.2


def test_all_pixels_tell_a_linear_classifier_little(parts: dict[str, Any]) -> None:
    train, test = parts["train"], parts["test"]
    x, x_test = (s.pixels.float().flatten(1) for s in (train, test))
    assert least_squares_hits(x, train.labels, x_test, test.labels, 0.1) / len(test) < 0.2


def test_a_small_encoder_with_labels_tells_the_class_at_every_level() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("rf29_resnet18", size=32, width=0.125, mlp=None)
    head = torch.nn.Linear(encoder.dim, 10)
    levels, third = (0.0, 0.5, 1.0), COUNTS["train"] // 3
    scenes = [
        draw_scenes("train", np.arange(k * third, (k + 1) * third), level)
        for k, level in enumerate(levels)
    ]
    images = [torch.from_numpy(render(some, 32)) for some in scenes]
    labels = [torch.from_numpy(some.label) for some in scenes]
    learn(encoder, head, torch.cat(images), torch.cat(labels), epochs=2)
    for level in levels:
        test = open_dataset(f"parts:{level}", "test")
        with torch.inference_mode():
            found = torch.cat(
                [
                    head(encoder.eval()(test.images(range(i, i + 200)).float() / 255)).argmax(1)
                    for i in range(0, len(test), 200)
                ]
            )
        assert (found == test.labels).float().mean() > 0.95, level


def learn(
    encoder: Encoder, head: torch.nn.Linear, pixels: Tensor, labels: Tensor, epochs: int
) -> None:
    """Cross-entropy, batches of 64, one cycle of the learning rate."""
    weights = [*encoder.to(memory_format=torch.channels_last).parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(weights, weight_decay=0.01)
    steps = len(pixels) // 64
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(pixels))[: steps * 64].view(steps, 64):
            images = pixels[batch].float() / 255
            images = images.flip(3) if torch.rand(()) < 0.5 else images
            loss = torch.nn.functional.cross_entropy(head(encoder(images)), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()


# ---- how scenes are drawn ----


def test_a_scene_does_not_depend_on_which_others_are_drawn() -> None:
    together = render(draw_scenes("test", np.arange(200), 0.5), 32)
    alone = render(draw_scenes("test", np.array([137]), 0.5), 32)
    assert np.array_equal(together[137], alone[0])


def test_roles_draw_different_scenes() -> None:
    first = [draw_scenes(role, np.array([0])).centre for role in ROLES]
    assert not np.allclose(first[0], first[1])
    assert not np.allclose(first[1], first[2])


def test_a_scene_rendered_at_two_resolutions_agrees_after_downsampling() -> None:
    scenes = draw_scenes("test", np.arange(60))
    small = render(scenes, 64).astype(float)
    large = render(scenes, 256).reshape(60, 3, 64, 4, 64, 4).mean((3, 5))
    difference = np.abs(small - large)
    assert difference.mean() < 1.5
    assert np.quantile(difference, 0.99) < 25
    # Another scene is far off by the same measure.
    assert np.abs(small - np.roll(large, 10, axis=0)).mean() > 15


def one_part(kind: str, **changes: Any) -> Scenes:
    """A white part in the middle of a black picture, half as wide as it, not turned or shifted."""
    first = draw_scenes("test", np.arange(1))
    values: dict[str, Any] = {
        "kind": [[KINDS.index(kind)]],
        "centre": [[(0.5, 0.5)]],
        "radius": [[0.25]],
        "angle": [[0.0]],
        "stretch": [[1.0]],
        "phase": [[(0.0, 0.0)]],
        "colour": np.ones((1, 1, 3)),
        "ground": np.zeros((1, 2, 3)),
    }
    return replace(first, **{name: np.asarray(v) for name, v in (values | changes).items()})


@pytest.mark.parametrize("kind", KINDS)
def test_over_phases_every_shade_is_as_frequent_in_every_pattern(kind: str) -> None:
    count = 4000
    phase = np.random.default_rng(0).random((count, 1, 2))
    scene = one_part(kind)
    many = Scenes(**{n: np.repeat(v, count, axis=0) for n, v in vars(scene).items()})
    pictures = render(replace(many, phase=phase), 9)  # the centre of a pixel is the part's
    shades = pictures[:, 0, 4, 4] / 255
    # Of 1 - 1 / 2.5 of all phases the shade is one of the two ends, and uniform between them else.
    for end in (0, 1):
        low, high = binom.interval(0.999, count, 0.3)
        assert low <= (shades == end).sum() <= high
    assert kstest(shades[(shades > 0) & (shades < 1)], "uniform").pvalue > 0.001


def test_patterns_run_the_way_they_are_called() -> None:
    def changes(kind: str) -> tuple[float, float]:
        """Mean change from pixel to pixel down and across, within the part."""
        inner = render(one_part(kind, phase=[[(0.1, 0.1)]]), 128)[0, 0, 48:80, 48:80].astype(float)
        return float(np.abs(np.diff(inner, axis=0)).mean()), float(
            np.abs(np.diff(inner, axis=1)).mean()
        )

    for grain in ("fine", "coarse"):
        down, across = changes(f"{grain} bars")
        assert down > 5
        assert across == 0
        down, across = changes(f"{grain} posts")
        assert across > 5
        assert down == 0
        for name in ("checks", "lattice", "rings"):
            down, across = changes(f"{grain} {name}")
            assert down == pytest.approx(across, rel=0.2)
    assert changes("fine bars")[0] == pytest.approx(2 * changes("coarse bars")[0], rel=0.2)


def test_no_pattern_is_another_one_mirrored() -> None:
    for kind in KINDS:
        scene = one_part(kind)
        picture = render(scene, 64)
        assert np.abs(picture - picture[..., ::-1].astype(float)).mean() < 2


def test_parts_lie_in_the_picture_and_hardly_overlap() -> None:
    scenes = draw_scenes("train", np.arange(5000))
    beyond = np.maximum(scenes.radius[..., None] - np.minimum(scenes.centre, 1 - scenes.centre), 0)
    assert beyond.max() <= 0.02 + 1e-9
    first, second = np.triu_indices(scenes.kind.shape[1], 1)
    gap = np.linalg.norm(scenes.centre[:, first] - scenes.centre[:, second], axis=2)
    overlap = scenes.radius[:, first] + scenes.radius[:, second] - gap
    assert np.quantile(overlap.max(axis=1), 0.95) <= 0
    assert overlap.max() < 0.1
