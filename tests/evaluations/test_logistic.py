from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.evaluations.probes import design as design_module
from robustbench_coss.evaluations.probes import logistic
from robustbench_coss.evaluations.probes.design import Design
from robustbench_coss.evaluations.probes.linear import (
    ProbeConfig,
    accuracy,
    convergence,
    fit_probe,
)

CPU = torch.device("cpu")


def clusters(
    count: int, classes: int, dim: int, spread: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Gaussian clouds of standard deviation `spread` around `classes` fixed centres."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return centres[labels] + spread * torch.randn(count, dim, generator=g), labels


def squeezed(x: Tensor, smallest: float) -> Tensor:
    """[N, D] mixed into directions whose scales fall from 1 to `smallest`."""
    dim = x.shape[1]
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(5)))[0]
    scales = torch.logspace(0, math.log10(smallest), dim)
    return (x * scales) @ turn


def standardised(x: Tensor, by: Tensor | None = None) -> Tensor:
    by = (x if by is None else by).double()
    return (x.double() - by.mean(dim=0)) / by.std(dim=0, correction=0)


def objective(z: Tensor, y: Tensor, weight: Tensor, bias: Tensor, l2: float) -> Tensor:
    loss = F.cross_entropy(z @ weight.T + bias, y)
    return loss + l2 / (2 * len(y)) * weight.square().sum()


def on_standardised(x: Tensor, found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A classifier on features as they come, as it is on the standardised ones."""
    weight, bias = found
    mean, scale = x.double().mean(dim=0), x.double().std(dim=0, correction=0)
    return weight * scale, bias + weight @ mean


def solve(x: Tensor, y: Tensor, classes: int, l2: float) -> tuple[Tensor, Tensor, float]:
    design = Design([x], CPU)
    found = logistic.minimise(design, y, classes, l2)
    weight, bias = on_standardised(x, design.unfold(found.place[:, :-1], found.place[:, -1]))
    return weight, bias, found.gap


@pytest.mark.parametrize("l2", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("smallest", [1.0, 1e-4])
def test_the_optimum_is_where_the_regularised_gradient_vanishes(l2: float, smallest: float) -> None:
    x, y = clusters(300, 3, 8, spread=2.0)
    x = squeezed(x, smallest)
    weight, bias, gap = solve(x, y, 3, l2)
    z = standardised(x)
    weight, bias = weight.requires_grad_(True), bias.requires_grad_(True)
    loss = objective(z, y, weight, bias, l2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert gap <= logistic.TOLERANCE * math.log(3)
    # Newton's decrement from the Hessian written out by autograd: an estimate of its own.
    flat = torch.cat([weight.detach().flatten(), bias.detach()])
    hessian = torch.autograd.functional.hessian(
        lambda v: objective(z, y, v[:24].view(3, 8), v[24:], l2), flat
    )
    assert weight.grad is not None
    assert bias.grad is not None
    gradient = torch.cat([weight.grad.flatten(), bias.grad])
    decrement = gradient @ torch.linalg.lstsq(hessian, gradient, driver="gelsd").solution / 2
    assert float(decrement) <= 2 * logistic.TOLERANCE * math.log(3)


@pytest.mark.parametrize("smallest", [1.0, 1e-4])
def test_the_optimum_is_that_of_scikit_learn_ill_conditioned_features_included(
    smallest: float,
) -> None:
    x, y = clusters(500, 5, 12, spread=1.5)
    x = squeezed(x, smallest)
    z = standardised(x)
    if smallest < 1:
        spectrum = torch.linalg.eigvalsh(z.T @ z)
        assert float(spectrum[-1] / spectrum[0]) > 1e6
    for l2 in (0.1, 10.0):
        reference = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-10, max_iter=1000)
        reference.fit(z.numpy(), y.numpy())
        weight, bias, _ = solve(x, y, 5, l2)
        theirs = torch.from_numpy(reference.coef_), torch.from_numpy(reference.intercept_)
        best = float(objective(z, y, *theirs, l2))
        assert float(objective(z, y, weight, bias, l2)) == pytest.approx(best, abs=2e-6)
        agree = (z @ weight.T + bias).argmax(dim=1).numpy() == reference.predict(z.numpy())
        assert agree.mean() > 0.995


def test_where_first_order_methods_stop_short_the_probe_does_not() -> None:
    # What tells the classes apart lies where features hardly vary: condition 1e8.
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(900, 15, generator=g)
    y = torch.arange(900) % 2
    telling = (2.0 * y - 1 + 0.5 * torch.randn(900, generator=g))[:, None]
    turn = torch.linalg.qr(torch.randn(16, 16, generator=g, dtype=torch.float64))[0]
    x = (torch.cat([noise, 1e-4 * telling], dim=1).double() @ turn).float()
    parts = (x[:600], y[:600]), (x[600:], y[600:])
    _, found = fit_probe(ProbeConfig(), *parts, 2)
    _, by_sgd = fit_probe(ProbeConfig("sgd"), *parts, 2)
    # Φ(2) = 97.7 % is the best that can be done on the telling direction.
    assert found["validation_top1"] > 0.95
    assert by_sgd["validation_top1"] < 0.7
    assert by_sgd["gap"] > 0.3
    assert by_sgd["optimum_top1"] == found["validation_top1"]
    check = convergence(by_sgd)
    assert check is not None
    assert not check.passed
    assert convergence(found) is None


def test_overwhelming_regularisation_leaves_the_class_frequencies_in_the_bias() -> None:
    # With W = 0 the optimal bias is log(n_k / N) up to a constant: it is not penalised.
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    weight, bias, _ = solve(x, y, 3, 1e9)
    assert float(weight.abs().max()) < 1e-5
    expected = torch.tensor([0.5, 0.3, 0.2]).double()
    torch.testing.assert_close(bias.softmax(dim=0), expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("changed", ["rows", "kept", "widest", "hessian"])
def test_neither_chunks_nor_coordinates_nor_preconditioners_move_the_optimum(
    monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    x, y = clusters(250, 3, 20, spread=2.0)
    parts = [x[:170], x[170:]]

    def optimum() -> Tensor:
        design = Design(parts, CPU)
        found = logistic.minimise(design, y[:200], 3, 0.01, tolerance=1e-13)
        return torch.cat(
            [t.flatten() for t in design.unfold(found.place[:, :-1], found.place[:, -1])]
        )

    whole = optimum()
    if changed == "rows":
        monkeypatch.setattr(design_module, "ROWS_AT_ONCE", {"cpu": 40})
    elif changed == "kept":
        monkeypatch.setattr(design_module, "KEPT_BYTES", 0)
        monkeypatch.setattr(logistic, "KEPT_BYTES", 0)
    elif changed == "widest":
        monkeypatch.setattr(design_module, "WIDEST", 10)
    else:
        monkeypatch.setattr(logistic, "CG_EASY", 1)
    torch.testing.assert_close(optimum(), whole, rtol=1e-4, atol=1e-5)


def test_more_features_than_images_are_solved_from_the_smaller_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = clusters(40, 2, 60, spread=2.0)
    wide = solve(x, y, 2, 1.0)
    monkeypatch.setattr(design_module, "WIDEST", 50)
    narrow = solve(x, y, 2, 1.0)
    torch.testing.assert_close(narrow[0], wide[0], rtol=1e-3, atol=1e-5)


def test_the_penalty_is_the_best_on_validation_images_and_both_are_fitted_then() -> None:
    # 40 samples in 60 dimensions: weak regularisation fits the training set and generalises worse.
    (x, y), validation = clusters(40, 2, 60, 4.0), clusters(400, 2, 60, 4.0, seed=1)
    both = torch.cat([x, validation[0]]), torch.cat([y, validation[1]])
    z, held_out, all_z = (standardised(t, both[0]) for t in (x, validation[0], both[0]))
    scores = {}
    for l2 in np.logspace(-6, 5, 12):
        model = LogisticRegression(C=1 / l2, tol=1e-8, max_iter=5000).fit(z.numpy(), y.numpy())
        scores[float(l2)] = model.score(held_out.numpy(), validation[1].numpy())
    assert len(set(scores.values())) > 1
    classifier, found = fit_probe(ProbeConfig(), (x, y), validation, 2)
    assert found["validation_top1"] == pytest.approx(max(scores.values()), abs=0.006)
    reference = LogisticRegression(C=1 / found["l2"], tol=1e-8, max_iter=5000)
    reference.fit(all_z.numpy(), both[1].numpy())
    predicted = classifier(both[0]).argmax(dim=1).numpy()
    assert (predicted == reference.predict(all_z.numpy())).mean() > 0.995
    assert found["train_top1"] == accuracy(classifier, x, y)


def test_the_stronger_of_two_equally_good_regularisations_is_taken() -> None:
    data = clusters(300, 3, 16, spread=0.01)
    _, found = fit_probe(ProbeConfig(l2_values=5), data, data, 3)
    assert found["validation_top1"] == 1.0
    assert found["l2"] == pytest.approx(1e5)


def test_a_probe_that_is_far_from_its_optimum_marks_the_row() -> None:
    assert convergence({"gap": 1e-6, "validation_top1": 0.8}) is None
    assert convergence({"own_head": True}) is None
    far = convergence({"gap": 0.1, "validation_top1": 0.8})
    assert far is not None
    assert "nats" in far.detail
    lost = convergence({"gap": 0.1, "validation_top1": 0.80, "optimum_top1": 0.81})
    assert lost is not None
    assert "1.0 points" in lost.detail
    assert convergence({"gap": 0.1, "validation_top1": 0.80, "optimum_top1": 0.804}) is None


def test_a_matrix_that_rounding_left_indefinite_is_factorised_all_the_same() -> None:
    rows = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = torch.stack([rows.T @ rows, torch.eye(50, dtype=torch.float64)])
    matrix[0].diagonal().sub_(1e-10)  # of rank 3, and 47 eigenvalues are below zero
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(matrix)
    factor = logistic._cholesky(matrix.clone())
    assert torch.equal(factor, factor.tril())
    assert (factor @ factor.mT - matrix).abs().max() < 1e-8
