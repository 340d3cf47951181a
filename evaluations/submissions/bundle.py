"""Bundles: one zip file of records and what is needed to check them, for passing on.

Writing gives the same bytes for the same content. Reading trusts nothing: names, kinds, sizes and
hashes are checked before a byte is used, nothing is compressed, executed or written to disk.
"""

from __future__ import annotations

import io
import json
import re
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_coss.errors import CossError, explain_os_errors, kind_and_line
from robustbench_coss.files import canonical_json, sha256_of, write_chosen
from robustbench_coss.reading import MIB, parse_json

SCHEMA = 1
MANIFEST = "manifest.json"
ENCODER = "encoder.safetensors"
ENVIRONMENT = "environment.json"
RECIPE = "recipe.yaml"
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip file can state
MOST_FILES = 2_000
# What may lie in a bundle, and how many bytes of it at most.
LIMITS = {
    r"manifest\.json": 4 * MIB,
    r"environment\.json": 4 * MIB,
    r"recipe\.yaml": MIB,
    r"records/[A-Za-z0-9._+-]+/[A-Za-z0-9._+-]+\.json": 256 * MIB,
    r"probes/[0-9a-f]{64}\.safetensors": 1024 * MIB,
    r"encoder\.safetensors": 8192 * MIB,
}


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, every file of which has the size and hash that its manifest states.

    Attributes:
        path: the zip file.
        manifest: its content; see docs/submissions.md.
        names: files beside the manifest, sorted.
    """

    path: Path
    manifest: dict[str, Any]
    names: tuple[str, ...]

    def read(self, name: str) -> bytes:
        """Content of a file.

        Raises:
            CossError: it is no longer what the manifest states.
        """
        stated = {file["path"]: file for file in self.manifest["files"]}[name]
        with explain_os_errors("read", self.path), _open(self.path) as archive:
            content = _read(archive, name, int(stated["bytes"]), self.path)
        if sha256_of(content) != stated["sha256"]:
            raise CossError(f"{self.path}: {name} does not have the SHA-256 that {MANIFEST} states")
        return content

    def json(self, name: str) -> Any:
        """Content of a JSON file. Raises CossError if it is not JSON."""
        return _parse(self.read(name), f"{self.path}: {name}")


def write_bundle(
    path: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes], force: bool = False
) -> None:
    """Write a bundle atomically; equal arguments give equal bytes.

    Args:
        manifest: what it says of the whole; schema and list of files are added.
        files: content by name.
        force: replace a file that is no bundle.

    Raises:
        CossError: a name or size that no reader would take, or the file cannot be written.
    """
    listed = [
        {"path": name, "bytes": len(files[name]), "sha256": sha256_of(files[name])}
        for name in sorted(files)
    ]
    head = canonical_json({**manifest, "schema": SCHEMA, "files": listed})
    text = json.dumps(json.loads(head), indent=1, sort_keys=True) + "\n"
    content = dict(files) | {MANIFEST: text.encode()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            _check_entry(name, len(content[name]), path)
            # Stored as it is: zlib's versions compress to different bytes, and what is large
            # (columns of outcomes, weights) is compressed already or does not compress.
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content[name])
    write_chosen(path, out.getvalue(), force=force or _is_bundle(path), mark=b"?")


def _is_bundle(path: Path) -> bool:
    try:
        open_bundle(path)
    except CossError:
        return False
    return True


def open_bundle(path: Path) -> Bundle:
    """Open a bundle and check every file in it against its manifest.

    Raises:
        CossError: there is no such file, it is no bundle, a name, kind or size is not allowed, a
            file is not listed or is listed and missing, or does not have the hash stated.
    """
    if not path.is_file():
        raise CossError(f"{path} is no file; pass a bundle that `coss-bench submit` wrote")
    with explain_os_errors("read", path), _open(path) as archive:
        entries = archive.infolist()
        if len(entries) > MOST_FILES:
            raise CossError(f"{path} holds {len(entries)} files, more than {MOST_FILES}")
        names = [entry.filename for entry in entries]
        for entry in entries:
            kind = entry.external_attr >> 16
            if entry.is_dir() or (stat.S_IFMT(kind) not in (0, stat.S_IFREG)):
                raise CossError(f"{path}: {entry.filename!r} is a link or folder, not a file")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise CossError(f"{path}: {entry.filename!r} is compressed or encrypted")
            _check_entry(entry.filename, entry.file_size, path)
        if len(set(names)) != len(names):
            raise CossError(f"{path} holds a file twice")
        if MANIFEST not in names:
            raise CossError(f"{path} has no {MANIFEST}; it was not written by `coss-bench submit`")
        size = archive.getinfo(MANIFEST).file_size
        manifest = _parse(_read(archive, MANIFEST, size, path), f"{path}: {MANIFEST}")
        _check_manifest(manifest, path)
        listed = {file["path"]: file for file in manifest["files"]}
        if set(listed) | {MANIFEST} != set(names) or len(listed) != len(manifest["files"]):
            differing = sorted((set(listed) | {MANIFEST}) ^ set(names))
            raise CossError(
                f"{path}: {MANIFEST} and the files in it differ: {', '.join(differing[:3])}"
            )
        for name, stated in listed.items():
            content = _read(archive, name, stated["bytes"], path)
            if sha256_of(content) != stated["sha256"]:
                raise CossError(
                    f"{path}: {name} does not have the SHA-256 that {MANIFEST} states; it was "
                    "changed after `coss-bench submit`"
                )
    return Bundle(path, manifest, tuple(sorted(listed)))


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CossError(f"{path} is no zip file, or a damaged one ({error})") from error


def _read(archive: zipfile.ZipFile, name: str, size: int, path: Path) -> bytes:
    """A file of exactly `size` bytes."""
    try:
        with archive.open(name) as file:
            content = file.read(size + 1)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise CossError(f"{path}: {name} is damaged ({error})") from error
    if len(content) != size:
        raise CossError(f"{path}: {name} does not have the {size:,} bytes that {MANIFEST} states")
    return content


def _check_entry(name: str, size: int, path: Path) -> None:
    # A list of what is allowed: nothing absolute, no `..`, no backslash, no hidden file fits it.
    limits = [limit for form, limit in LIMITS.items() if re.fullmatch(form, name)]
    if not limits or any(part.startswith(".") for part in name.split("/")):
        raise CossError(f"{path}: a bundle has no file {name[:100]!r}")
    if size > limits[0]:
        raise CossError(f"{path}: {name} has {size:,} bytes, more than {limits[0]:,}")


def _check_manifest(manifest: Any, path: Path) -> None:
    try:
        if manifest["schema"] != SCHEMA:
            raise CossError(
                f"{path} has manifest schema {manifest['schema']!r}, this version reads {SCHEMA}"
            )
        for file in manifest["files"]:
            sound = re.fullmatch("[0-9a-f]{64}", file["sha256"])
            if not sound or type(file["bytes"]) is not int or type(file["path"]) is not str:
                raise ValueError(f"file {file!r}"[:100])
        if not re.fullmatch("[0-9a-f]{64}", manifest["checkpoint_sha256"]):
            raise ValueError("checkpoint_sha256")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CossError(f"{path}: {MANIFEST} is damaged ({kind_and_line(error)})") from error


def _parse(content: bytes, name: str) -> Any:
    try:
        return parse_json(content)
    except ValueError as error:
        raise CossError(f"{name} is not valid JSON ({error})") from error
