"""Probes of single positions: what one position shows, and no more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject
from robustbench_coss.evaluations.suites.local_probe import (
    PENALTIES,
    fit_ridge,
    local_channels,
    ridge_path,
)
from robustbench_coss.evaluations.suites.redundancy import Redundancy, draw_below
from robustbench_coss.testing import pictures

PROBES = Condition("probes", "probes", 1.0)


def features_and_labels(n: int, d: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(n * d)
    labels = torch.arange(n) % classes
    means = 2 * torch.randn(classes, d, generator=draw)
    scale = torch.linspace(0.1, 10, d)  # channels of very different size
    return scale * (means[labels] + torch.randn(n, d, generator=draw)) + 5, labels


@pytest.mark.parametrize(("n", "d"), [(60, 4), (12, 30)])  # more images than channels, and fewer
def test_ridge_regression_is_the_minimum_of_its_objective(n: int, d: int) -> None:
    x, labels = features_and_labels(n, d)
    z = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    y = np.eye(3)[labels]

    def objective(flat: np.ndarray, penalty: float) -> float:
        weight, bias = flat[:-3].reshape(d, 3), flat[-3:]
        return float(((y - bias - z @ weight) ** 2).sum() + penalty * n * (weight**2).sum())

    for penalty, fit in zip(PENALTIES[:4], ridge_path(x, labels, 3), strict=False):
        found = optimize.minimize(objective, np.zeros(3 * d + 3), penalty, tol=1e-12)
        weight, bias = found.x[:-3].reshape(d, 3), found.x[-3:]
        with torch.no_grad():
            got = fit(x).double().numpy()
        np.testing.assert_allclose(got, z @ weight + bias, atol=2e-3)


def test_ridge_regression_solves_the_normal_equations() -> None:
    x, labels = features_and_labels(90, 5)
    z = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    y = np.eye(3)[labels]
    for penalty, fit in zip(PENALTIES, ridge_path(x, labels, 3), strict=True):
        centred = y - y.mean(0)
        weight = np.linalg.solve(z.T @ z + penalty * 90 * np.eye(5), z.T @ centred)
        with torch.no_grad():
            got = fit(x).double().numpy()
        np.testing.assert_allclose(got, z @ weight + y.mean(0), atol=1e-5)


def test_features_that_do_not_vary_do_not_disturb_a_probe() -> None:
    x, labels = features_and_labels(40, 3)
    dead = torch.cat([x, torch.full((40, 2), 1e6)], dim=1)
    for a, b in zip(ridge_path(x, labels, 3), ridge_path(dead, labels, 3), strict=True):
        torch.testing.assert_close(a.weight, b.weight[:, :3])
        assert (b.weight[:, 3:] == 0).all()


def test_the_penalty_that_does_best_on_held_out_images_is_chosen() -> None:
    x, labels = features_and_labels(50, 40)
    fit = fit_ridge(x, labels, 3)
    held_out = np.arange(50) % 5 == 4
    path = ridge_path(x[~held_out], labels[~held_out], 3)
    with torch.no_grad():
        scores = [
            (p(x[held_out]).argmax(1) == labels[held_out]).double().mean().item() for p in path
        ]
    assert fit.held_out_top1 == max(scores)
    assert fit.penalty == PENALTIES[scores.index(max(scores))]
    expected = ridge_path(x, labels, 3)[PENALTIES.index(fit.penalty)]
    torch.testing.assert_close(fit.classifier.weight, expected.weight)


class ColourOrGrey(Encoder):
    """Positions in two columns: only the left one shows the class. The pool is the mean.

    With `token`, further channels give the class at every position, as a class token would.
    """

    def __init__(self, token: bool) -> None:
        super().__init__(InputSpec(4), local_dim=3 + 3 * token, dim=3 + 3 * token)
        self.token = token

    def local(self, x: Tensor) -> Tensor:
        colour = x[:, :, :2, :1].expand(-1, -1, 2, 2).clone()
        colour[:, :, :, 1] = 0.5
        if not self.token:
            return colour
        carried = 2.0**-12 * x[:, :, :1, :1].expand(-1, -1, 2, 2)
        return torch.cat([colour, carried], dim=1)


def colours(count: int, first: int) -> Batch:
    labels = torch.arange(count) % 3
    images = torch.eye(3)[labels][:, :, None, None].expand(-1, -1, 4, 4)
    return Batch(images, labels, range(first, first + count))


@pytest.mark.parametrize("token", [False, True])
def test_a_local_probe_reads_what_one_position_shows_and_no_more(token: bool) -> None:
    encoder = ColourOrGrey(token)
    subject, suite = Subject(encoder, nn.Linear(encoder.dim, 3)), Redundancy()
    suite.prepare(subject, colours(300, first=5000), 4)
    batch = colours(600, first=0)
    got = suite.measure(subject, batch, PROBES, 7)
    left = draw_below(4, batch.index, 7, "redundancy", "probes") % 2 == 0
    assert got["local_one"][left].all()
    # On the right all positions look the same: one class is answered, right for a third.
    assert got["local_one"][~left].float().mean() == pytest.approx(1 / 3, abs=0.12)
    assert got["local_all"].all()
    assert got["global_all"].all()
    if not token:
        assert got["global_one"][left].all()
        assert got["global_one"][~left].float().mean() == pytest.approx(1 / 3, abs=0.12)


def test_channels_that_are_the_same_everywhere_are_not_local() -> None:
    local = torch.rand(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    local[:, 1] = local[:, 1, :1, :1]  # differs between images only
    local[:, 2] = 0
    local[:2, 3] = 1  # differs between positions of the last image
    assert local_channels(local).tolist() == [True, False, False, True]


class Everywhere(Encoder):
    """The image's mean colour at every position."""

    def __init__(self) -> None:
        super().__init__(InputSpec(4), local_dim=3, dim=3)

    def local(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 2, 2)


def test_where_all_positions_are_alike_a_local_probe_is_the_global_one() -> None:
    subject, suite = Subject(Everywhere(), nn.Linear(3, 3)), Redundancy()
    suite.prepare(subject, colours(60, first=5000), 4)
    got = suite.measure(subject, colours(30, first=0), PROBES, 0)
    assert all(column.all() for column in got.values())
    assert suite.summary()["cka_mean"] == pytest.approx(1)


def test_both_probes_are_fitted_to_the_same_images_and_tested_at_the_same_position(
    subject: Subject,
) -> None:
    reference, batch = pictures(150, first=500), pictures(60)
    suite = Redundancy()
    suite.prepare(subject, reference, 32)
    got = suite.measure(subject, batch, PROBES, 3)
    with torch.no_grad():
        train, test = (subject.encoder.local(b.images) for b in (reference, batch))
        drawn = draw_below(16, reference.index, "redundancy", "local probe")
        single = torch.stack([y.flatten(1)[:, p] for y, p in zip(train, drawn, strict=True)])
        local = fit_ridge(single[:, local_channels(train)], reference.labels, 6).classifier
        everything = fit_ridge(subject.encoder.pool(train), reference.labels, 6).classifier
        place = draw_below(16, batch.index, 3, "redundancy", "probes")
        one = torch.stack([y.flatten(1)[:, p] for y, p in zip(test, place, strict=True)])
        logits = test[:, local_channels(train)].flatten(2)
        answers = {
            "local_one": local(one[:, local_channels(train)]),
            # The mean of the logits of all positions.
            "local_all": torch.stack([local(logits[:, :, p]) for p in range(16)]).mean(0),
            "global_one": everything(subject.encoder.pool(one[:, :, None, None])),
            "global_all": everything(subject.encoder(batch.images)),
        }
    for name, answer in answers.items():
        assert torch.equal(got[name], answer.argmax(1) == batch.labels), name
    assert got["global_all"].float().mean() > got["local_one"].float().mean() > 1 / 6
