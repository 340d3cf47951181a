"""What the numbers were made with, and whether this machine can make them.

Versions and devices go into every record; `doctor` is what `coss-bench doctor` prints.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

from robustbench_coss import registry
from robustbench_coss.datasets.base import missing_data
from robustbench_coss.errors import CossError, explain_os_errors, kind_and_line

PACKAGES = (
    "torch",
    "torchvision",
    "torchattacks",
    "imagecorruptions-imaug",
    "lightly",
    "pytorch-lightning",
    "numpy",
    "robustbench-coss",
)
DEVICES = ("auto", "cpu", "cuda")
FREE_SPACE_WANTED = 1 << 30  # bytes: records are megabytes, checkpoints and logs are more


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        installed = _version(name)
        if installed is not None:
            found[name] = installed
    return found


def cores() -> int:
    """Cores this process may use: containers and job schedulers often grant fewer than exist."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve_device(name: str) -> torch.device:
    """The device for "auto" (CUDA where there is one), "cpu" or "cuda".

    Raises:
        CossError: the name is unknown, or CUDA is asked for and not usable.
    """
    if name not in DEVICES:
        raise CossError(f"unknown device {name!r}; known: {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        why = (
            "this PyTorch is built without CUDA; install a CUDA build"
            if torch.version.cuda is None
            else "no usable GPU or driver was found; check `nvidia-smi`"
        )
        raise CossError(f"--device cuda is not possible: {why}, or use --device cpu")
    use_cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if use_cuda else "cpu")


def device_name(device: torch.device) -> str:
    """A device in words: "NVIDIA H100 80GB HBM3", or the CPU's model and the threads used."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    return f"{_cpu_model()}, {threads} thread{'s' if threads != 1 else ''}"


def check_writable(folder: Path) -> None:
    """Make sure that files can be written to a folder, which is made if it is missing.

    Raises:
        CossError: they cannot; the message says why.
    """
    with explain_os_errors("write to", folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # A full disk may still take an empty file.
            file.write(bytes(1 << 16))
            file.flush()


@dataclass(frozen=True)
class Finding:
    """One thing that `doctor` looked at.

    Attributes:
        remedy: what to do about it; empty where nothing needs doing.
        required: whether the tool is broken without it; false for optional data sets.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = True


def doctor(data_root: Path, results: Path = Path("results")) -> list[Finding]:
    """Look at everything that a run or an evaluation relies on; changes nothing."""
    return [
        _check_python(),
        *_check_packages(),
        _check_imagecorruptions(),
        _check_device(),
        _check_folder("results folder", results),
        _check_space(results),
        *(_check_dataset(name, data_root) for name in registry.names("dataset")),
    ]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def required(requirements: list[str]) -> list[Requirement]:
    """What must be installed of requirement strings as wheels state them: not those of extras, nor
    those for other systems.
    """
    parsed = [Requirement(text) for text in requirements]
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]


def _check_python() -> Finding:
    found = platform.python_version()
    ok = sys.version_info >= (3, 11)
    return Finding("python", ok, found, "" if ok else "install Python 3.11 or newer")


def _check_packages() -> list[Finding]:
    try:
        requirements = metadata.requires("robustbench-coss") or []
    except metadata.PackageNotFoundError:
        return [Finding("robustbench-coss", False, "not installed", "pip install robustbench-coss")]
    findings = []
    for wanted in sorted(required(requirements), key=lambda r: r.name):
        installed = _version(wanted.name)
        ok = installed is not None and wanted.specifier.contains(installed, prereleases=True)
        detail = f"{installed or 'not installed'} (needs {wanted.specifier})"
        remedy = "" if ok else f'pip install "{wanted.name}{wanted.specifier}"'
        findings.append(Finding(wanted.name, ok, detail, remedy))
    return findings


def _check_imagecorruptions() -> Finding:
    # Two distributions with one import name: whichever was unpacked last wins, file by file.
    if _version("imagecorruptions") is not None:
        return Finding(
            "imagecorruptions",
            False,
            "the unmaintained distribution `imagecorruptions` is installed and shares its import "
            "name with imagecorruptions-imaug",
            "pip uninstall imagecorruptions imagecorruptions-imaug; "
            "pip install imagecorruptions-imaug",
        )
    try:
        importlib.import_module("imagecorruptions")
    except Exception as error:  # whatever a broken third-party package raises
        return Finding(
            "imagecorruptions",
            False,
            f"does not import: {kind_and_line(error)}",
            "pip install --force-reinstall imagecorruptions-imaug",
        )
    return Finding("imagecorruptions", True, "imports")


def _check_device() -> Finding:
    device = resolve_device("auto")
    return Finding("device", True, f"{device.type}: {device_name(device)}")


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _check_folder(name: str, folder: Path) -> Finding:
    nearest = _existing(folder)
    try:
        with explain_os_errors("write to", folder), tempfile.TemporaryFile(dir=nearest):
            pass
    except CossError as error:
        return Finding(name, False, str(error), "choose another folder with --results")
    return Finding(name, True, f"{folder} is writable")


def _check_space(folder: Path) -> Finding:
    free = shutil.disk_usage(_existing(folder)).free
    ok = free >= FREE_SPACE_WANTED
    remedy = "" if ok else "free some space: at least 1 GiB is wanted"
    return Finding("disk space", ok, f"{free / (1 << 30):.1f} GiB free", remedy)


def _check_dataset(name: str, data_root: Path) -> Finding:
    label = f"data set {name}"
    try:
        remedy = missing_data(name, data_root)
    except CossError as error:
        return Finding(label, False, "does not work", str(error), required=False)
    if remedy is None:
        return Finding(label, True, "present", required=False)
    return Finding(label, False, "not there", remedy, required=False)
