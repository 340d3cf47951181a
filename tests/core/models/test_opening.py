"""Files with more than weights: settings are no reason to refuse them, and nothing in them runs."""

from __future__ import annotations

import argparse
import datetime
import functools
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import omegaconf
import pytest
import torch
from helpers.foreign_files import backbone, put, write
from pytorch_lightning.utilities.parsing import AttributeDict
from torch import nn

from robustbench_coss.errors import CossError
from robustbench_coss.models.containers import load_torch
from robustbench_coss.models.load import load_model
from robustbench_coss.models.other_tools.opening import read_file
from robustbench_coss.models.other_tools.read import read_foreign
from robustbench_coss.models.stubs import Stub


class CfgNode(dict):  # type: ignore[type-arg]
    """As yacs and EasyDict have them: a dictionary with attributes."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.__dict__["_immutable"] = True


class Windows:
    """A path that was pickled on Windows, to the extent that it is pickled."""

    def __reduce__(self) -> Any:
        return pathlib.WindowsPath, ("C:\\runs",)


SETTINGS = {
    "OmegaConf": omegaconf.OmegaConf.create({"method": "byol", "data": {"mean": [0.1, 0.2]}}),
    "Lightning": AttributeDict(method="byol", lr=0.1),
    "argparse": argparse.Namespace(method="byol", out=Path("runs")),
    "SimpleNamespace": SimpleNamespace(method="byol"),
    "yacs, EasyDict": CfgNode(method="byol", inner=CfgNode(a=1)),
}
BESIDE = {
    **SETTINGS,
    "partial": functools.partial(nn.LayerNorm, eps=1e-6),
    "datetime": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "timedelta": datetime.timedelta(days=1),
    "WindowsPath": Windows(),
    "deque": deque([1, 2], maxlen=5),
    "defaultdict": defaultdict(list, {"a": [1]}),
    "numpy": {"scalar": np.float64(0.5), "array": np.arange(3.0)},
    "dtype and size": [torch.float16, torch.Size([1, 2]), torch.device("cpu"), nn.Linear],
    "set": {1, 2},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", BESIDE)
def test_objects_beside_the_weights_do_not_close_a_file(
    kind: str, zipped: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file.pth"
    content = {"state_dict": backbone(), "hyper_parameters": BESIDE[kind], "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_foreign(path)
    assert found.arch == "torchvision:resnet18"
    assert all(torch.equal(found.state[key], value) for key, value in backbone().items())


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_are_read_whatever_holds_them(kind: str, tmp_path: Path) -> None:
    content = {"state_dict": backbone(), "hyper_parameters": SETTINGS[kind]}
    found, _ = read_file(write(tmp_path, content))
    assert found["hyper_parameters"]["method"] == "byol"
    if kind == "OmegaConf":
        assert found["hyper_parameters"]["data"] == {"mean": [0.1, 0.2]}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_file_may_be_pickled_by_any_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"state_dict": backbone(), "args": Path("a")}, path, pickle_protocol=protocol)
    assert read_foreign(path).arch == "torchvision:resnet18"


def test_tensors_that_share_memory_or_are_parameters_are_read(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    content = {
        "a": base,
        "b": base.view(3, 4).T,
        "c": nn.Parameter(base[2:5]),
        "d": OrderedDict(e=base.half()),
        "args": Path("a"),
    }
    path = write(tmp_path, content)
    found = load_torch(path, stubs=True)
    for key in "abc":
        assert torch.equal(found[key], content[key])  # type: ignore[call-overload]
    assert torch.equal(found["d"]["e"], base.half())


def test_settings_of_a_class_that_is_not_installed_are_stubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = ModuleType("stranger")
    exec("class Config:\n    rate = 0.1\n", vars(stranger))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "stranger", stranger)
        path = write(tmp_path, {"state_dict": backbone(), "cfg": vars(stranger)["Config"]()})
    content, _ = read_file(path)
    assert isinstance(content["cfg"], Stub)
    assert content["cfg"].kind == "stranger.Config"
    assert "stranger" not in sys.modules


# ---- nothing runs ----


class Calls:
    """Unpickled, it calls something."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda m: (os.system, f"touch {m}"), r"(posix|nt)\.system"),
        (lambda m: (eval, f"open({str(m)!r}, 'w')"), r"builtins\.eval"),
        (lambda m: (exec, f"open({str(m)!r}, 'w')"), r"builtins\.exec"),
        (lambda m: (open, str(m), "w"), r"_?io\.open|builtins\.open"),
        (lambda m: (subprocess.check_call, ["touch", str(m)]), r"subprocess\.check_call"),
        (lambda m: (getattr, Path(m), "touch"), r"builtins\.getattr"),
        (lambda m: (__import__, "antigravity"), r"builtins\.__import__"),
        (lambda m: (torch.hub.load, "a/b", "c"), r"torch\.hub"),
        (lambda m: (torch.load, str(m)), r"torch\.serialization"),
    ],
)
def test_an_attack_beside_the_weights_does_nothing(
    call: Any, name: str, zipped: bool, tmp_path: Path
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "file.pth"
    content = {"state_dict": backbone(), "args": Calls(*call(marker))}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CossError, match=f"holds an object of type ({name})") as caught:
        read_foreign(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def raw(operations: bytes, path: Path) -> Path:
    """A file of torch.save whose pickle is replaced by some operations."""
    torch.save({"w": torch.zeros(1)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, operations if name.endswith("data.pkl") else data)
    return path


STUB = b"cstranger\nThing\n"


@pytest.mark.parametrize(
    "operations",
    [
        # attributes of a function, of a class and of a module's class that is allowed
        b"ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
        b"ctorch.nn.parameter\nParameter\n}X\x01\x00\x00\x00aK\x01sb.",
        b"cstranger\nThing\n}X\x08\x00\x00\x00__init__K\x01sb.",
        # calls of what a call gave, of an attribute that a stub keeps, and of a constant
        STUB + b")R)R.",
        b"K\x01)R.",
        b"ccollections\nOrderedDict\n)R)R.",
        # classes made by the extension registry and in the manner of protocol 0
        b"\x82\x01.",
        b"(istranger\nThing\n.",
        b"(" + STUB + b"o.",
        # a buffer of as many bytes as it is told
        b"\x96\x00\x00\x00\x00\x00\x01\x00\x00.",
    ],
)
def test_operations_that_change_or_call_what_was_made_are_refused(
    operations: bytes, tmp_path: Path
) -> None:
    path = raw(b"\x80\x02" + STUB + b"0" + operations, tmp_path / "file.pth")
    before = dict(vars(torch.nn.Parameter)), dict(vars(torch._utils._rebuild_tensor_v2))
    with pytest.raises(CossError, match="truncated or not a checkpoint"):
        read_file(path)
    after = dict(vars(torch.nn.Parameter)), dict(vars(torch._utils._rebuild_tensor_v2))
    assert before == after


def test_thousands_of_classes_are_refused(tmp_path: Path) -> None:
    names = b"".join(b"cstranger\nThing%d\n0" % k for k in range(3000))
    with pytest.raises(CossError, match="thousands of classes"):
        read_file(raw(b"\x80\x02" + names + b"N.", tmp_path / "file.pth"))


# ---- other kinds of files ----


def of_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def scripted(path: Path) -> Path:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))
    return path


def pickled(path: Path, value: Any) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


def archive(path: Path, *members: str) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for member in members:
            opened.writestr(member, "x")
    return path


def folder(path: Path, name: str) -> Path:
    path.mkdir()
    (path / name).touch()
    return path


KINDS: dict[str, tuple[Any, str]] = {
    "TorchScript": (lambda p: scripted(p / "a.pt"), r"TorchScript.*torch\.jit\.load"),
    "torch.export": (
        lambda p: archive(p / "a.pt2", "a/archive_format", "a/models/model.json"),
        r"torch\.export.*torch\.export\.load",
    ),
    "ONNX": (lambda p: of_bytes(p / "a.onnx", b"\x08\x07\x12"), "ONNX"),
    "NumPy": (
        lambda p: (np.savez(p / "a.npz", a=np.zeros(2)), p / "a.npz")[1],
        r"NumPy.*numpy\.load",
    ),
    "LFS": (
        lambda p: of_bytes(p / "a.pth", b"version https://git-lfs.github.com/spec/v1\n"),
        "git lfs pull",
    ),
    "LFS of safetensors": (
        lambda p: of_bytes(p / "a.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        "git lfs pull",
    ),
    "page": (lambda p: of_bytes(p / "a.pth", b"\n<!DOCTYPE html><html>"), "web page.*resolve"),
    "HDF5": (lambda p: of_bytes(p / "a.h5", b"\x89HDF\r\n\x1a\n" + bytes(20)), "HDF5"),
    "gzip": (lambda p: of_bytes(p / "a.pth", b"\x1f\x8b\x08" + bytes(20)), "unpack it"),
    "zip": (lambda p: archive(p / "a.zip", "a/model.pth"), "unpack it"),
    "module": (lambda p: write(p, nn.Linear(2, 2)), r"whole module.*weights_only=False.*trust"),
    "module in a dictionary": (
        lambda p: write(p, {"model": nn.Linear(2, 2), "epoch": 1}),
        r"whole module.*model.*state_dict\(\)",
    ),
    "arrays": (lambda p: write(p, {"w": np.zeros(3)}), "NumPy arrays in place of tensors"),
    "pickle": (
        lambda p: pickled(p / "a.pkl", {"w": 1}),
        r"torch\.save did not write.*pickle\.load",
    ),
    "DCP": (lambda p: folder(p / "a", ".metadata"), "dcp_to_torch"),
    "DeepSpeed": (lambda p: folder(p / "a", "zero_to_fp32.py"), "DeepSpeed.*zero_to_fp32"),
    "empty": (lambda p: of_bytes(p / "a.pth", b""), "copy it again"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_file_is_called_by_its_name_with_the_way_out(
    kind: str, tmp_path: Path
) -> None:
    make, says = KINDS[kind]
    with pytest.raises(CossError, match=says) as caught:
        load_model(make(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_line_that_converts_torchscript_works(tmp_path: Path) -> None:
    path = tmp_path / "a file.pt"
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    torch.jit.save(torch.jit.script(net), str(path))
    with pytest.raises(CossError) as caught:
        read_file(path)
    line = str(caught.value).split("`")[1]
    subprocess.run(line.replace("python", sys.executable, 1), shell=True, check=True, cwd=tmp_path)
    made, _ = read_file(path.with_suffix(".pth"))
    assert torch.equal(made["0.weight"], net.state_dict()["0.weight"])


def test_wrappers_in_names_are_no_part_of_them(tmp_path: Path) -> None:
    for wrapper in (
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_fsdp_wrapped_module.",
        "_checkpoint_wrapped_module.module.",
    ):
        state = put(wrapper, backbone())
        inner = {k.replace("layer1.0.", f"layer1.0.{wrapper}"): v for k, v in state.items()}
        found = read_foreign(write(tmp_path, {"model_state_dict": inner}))
        assert found.state.keys() == backbone().keys()
