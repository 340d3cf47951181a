"""Files of weights that state more than they hold: one line, no memory, no waiting."""

from __future__ import annotations

import json
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import HEADER, build_encoder, save_encoder
from robustbench_coss.models.containers import MOST_HEADER, load_torch
from robustbench_coss.models.load import load_model

ABOUT = {"arch": "rf29_resnet18", "size": 32, "width": 1 / 16, "dataset": "parts"}


def refuse(path: Path, says: str) -> str:
    """One line, within five seconds and 300 MB."""
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CossError, match=says) as error:
        load_model(path)
    assert time.process_time() - begun < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


# ---- safetensors ----


def own(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """An encoder of this tool whose metadata were changed."""
    torch.manual_seed(0)
    save_encoder(path, build_encoder("rf29_resnet18", size=32, width=1 / 16), dict(ABOUT))
    with safetensors.safe_open(path, framework="pt") as opened:
        header = json.loads(opened.metadata()[HEADER])
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    change(header["metadata"])
    path.write_bytes(safetensors.torch.save(tensors, metadata={HEADER: json.dumps(header)}))
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arch": ["resnet50"]}, "damaged metadata .*arch is"),
        ({"arch": None}, "damaged metadata .*arch is None"),
        ({"arch": {"a": 1}}, "damaged metadata"),
        ({"arch": 5}, "damaged metadata"),
        ({"width": 8}, "does not fit rf29_resnet18 at width 8"),
        ({"width": 1e300}, "encoder.safetensors"),
        ({"width": None}, "damaged metadata"),
        ({"width": float("inf")}, "Infinity is no JSON"),
        ({"size": None}, "damaged metadata"),
        ({"size": "many"}, "damaged metadata"),
        ({"mlp": [1]}, "damaged metadata .*mlp"),
        ({"dataset": ["parts"]}, "damaged metadata .*dataset"),
        ({"training": "long"}, "damaged metadata .*training"),
        ({"method": {}}, "damaged metadata .*method"),
        ({"arch": "resnet50"}, "does not fit resnet50"),
    ],
)
def test_an_encoder_with_other_metadata_is_refused(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = own(tmp_path / "encoder.safetensors", lambda metadata: metadata.update(changes))
    if "encoder" in says:
        with pytest.raises(CossError):
            load_model(path)
    else:
        refuse(path, says)


def test_a_timm_model_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    path = own(
        tmp_path / "encoder.safetensors",
        lambda m: m.update(arch="timm:vit_gigantic_patch14_224", width=1.0, size=224),
    )
    refuse(path, r"it has 1,8\d\d,\d\d\d,\d\d\d values, the file")


@pytest.mark.parametrize(
    "stated", ["[" * 100_000, '{"format":' * 100_000, "NaN", '{"format": "x", "format": "y"}', "[]"]
)
def test_metadata_that_are_no_plain_object_are_refused(stated: str, tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, metadata={HEADER: stated}))
    refuse(path, "damaged metadata")


@pytest.mark.parametrize("header", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a": NaN}', b""])
def test_headers_of_nonsense_are_refused(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    refuse(path, "truncated or not a safetensors file|not a checkpoint|holds no tensors")


@pytest.mark.parametrize("length", [MOST_HEADER + 1, 99_000_000, 2**63, 2**64 - 1])
def test_a_header_of_unreasonable_length_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length) + b"{")
        file.truncate(100_000_000)
    refuse(path, "its header would have")


# ---- torch ----


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def shared(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"w": torch.zeros(1)}
    for _ in range(depth):
        value = {"a": value, "b": value}
    return value


def circle() -> dict[str, Any]:
    value: dict[str, Any] = {"w": torch.zeros(1)}
    value["self"] = value
    return value


def deep(depth: int) -> Any:
    value: Any = torch.zeros(1)
    for _ in range(depth):
        value = [value]
    return {"a": value}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (shared(40), "more than 2,000,000 values"),
        (circle(), "holds itself"),
        (deep(150), "nested deeper than 100"),
        ({"fc.weight": torch.zeros(1, 1).expand(10**9, 512)}, "repeats few values"),
        ({"fc.weight": torch.zeros(1).expand(10**9), "fc.bias": torch.zeros(1)}, "few values"),
        (
            {f"w{k}": torch.zeros(1).expand(60_000_000) for k in range(9)},
            "would take 2,160,000,000",
        ),
        ({"w": torch.empty(10**12, device="meta")}, "few values"),
    ],
)
def test_values_that_would_take_more_than_the_file_are_refused(
    content: Any, says: str, tmp_path: Path
) -> None:
    refuse(saved(content, tmp_path / "x.pth"), says)


def test_a_pickle_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x/data.pkl", "w", force_zip64=True) as file:
            file.write(b"\x80\x02")
            for _ in range(200):
                file.write(bytes(1 << 20))
        archive.writestr("x/version", "3\n")
    refuse(path, r"data\.pkl in it is compressed")


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    path = saved({"w": torch.zeros(2**18)}, tmp_path / "x.pth")
    data = path.read_bytes()
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"data/0") + 1)
    with zipfile.ZipFile(path, "a") as archive:
        entry = archive.getinfo("x/data/0")
        for k in range(5):
            archive.filelist.append(entry)
            archive.NameToInfo[f"x/data/{k + 1}"] = entry
        archive._didModify = True
    assert at > 0
    refuse(path, "overlap")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_call_that_takes_as_much_memory_as_it_is_told_is_refused(
    legacy: bool, tmp_path: Path
) -> None:
    class Memory:
        def __reduce__(self) -> Any:
            return bytearray, (1 << 40,)

    path = tmp_path / "x.pth"
    torch.save({"w": Memory()}, path, _use_new_zipfile_serialization=not legacy)
    refuse(path, "it makes a bytearray")


def test_a_list_of_a_million_members_is_refused_before_it_is_read(tmp_path: Path) -> None:
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 50_000_000, 0, 0)
    path = tmp_path / "x.pth"
    path.write_bytes(b"PK\x03\x04" + bytes(50_000_000) + end)
    refuse(path, "list of members has 50,000,000 bytes")


def test_code_in_a_pickle_is_still_refused_by_its_name(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return print, ("ran",)

    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps({"w": Code()}, protocol=2))
    message = refuse(path, "print|not a checkpoint")
    assert "ran" not in message


def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    content = {"a": base, "b": base.view(3, 4).T, "c": {"d": [1, 2.5, "x", None]}, "e": base[2:5]}
    for legacy in (False, True):
        path = tmp_path / f"{legacy}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        found = load_torch(path)
        assert found["c"] == content["c"]
        assert all(torch.equal(found[k], content[k]) for k in "abe")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "encoder.safetensors"])
@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "/nowhere"])
def test_checkpoints_that_are_no_regular_files_are_named(
    name: str, target: str, tmp_path: Path
) -> None:
    import os

    path = tmp_path / name
    if target == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(target)
    with pytest.raises(CossError, match=r"not a regular file|not there|does not exist") as error:
        load_model(path)
    assert name in str(error.value)
    if name == "encoder.safetensors":
        with pytest.raises(CossError):
            load_model(tmp_path)


def test_a_probe_that_is_hostile_is_trained_again(tmp_path: Path) -> None:
    from robustbench_coss.evaluations.probes.linear import read_probe

    for k, probe in enumerate(("[" * 100_000, "NaN", "null", "{}", '{"key": {}}')):
        path = tmp_path / f"{k}.safetensors"
        tensors = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
        path.write_bytes(safetensors.torch.save(tensors, metadata={"probe": probe, "format": "x"}))
        assert read_probe(path, "key", 3, 2) is None
