"""Linear probes: one linear classifier per encoder, trained once and used by every suite.

A probe is trained on cached features of the unaugmented training images (the encoder is frozen
and in eval mode) and stored under `results/probes/`. The test images are never seen: what is chosen
is chosen on validation images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_coss.datasets.base import ImageSet
from robustbench_coss.datasets.geometry import geometry_of
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes import logistic, sgd
from robustbench_coss.evaluations.probes.design import chunks, standardisation
from robustbench_coss.evaluations.probes.features import extract, labelled
from robustbench_coss.evaluations.progress import Progress
from robustbench_coss.files import canonical_json, sha256_of, write_atomically
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.models.containers import read_safetensors
from robustbench_coss.reading import parse_json
from robustbench_coss.records.record import Check
from robustbench_coss.seeds import permutation

FORMAT = "robustbench-coss probe 2"
DEFAULT = "logistic"
KINDS = (DEFAULT, "sgd", "simclr")

COSTLY = 0.005
"""Share of validation images that a probe has wrong for want of convergence which marks a row."""

UNCONVERGED = 1e-3
"""Nats above the optimum which do: 0.1 % of the likelihood of an image, far below `COSTLY`."""


def check_count(what: str, value: Any) -> None:
    """Raise CossError unless a value is a whole number of at least 1."""
    if not isinstance(value, Integral):
        raise CossError(f"{what} must be a whole number, got {value!r}")
    if value < 1:
        raise CossError(f"{what} must be at least 1, got {value}")


@dataclass(frozen=True)
class ProbeConfig:
    """How a probe is trained.

    Attributes:
        kind: "logistic" is multinomial logistic regression on standardised features at its
            optimum, min sum CE + λ/2 ‖W‖² (λ = 1/C of scikit-learn), with the λ that does best on
            the validation role, the larger one where two tie; fitted to training and validation
            images in the end. "simclr" is SGD with SimCLR's constants: Nesterov momentum, features
            as they come. "sgd" differs in plain momentum and in standardised features, so that
            encoders whose features differ in scale meet the same learning rate.
        batch_size, epochs: of "sgd" and "simclr".
        l2_values: how many λ "logistic" tries at most, spaced logarithmically from 1e5 to 1e-6:
            with 12, one per decade.
        max_train: train on a random subset of so many images; None takes all. The validation
            images are cut to the same number.
        seed: of the subset and of the order of the batches.
    """

    kind: str = DEFAULT
    batch_size: int = 256
    epochs: int = 90
    l2_values: int = 12
    max_train: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CossError(f"unknown kind of probe {self.kind!r}; known: {', '.join(KINDS)}")
        for name in ("batch_size", "epochs", "l2_values", "max_train"):
            value = getattr(self, name)
            if name != "max_train" or value is not None:
                check_count(f"probe {name}", value)

    def settings(self) -> dict[str, Any]:
        """Everything that determines the probe beside its data, JSON-able."""
        shared = {"kind": self.kind, "max_train": self.max_train, "seed": self.seed}
        if self.kind == "logistic":
            return shared | {
                "l2_range": [logistic.L2_SMALLEST, logistic.L2_LARGEST],
                "l2_values": self.l2_values,
                "tolerance": logistic.TOLERANCE,
                "precision": "float64",
                "standardise": True,
                "refit": True,
            }
        return shared | {
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "lr": sgd.BASE_LR * self.batch_size / 256,
            "schedule": "cosine",
            "momentum": sgd.MOMENTUM,
            "nesterov": self.kind == "simclr",
            "weight_decay": 0.0,
            "standardise": self.kind == "sgd",
        }

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ProbeConfig:
        """The inverse of `settings`.

        Raises:
            CossError: there are no such settings in this version.
        """
        names = ("kind", "batch_size", "epochs", "l2_values", "max_train", "seed")
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
        summary: JSON-able: key, data set, settings, n_train, and what was found: train_top1 and
            validation_top1 as shares of 1, the training loss and its gap to the optimum in nats.
            "logistic" adds l2 and iterations (Newton steps); its validation_top1 is from before the
            validation images were fitted to, its loss includes the penalty, its gap is half the
            squared Newton decrement. "sgd" and "simclr" add optimum_top1, the validation_top1 of
            "logistic", whose cross-entropy on the training images their gap refers to.
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
        The classifier, on the CPU, acting on features as they come, and what `Probe.summary` says
        that was found.

    Raises:
        CossError: features are not finite, there is no validation image, or training diverged.
    """
    device = device or torch.device("cpu")
    if not bool(torch.isfinite(train[0]).all()):
        raise CossError("features are NaN or infinite; the encoder's training diverged")
    if len(validation[1]) == 0:
        raise CossError("a probe needs validation images to choose its regularisation")
    if config.kind != "logistic":
        mean, scale = standardisation(train[0])
        if config.kind == "simclr":
            mean, scale = torch.zeros_like(mean), torch.ones_like(scale)
        weights = sgd.fit(
            *train,
            classes,
            (mean, scale),
            batch_size=config.batch_size,
            epochs=config.epochs,
            nesterov=config.kind == "simclr",
            seed=config.seed,
            device=device,
        )
        classifier = fold(*weights, mean, scale)
        if not all(bool(torch.isfinite(p).all()) for p in classifier.parameters()):
            raise CossError(
                f"the {config.kind!r} probe diverged: the features are too large for its learning "
                "rate; use `--probe logistic`, which standardises them"
            )
    best = logistic.fit(train, validation, classes, config.l2_values, device)
    found: dict[str, float] = {"iterations": best.steps, "l2": best.l2}
    if config.kind == "logistic":
        classifier = _layer(best.weight, best.bias)
        found |= {"loss": best.solution.loss, "gap": best.solution.gap}
        found["validation_top1"] = best.validation_top1
    else:
        loss = mean_loss(classifier, *train)
        found = {"loss": loss, "gap": loss - best.train_loss}
        found["validation_top1"] = accuracy(classifier, *validation)
        found["optimum_top1"] = best.validation_top1
    found["train_top1"] = accuracy(classifier, *train)
    return classifier.requires_grad_(False), found


def convergence(summary: Mapping[str, Any]) -> Check | None:
    """A failed check where a probe is so far from the optimum that it costs half a point or more.

    Args:
        summary: as `Probe.summary`. None of a probe of another version says so.
    """
    gap = float(summary.get("gap", 0.0))
    lost = float(summary.get("optimum_top1", 0.0)) - float(summary.get("validation_top1") or 0.0)
    if "optimum_top1" in summary and lost > COSTLY:
        detail = f"{100 * lost:.1f} points below the optimum on validation images"
    elif "optimum_top1" not in summary and gap > UNCONVERGED:
        detail = f"training loss {gap:.2g} nats above the optimum"
    else:
        return None
    return Check("the linear probe is converged", False, detail)


@torch.inference_mode()
def mean_loss(classifier: nn.Linear, features: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy of [N, D] features, in nats."""
    losses = (
        F.cross_entropy(classifier(x), y, reduction="sum")
        for x, y in zip(chunks(features), chunks(labels), strict=True)
    )
    return float(sum(losses)) / len(labels)


@torch.inference_mode()
def accuracy(classifier: nn.Linear, features: Tensor, labels: Tensor) -> float:
    """Share of the [N, D] features whose top-1 class is their label; NaN for N = 0."""
    hits = sum(
        int((classifier(x).argmax(dim=1) == y).sum())
        for x, y in zip(chunks(features), chunks(labels), strict=True)
    )
    return hits / len(labels) if len(labels) else math.nan


def fold(weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor) -> nn.Linear:
    """The classifier on x that equals `weight`, `bias` on the standardised (x - mean) / scale.

    Args:
        weight: [K, D]; bias: [K]; mean, scale: [D].
    """
    folded = weight.double() / scale.double()
    return _layer(folded, bias.double() - folded @ mean.double())


def _layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    classifier = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        classifier.weight.copy_(weight)
        classifier.bias.copy_(bias)
    return classifier


def probe_key(
    checkpoint: Checkpoint, train: ImageSet, validation: ImageSet, config: ProbeConfig
) -> str:
    """Digest of all that determines a probe's weights; names its cache file."""
    return sha256_of(
        {
            **({"answers": checkpoint.answers} if checkpoint.answers else {}),
            "format": FORMAT,
            "checkpoint": checkpoint.sha256,
            "size": train.size,
            **({"geometry": geometry_of(train)} if geometry_of(train) else {}),
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
    extracted: Callable[[Tensor, Tensor], None] | None = None,
    anew: bool = False,
) -> Probe:
    """The probe of an encoder: from the cache, or trained now and cached.

    Args:
        checkpoint: the encoder; it is moved to `device`.
        train, validation: roles of one data set.
        batch_size: images per forward pass; does not change the probe.
        extracted: told the training features [N, D] and labels [N], where they were extracted.
        anew: train it whatever is cached, which stays until it is replaced.

    Raises:
        CossError: features are not finite, training diverged, or the cache cannot be written.
    """
    progress = progress or Progress()
    key = probe_key(checkpoint, train, validation, config)
    path = probe_path(results, key)
    cached = read_probe(path, key, checkpoint.encoder.dim, len(train.classes))
    if cached is not None and not anew:
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
    if extracted is not None:
        extracted(*features[train.role])
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
    write_atomically(path, _in_fixed_order(safetensors.torch.save(tensors, metadata=header)))
    return Probe(classifier, key, summary)


def _in_fixed_order(data: bytes) -> bytes:
    """A safetensors file with its header's keys sorted; the library writes them in any order."""
    size = int.from_bytes(data[:8], "little")
    text = canonical_json(json.loads(data[8 : 8 + size])).encode()
    return data[:8] + text.ljust(size) + data[8 + size :]


def _subset(images: ImageSet, config: ProbeConfig) -> list[int]:
    order = permutation(len(images), "probe subset", images.role, config.seed)
    chosen = labelled(images, order)[: config.max_train]
    indices: list[int] = chosen.sort().values.tolist()
    return indices


def read_probe(path: Path, key: str, dim: int, classes: int) -> Probe | None:
    """A cached probe, or None where there is none or it is damaged: it is then trained again."""
    try:
        header, tensors = read_safetensors(path)
        weight, bias, summary = tensors["weight"], tensors["bias"], parse_json(header["probe"])
        intact = (
            header["format"] == FORMAT
            and summary["key"] == key
            and weight.shape == (classes, dim)
            and bias.shape == (classes,)
            and bool(torch.isfinite(weight).all() and torch.isfinite(bias).all())
        )
    except (CossError, ValueError, KeyError, TypeError):
        return None
    if not intact:
        return None
    zero, one = torch.zeros(dim), torch.ones(dim)
    return Probe(fold(weight, bias, zero, one).requires_grad_(False), key, summary)
