"""The suite: its backends against images corrupted by hand, ready-made pictures."""

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
from PIL import Image

from robustbench_coss.datasets.base import ArraySet, ImageSet, open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.corruptions.fast import corrupt
from robustbench_coss.evaluations.corruptions.fast.draws import sample_keys
from robustbench_coss.evaluations.corruptions.reference import (
    GROUPS,
    NAMES,
    STANDARD,
    corrupt_images,
)
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject
from robustbench_coss.evaluations.suites.corruption import Corruption
from robustbench_coss.models.checkpoint import build_encoder, save_encoder
from robustbench_coss.records.record import find_records
from robustbench_coss.seeds import seed_of
from robustbench_coss.testing import pictures, tiny_subject

CELLS = [(name, 3) for name in NAMES] + [("shot_noise", s) for s in (1, 2, 4, 5)]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_subject()


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


# ---- backends and constants ----


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


def array_set(size: int, count: int = 4) -> ArraySet:
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=draw)
    return ArraySet("mine", "test", pixels, torch.arange(count) % 3, ("a", "b", "c"), size)


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
        ({"constants": "mnist-c"}, "unknown constants 'mnist-c'; known: imagenet-c, cifar-c"),
        (
            {"backend": "reference", "constants": "cifar-c"},
            "the reference backend has ImageNet-C's constants only; "
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


# ---- ready-made pictures ----


def save_arrays(folder: Path, test: ImageSet, names: tuple[str, ...] = NAMES) -> None:
    """In CIFAR-10-C's layout: the value of every pixel says corruption, severity and image."""
    folder.mkdir(exist_ok=True)
    count, size = len(test), test.size
    np.save(folder / "labels.npy", np.tile(test.labels.numpy(), 5).astype(np.uint8))
    for k, name in enumerate(names):
        value = 10 * k + np.arange(5 * count) // count + 40 * (np.arange(5 * count) % count)
        pixels = np.broadcast_to(value[:, None, None, None], (5 * count, size, size, 3))
        np.save(folder / f"{name}.npy", pixels.astype(np.uint8))


def open_root(folder: Path, test: ImageSet) -> Corruption:
    suite = Corruption(root=folder)
    suite.configure(test)
    return suite


def test_arrays_of_cifar_10_c_pair_row_by_row_and_block_by_block(
    tmp_path: Path, subject: Subject
) -> None:
    test = array_set(32)
    save_arrays(tmp_path, test)
    suite = open_root(tmp_path, test)
    conditions = suite.conditions(subject)
    assert len(conditions) == 96
    batch = Batch(test.images([2, 0]).float() / 255, test.labels[[2, 0]], [2, 0])
    for k, severity in ((0, 1), (7, 5), (18, 3)):
        condition = Condition(f"{NAMES[k]}@{severity}", "any", severity, kind=NAMES[k])
        got = suite.corrupt(batch.images, batch.index, condition, 0) * 255
        for row, i in enumerate([2, 0]):
            assert torch.all(got[row].round() == (10 * k + severity - 1 + 40 * i) % 256)
    assert set(suite.measure(subject, batch, conditions[5], 0)) == {"correct"}
    assert suite.config()["backend"] == "ready-made"
    assert {m.name for m in suite.metrics(conditions)} >= {"corruption_top1", "corruption_extra"}


def test_arrays_of_another_test_set_are_refused(tmp_path: Path) -> None:
    save_arrays(tmp_path, array_set(32))
    with pytest.raises(CossError, match="has 20 labels, which are not five times those of the 5"):
        open_root(tmp_path, array_set(32, count=5))
    (tmp_path / "fog.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(CossError, match=r"fog\.npy is damaged"):
        open_root(tmp_path, array_set(32))
    np.save(tmp_path / "fog.npy", np.zeros((20, 32, 31, 3), np.uint8))
    with pytest.raises(
        CossError, match=r"fog.npy holds uint8 of shape \[20, 32, 31, 3\], expected"
    ):
        open_root(tmp_path, array_set(32))
    np.save(tmp_path / "fog.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(CossError, match=r"fog\.npy is damaged"):
        open_root(tmp_path, array_set(32))


def test_a_missing_standard_corruption_is_named_and_missing_extra_ones_are_left_out(
    tmp_path: Path, subject: Subject
) -> None:
    test = array_set(32)
    standard = tuple(name for group in STANDARD for name in GROUPS[group])
    save_arrays(tmp_path, test, standard)
    suite = open_root(tmp_path, test)
    conditions = suite.conditions(subject)
    assert len(conditions) == 76
    assert "corruption_extra" not in {m.name for m in suite.metrics(conditions)}
    (tmp_path / "frost.npy").unlink()
    with pytest.raises(CossError, match=r"lacks frost\.npy; "):
        open_root(tmp_path, test)
    (tmp_path / "snow.npy").unlink()
    with pytest.raises(CossError, match=r"lacks \w+\.npy and 1 more of the 15 standard"):
        open_root(tmp_path, test)
    with pytest.raises(CossError, match="is not a folder"):
        Corruption(root=tmp_path / "absent")


def image_folder(root: Path, size: int) -> ImageSet:
    """Clean pictures in two classes, and an `imagefolder` of them."""
    for part, names in (("train", "ab"), ("test", "abc")):
        for category in ("n01", "n02"):
            folder = root / "clean" / part / category
            folder.mkdir(parents=True)
            for name in names:
                Image.new("RGB", (48, 48), (9, 9, 9)).save(folder / f"{name}_{category}.png")
    return open_dataset("imagefolder", "test", size=size, root=root / "clean")


def save_folders(root: Path, side: int) -> Path:
    """In ImageNet-C's layout: a picture's red is its corruption, green severity, blue its name."""
    for k, name in enumerate(NAMES[:15]):
        for severity in range(1, 6):
            for category in ("n01", "n02"):
                folder = root / "C" / name / str(severity) / category
                folder.mkdir(parents=True)
                for j, picture in enumerate("abc"):
                    colour = (10 * k, 40 * severity, 100 * (category == "n02") + 30 * j)
                    Image.new("RGB", (side, side), colour).save(
                        folder / f"{picture}_{category}.JPEG", quality=100, subsampling=0
                    )
    return root / "C"


def test_folders_of_imagenet_c_pair_by_class_and_file_name(tmp_path: Path) -> None:
    test = image_folder(tmp_path, 32)
    suite = open_root(save_folders(tmp_path, 32), test)
    images = test.images(range(6)).float() / 255
    got = (
        suite.corrupt(
            images, [4, 0, 5], Condition("glass_blur@3", "blur", 3.0, kind="glass_blur"), 0
        )
        * 255
    )
    colours = got[:, :, 16, 16]
    k = NAMES.index("glass_blur")
    # Sorted: a, b, c of n01, then of n02.
    expected = torch.tensor([[10 * k, 120, 130], [10 * k, 120, 0], [10 * k, 120, 160]])
    torch.testing.assert_close(colours, expected.float(), atol=3, rtol=0)


def test_a_picture_at_the_model_s_size_is_not_resized(tmp_path: Path) -> None:
    test = image_folder(tmp_path, 40)
    root = save_folders(tmp_path, 40)
    path = root / "fog" / "1" / "n01" / "a_n01.JPEG"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(path, quality=90)
    suite = open_root(root, test)
    fog = Condition("fog@1", "weather", 1.0, kind="fog")
    got = suite.corrupt(test.images([0]).float(), [0], fog, 0)[0] * 255
    decoded = np.asarray(Image.open(path)).transpose(2, 0, 1)
    np.testing.assert_array_equal(got.round().numpy(), decoded)
    larger = open_root(root, open_dataset("imagefolder", "test", size=56, root=tmp_path / "clean"))
    assert larger.corrupt(test.images([0]).float(), [0], fog, 0).shape == (1, 3, 56, 56)


def test_a_missing_or_damaged_picture_and_a_data_set_without_file_names_are_explained(
    tmp_path: Path,
) -> None:
    test = image_folder(tmp_path, 32)
    root = save_folders(tmp_path, 32)
    suite = open_root(root, test)
    images, snow = test.images([1]).float() / 255, Condition("snow@2", "weather", 2.0, kind="snow")
    (root / "snow" / "2" / "n01" / "b_n01.JPEG").write_bytes(b"no picture")
    with pytest.raises(CossError, match="cannot be read"):
        suite.corrupt(images, [1], snow, 0)
    (root / "snow" / "2" / "n01" / "b_n01.JPEG").unlink()
    with pytest.raises(CossError, match="does not exist"):
        suite.corrupt(images, [1], snow, 0)
    (root / "snow" / "2" / "n01" / "a_n01.JPEG").unlink()
    with pytest.raises(CossError, match="must have the same class folders and file names"):
        open_root(root, test)
    with pytest.raises(CossError, match="mine has no file names to pair"):
        open_root(root, array_set(32))
