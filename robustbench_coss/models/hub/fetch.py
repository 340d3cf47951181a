"""Models of the Hugging Face Hub as folders: from the local cache, else downloaded.

Nothing of a repository but its configuration and weights is fetched, and no code of it is run.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from robustbench_coss.errors import CossError, one_line
from robustbench_coss.reading import parse_json, read_text

CONFIG = "config.json"
MOST_CONFIG = 1 << 22  # bytes
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
OLDER = ("*pytorch_model*.bin", "*pytorch_model.bin.index.json")
"""Read with `weights_only`, where there are no safetensors."""

SECONDS = 10.0
"""How long the Hub may take to answer before it counts as out of reach."""

NEEDS = "needs the package transformers; run pip install 'robustbench-coss[hub]'"


def folder_of(name: str, config: str = CONFIG) -> tuple[Path, str]:
    """The folder of a model `ORG/NAME[@REVISION]` in the Hub's cache, and its commit.

    The cache is used as it is; what it lacks is downloaded.

    Args:
        config: the file that makes it a model of the library it is for.

    Raises:
        CossError: no such model, none in the cache and no network, or a name that is none.
    """
    repo, _, revision = name.partition("@")
    hub = _hub()
    try:
        hub.utils.validate_repo_id(repo)
    except Exception as error:
        raise CossError(
            f"{name!r} names no model ({one_line(error, 120)}); write ORG/NAME or ORG/NAME@REVISION"
        ) from error
    asked: dict[str, Any] = {"repo_id": repo, "revision": revision or None}
    with suppress(Exception):  # huggingface_hub has many kinds
        found = Path(hub.snapshot_download(**asked, local_files_only=True))
        if _complete(found, config):
            return found, found.name
    with quiet():
        try:
            # Asked once and for a short time: what downloads tries again and again.
            about = hub.HfApi().model_info(repo, revision=revision or None, timeout=SECONDS)
            files = [file.rfilename for file in about.siblings or ()]
            wanted = ["*config.json", *(WEIGHTS if _any(files, WEIGHTS[0]) else OLDER)]
            found = Path(hub.snapshot_download(**asked, allow_patterns=wanted))
        except Exception as error:
            raise _not_had(name, repo, revision, error) from error
    if not _complete(found, config):
        raise CossError(f"the Hub's {repo} holds no {config} with weights, so it is no such model")
    return found, found.name


def file_of(place: str) -> Path:
    """A file of weights `ORG/NAME/[FILE]` of the Hub; without FILE, the usual one. Raises as
    `folder_of`.
    """
    org, name, file = (*place.split("/", 2), "")[:3]
    if not file:
        folder, _ = folder_of(f"{org}/{name}", "")
        return weights_in(folder)
    hub, repo = _hub(), f"{org}/{name}"
    with suppress(Exception):
        return Path(hub.hf_hub_download(repo, file, local_files_only=True))
    with quiet():
        try:
            hub.HfApi().model_info(repo, timeout=SECONDS)
            return Path(hub.hf_hub_download(repo, file))
        except Exception as error:
            raise _not_had(place, repo, "", error) from error


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder, safetensors before others, `open_clip…` before others."""
    found = [*folder.glob(WEIGHTS[0]), *folder.glob(OLDER[0])]
    return min(found, key=lambda p: (p.suffix != ".safetensors", "open_clip" not in p.name, p.name))


@contextlib.contextmanager
def quiet(level: int = logging.ERROR) -> Iterator[None]:
    """Keep the libraries' logs up to a level out of the terminal."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)


def _complete(folder: Path, config: str) -> bool:
    """Whether a cached folder has the configuration and all weights."""
    files = os.listdir(folder)
    if config and config not in files:
        return False
    for index in folder.glob("*.index.json"):
        with suppress(CossError, ValueError, KeyError, TypeError, AttributeError):
            return set(parse_json(read_text(index))["weight_map"].values()) <= set(files)
        return False  # a damaged list
    return any(_any(files, kind) for kind in (WEIGHTS[0], OLDER[0]))


def _any(files: list[str], pattern: str) -> bool:
    return any(fnmatch(file, pattern) for file in files)


def _not_had(name: str, repo: str, revision: str, error: Exception) -> CossError:
    kind = type(error).__name__
    if "GatedRepo" in kind:
        return CossError(
            f"{name} is given only to those who accept its terms; do so at "
            f"https://huggingface.co/{repo}, then run `hf auth login`"
        )
    if "NotFound" in kind:
        return CossError(
            f"the Hub has no model {repo}{f' at {revision}' if revision else ''}, or keeps it "
            "private; check the name, or run `hf auth login`"
        )
    at = f" --revision {revision}" if revision else ""
    return CossError(
        f"{name} is not in the cache ({_cache()}) and could not be downloaded ({kind}); where "
        f"there is a network, run `hf download {repo}{at}`"
    )


def _cache() -> str:
    cache: str = _hub().constants.HF_HUB_CACHE
    return cache


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.utils
    except ImportError as error:
        raise CossError(f"hf:ORG/NAME {NEEDS}") from error
    return huggingface_hub
