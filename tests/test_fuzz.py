"""Two thousand damaged files of every kind that is read: each is read, or refused in one line.

The files are those of a fixed seed. None may end in another error than CossError, take more than
five seconds or a gigabyte.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import signal
import struct
import tarfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from robustbench_coss.cli.settings import parse_setting
from robustbench_coss.datasets.base import ArraySet
from robustbench_coss.datasets.geometry import Geometry
from robustbench_coss.datasets.idx import read_idx
from robustbench_coss.datasets.pictures import ENDINGS, as_tensor, decode, oddities
from robustbench_coss.datasets.pictures import open_picture as header_of
from robustbench_coss.datasets.shards import ShardSet, class_names, read_index
from robustbench_coss.datasets.tiny_imagenet import _test as read_annotations
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.corruptions.published import _load as read_npy
from robustbench_coss.evaluations.probes.linear import FORMAT, read_probe
from robustbench_coss.evaluations.submissions.bundle import open_bundle, write_bundle
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint, save_encoder
from robustbench_coss.models.load import load_model
from robustbench_coss.models.other_tools.opening import read_file
from robustbench_coss.pretrain.bad_images import _read as read_bad_images
from robustbench_coss.pretrain.data import training_loader
from robustbench_coss.pretrain.last_checkpoint import AtomicCheckpointIO, restorable
from robustbench_coss.pretrain.loop import fit
from robustbench_coss.pretrain.methods.byol import BYOL
from robustbench_coss.pretrain.monitors import OnlineProbe
from robustbench_coss.pretrain.recipe import build_recipe, read_recipe
from robustbench_coss.pretrain.run_folder import CHECKPOINT_NAME
from robustbench_coss.pretrain.sweep import read_sweep
from robustbench_coss.records.record import read_record

SEED, FILES = 0, 2_000
LONGEST, MOST = 5.0, 1 << 30  # seconds for a file, bytes for all

ROOT = Path(__file__).parents[1]
EXTREMES = (b"-1", b"0", b"1e400", b"NaN", b"9" * 40, b"9" * 5_000, b"null", b"[]", b"{}", b'""')


def mutate(data: bytes, others: list[bytes], draw: np.random.Generator) -> bytes:
    """A file with one to four wounds."""
    found = bytearray(data)
    for _ in range(int(draw.integers(1, 5))):
        at = int(draw.integers(0, len(found) + 1))
        # Half of the wounds hit the first kilobyte, where the headers are.
        at = at if draw.random() < 0.5 else min(at, int(draw.integers(0, 1_024)))
        to = at + int(draw.integers(1, 64))
        kind = int(draw.integers(0, 9))
        if kind == 0:
            del found[at:]
        elif kind == 1:
            del found[at:to]
        elif kind == 2:
            found[at:at] = found[at:to] * int(draw.integers(1, 200))
        elif kind == 3:
            found[at:to] = bytes([int(draw.choice([0, 0x7F, 0x80, 0xFF]))]) * (to - at)
        elif kind == 4:
            found[at:to] = draw.integers(0, 256, to - at, dtype=np.uint8).tobytes()
        elif kind == 5:
            other = others[int(draw.integers(0, len(others)))]
            found[at:to] = other[: int(draw.integers(1, 4_096))]
        elif kind == 6:
            found[at:at] = (
                bytes(draw.choice([b"[", b"{", b"(", b'{"a":', b"- ", b"&a [*a, "])) * 5_000
            )
        elif kind == 7:
            numbers = [k for k, byte in enumerate(found) if 48 <= byte < 58][:10_000]
            if numbers:
                k = int(draw.choice(numbers))
                found[k : k + 1] = EXTREMES[int(draw.integers(0, len(EXTREMES)))]
        else:
            found[at : at + 1] = bytes([(found + b"\0")[at] ^ 1 << int(draw.integers(0, 8))])
    return bytes(found)


def picture(format: str, mode: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    if mode == "I;16":
        image = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert(mode)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def read_picture(path: Path) -> None:
    data = path.read_bytes()
    oddities(header_of(data, str(path)))
    found = decode(data, str(path))
    Geometry().cut(found, 224)
    as_tensor(found)


def read_shards(path: Path) -> None:
    index = read_index((path,))
    images = ShardSet("x", "test", index, class_names(path.parent, 3), 32)
    images.images(range(min(len(images), 3)))


def tar(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for k in range(4):
            for ending, data in (("jpg", picture("JPEG", "RGB")), ("cls", str(k % 3).encode())):
                info = tarfile.TarInfo(f"{'é' * 60}/{k}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def checkpoint(folder: Path) -> tuple[bytes, Callable[[Path], Any]]:
    """What a run of one epoch leaves to go on from, and what reads it."""
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=draws)
    images = ArraySet("x", "train", pixels, torch.arange(16) % 3, ("a", "b", "c"), 16)
    options = {"hidden": 8, "dim": 8}
    recipe = build_recipe({"method": "byol", "batch_size": 8, "epochs": 2, "options": options}, "t")

    def method() -> BYOL:
        return BYOL(build_encoder("rf9_resnet18", size=16, width=1 / 16), recipe, 3)

    trained, cpu = method(), torch.device("cpu")
    loader = training_loader(images, recipe, trained.views)
    probe = OnlineProbe(trained.encoder.dim, 3, recipe.seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", save_first)
        fit(trained, loader, folder / "run", cpu, None, [probe], False)
    data = (folder / "run" / CHECKPOINT_NAME).read_bytes()
    return data, lambda path: restorable(path, method(), images, len(loader), cpu)


def save_first(
    self: AtomicCheckpointIO, content: dict[str, Any], path: str | Path, *_: Any, **__: Any
) -> None:
    if content["epoch"] == 0:
        torch.save(content, path)


def kinds(folder: Path) -> dict[str, tuple[list[bytes], Callable[[Path], Any]]]:
    """File name to whole files of that kind, and what reads them."""
    torch.manual_seed(0)
    encoder = folder / "made.safetensors"
    about = {"arch": "rf9_resnet18", "size": 32, "width": 1 / 16, "dataset": "parts"}
    save_encoder(encoder, build_encoder("rf9_resnet18", size=32, width=1 / 16), about)
    weights = {"model": nn.Linear(3, 2).state_dict(), "epoch": 3, "args": [1.5, "x", None]}
    torch.save(weights, folder / "zip.pth")
    torch.save(weights, folder / "old.pth", _use_new_zipfile_serialization=False)
    probe = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    import safetensors.torch

    head = {"format": FORMAT, "probe": json.dumps({"key": "k", "settings": {"kind": "x"}})}
    idx = struct.pack(">BBBB3I", 0, 0, 8, 3, 5, 4, 4) + bytes(range(80))
    labels = io.BytesIO()
    np.save(labels, np.arange(40, dtype=np.uint8))
    record = min(ROOT.glob("results/*/records/*/*/*.json"), key=lambda p: (p.stat().st_size, p))
    write_bundle(
        folder / "made.zip",
        {"checkpoint_sha256": "0" * 64, "name": "x"},
        {"recipe.yaml": b"method: byol\n", "records/a/b.json": record.read_bytes()},
    )
    recipe = b"method: co-byol\narch: rf29_resnet18\ndataset: parts\nepochs: 3\nbatch_size: 64\n"
    recipe += b"optimizer: {name: sgd, lr: 0.1}\nviews: &v {min_crop: 0.2}\n"
    sweep = b"recipe: quickstart\ngrid:\n  seed: [0, 1]\n  optimizer.lr: [0.1, 1e-2]\n"
    (folder / "val" / "images").mkdir(parents=True)
    for k in range(3):
        (folder / "val" / "images" / f"{k}.JPEG").touch()
    (folder / "val" / "val_annotations.txt").touch()
    last, read_last = checkpoint(folder)
    notes = b"".join(b"%d.JPEG\tn%d\t0\t0\t9\t9\n" % (k, k) for k in range(3))
    pictures = [
        picture("JPEG", "RGB", exif=Image.Exif().tobytes() or b"Exif\0\0"),
        picture("JPEG", "CMYK", progressive=True),
        picture("PNG", "RGBA"),
        picture("PNG", "P"),
        picture("PNG", "I;16"),
        picture("GIF", "P"),
        picture("BMP", "RGB"),
        picture("WEBP", "RGB"),
        picture("TIFF", "RGB", compression="tiff_lzw"),
        picture("TIFF", "I;16"),
        picture("TIFF", "1", compression="group4"),
        picture("PPM", "RGB"),
        b"P3 2 2 255\n" + b"1 2 3 " * 4,
    ]

    def annotations(path: Path) -> None:
        path.rename(folder / "val" / "val_annotations.txt")
        read_annotations(folder, ("n0", "n1", "n2"))

    def setting(path: Path) -> None:
        parse_setting(path.read_bytes().decode("utf-8", "replace"), "a=b")

    return {
        f"picture{ENDINGS[0]}": (pictures, read_picture),
        "shard.tar": ([tar(folder)], read_shards),
        "classes.txt": ([b"cat\ndog\neel\n"], lambda path: class_names(path.parent, 3)),
        "recipe.yaml": ([recipe], lambda path: build_recipe(read_recipe(str(path)), str(path))),
        "sweep.yaml": ([sweep], lambda path: read_sweep(str(path))),
        "setting": ([b"optimizer.lr=1e-3", b"a.b={c: [1, 2]}"], setting),
        "record.json": ([record.read_bytes()], read_record),
        "unreadable.json": (
            [b'{"train": {"fingerprint": "x", "unreadable": {}}}'],
            read_bad_images,
        ),
        "encoder.safetensors": ([encoder.read_bytes()], load_checkpoint),
        "other.safetensors": ([safetensors.torch.save(probe, metadata=head)], load_model),
        "probe.safetensors": (
            [safetensors.torch.save(probe, metadata=head)],
            lambda path: read_probe(path, "k", 3, 2),
        ),
        "zip.pth": ([(folder / "zip.pth").read_bytes()], read_file),
        "old.pth": ([(folder / "old.pth").read_bytes()], read_file),
        "last.ckpt": ([last], read_last),
        "images-idx3-ubyte": ([idx, gzip.compress(idx)], lambda path: read_idx(path, 3)),
        "labels.npy": ([labels.getvalue()], lambda path: read_npy(path, 1)),
        "bundle.zip": ([(folder / "made.zip").read_bytes()], open_bundle),
        "val_annotations.txt": ([notes], annotations),
    }


@contextmanager
def limits() -> Iterator[None]:
    """A gigabyte of memory beyond what this process has, and an alarm that can be set."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {LONGEST} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readers = kinds(tmp_path)
    whole = [data for files, _ in readers.values() for data in files]
    for name, (files, read) in readers.items():
        for data in files:  # undamaged, so that each reader is known to come to its end
            (tmp_path / name).write_bytes(data)
            if name != "other.safetensors":
                read(tmp_path / name)
    draw = np.random.default_rng(SEED)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    slowest, begun = 0.0, time.monotonic()
    with limits(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(FILES):
            name = list(readers)[number % len(readers)]
            files, read = readers[name]
            data = mutate(files[int(draw.integers(0, len(files)))], whole, draw)
            (tmp_path / name).write_bytes(data)
            outcome, seconds = attempt(read, tmp_path / name)
            slowest = max(slowest, seconds)
            counts[outcome] += 1
            if outcome not in ("read", "refused") or seconds > LONGEST:
                (tmp_path / f"{number}-{name}").write_bytes(data)
                faults.append(f"{tmp_path}/{number}-{name}: {outcome}, {seconds:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    with capsys.disabled():
        print(
            f"\nfuzzer: {FILES:,} damaged files of {len(readers)} kinds, seed {SEED}: "
            f"{counts['refused']:,} refused in one line, {counts['read']:,} read, "
            f"{len(faults)} tracebacks or over {LONGEST:g} s (slowest {slowest:.2f} s), "
            f"peak memory {peak:,} MiB, "
            f"{time.monotonic() - begun:.0f} s"
        )
    assert not faults, "\n".join(faults)
    assert counts["read"] > FILES / 50
    assert counts["refused"] > FILES / 4


def attempt(read: Callable[[Path], Any], path: Path) -> tuple[str, float]:
    """How reading a file ends, and in how many seconds."""
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        read(path)
        outcome = "read"
    except CossError as error:
        outcome = "refused" if str(error).strip() else "refused without a word"
    except Exception as error:
        outcome = repr(error)[:300]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return outcome, time.monotonic() - started
