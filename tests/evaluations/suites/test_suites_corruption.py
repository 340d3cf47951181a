"""The suite: its backends against images corrupted by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecorruptions
import numpy as np
import pytest
import torch
from helpers.corruption_roots import array_set

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.corruptions.fast import corrupt
from robustbench_coss.evaluations.corruptions.fast.draws import sample_keys
from robustbench_coss.evaluations.corruptions.reference import (
    GROUPS,
    NAMES,
    corrupt_images,
)
from robustbench_coss.evaluations.protocol import Condition, Subject
from robustbench_coss.evaluations.suites.corruption import Corruption
from robustbench_coss.models.checkpoint import build_encoder, save_encoder
from robustbench_coss.records.record import find_records
from robustbench_coss.seeds import seed_of
from robustbench_coss.testing import pictures

CELLS = [(name, 3) for name in NAMES] + [("shot_noise", s) for s in (1, 2, 4, 5)]


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
    condition = Condition(f"{name}@{severity}", "any", severity, kind=name)
    got = Corruption("reference", workers=1).corrupt(batch.images, batch.index, condition, 5)
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
    one, two = (Corruption("reference", workers=n) for n in (1, 2))
    try:
        for name, severity in (("impulse_noise", 4.0), ("snow", 2.0)):
            condition = Condition(f"{name}@{severity:g}", "any", severity, kind=name)
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


PARENT = """
if __name__ == "__main__":
    import signal

    import numpy as np

    from robustbench_coss.evaluations.suites.corruption import Corruption

    suite = Corruption("reference", workers=2)
    suite._spread(np.zeros((40, 32, 32, 3), np.uint8), "brightness", 1, [0] * 40)
    print(*suite._pool._processes, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_a_process_that_was_killed(
    number: signal.Signals, tmp_path: Path
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.send_signal(number)
        try:
            parent.communicate(timeout=30)  # workers share its output, which ends with the last
        except subprocess.TimeoutExpired:
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            raise


def test_images_below_32_px_are_refused_with_the_remedy(subject: Subject) -> None:
    with pytest.raises(CossError) as caught:
        Corruption().prepare(subject, pictures(2), 28)
    assert str(caught.value) == (
        "corruptions need images of at least 32 px, this model takes 28; "
        "measure it with --size 32, or pretrain with --image-size 32"
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


def test_the_fast_backend_is_the_default_and_draws_by_seed_condition_and_index() -> None:
    batch = pictures(3, first=70)
    suite = Corruption()
    suite.configure(array_set(32))
    for name in ("fog", "jpeg_compression"):
        got = suite.corrupt(
            batch.images, batch.index, Condition(f"{name}@2", "any", 2, kind=name), 5
        )
        keys = sample_keys([70, 71, 72], 5, "corruption", f"{name}@2")
        assert torch.equal(got, corrupt(batch.images, name, 2, keys, "cifar-c"))


@pytest.mark.parametrize(
    ("backend", "constants", "size", "expected"),
    [
        ("auto", None, 32, ("fast", "cifar-c")),
        ("auto", None, 96, ("fast", "imagenet-c")),
        ("fast", "imagenet-c", 32, ("fast", "imagenet-c")),
        ("fast", "cifar-c", 96, ("fast", "cifar-c")),
        ("reference", None, 32, ("reference", "imagenet-c")),
        ("reference", "imagenet-c", 32, ("reference", "imagenet-c")),
    ],
)
def test_the_settings_say_which_backend_and_constants(
    backend: str, constants: str | None, size: int, expected: tuple[str, str]
) -> None:
    suite = Corruption(backend, constants)
    suite.configure(array_set(size))
    assert (suite.config()["backend"], suite.config()["constants"]) == expected


def test_records_of_the_reference_backend_made_before_there_was_another_stay_up_to_date() -> None:
    suite = Corruption("reference")
    suite.configure(array_set(32))
    assert suite.version == 1
    assert suite.config().keys() == {"backend", "constants", "imagecorruptions-imaug"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "quick"}, "unknown backend 'quick'; known: auto, fast, reference"),
        (
            {"constants": "mnist-c"},
            "unknown constants 'mnist-c'; known: imagenet-c, cifar-c, imagenet-c-script",
        ),
        (
            {"backend": "reference", "constants": "cifar-c"},
            "the reference backend has the constants imagenet-c only; "
            "use --backend fast with --constants cifar-c",
        ),
        (
            {"backend": "fast", "root": Path("x")},
            "--corruption-root reads images that are corrupted already; "
            "leave out --backend and --constants",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(CossError) as caught:
        Corruption(**options)  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.usefixtures("few_pictures")
def test_the_record_of_an_evaluation_says_backend_and_constants(
    bench: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    metadata = {"arch": "rf29_resnet18", "size": 32, "width": 1 / 16, "dataset": "parts"}
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    save_encoder(tmp_path / "run" / "encoder.safetensors", encoder, metadata)
    few = ("--limit", 3, "--probe-train", 60, "--data-root", tmp_path, "--results", tmp_path)
    for more, constants in (((), "cifar-c"), (("--constants", "imagenet-c"), "imagenet-c")):
        outcome = bench("eval", tmp_path / "run", "--suite", "corruption", *few, *more)
        assert outcome.code == 0, outcome.err
        ((_, record),) = find_records(tmp_path)
        assert record.suite_config == {"backend": "fast", "fast": 1, "constants": constants}
        assert record.complete
