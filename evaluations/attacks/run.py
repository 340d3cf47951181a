"""Adversarial attacks, run through torchattacks on the images that are still classified rightly.

Which attacks there are, how torchattacks is called for each, which generator feeds it, and what is
checked of its result. Verdicts are those that torchattacks reaches on each image alone: a batch
saves time and changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torchattacks
from torch import Tensor, nn

from robustbench_coss.evaluations.attacks.draws import PerSampleDraws, SharedDraws, streams
from robustbench_coss.evaluations.protocol import top1
from robustbench_coss.seeds import Name, seed_of

LINF, L2 = "linf", "l2"
STEP_SHARE = 2.5  # Madry et al. 2018: step = 2.5 · eps / steps reaches any point of the ball
TOLERANCE = 1e-5
# Croce and Hein 2020 (arXiv 2003.01690), the "standard" version of AutoAttack. torchattacks' own
# class runs 10 steps and as many targets as there are wrong classes.
AUTOATTACK_STEPS = 100
TARGETS = 9
QUERIES = 5_000


@dataclass(frozen=True)
class Attack:
    """An attack that can be asked for.

    Attributes:
        label: as metrics call it.
        norm: "linf" or "l2".
        draws: whether it has a random part, so that a restart can find more.
        classes: how many classes it needs.
    """

    label: str
    norm: str
    draws: bool = True
    classes: int = 2


ATTACKS = {
    "fgsm": Attack("FGSM", LINF, draws=False),
    "mi-fgsm": Attack("MI-FGSM", LINF, draws=False),
    "pgd-linf": Attack("PGD-Linf", LINF),
    "pgd-l2": Attack("PGD-L2", L2),
    "apgd-ce": Attack("APGD-CE", LINF),
    "apgd-ce-l2": Attack("APGD-CE-L2", L2),
    # The loss divides by a difference of the first and the third largest logit.
    "apgd-dlr": Attack("APGD-DLR", LINF, classes=3),
    "apgd-dlr-l2": Attack("APGD-DLR-L2", L2, classes=3),
    "fab": Attack("FAB-T", LINF),
    "fab-l2": Attack("FAB-T-L2", L2),
    "square": Attack("Square", LINF),
    "square-l2": Attack("Square-L2", L2),
    # The targeted loss looks at the four largest logits.
    "autoattack": Attack("AutoAttack", LINF, classes=4),
    "autoattack-l2": Attack("AutoAttack-L2", L2, classes=4),
}


@dataclass(frozen=True)
class Strength:
    """How hard an attack tries.

    Attributes:
        eps: radius of the ball, in pixels of [0, 1].
        steps: gradient steps of an iterated attack; AutoAttack has its own.
        restarts: random starts of an attack that has a random part.
    """

    eps: float
    steps: int = 10
    restarts: int = 1


class Settled(Exception):
    """No image of the batch is left to attack: ends a run of torchattacks early."""


class Watch(nn.Module):
    """The classifier as an attack sees it, which notes the images that break it on the way.

    Outputs that are not finite break an image under every attack. Wrong answers at any step do so
    where the attack itself counts them (`any_step`). A broken image is not passed through the
    classifier again; its logits are zeros from then on, without a gradient.

    One object serves many runs: torchattacks keeps every model it was ever given.
    """

    model: nn.Module | None
    images: Tensor | None
    labels: Tensor
    best: Tensor
    broken: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.forget()
        self.eval()

    def follow(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        attack: Attack,
        eps: float,
        any_step: bool,
    ) -> None:
        """Begin a run whose every call is over the whole of a batch [B, 3, H, W]."""
        self.model, self.attack, self.eps, self.any_step = model, attack, eps, any_step
        self.images, self.labels = images, labels
        self.best = images.clone()
        self.broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def pass_through(self, model: nn.Module) -> None:
        """Begin a run that picks images itself, so that no call can be told to be of which."""
        self.forget()
        self.model = model

    def forget(self) -> None:
        """Let go of the model and of the images."""
        self.model = None
        self.images = None

    def forward(self, x: Tensor) -> Tensor:
        assert self.model is not None
        # Gives a contiguous gradient, as torchattacks' `.view` requires; an encoder in
        # channels_last returns gradients in that layout otherwise.
        x = x.flatten(1).view(x.shape)
        if self.images is None:
            return _finite_rows(differentiable(self.model, x))[0]
        live = ~self.broken & torch.isfinite(x.detach()).flatten(1).all(dim=1)
        rows = live.nonzero().flatten()
        if not len(rows):
            raise Settled
        chosen = x if len(rows) == len(x) else x[rows]
        logits, finite = _finite_rows(differentiable(self.model, chosen))
        self._note(x.detach(), rows, logits.detach(), finite)
        if len(rows) == len(x):
            return logits
        zeros = logits.new_zeros(len(x), logits.shape[1])
        return zeros.index_copy(0, rows, logits)

    def _note(self, x: Tensor, rows: Tensor, logits: Tensor, finite: Tensor) -> None:
        assert self.images is not None
        hit = ~finite
        if self.any_step:
            hit |= logits.argmax(dim=1) != self.labels[rows]
        rows = rows[hit]
        inside = sizes(self.images[rows], x[rows], self.attack.norm) <= limit(
            self.eps, self.attack.norm
        )
        rows = rows[inside]
        self.best[rows] = x[rows]
        self.broken[rows] = True


def differentiable(model: nn.Module, x: Tensor) -> Tensor:
    """Logits [B, K] of images whose gradient is zero, not missing, where a model cuts it off."""
    logits: Tensor = model(x)
    if x.requires_grad and not logits.requires_grad:
        logits = logits + x.flatten(1)[:, :0].sum()
    return logits


def _finite_rows(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits with rows that are not finite set to zero, and which rows are finite, [B] bool."""
    finite = torch.isfinite(logits.detach()).all(dim=1)
    return torch.where(finite[:, None], logits, torch.zeros_like(logits)), finite


Call = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AttackRun:
    """One run of torchattacks over the images that are not broken yet.

    Attributes:
        call: model, images and labels to disturbed images.
        draws: "" for none, "sample" for a generator per image, "shared" for one for all.
        stream: rounds of one stream continue each other's draws.
        restart: number of the random start, from 0.
        any_step: a wrong answer at any step breaks an image, as the attack itself has it.
        tracked: each call of the model is over the whole batch.
        alone: images are attacked one by one.
    """

    call: Call
    draws: str
    stream: str
    restart: int
    any_step: bool = False
    tracked: bool = True
    alone: bool = False


def rounds(name: str, strength: Strength, classes: int) -> list[AttackRun]:
    """The runs of torchattacks that an attack consists of, for a model of so many classes."""
    attack = ATTACKS[name]
    starts = range(strength.restarts if attack.draws else 1)
    return [r for start in starts for r in _rounds(name, strength, classes, start)]


def _rounds(name: str, strength: Strength, classes: int, start: int) -> list[AttackRun]:
    attack, eps, steps = ATTACKS[name], strength.eps, strength.steps
    norm = "Linf" if attack.norm == LINF else "L2"
    kind = name.removesuffix("-l2").removesuffix("-linf")
    step = STEP_SHARE * eps / steps
    targets = range(2, min(classes, TARGETS + 1) + 1)  # 2 stands for the second largest logit

    def fgsm(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = torchattacks.FGSM(model, eps=eps)(x, y)
        return found

    def mi_fgsm(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = torchattacks.MIFGSM(model, eps=eps, alpha=step, steps=steps)(x, y)
        return found

    def pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        options = {"eps": eps, "alpha": step, "steps": steps}
        if attack.norm == LINF:
            run = torchattacks.PGD(model, **options)
        else:
            # torchattacks averages the loss over the batch, which shrinks each gradient by its
            # size; the guard against division by zero must shrink with it or the step would
            # depend on it.
            run = torchattacks.PGDL2(model, **options, eps_for_division=1e-10 / len(x))
        found: Tensor = run(x, y)
        return found

    # From here on the run itself is called: what surrounds it classifies the images once more and
    # seeds torch's global generator.
    def apgd(loss: str, steps: int) -> AttackRun:
        def call(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            run = torchattacks.APGD(model, norm=norm, eps=eps, steps=steps, loss=loss)
            found: Tensor = run.attack_single_run(x, y)[3]
            return found

        return AttackRun(call, "sample", f"apgd-{loss}", start, any_step=True)

    def apgd_targeted(target: int, steps: int) -> AttackRun:
        def call(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            run = torchattacks.APGDT(model, norm=norm, eps=eps, steps=steps, n_classes=classes)
            run.target_class = target
            found: Tensor = run.attack_single_run(x, y)[3]
            return found

        # For L2, torchattacks takes the first image's step size for all.
        alone = attack.norm == L2
        return AttackRun(call, "sample", "apgd-t", start, any_step=True, alone=alone)

    def fab(target: int, steps: int) -> AttackRun:
        def call(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            run = torchattacks.FAB(
                model, norm=norm, eps=eps, steps=steps, multi_targeted=True, n_classes=classes
            )
            run.target_class = target
            with torch.no_grad():
                found: Tensor = run.attack_single_run_targeted(x, None, use_rand_start=start > 0)
            # It looks for the nearest image across the boundary, wherever that is.
            inside = sizes(x, found, attack.norm) <= eps
            return torch.where(inside[:, None, None, None], found, x)

        return AttackRun(call, "sample" if start else "", "fab", start)

    def square() -> AttackRun:
        def call(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            run = torchattacks.Square(model, norm=norm, eps=eps, n_queries=QUERIES)
            run.init_hyperparam(x)
            found: Tensor = run.attack_single_run(x, y)[1]
            return found

        return AttackRun(call, "shared", "square", start, tracked=False)

    if kind in ("fgsm", "mi-fgsm"):
        return [AttackRun(fgsm if kind == "fgsm" else mi_fgsm, "", kind, start)]
    if kind == "pgd":
        return [AttackRun(pgd, "sample", kind, start)]
    if kind in ("apgd-ce", "apgd-dlr"):
        return [apgd(kind.removeprefix("apgd-"), steps)]
    if kind == "fab":
        return [fab(target, steps) for target in targets]
    if kind == "square":
        return [square()]
    return [
        apgd("ce", AUTOATTACK_STEPS),
        *(apgd_targeted(target, AUTOATTACK_STEPS) for target in targets),
        *(fab(target, AUTOATTACK_STEPS) for target in targets),
        square(),
    ]


def run_attack(
    watch: Watch,
    model: nn.Module,
    name: str,
    images: Tensor,
    labels: Tensor,
    own: Sequence[int],
    strength: Strength,
    classes: int,
    key: Sequence[Name],
) -> tuple[Tensor, Tensor]:
    """Attack images until they are broken or the attack is at its end.

    Args:
        watch: reused over runs.
        model: pixels in [0, 1] to logits, in eval mode.
        name: of `ATTACKS`.
        images: [B, 3, H, W] float32 in [0, 1], contiguous, not inference tensors; B >= 1.
        labels: [B] int64, the answers that the model gives to `images`.
        own: [B] what each image's draws are keyed by, besides `key`.
        classes: outputs of the model.
        key: what the draws are for.

    Returns:
        The images as disturbed last, [B, 3, H, W], and which of them are broken, [B] bool.

    Raises:
        RuntimeError: a result leaves the ball or the range of pixels.
    """
    attack = ATTACKS[name]
    disturbed, broken = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    generators: dict[tuple[str, int], list[torch.Generator]] = {}
    for turn in rounds(name, strength, classes):
        rows = (~broken).nonzero().flatten()
        if not len(rows):
            break
        again: tuple[Name, ...] = ("restart", turn.restart) if turn.restart else ()
        place = (turn.stream, turn.restart)
        if turn.draws and place not in generators:
            seeds = (
                [seed_of(*key, *again)]
                if turn.draws == "shared"
                else [seed_of(*key, i, *again) for i in own]
            )
            generators[place] = streams(seeds)
        for some in torch.split(rows, 1) if turn.alone else [rows]:
            draws: PerSampleDraws | SharedDraws | nullcontext[None] = nullcontext()
            if turn.draws == "shared":
                draws = SharedDraws(generators[place][0])
            elif turn.draws:
                draws = PerSampleDraws([generators[place][i] for i in some.tolist()])
            with torch.enable_grad(), draws:
                found, hit = _run(watch, model, turn, images[some], labels[some], attack, strength)
            disturbed[some], broken[some] = found, hit
    verify(images, disturbed, strength.eps, l2=attack.norm == L2)
    return disturbed, broken


def _run(
    watch: Watch,
    model: nn.Module,
    turn: AttackRun,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    strength: Strength,
) -> tuple[Tensor, Tensor]:
    if turn.tracked:
        watch.follow(model, images, labels, attack, strength.eps, turn.any_step)
    else:
        watch.pass_through(model)
    try:
        found = turn.call(watch, images, labels).detach()
    except Settled:
        found = images
    seen, noted = (watch.broken, watch.best) if turn.tracked else (None, images)
    watch.forget()
    if turn.any_step:
        assert seen is not None
        return noted, seen
    # A gradient that vanishes leaves some attacks with 0 / 0: they have found nothing then.
    usable = torch.isfinite(found).flatten(1).all(dim=1)
    found = torch.where(usable[:, None, None, None], found, images)
    if seen is not None:
        found = torch.where(seen[:, None, None, None], noted, found)
    wrong = ~is_right(model, found, labels)
    return found, wrong if seen is None else wrong | seen


@torch.no_grad()
def is_right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """[B] bool: whether the top-1 class of each image is its label."""
    return top1(model(images)) == labels


def sizes(images: Tensor, disturbed: Tensor, norm: str) -> Tensor:
    """[B]: the norm ("linf" or "l2") of each image's perturbation."""
    delta = (disturbed - images).flatten(1)
    return delta.norm(dim=1) if norm == L2 else delta.abs().amax(dim=1)


def limit(eps: float, norm: str) -> float:
    """The size that a perturbation may have: 1e-5 above `eps`, for L2 times the radius where that
    is above 1 (float32 rounding grows with the norm).
    """
    return eps + TOLERANCE * (max(1.0, eps) if norm == L2 else 1.0)


def verify(images: Tensor, disturbed: Tensor, eps: float, *, l2: bool) -> None:
    """Check that disturbed images lie in the ball of radius `eps` and in [0, 1], up to rounding.

    Raises:
        RuntimeError: they do not, or are not finite.
    """
    norm = L2 if l2 else LINF
    size = sizes(images, disturbed, norm)
    if not bool((size <= limit(eps, norm)).all()):
        raise RuntimeError(f"perturbation of size {size.max():g} exceeds eps = {eps:g}")
    if not bool(((disturbed >= -TOLERANCE) & (disturbed <= 1 + TOLERANCE)).all()):
        raise RuntimeError("adversarial pixels outside [0, 1]")


def sign_noise(images: Tensor, eps: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Images [B, 3, H, W] with `eps` added or taken away from each value at random, in [0, 1]."""
    with PerSampleDraws(generators):
        return (images + eps * (torch.rand_like(images) - 0.5).sign()).clamp(0, 1)


def flat_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """[B] bool: whether the cross-entropy's gradient at an image is zero throughout or not finite.

    Such an image gives an attack by gradients no direction.
    """
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        loss = nn.functional.cross_entropy(differentiable(model, x), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    flat = gradient.flatten(1)
    return (flat == 0).all(dim=1) | ~torch.isfinite(flat).all(dim=1)
