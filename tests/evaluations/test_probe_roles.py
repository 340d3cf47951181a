"""What reaches the training of a probe, and what its key knows."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toy_suite import ToyData, ToyEncoder
from torch import nn

from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.evaluations.probes import linear
from robustbench_coss.evaluations.probes.linear import Probe, ProbeConfig, get_probe, probe_key
from robustbench_coss.models.checkpoint import Checkpoint


def encoder() -> Checkpoint:
    about: dict[str, Any] = {"arch": "toy", "width": 1.0, "size": 8, "dataset": None}
    return Checkpoint(ToyEncoder().eval(), "toy", None, "ab" * 32, about)


def images(role: str) -> ArraySet:
    return ToyData().open(role, 8, Path(), False)


@pytest.mark.parametrize("most", [None, 25])
def test_a_probe_is_fitted_to_training_images_and_judged_on_validation_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int | None
) -> None:
    given: dict[str, Any] = {}

    def fit(config: ProbeConfig, train: Any, validation: Any, classes: int, device: Any) -> Any:
        given.update(config=config, train=train, validation=validation, classes=classes)
        return nn.Linear(6, 3), {}

    monkeypatch.setattr(linear, "fit_probe", fit)
    model, config = encoder(), ProbeConfig(max_train=most, seed=4, kind="sgd", epochs=3)
    roles = {role: images(role) for role in ("train", "validation")}
    found = get_probe(
        model, *roles.values(), config, results=tmp_path, device=torch.device("cpu"), batch_size=7
    )
    assert isinstance(found, Probe)
    assert (given["config"], given["classes"]) == (config, 3)
    for role, known in roles.items():
        with torch.no_grad():
            every = model.encoder(known.images(range(len(known))).float() / 255)
        features, labels = given[role]
        assert len(features) == min(most or 90, len(known))
        # Each row is an image of this role, with the label of that image.
        distance = torch.cdist(features.double(), every.double())
        assert float(distance.amin(dim=1).max()) < 1e-5
        assert torch.equal(labels, known.labels[distance.argmin(dim=1)])


@pytest.mark.parametrize("role", ["train", "validation"])
def test_the_subset_of_a_probe_is_drawn_by_its_seed_from_all_images(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, chosen = images(role), []
    for seed in (0, 1):
        chosen.append(linear._subset(known, ProbeConfig(max_train=12, seed=seed)))
        assert len(set(chosen[-1])) == 12
        assert max(chosen[-1]) > 14  # not the first ones
    assert chosen[0] != chosen[1]


def test_the_key_of_a_probe_knows_all_that_determines_it() -> None:
    model, roles = encoder(), [images("train"), images("validation")]

    def key(model: Checkpoint = model, config: ProbeConfig | None = None, **changes: Any) -> str:
        train, validation = roles
        for name, value in changes.items():
            which, _, attribute = name.partition("_")
            changed = images(which)
            setattr(changed, attribute, value)
            train, validation = (changed, validation) if which == "train" else (train, changed)
        return probe_key(model, train, validation, config or ProbeConfig())

    keys = [
        key(),
        key(replace(model, sha256="cd" * 32)),
        key(replace(model, answers="ef" * 32)),
        key(train_size=16),  # the fingerprint is that of the images as they are kept
        key(train_fingerprint="0"),
        key(validation_fingerprint="0"),
        key(config=ProbeConfig("sgd")),
        key(config=ProbeConfig("simclr")),
        key(config=ProbeConfig("sgd", epochs=3)),
        key(config=ProbeConfig("sgd", batch_size=3)),
        key(config=ProbeConfig(l2_values=3)),
        key(config=ProbeConfig(max_train=3)),
        key(config=ProbeConfig(seed=3)),
    ]
    assert len({*keys}) == len(keys)
    named = {field.name for field in dataclasses.fields(ProbeConfig)}
    assert named == {"kind", "batch_size", "epochs", "l2_values", "max_train", "seed"}
    assert key() == keys[0]
