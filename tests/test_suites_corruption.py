"""Corruptions against imagecorruptions called by hand, and independence of the workers."""

from __future__ import annotations

import imagecorruptions
import numpy as np
import pytest
import torch
from tiny import pictures, tiny_subject

from evaluations.corruption import Corruption
from evaluations.imagenet_c import GROUPS, corrupt_images
from evaluations.protocol import Condition, Subject
from robustbench_coss.errors import CossError
from robustbench_coss.seeds import seed_of

NAMES = [name for names in GROUPS.values() for name in names]
CELLS = [(name, 3) for name in NAMES] + [("shot_noise", s) for s in (1, 2, 4, 5)]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_subject()


def by_hand(pixels: np.ndarray, name: str, severity: int, index: int) -> np.ndarray:
    seed = seed_of(5, "corruption", f"{name}@{severity}", index) % 2**32
    np.random.seed(seed)  # noqa: NPY002
    own = {"seed": seed} if name in ("impulse_noise", "glass_blur") else {}
    return imagecorruptions.corrupt(pixels, severity, name, **own)


def test_the_nineteen_corruptions_are_those_of_the_package() -> None:
    for group in ("noise", "blur", "weather", "digital"):
        assert list(GROUPS[group]) == imagecorruptions.get_corruption_names(group)
    assert list(GROUPS["extra"]) == imagecorruptions.get_corruption_names("validation")


@pytest.mark.parametrize(("name", "severity"), CELLS)
def test_a_cell_equals_imagecorruptions_called_by_hand(
    subject: Subject, name: str, severity: int
) -> None:
    batch = pictures(3, first=70)
    condition = Condition(f"{name}@{severity}", "any", severity)
    got = Corruption(workers=1).corrupt(batch.images, batch.index, condition, 5)
    assert got.dtype == torch.float32
    pixels = (batch.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    with np.errstate(all="ignore"):
        expected = np.stack([by_hand(pixels[i], name, severity, 70 + i) for i in range(3)])
    np.testing.assert_array_equal((got * 255).round().permute(0, 2, 3, 1).numpy(), expected)
    assert not np.array_equal(expected, pixels)


def test_numpy_s_global_generator_is_left_as_it_was() -> None:
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random(4)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    corrupt_images(np.full((2, 32, 32, 3), 90, np.uint8), "gaussian_noise", 1, [1, 2])
    np.testing.assert_array_equal(np.random.random(4), expected)  # noqa: NPY002


def test_equal_images_get_draws_of_their_own() -> None:
    pair = np.full((2, 32, 32, 3), 90, np.uint8)
    out = corrupt_images(pair, "gaussian_noise", 3, [1, 2])
    assert not np.array_equal(out[0], out[1])


def test_outcomes_do_not_depend_on_the_number_of_workers_and_a_dead_worker_is_explained(
    subject: Subject,
) -> None:
    batch = pictures(30)
    one, two = Corruption(workers=1), Corruption(workers=2)
    try:
        for name in ("impulse_noise@4", "snow@2"):
            condition = Condition(name, "any", 1.0)
            a = one.corrupt(batch.images, batch.index, condition, 9)
            assert torch.equal(a, two.corrupt(batch.images, batch.index, condition, 9))
        assert two._pool is not None
        assert one._pool is None
        for process in list(two._pool._processes.values()):
            process.kill()
        with pytest.raises(CossError, match="process that corrupts images died"):
            two.measure(subject, batch, condition, 9)
    finally:
        two.close()
    assert two._pool is None


def test_images_below_32_px_are_refused_with_the_remedy(subject: Subject) -> None:
    with pytest.raises(CossError) as caught:
        Corruption().prepare(subject, pictures(2), 28)
    assert str(caught.value) == (
        "corruptions need images of at least 32 px, this model takes 28; "
        "pretrain with --image-size 32"
    )


def test_the_headline_averages_the_fifteen_standard_corruptions_at_five_severities(
    subject: Subject,
) -> None:
    suite = Corruption(workers=1)
    metrics = {m.name: m for m in suite.metrics(suite.conditions(subject))}
    names = set(metrics["corruption_top1"].conditions)
    standard = imagecorruptions.get_corruption_names("common")
    assert names == {f"{name}@{s}" for name in standard for s in range(1, 6)}
    sizes = {g: len(metrics[f"corruption_{g}"].conditions) for g in GROUPS}
    assert sizes == {"noise": 15, "blur": 20, "weather": 20, "digital": 20, "extra": 20}
