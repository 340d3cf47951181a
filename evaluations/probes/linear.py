"""Linear probes: one linear classifier per encoder, trained once and used by every suite.

A probe is trained on cached features of the unaugmented training images (the encoder is frozen
and in eval mode) and stored under `results/probes/`. The test images are never seen, and the
last epoch is used: nothing is selected on the images that are measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.features import extract, labelled
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.files import sha256_of, write_atomically
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.seeds import generator, permutation

FORMAT = "robustbench-coss probe 1"
PROTOCOLS = ("sgd", "simclr", "lbfgs")

# "sgd" and "simclr": SimCLR's linear evaluation (Chen et al. 2020, arXiv 2002.05709, appendix
# B.6): SGD at 0.1 · batch / 256 for 90 epochs without any regularisation; its code decays the
# rate along a cosine to zero, without warm-up for this stage.
BASE_LR = 0.1
MOMENTUM = 0.9
# "lbfgs": the same paper, appendix B.8.1.
L2_SMALLEST, L2_LARGEST = 1e-6, 1e5
LBFGS_ITERATIONS = 200
ROWS_AT_ONCE = 65_536  # bounds the memory of a full-batch gradient


@dataclass(frozen=True)
class ProbeConfig:
    """How a probe is trained.

    Attributes:
        protocol: "simclr" is SGD with SimCLR's constants: Nesterov momentum, features as they
            come. "sgd" differs in plain momentum and in features standardised by the training
            mean and standard deviation, so that encoders whose features differ in scale meet the
            same learning rate. "lbfgs" is multinomial logistic regression on standardised
            features, min sum CE + λ/2 ‖W‖² (λ = 1/C of scikit-learn), with the λ that does best
            on the validation role; the larger one where two tie. It is not refitted on training
            and validation images together.
        batch_size, epochs: of "sgd" and "simclr".
        l2_values: how many λ "lbfgs" tries, spaced logarithmically from 1e-6 to 1e5. The paper
            tries 45; 12, one per decade, cost a quarter of the time.
        max_train: train on a random subset of so many images; None takes all. The validation
            images are cut to the same number.
        seed: of the subset and of the order of the batches.
    """

    protocol: str = "sgd"
    batch_size: int = 256
    epochs: int = 90
    l2_values: int = 12
    max_train: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise CossError(
                f"unknown probe protocol {self.protocol!r}; known: {', '.join(PROTOCOLS)}"
            )
        for name in ("batch_size", "epochs", "l2_values", "max_train"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CossError(f"probe {name} must be at least 1, got {value}")

    def settings(self) -> dict[str, Any]:
        """Everything that determines the probe beside its data, JSON-able."""
        shared = {"protocol": self.protocol, "max_train": self.max_train, "seed": self.seed}
        if self.protocol == "lbfgs":
            return shared | {
                "l2_range": [L2_SMALLEST, L2_LARGEST],
                "l2_values": self.l2_values,
                "iterations": LBFGS_ITERATIONS,
                "standardise": True,
            }
        return shared | {
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "lr": BASE_LR * self.batch_size / 256,
            "schedule": "cosine",
            "momentum": MOMENTUM,
            "nesterov": self.protocol == "simclr",
            "weight_decay": 0.0,
            "standardise": self.protocol == "sgd",
        }

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ProbeConfig:
        """The inverse of `settings`.

        Raises:
            CossError: there are no such settings in this version.
        """
        names = ("protocol", "batch_size", "epochs", "l2_values", "max_train", "seed")
        try:
            config = cls(**{name: settings[name] for name in names if name in settings})
        except TypeError as error:
            raise CossError(f"a probe has no settings {dict(settings)!r}") from error
        if config.settings() != dict(settings):
            raise CossError(f"this version trains no probe with the settings {dict(settings)!r}")
        return config


@dataclass(frozen=True)
class Probe:
    """A trained probe.

    Attributes:
        classifier: on the CPU; acts on encoder features as they come.
        key: digest of all that determines the weights.
        summary: JSON-able: key, data set, settings, n_train, train_top1 and validation_top1 as
            shares of 1, and l2 where it was chosen.
    """

    classifier: nn.Linear
    key: str
    summary: dict[str, Any]


def fit_probe(
    config: ProbeConfig,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    classes: int,
    device: torch.device | None = None,
) -> tuple[nn.Linear, dict[str, float]]:
    """Train a linear classifier on features.

    Args:
        train, validation: features [N, D] and labels [N] in 0 … classes - 1.
        device: where to train; None means the CPU.

    Returns:
        The classifier, on the CPU, with any standardisation folded in so that it acts on
        unstandardised features, and train_top1, validation_top1 and (for "lbfgs") l2.

    Raises:
        CossError: features are not finite, or training diverged.
    """
    device = device or torch.device("cpu")
    if not bool(torch.isfinite(train[0]).all()):
        raise CossError("features are NaN or infinite; the encoder's training diverged")
    mean, scale = _standardisation(train[0])
    if config.protocol == "simclr":
        mean, scale = torch.zeros_like(mean), torch.ones_like(scale)
    found: dict[str, float] = {}
    if config.protocol == "lbfgs":
        classifier, found["l2"] = _select_l2(
            config, train, validation, classes, mean, scale, device
        )
    else:
        classifier = _sgd(config, *train, classes, mean, scale, device)
    if not all(bool(torch.isfinite(p).all()) for p in classifier.parameters()):
        raise CossError(
            f"the {config.protocol!r} probe diverged: the features are too large for its learning "
            "rate; use `--probe sgd`, which standardises them"
        )
    found["train_top1"] = accuracy(classifier, *train)
    found["validation_top1"] = accuracy(classifier, *validation)
    return classifier.requires_grad_(False), found


@torch.inference_mode()
def accuracy(classifier: nn.Linear, features: Tensor, labels: Tensor) -> float:
    """Share of the [N, D] features whose top-1 class is their label; NaN for N = 0."""
    hits = sum(int((classifier(x).argmax(dim=1) == y).sum()) for x, y in _chunks(features, labels))
    return hits / len(labels) if len(labels) else math.nan


def fold(weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor) -> nn.Linear:
    """The classifier on x that equals `weight`, `bias` on the standardised (x - mean) / scale.

    Args:
        weight: [K, D]; bias: [K]; mean, scale: [D].
    """
    classifier = nn.Linear(weight.shape[1], weight.shape[0])
    folded = weight.double() / scale.double()
    with torch.no_grad():
        classifier.weight.copy_(folded)
        classifier.bias.copy_(bias.double() - folded @ mean.double())
    return classifier


def _chunks(*columns: Tensor, rows: int = ROWS_AT_ONCE) -> Iterator[tuple[Tensor, ...]]:
    for i in range(0, len(columns[0]), rows):
        yield tuple(column[i : i + rows] for column in columns)


def _standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [D] of features; dead features keep scale 1.

    A feature that hardly varies beside its own size is rounding noise; dividing by its deviation
    would blow the noise up.
    """
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for (chunk,) in _chunks(features):
        total += chunk.double().sum(dim=0)
    mean = total / len(features)
    squares = torch.zeros_like(total)
    for (chunk,) in _chunks(features):
        squares += (chunk.double() - mean).square_().sum(dim=0)
    std = (squares / len(features)).sqrt()
    scale = torch.where(std > 1e-6 * mean.abs().clamp_min(1e-6), std, torch.ones_like(std))
    return mean.float(), scale.float()


def _sgd(
    config: ProbeConfig,
    features: Tensor,
    labels: Tensor,
    classes: int,
    mean: Tensor,
    scale: Tensor,
    device: torch.device,
) -> nn.Linear:
    # The objective is convex, so zero is as good a start as any and needs no draw.
    weight = torch.zeros(classes, features.shape[1], device=device)
    bias = torch.zeros(classes, device=device)
    peak = BASE_LR * config.batch_size / 256
    nesterov = config.protocol == "simclr"
    optimiser = torch.optim.SGD([weight, bias], lr=peak, momentum=MOMENTUM, nesterov=nesterov)
    mean_there, scale_there = mean.to(device), scale.to(device)
    steps = config.epochs * math.ceil(len(labels) / config.batch_size)
    step = 0
    for epoch in range(config.epochs):
        order = torch.randperm(len(labels), generator=generator("probe order", config.seed, epoch))
        for (chosen,) in _chunks(order, rows=config.batch_size):
            optimiser.param_groups[0]["lr"] = peak * 0.5 * (1 + math.cos(math.pi * step / steps))
            x = (features[chosen].to(device) - mean_there) / scale_there
            # The gradient of mean cross-entropy in the logits, written out: with layers this
            # small, autograd costs more than the arithmetic.
            error = F.linear(x, weight, bias).softmax(dim=1)
            error[torch.arange(len(x), device=device), labels[chosen].to(device)] -= 1
            error /= len(x)
            weight.grad, bias.grad = error.T @ x, error.sum(dim=0)
            optimiser.step()
            step += 1
    return fold(weight.detach().cpu(), bias.detach().cpu(), mean, scale)


def _select_l2(
    config: ProbeConfig,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    classes: int,
    mean: Tensor,
    scale: Tensor,
    device: torch.device,
) -> tuple[nn.Linear, float]:
    if len(validation[1]) == 0:
        raise CossError("the 'lbfgs' probe needs validation images to choose its regularisation")
    weight = torch.zeros(classes, train[0].shape[1], dtype=torch.float64, device=device)
    bias = torch.zeros(classes, dtype=torch.float64, device=device)
    best: tuple[float, nn.Linear, float] | None = None
    steps = torch.linspace(
        math.log10(L2_LARGEST), math.log10(L2_SMALLEST), config.l2_values, dtype=torch.float64
    )
    # From strong to weak, each starting from the last optimum: the path is short.
    for l2 in (10.0**exponent for exponent in steps.tolist()):
        weight, bias = logistic_regression(*train, l2, mean, scale, (weight, bias))
        classifier = fold(weight.cpu(), bias.cpu(), mean, scale)
        score = accuracy(classifier, *validation)
        if best is None or score > best[0]:
            best = (score, classifier, l2)
    assert best is not None
    return best[1], best[2]


def logistic_regression(
    features: Tensor,
    labels: Tensor,
    l2: float,
    mean: Tensor,
    scale: Tensor,
    start: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Minimise mean CE + l2 / (2 N) ‖W‖² by L-BFGS, in float64; the bias is not penalised.

    Args:
        features: [N, D], standardised here by mean [D] and scale [D].
        labels: [N] int64.
        l2: λ >= 0.
        start: W [K, D] and bias [K] to start from; they say the device.

    Returns:
        W [K, D] and bias [K] on the standardised features.
    """
    count, device = len(labels), start[0].device
    weight, bias = (t.detach().clone().double().requires_grad_(True) for t in start)
    mean_there, scale_there = mean.double().to(device), scale.double().to(device)
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=LBFGS_ITERATIONS,
        tolerance_grad=1e-5,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        total = weight.square().sum() * (l2 / (2 * count))
        total.backward()  # type: ignore[no-untyped-call]
        value = total.detach()
        for x, y in _chunks(features, labels):
            standardised = (x.to(device).double() - mean_there) / scale_there
            logits = F.linear(standardised, weight, bias)
            part = F.cross_entropy(logits, y.to(device), reduction="sum") / count
            part.backward()  # type: ignore[no-untyped-call]
            value = value + part.detach()
        return value

    optimiser.step(objective)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def probe_key(
    checkpoint_sha256: str, train: ImageSet, validation: ImageSet, config: ProbeConfig
) -> str:
    """Digest of all that determines a probe's weights; names its cache file."""
    return sha256_of(
        {
            "format": FORMAT,
            "checkpoint": checkpoint_sha256,
            "size": train.size,
            "train": train.fingerprint,
            "validation": validation.fingerprint,
            "settings": config.settings(),
        }
    )


def probe_path(results: Path, key: str) -> Path:
    """Where a probe is cached."""
    return results / "probes" / f"{key}.safetensors"


def get_probe(
    checkpoint: Checkpoint,
    train: ImageSet,
    validation: ImageSet,
    config: ProbeConfig,
    *,
    results: Path,
    device: torch.device,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Probe:
    """The probe of an encoder: from the cache, or trained now and cached.

    Args:
        checkpoint: the encoder; it is moved to `device`.
        train, validation: roles of one data set.
        batch_size: images per forward pass; does not change the probe.

    Raises:
        CossError: features are not finite, training diverged, or the cache cannot be written.
    """
    progress = progress or Progress()
    key = probe_key(checkpoint.sha256, train, validation, config)
    path = probe_path(results, key)
    cached = read_probe(path, key, checkpoint.encoder.dim, len(train.classes))
    if cached is not None:
        return cached
    chosen = {images.role: _subset(images, config) for images in (train, validation)}
    progress.plan(sum(len(indices) for indices in chosen.values()))
    features = {}
    for images in (train, validation):
        progress.show(f"{checkpoint.name} probe: features ({images.role})")
        features[images.role] = extract(
            checkpoint.encoder,
            images,
            chosen[images.role],
            batch_size=batch_size,
            device=device,
            progress=progress,
        )
    progress.show(f"{checkpoint.name} probe: training")
    classifier, found = fit_probe(
        config, features[train.role], features[validation.role], len(train.classes), device
    )
    summary = {
        "key": key,
        "checkpoint_sha256": checkpoint.sha256,
        "dataset": train.name,
        "settings": config.settings(),
        "n_train": len(chosen[train.role]),
        **found,
    }
    tensors = {"weight": classifier.weight.contiguous(), "bias": classifier.bias.contiguous()}
    header = {"format": FORMAT, "probe": json.dumps(summary, sort_keys=True, allow_nan=False)}
    write_atomically(path, safetensors.torch.save(tensors, metadata=header))
    return Probe(classifier, key, summary)


def _subset(images: ImageSet, config: ProbeConfig) -> list[int]:
    order = permutation(len(images), "probe subset", images.role, config.seed)
    chosen = labelled(images, order)[: config.max_train]
    indices: list[int] = chosen.sort().values.tolist()
    return indices


def read_probe(path: Path, key: str, dim: int, classes: int) -> Probe | None:
    """A cached probe, or None where there is none or it is damaged: it is then trained again."""
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            header = opened.metadata() or {}
            weight, bias = opened.get_tensor("weight"), opened.get_tensor("bias")
        summary = json.loads(header["probe"])
        intact = (
            header["format"] == FORMAT
            and summary["key"] == key
            and weight.shape == (classes, dim)
            and bias.shape == (classes,)
            and bool(torch.isfinite(weight).all() and torch.isfinite(bias).all())
        )
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError):
        return None
    if not intact:
        return None
    zero, one = torch.zeros(dim), torch.ones(dim)
    return Probe(fold(weight, bias, zero, one).requires_grad_(False), key, summary)
