"""Multinomial logistic regression at its optimum, by Newton's method with conjugate gradients.

Numbers in, numbers out: nothing here knows encoders, files or probes.

The objective is mean CE(Z Wᵀ + b) + λ / (2 N) ‖W‖², Z the standardised features; the bias is not
penalised. It is that of scikit-learn's LogisticRegression with C = 1 / λ. Features that hardly vary
in some directions make it ill-conditioned, so it is solved along principal components.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_coss.evaluations.probes.design import KEPT_BYTES, Design

TOLERANCE = 1e-6
"""Estimated distance to the optimum at which the solver stops, as a share of what was gained over
guessing: under a strong penalty all of that is little, and classes still differ by it."""

FREE = 0.1
"""Share of a direction's variance, about the loss's curvature along it, below which a penalty for
each image does not hold it back."""

L2_SMALLEST, L2_LARGEST = 1e-6, 1e5  # Chen et al. 2020, arXiv 2002.05709, appendix B.8.1

NEWTON_STEPS, CG_STEPS = 100, 250
CG_EASY = 60
"""Steps of conjugate gradients after which the Hessian is factorised to precondition them. Until
then its blocks on the diagonal do, one for each class."""

BLOCK_WORK = {"cpu": 1e11, "cuda": 5e12}
"""Operations that making these blocks may take: as many images as that allows, spread evenly."""

LARGEST_HESSIAN = 6_000
"""Rows of a Hessian that is factorised, at most: 290 MB."""

SKETCH = 4_096
"""Images that it is made of on the CPU, spread evenly: it only preconditions. A GPU takes all."""


@dataclass(frozen=True)
class Solution:
    """Where the solver stopped.

    Attributes:
        place: [K, R + 1]: weights on the coordinates of the `Design`, then the bias.
        loss: mean CE + penalty, in nats.
        gap: estimate of loss - optimum, half the squared Newton decrement gᵀ H⁻¹ g.
        steps: Newton steps.
        passes: over the features.
        reached: whether the gap is as small as was asked; rounding may keep it from that.
        factor: of the Hessian, if it was factorised: it preconditions fits that begin here, too.
    """

    place: Tensor
    loss: float
    gap: float
    steps: int
    passes: int
    reached: bool
    factor: Tensor | None


class _Objective:
    """Loss, gradient and Hessian at one place after another, on the first rows of a design."""

    def __init__(self, design: Design, labels: Tensor, l2: float) -> None:
        self.design, self.labels = design, labels.to(design.device)
        self.count, self.passes = len(labels), 0
        penalty = l2 / self.count / design.variance  # of ½ weight², by coordinate
        self.penalty = torch.cat([penalty, penalty.new_zeros(1)])

    def at(self, place: Tensor) -> tuple[float, Tensor]:
        """Loss and gradient; `hessian` and `factor` are those of this place from now on."""
        self.passes += 1
        weight = self.design.push(place[:, :-1])
        self._weight, self._bias = weight.to(self.design.dtype), place[:, -1].to(self.design.dtype)
        self._shares: list[Tensor] = []
        keep = self.count * len(place) * 8 <= KEPT_BYTES
        loss = place.square().mul(self.penalty).sum() / 2
        by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(place[:, -1])
        self.curvature = torch.zeros_like(by_bias)
        for x, y in self._chunks():
            logs = torch.log_softmax(torch.addmm(self._bias, x, self._weight.T), dim=1)
            loss = loss - logs.gather(1, y[:, None]).sum() / self.count
            shares = logs.exp_()
            if keep:
                self._shares.append(shares)
            self.curvature += (shares * (1 - shares)).sum(dim=0) / self.count
            error = shares.scatter_add(1, y[:, None], -shares.new_ones(len(y), 1))
            by_weight += error.T @ x
            by_bias += error.sum(dim=0) / self.count
        gradient = self._gradient(by_weight / self.count, by_bias)
        return float(loss), gradient + place * self.penalty

    def hessian(self, direction: Tensor) -> Tensor:
        """Its product with a direction [K, R + 1]."""
        self.passes += 1
        pushed, bias = self.design.push(direction[:, :-1]), direction[:, -1]
        by_weight, by_bias = torch.zeros_like(pushed), torch.zeros_like(bias)
        weight, bias = pushed.to(self.design.dtype), bias.to(self.design.dtype)
        for number, (x, _) in enumerate(self._chunks()):
            shares = self._shares[number] if self._shares else self._softmax(x)
            change = torch.addmm(bias, x, weight.T).mul_(shares)
            change -= shares * change.sum(dim=1, keepdim=True)
            by_weight += change.T @ x
            by_bias += change.sum(dim=0) / self.count
        return self._gradient(by_weight / self.count, by_bias) + direction * self.penalty

    def _gradient(self, by_weight: Tensor, by_bias: Tensor) -> Tensor:
        return torch.cat([self.design.pull(by_weight), by_bias[:, None]], dim=1)

    def blocks(self) -> Tensor | None:
        """Cholesky factors [K, R + 1, R + 1] of the Hessian's blocks; None where they cost much.

        Few images tell of a class's block where few are in doubt about it. The fewer, the more of
        it is replaced by what holds if doubt goes by no coordinate: these have unit variance.
        """
        classes, rank = len(self._bias), len(self.penalty)
        images = BLOCK_WORK[self.design.device.type] / (2 * classes * rank**2)
        every = max(1, math.ceil(self.count / max(images, 1)))
        if self.count // every < 2 * rank:
            return None
        shape = (classes, rank, rank)
        matrix = torch.zeros(shape, dtype=torch.float64, device=self.design.device)
        total, squares, used = torch.zeros_like(self.curvature), torch.zeros_like(self.curvature), 0
        for x, _ in self._chunks():
            rows = self.design.pull(x[::every])
            z = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
            shares = self._softmax(x[::every])
            doubt = shares * (1 - shares)
            for a in range(classes):
                matrix[a] += (z * doubt[:, a, None]).T @ z
            total += doubt.sum(dim=0)
            squares += doubt.square().sum(dim=0)
            used += len(z)
        told = total.square() / squares.clamp_min(1e-300)  # images that tell, in effect
        flat = rank / (rank + told)
        matrix *= ((1 - flat) / used)[:, None, None]
        level = (flat * total / used).clamp_min(1e-12)[:, None]
        matrix.diagonal(dim1=1, dim2=2).add_(level + self.penalty)
        return _cholesky(matrix)

    def factor(self) -> Tensor:
        """Cholesky factor of the Hessian [K (R + 1)]², of some of the rows where they are many.

        One vector added to the weights of all classes changes no probability; what is added in
        these directions makes the matrix regular, and `minimise` never moves along them.
        """
        classes, rank = len(self._bias), len(self.penalty)
        every = 1 if self.design.device.type == "cuda" else max(1, self.count // SKETCH)
        shape = (classes, rank, classes, rank)
        matrix = torch.zeros(shape, dtype=torch.float64, device=self.design.device)
        used = 0
        for x, _ in self._chunks():
            rows = self.design.pull(x[::every])
            shares = self._softmax(x[::every])
            z = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
            used += len(z)
            for a in range(classes):
                for b in range(a + 1):
                    both = shares[:, a] * ((1.0 if a == b else 0.0) - shares[:, b])
                    matrix[a, :, b] += (z * both[:, None]).T @ z  # float64, whatever the rows
        matrix = matrix.div_(used).reshape(classes * rank, classes * rank)
        rounding = max(1e-9, 100 * torch.finfo(self.design.dtype).eps) * self.curvature.mean()
        matrix.diagonal().add_(self.penalty.repeat(classes) + rounding)
        common = matrix.view(shape).diagonal(dim1=1, dim2=3)  # [K, K, R + 1]
        common += self.curvature.mean().clamp_min(1e-12) / classes
        return _cholesky(matrix)

    def _softmax(self, x: Tensor) -> Tensor:
        return torch.addmm(self._bias, x, self._weight.T).softmax(dim=1)

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        done = 0
        for x in self.design.rows(0, self.count):
            yield x, self.labels[done : done + len(x)]
            done += len(x)


def _cholesky(matrix: Tensor) -> Tensor:
    """Lower factors of [..., R, R] symmetric matrices, whose lower triangles are read and which
    are changed where rounding left them indefinite, as it does with fewer images than coordinates:
    what it takes is added to their diagonals. A preconditioner need not be exact.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    more = 1e-12 * diagonal.abs().mean()
    while bool(failed.any()) and bool(more.isfinite()):
        diagonal += more
        more *= 10
        factor, failed = torch.linalg.cholesky_ex(matrix)
    return factor  # type: ignore[no-any-return]


def _solve(factor: Tensor, right: Tensor) -> Tensor:
    """(L Lᵀ)⁻¹ of [..., R, 1], as `cholesky_solve` gives it, which copies L each time."""
    for side, upper in ((factor, False), (factor.mT, True)):
        right = torch.linalg.solve_triangular(side, right, upper=upper)
    return right


def minimise(
    design: Design,
    labels: Tensor,
    classes: int,
    l2: float,
    *,
    start: Solution | None = None,
    tolerance: float = TOLERANCE,
) -> Solution:
    """Fit the first rows of a design, as many as there are labels.

    Args:
        labels: [N] int64 in 0 … classes - 1, N at most the number of rows.
        l2: λ > 0.
        start: begin at another solution; None begins at zero.
        tolerance: stop once the estimated gap is no larger a share of ln K - loss, nor of ten
            times the loss: where classes are told apart without error, little of it is left.
    """
    if start is None:
        shape = (classes, len(design.variance) + 1)
        place = torch.zeros(shape, dtype=torch.float64, device=design.device)
    else:
        place = start.place
    objective = _Objective(design, labels, l2)
    loss, gradient = objective.at(place)
    solver = _Newton(objective, None if start is None else start.factor)
    gap, near = math.inf, 0.0

    def stopped(steps: int) -> Solution:
        return Solution(place, loss, gap, steps, objective.passes, gap <= near, solver.factor)

    for step in range(NEWTON_STEPS):
        near = max(tolerance * min(math.log(classes) - loss, 10 * loss), 1e-15)
        direction = solver.direction(gradient, near / 5)
        slope = float((gradient * direction).sum())
        gap = max(slope / 2, 0.0)
        if gap <= near:
            return stopped(step)
        size = 1.0
        while True:
            moved = place - size * direction
            reached, there = objective.at(moved)
            if reached <= loss - 1e-4 * size * slope:
                break
            size /= 2
            if size < 1e-10:  # no descent is left that float64 can tell
                return stopped(step)
        place, loss, gradient = moved, reached, there
    return stopped(NEWTON_STEPS)


class _Newton:
    """Newton directions H⁻¹ g by preconditioned conjugate gradients."""

    def __init__(self, objective: _Objective, factor: Tensor | None) -> None:
        self.objective, self.factor = objective, factor
        self._blocks = objective.blocks() if factor is None else None

    def direction(self, gradient: Tensor, least: float) -> Tensor:
        """Up to a tenth of g in the norm of the preconditioner, near the optimum closer.

        Args:
            least: square of a residual in that norm below which a tenth will do.
        """
        found = torch.zeros_like(gradient)
        found, left = self._conjugate(found, gradient, gradient, CG_EASY, least)
        if left is not None:
            if gradient.numel() <= LARGEST_HESSIAN:
                self.factor = self.objective.factor()
            found, _ = self._conjugate(found, left, gradient, CG_STEPS, least)
        return found

    def _conjugate(
        self, found: Tensor, left: Tensor, gradient: Tensor, steps: int, least: float
    ) -> tuple[Tensor, Tensor | None]:
        """Go on from a direction and its residual; the residual is None where it is small."""
        whole = float((gradient * self._precondition(gradient)).sum())
        closer = whole * min(0.1, math.sqrt(max(whole, 0.0))) ** 2
        enough = max(closer, min(0.01 * whole, least))
        scaled = self._precondition(left)
        towards, size = scaled, float((left * scaled).sum())
        for _ in range(steps):
            if size <= enough:
                return found, None
            bent = self.objective.hessian(towards)
            curved = float((towards * bent).sum())
            if curved <= 0:  # flat to rounding
                return found, None
            found = found + size / curved * towards
            left = left - size / curved * bent
            scaled = self._precondition(left)
            before, size = size, float((left * scaled).sum())
            towards = scaled + size / before * towards
        return found, left

    def _precondition(self, gradient: Tensor) -> Tensor:
        if self.factor is not None:
            scaled = _solve(self.factor, gradient.reshape(-1, 1)).reshape(gradient.shape)
        elif self._blocks is not None:
            scaled = _solve(self._blocks, gradient[:, :, None])[:, :, 0]
        else:
            # Coordinates have unit variance, so one number tells the curvature of all.
            curvature = self.objective.curvature.mean().clamp_min(1e-12)
            scaled = gradient / (curvature + self.objective.penalty)
        # What all classes share changes no probability, and the optimum has none of it.
        return scaled - scaled.mean(dim=0)


@dataclass(frozen=True)
class Fit:
    """A classifier with the penalty that did best on validation images.

    Attributes:
        weight, bias: [K, D] and [K] float64 on the CPU, on features as they come; fitted to
            training and validation images.
        l2: λ.
        validation_top1: share of the validation images that the fit to the training images alone
            has right.
        train_loss: mean cross-entropy of that one on the training images.
        solution: where the last fit stopped.
        steps: Newton steps of all fits.
    """

    weight: Tensor
    bias: Tensor
    l2: float
    validation_top1: float
    train_loss: float
    solution: Solution
    steps: int


def fit(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    classes: int,
    l2_values: int,
    device: torch.device,
) -> Fit:
    """Choose λ by top-1 on the validation images, then fit to these and the training images.

    From strong to weak, each fit starting at the last optimum, in float32 as far as that goes;
    of equal ones the strongest is taken. The last fit is in float64. The search goes no further
    once two in a row improve neither the top-1 nor the cross-entropy of the validation images, and
    the penalty holds back no direction any more: what tells classes apart may lie where features
    hardly vary.

    Args:
        train, validation: features [N, D] on the CPU and labels [N] in 0 … classes - 1.
        l2_values: how many λ from 1e5 down to 1e-6, spaced logarithmically.
    """
    design = Design([train[0], validation[0]], device)
    rough, count = design.single(), len(train[1])
    strongest, weakest = math.log10(L2_LARGEST), math.log10(L2_SMALLEST)
    exponents = torch.linspace(strongest, weakest, l2_values, dtype=torch.float64).tolist()
    # Features that do not vary have no direction; what is fitted is how often classes occur.
    smallest = float(design.variance.min()) if len(design.variance) else math.inf
    best: tuple[float, float, Solution] | None = None
    solution, lowest, idle, steps = None, math.inf, 0, 0
    for l2 in (10.0**exponent for exponent in exponents):
        solution = minimise(rough, train[1], classes, l2, start=solution)
        steps += solution.steps
        if not solution.reached:
            solution = minimise(design, train[1], classes, l2, start=solution)
            steps += solution.steps
        top1, loss = _score(rough, solution.place, validation[1], count)
        better = best is None or top1 > best[0]
        idle = 0 if better or loss < lowest else idle + 1
        lowest = min(lowest, loss)
        if better:
            best = (top1, l2, solution)
        if idle >= 2 and l2 / count < FREE * smallest:
            break
    assert best is not None
    top1, l2, chosen = best
    train_loss = _score(rough, chosen.place, train[1], 0)[1]
    last = minimise(design, torch.cat([train[1], validation[1]]), classes, l2, start=chosen)
    weight, bias = design.unfold(last.place[:, :-1], last.place[:, -1])
    return Fit(weight, bias, l2, top1, train_loss, last, steps + last.steps)


def _score(design: Design, place: Tensor, labels: Tensor, start: int) -> tuple[float, float]:
    """Share right and mean cross-entropy of the rows from `start` on, whose labels are given."""
    weight, bias = (t.to(design.dtype) for t in (design.push(place[:, :-1]), place[:, -1]))
    right, loss, done = 0, 0.0, 0
    for x in design.rows(start, start + len(labels)):
        y = labels[done : done + len(x)].to(design.device)
        logits = torch.addmm(bias, x, weight.T)
        right += int((logits.argmax(dim=1) == y).sum())
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
        done += len(x)
    return right / len(labels), loss / len(labels)
