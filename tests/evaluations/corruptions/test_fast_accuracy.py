"""A network is as accurate under the fast corruptions as under the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecorruptions.corruptions as package
import numpy as np
import pytest
import torch
from helpers.corrupted import Pictures, fast
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.vision import FASHION_MNIST
from robustbench_coss.evaluations.corruptions.fast.draws import sample_keys
from robustbench_coss.evaluations.corruptions.reference import NAMES, SEVERITIES, corrupt_images


def fashion_network() -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A network of Fashion-MNIST (random hidden layer, least squares on top), and test images."""
    root = Path("data")
    if FASHION_MNIST.missing(root) is not None:
        pytest.skip("Fashion-MNIST is not here (Debian: dataset-fashion-mnist)")
    train = open_dataset("fashion-mnist", "train", size=32, root=root)
    test = open_dataset("fashion-mnist", "test", size=32, root=root)
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(3 * 16 * 16, 800, generator=draw) / 16
    shift = torch.randn(800, generator=draw)

    def hidden(images: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(images.float() / 255, 2).flatten(1)
        return nn.functional.relu((small - 0.3) @ first + shift)

    x = hidden(train.images(range(5000)))
    mean = x.mean(0)
    gram = (x - mean).T @ (x - mean) + 10 * torch.eye(800)
    second = torch.linalg.solve(gram, (x - mean).T @ torch.eye(10)[train.labels[:5000]])
    return (
        lambda images: (hidden(images) - mean) @ second,
        test.images(range(60)),
        test.labels[:60],
    )


def test_top1_of_a_network_is_that_under_the_package_in_all_95_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whole sigmas as floats: numba would compile its function once more for them.
    compiled = package._shuffle_pixels_njit_glass_blur
    monkeypatch.setattr(
        package,
        "_shuffle_pixels_njit_glass_blur",
        lambda h, w, x, c, seed: compiled(h, w, x, (float(c[0]), *c[1:]), seed),
    )
    network, images, labels = fashion_network()
    pictures = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())

    def hits(corrupted: Pictures) -> NDArray[np.bool_]:
        return (
            network(torch.from_numpy(corrupted).permute(0, 3, 1, 2)).argmax(1) == labels
        ).numpy()

    assert hits(pictures).mean() > 0.75
    p_values, differences = [], []
    for name in NAMES:
        for severity in SEVERITIES:
            keys = sample_keys(range(len(images)), "top-1", name, severity)
            mine = hits(fast(pictures, name, severity, keys, "imagenet-c"))
            theirs = hits(corrupt_images(pictures, name, severity, list(range(len(images)))))
            only_mine, only_theirs = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
            changed = only_mine + only_theirs
            # McNemar's exact test: of the images that changed, half should have got better.
            p_values.append(stats.binomtest(only_mine, changed).pvalue if changed else 1.0)
            differences.append(mine.mean() - theirs.mean())
    assert len(p_values) == 95
    # 95 intervals of 95 %: five may miss, and more than eleven do in 1 of 200 cases.
    assert np.sum(np.array(p_values) < 0.05) <= 11
    assert min(p_values) > 1e-4
    assert abs(np.mean(differences)) < 0.01
