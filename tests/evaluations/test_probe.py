from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.encoders.base import Encoder, InputSpec
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import (
    Probe,
    ProbeConfig,
    fit_probe,
    fold,
    get_probe,
    probe_key,
    probe_path,
)
from robustbench_coss.models.checkpoint import Checkpoint


def clusters(
    count: int, classes: int, dim: int, spread: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Gaussian clouds of standard deviation `spread` around `classes` fixed centres."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return centres[labels] + spread * torch.randn(count, dim, generator=g), labels


@pytest.mark.parametrize("kind", ["logistic", "sgd", "simclr"])
def test_linearly_separable_features_reach_100_percent(kind: str) -> None:
    data = clusters(300, 4, 16, spread=0.05)
    _, found = fit_probe(ProbeConfig(kind), data, clusters(80, 4, 16, 0.05, seed=1), 4)
    assert found["train_top1"] == found["validation_top1"] == 1.0


@pytest.mark.parametrize("kind", ["logistic", "sgd"])
def test_probe_does_not_depend_on_the_scale_and_offset_of_standardised_features(kind: str) -> None:
    x, y = clusters(200, 3, 8, spread=1.0)
    config = ProbeConfig(kind, l2_values=3)
    plain, _ = fit_probe(config, (x, y), (x, y), 3)
    moved, _ = fit_probe(config, (x * 50 + 7, y), (x * 50 + 7, y), 3)
    torch.testing.assert_close(moved(x * 50 + 7), plain(x), rtol=1e-3, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_folded_standardisation_gives_the_logits_of_standardising_by_hand(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(3, 5, generator=g), torch.randn(3, generator=g)
    mean, scale = torch.randn(5, generator=g), torch.rand(5, generator=g) + 0.1
    x = torch.randn(7, 5, generator=g)
    by_hand = ((x - mean) / scale) @ weight.T + bias
    torch.testing.assert_close(fold(weight, bias, mean, scale)(x), by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_torch_sgd_with_autograd_and_a_cosine_schedule(nesterov: bool) -> None:
    # One batch per epoch, so that the order of the samples cannot matter.
    x, y = clusters(40, 3, 6, spread=1.0)
    config = ProbeConfig("simclr" if nesterov else "sgd", batch_size=64, epochs=12)
    classifier, _ = fit_probe(config, (x, y), (x, y), 3)

    inputs = x if nesterov else (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    reference = nn.Linear(6, 3)
    nn.init.zeros_(reference.weight)
    nn.init.zeros_(reference.bias)
    lr = 0.1 * 64 / 256
    optimiser = torch.optim.SGD(reference.parameters(), lr, momentum=0.9, nesterov=nesterov)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=12)
    for _ in range(12):
        optimiser.zero_grad()
        F.cross_entropy(reference(inputs), y).backward()
        optimiser.step()
        schedule.step()
    torch.testing.assert_close(classifier(x), reference(inputs), rtol=1e-4, atol=1e-5)


def test_probe_is_the_same_each_time_and_another_seed_gives_another() -> None:
    data = clusters(600, 3, 8, spread=1.5)
    config = ProbeConfig("sgd", epochs=3)
    first, second = (fit_probe(config, data, data, 3)[0].weight for _ in range(2))
    other = fit_probe(dataclasses.replace(config, seed=1), data, data, 3)[0].weight
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", ["logistic", "sgd"])
def test_a_feature_that_never_varies_does_not_blow_up_under_standardisation(kind: str) -> None:
    x, y = clusters(200, 3, 8, spread=0.5)
    dead = torch.full((200, 1), 5.0)
    dead[3] += 5e-7  # one rounding step
    data = (torch.cat([x, dead], 1), y)
    classifier, found = fit_probe(ProbeConfig(kind), data, data, 3)
    assert found["train_top1"] > 0.95
    assert float(classifier.weight[:, 8].abs().max()) < 1e-3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    x, y = clusters(30, 3, 4, spread=1.0)
    x[5, 2] = bad
    with pytest.raises(CossError, match="NaN or infinite"):
        fit_probe(ProbeConfig(), (x, y), (x, y), 3)


def test_a_diverging_probe_is_reported_with_its_remedy() -> None:
    x, y = clusters(60, 3, 4, spread=1.0)
    with pytest.raises(CossError, match=r"diverged.*--probe logistic"):
        fit_probe(ProbeConfig("simclr"), (x * 1e25, y), (x, y), 3)


@pytest.mark.parametrize(
    ("field", "value"), [("kind", "adam"), ("epochs", 0), ("max_train", 0), ("l2_values", -1)]
)
def test_impossible_settings_are_refused_with_the_value_given(field: str, value: object) -> None:
    with pytest.raises(CossError, match=str(value)):
        dataclasses.replace(ProbeConfig(), **{field: value})  # type: ignore[arg-type]


def test_settings_differ_wherever_the_probe_would() -> None:
    variants = [
        ProbeConfig(),
        ProbeConfig("sgd"),
        ProbeConfig("simclr"),
        ProbeConfig(l2_values=45),
        ProbeConfig("sgd", epochs=10),
        ProbeConfig("sgd", batch_size=128),
        ProbeConfig(max_train=100),
        ProbeConfig(seed=1),
    ]
    assert len({str(sorted(v.settings().items())) for v in variants}) == len(variants)


class Colours(Encoder):
    """Mean colour of each quarter of an 8 px image; counts the images that pass."""

    def __init__(self) -> None:
        super().__init__(InputSpec(8), local_dim=3, dim=3)
        self.gain = nn.Parameter(torch.ones(1))
        self.seen = 0

    def local(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return F.avg_pool2d(x, 4) * self.gain


def colour_set(role: str, count: int, seed: int) -> ArraySet:
    """8 px images in which the class's channel is brighter; the last one has no label."""
    labels = torch.arange(count) % 3
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 120, (count, 3, 8, 8), generator=g)
    pixels[torch.arange(count), labels] += 100
    labels[-1] = -1
    return ArraySet("colours", role, pixels.to(torch.uint8), labels, ("r", "g", "b"), 8)


TRAIN, VALIDATION = colour_set("train", 121, 0), colour_set("validation", 31, 1)


def checkpoint(sha256: str = "a" * 64) -> Checkpoint:
    return Checkpoint(Colours().eval(), "model", Path("encoder.safetensors"), sha256, {})


def probe_of(model: Checkpoint, results: Path, config: ProbeConfig | None = None) -> Probe:
    return get_probe(
        model,
        TRAIN,
        VALIDATION,
        config or ProbeConfig(),
        results=results,
        device=torch.device("cpu"),
        batch_size=50,
    )


def test_probe_is_trained_once_and_then_read_from_the_cache(tmp_path: Path) -> None:
    first = probe_of(checkpoint(), tmp_path)
    model = checkpoint()
    second = probe_of(model, tmp_path)
    assert model.encoder.seen == 0  # type: ignore[attr-defined]
    assert second.summary == first.summary
    assert torch.equal(second.classifier.weight, first.classifier.weight)
    assert torch.equal(second.classifier.bias, first.classifier.bias)


def test_a_probe_that_is_trained_again_is_the_same_file_and_the_library_reads_it(
    tmp_path: Path,
) -> None:
    # The library writes two keys of a header in either order: 12 files are alike by chance in one
    # of 2,000 cases.
    files = set()
    for number in range(12):
        probe = probe_of(checkpoint(), tmp_path / str(number))
        files.add(probe_path(tmp_path / str(number), probe.key).read_bytes())
    (content,) = files
    tensors = safetensors.torch.load(content)
    assert tensors.keys() == {"weight", "bias"}
    assert torch.equal(tensors["weight"], probe.classifier.weight)
    assert torch.equal(tensors["bias"], probe.classifier.bias)


def test_images_without_a_label_do_not_train_the_probe(tmp_path: Path) -> None:
    model = checkpoint()
    assert probe_of(model, tmp_path).summary["n_train"] == 120
    assert model.encoder.seen == 120 + 30  # type: ignore[attr-defined]


def test_max_train_takes_so_many_images_and_no_more_for_validation(tmp_path: Path) -> None:
    model = checkpoint()
    probe = probe_of(model, tmp_path, ProbeConfig(max_train=20))
    assert probe.summary["n_train"] == 20
    assert model.encoder.seen == 20 + 20  # type: ignore[attr-defined]


def test_another_checkpoint_another_config_or_other_data_give_another_key() -> None:
    config = ProbeConfig()
    keys = {
        probe_key(checkpoint("a" * 64), TRAIN, VALIDATION, config),
        probe_key(checkpoint("b" * 64), TRAIN, VALIDATION, config),
        probe_key(
            dataclasses.replace(checkpoint("a" * 64), answers="c" * 64), TRAIN, VALIDATION, config
        ),
        probe_key(checkpoint("a" * 64), TRAIN, VALIDATION, ProbeConfig(seed=1)),
        probe_key(checkpoint("a" * 64), colour_set("train", 121, 5), VALIDATION, config),
        probe_key(checkpoint("a" * 64), TRAIN, colour_set("validation", 31, 5), config),
    }
    assert len(keys) == 6


@pytest.mark.parametrize("damage", ["truncated", "garbage", "foreign", "nan"])
def test_a_damaged_cache_file_is_trained_again(tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save

    first = probe_of(checkpoint(), tmp_path)
    path = probe_path(tmp_path, first.key)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "garbage": b"not a probe",
            "foreign": save({"weight": torch.zeros(3, 3), "bias": torch.zeros(3)}),
            "nan": whole[:-4] + np.float32("nan").tobytes(),
        }[damage]
    )
    model = checkpoint()
    again = probe_of(model, tmp_path)
    assert model.encoder.seen > 0  # type: ignore[attr-defined]
    assert torch.equal(again.classifier.weight, first.classifier.weight)
    repaired = checkpoint()
    probe_of(repaired, tmp_path)
    assert repaired.encoder.seen == 0  # type: ignore[attr-defined]


def test_an_encoder_with_nan_features_is_named_as_diverged(tmp_path: Path) -> None:
    model = checkpoint()
    nn.init.constant_(model.encoder.gain, float("nan"))  # type: ignore[arg-type]
    with pytest.raises(CossError, match=r"NaN or infinite features on 'colours' \(train\)"):
        probe_of(model, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
