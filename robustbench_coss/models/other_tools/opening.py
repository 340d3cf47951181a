"""Opening files of strangers: tensors and plain values or a refusal; nothing is executed."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

from torch import Tensor

from robustbench_coss.errors import CossError, few, one_line
from robustbench_coss.models.containers import load_torch, read_safetensors
from robustbench_coss.models.export_source import SOURCE
from robustbench_coss.models.stubs import Forbidden, SharedOut, Stub, parts
from robustbench_coss.reading import open_regular, parse_json

Content = tuple[dict[str, Any], Mapping[str, Any]]
"""What a file holds, and what an export of this tool says about itself, else nothing."""


def read_file(path: Path) -> Content:
    """The content of a file of `torch.save` or safetensors.

    Raises:
        CossError: another kind of file, by its name and with the line that converts it; a
            truncated one, one that names what no harmless file does, or one without tensors.
    """
    check_kind(path)
    if path.is_dir():
        raise CossError(f"{path} is a folder; pass a checkpoint file")
    with open_regular(path) as file:
        head = file.read(9)
    export: Any = None
    if head[8:9] == b"{":
        content, export = _read_safetensors(path)
    else:
        content = _read_torch(path, head)
        if isinstance(content, dict):
            export = content.get(SOURCE)
    if not isinstance(content, dict) or not _holds_tensor(content):
        raise CossError(f"{path} {_without_tensors(path, content)}")
    return _gathered(content, path), export if isinstance(export, dict) else {}


def check_kind(path: Path) -> None:
    """Refuse files and folders that are known and are no checkpoint files.

    Raises:
        CossError: with what it is, and the line that converts it.
    """
    if path.is_dir():
        if folder := _folder(path):
            raise CossError(folder)
    elif path.exists():
        with open_regular(path) as file:
            head = file.read(512)
        if kind := _another_kind(path, head):
            raise CossError(f"{path} is {kind}")


def _read_safetensors(path: Path) -> tuple[dict[str, Any], Any]:
    metadata, tensors = read_safetensors(path)
    stated = metadata.get(SOURCE)
    export: Any = None
    if stated is not None:
        with suppress(ValueError):
            export = parse_json(stated)
    return tensors, export


def _read_torch(path: Path, head: bytes) -> Any:
    if head[:2] == b"PK" and not zipfile.is_zipfile(path):
        raise CossError(f"{path} is truncated; copy it again")
    try:
        return load_torch(path, stubs=True)
    except SharedOut as error:
        raise CossError(f"{path} holds {PART}") from error
    except Forbidden as error:
        raise CossError(
            f"{path} holds an object of type {error}, which is not opened: that could execute "
            "code; get the file from a source that you trust, or save the state dict alone with "
            "the tool that wrote it"
        ) from error
    except CossError:
        raise
    except Exception as error:  # pickle, zip and torch have their own kinds
        reason = one_line(error, 100)
        if re.search("Invalid magic number", reason):
            load = f"pickle.load(open({str(path)!r}, 'rb'))"
            raise CossError(
                f"{path} is a pickle that torch.save did not write; convert it with "
                f"{_python('import pickle, torch', load, path)}, which runs what is in it: only "
                "if you trust it"
            ) from error
        raise CossError(
            f"{path} is truncated or not a checkpoint ({type(error).__name__}: {reason}); "
            "copy it again"
        ) from error


def _holds_tensor(content: Any) -> bool:
    if isinstance(content, dict):
        return any(_holds_tensor(value) for value in content.values())
    return isinstance(content, Tensor)


# ---- what processes share out ----

PART = (
    "one process's part of weights that several share (FSDP); where it was trained, save "
    "`get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))` of "
    "torch.distributed.checkpoint.state_dict, or pass the file that holds all (DINOv2: "
    "eval/training_*/teacher_checkpoint.pth)"
)
FLAT = re.compile(r"(.*\.)?_?flat_param(_\d+)?")
"""How FSDP calls the weights of a module in one row, without their shapes."""


def _gathered(content: dict[Any, Any], path: Path) -> dict[Any, Any]:
    """Tensors that are shared out (DTensor) as plain ones, where a file has all of them.

    Raises:
        CossError: it has a part.
    """
    found: dict[Any, Any] = {}
    for key, value in content.items():
        local = getattr(value, "_local_tensor", None) if isinstance(value, Tensor) else None
        if isinstance(value, dict):
            value = _gathered(value, path)
        elif local is not None:
            partial = any(kind.is_partial() for kind in getattr(value, "placements", ()))
            if partial or local.shape != value.shape:
                raise CossError(f"{path} holds {PART}")
            value = local
        elif isinstance(value, Tensor) and isinstance(key, str) and FLAT.fullmatch(key):
            raise CossError(f"{path} holds {PART}")
        found[key] = value
    return found


TELLING = (
    (r".*\.(_packed_params|zero_point$|SCB$|qweight$|qzeros$|absmax$)", "quantised weights"),
    (r".*\.parametrizations\.", "weights under parametrizations, such as weight or spectral norm"),
)
"""Names of weights that are not those a network computes with, and what they are of."""
ADAPTER = re.compile(r"(.*\.)?(lora_[AB]|base_layer)\.")


def told_by_names(names: Iterable[str]) -> str:
    """Why names of weights may make up no network, with the way out; "" if they do not tell."""
    names = list(names)
    if any(map(ADAPTER.match, names)):
        return f"it has adapters of PEFT (LoRA) beside its weights; {MERGE}"
    for pattern, what in TELLING:
        if any(re.match(pattern, name) for name in names):
            return f"it has {what}; save the plain weights (before they were made so, or merged)"
    return ""


# ---- what else a file may be ----


def _python(imports: str, value: str, path: Path) -> str:
    """The command that saves a value as a file that can be read."""
    made = str(path.with_suffix(".pth" if path.suffix != ".pth" else ".state.pth"))
    return f"`python -c {quote(f'{imports}; torch.save({value}, {made!r})')}`"


def _folder(path: Path) -> str:
    if (path / ".metadata").is_file():
        made = quote(f"{path}.pth")
        return (
            f"{path} is a folder of torch.distributed.checkpoint; convert it with `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {quote(str(path))} {made}`"
        )
    if (path / "zero_to_fp32.py").is_file():
        return (
            f"{path} is a folder of DeepSpeed's; convert it with `python "
            f"{quote(str(path / 'zero_to_fp32.py'))} {quote(str(path))} {quote(f'{path}.pth')}`"
        )
    if (path / "adapter_config.json").is_file():
        return f"{path} is an adapter of PEFT; {MERGE}"
    return _folder_of_others(path)


MERGE = "save the whole model with merge_and_unload().save_pretrained(FOLDER)"


def _folder_of_others(path: Path) -> str:
    """Where in a folder of others the model is; "" for one of this tool's, or of none."""
    if (path / "encoder.safetensors").exists() or (path / "last.ckpt").exists():
        return ""
    if (path / "snapshots").is_dir() and path.name.startswith("models--"):
        name = path.name.removeprefix("models--").replace("--", "/")
        return f"{path} is the Hub's cache of a model; pass hf:{name}"
    with suppress(OSError):
        there = sorted(path.iterdir())
        if inner := [p.name for p in there if (p / "config.json").is_file()]:
            return f"{path} holds folders of models ({few(inner)}); pass one of them"
        if files := [p.name for p in there if p.suffix in SUFFIXES and p.is_file()]:
            return (
                f"{path} holds weights ({few(files)}) and no config.json that says of what; "
                "put the model's there, or pass a file of all its weights"
            )
    return ""


SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Of files of weights."""


def _another_kind(path: Path, head: bytes) -> str:
    """What a file is if it is no checkpoint, with the way out; "" if it may be one."""
    start = head.lstrip()[:64].lower()
    name = repr(str(path))
    if not head:
        return "empty and so truncated; copy it again"
    if start.startswith(b"version https://git-lfs"):
        return (
            "a pointer of Git LFS, not the file itself; run `git lfs pull` in its repository, or "
            "download the file"
        )
    if start.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        return (
            "a web page, not a checkpoint; download the file itself (on Hugging Face and GitHub "
            "the link with /resolve/ or /raw/ in place of /blob/)"
        )
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file, as Keras writes; save its weights as a state dict of PyTorch"
    if head[257:262] == b"ustar" or head.startswith((b"\x1f\x8b", b"BZh", b"7z\xbc", b"\xfd7zXZ")):
        return "a compressed file or an archive; unpack it and pass the checkpoint in it"
    if re.search(r"-\d+-of-\d+\.(safetensors|bin)$", path.name):
        return "one of several files that hold a model's weights together; pass their folder"
    if head.startswith(b"GGUF"):
        return "a GGUF file, whose weights are quantised; pass the weights that it was made of"
    if path.suffix == ".msgpack":
        return (
            "a file of Flax; save the model with PyTorch: from_pretrained(FOLDER, from_flax=True)"
        )
    if path.suffix == ".onnx":
        return (
            "an ONNX graph, whose weights have no names of an architecture; pass the checkpoint "
            "that it was exported from"
        )
    if start.startswith(b"{") and path.suffix == ".json":
        return "a JSON file; pass the file of weights beside it"
    return _kind_of_zip(path, name) if head.startswith(b"PK") and zipfile.is_zipfile(path) else ""


def _kind_of_zip(path: Path, name: str) -> str:
    # Damaged ones lead zipfile to errors of many kinds; what reads the file then says so.
    with suppress(Exception), zipfile.ZipFile(path) as archive:
        members = [member.rpartition("/")[2] for member in archive.namelist()]
        if "constants.pkl" in members:
            value = f"torch.jit.load({name}, map_location='cpu').state_dict()"
            made = _python("import torch", value, path)
            return f"a TorchScript archive; convert it with {made}"
        if "archive_format" in members or "serialized_exported_program.json" in members:
            value = f"torch.export.load({name}).state_dict"
            return (
                f"a program of torch.export; convert it with {_python('import torch', value, path)}"
            )
        if members and all(member.endswith(".npy") for member in members):
            value = f"{{k: torch.from_numpy(v) for k, v in numpy.load({name}).items()}}"
            return (
                f"an archive of NumPy arrays; convert it with "
                f"{_python('import numpy, torch', value, path)}, or let timm read it: "
                "timm.create_model(NAME, checkpoint_path=…)"
            )
        if "data.pkl" not in members:
            return "a zip archive of other files; unpack it and pass the checkpoint in it"
    return ""


def _without_tensors(path: Path, content: Any) -> str:
    """Why a file that was opened is of no use."""
    if isinstance(content, (list, tuple)):
        number = next((i for i, value in enumerate(content) if _holds_tensor(value)), None)
        if number is not None:
            load = f"torch.load({str(path)!r}, map_location='cpu')[{number}]"
            return (
                f"holds a {type(content).__name__} of {len(content)}; save the one that is meant "
                f"alone, such as with {_python('import torch', load, path)}"
            )
    for value in (content, *parts(content)):
        if isinstance(value, Stub) and isinstance(value.state, dict) and "_modules" in value.state:
            load = f"torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
            key = (
                next((f"[{k!r}]" for k, v in content.items() if v is value), "")
                if isinstance(content, dict)
                else ""
            )
            made = _python("import torch", f"{load}{key}.state_dict()", path)
            return (
                f"holds a whole module pickled ({value.kind}), not its weights; convert it where "
                f"its code is installed with {made}, which runs what is in it: only if you trust it"
            )
    kinds = sorted({v.kind for v in _deep(content) if isinstance(v, Stub)})
    if any(kind.startswith("numpy.") for kind in kinds):
        return (
            "holds NumPy arrays in place of tensors; save them as a state dict: "
            "{name: torch.from_numpy(array)}"
        )
    return "holds no tensors under names; pass a checkpoint or a saved state dict"


def _deep(value: Any) -> list[Any]:
    return [value, *(inner for part in parts(value) for inner in _deep(part))]
