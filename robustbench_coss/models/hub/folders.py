"""Folders with a model and its configuration, told apart by which library's that is."""

from __future__ import annotations

from pathlib import Path

from robustbench_coss.errors import CossError, one_line
from robustbench_coss.models.checkpoint import FILE_NAME, Checkpoint
from robustbench_coss.models.hub.fetch import CONFIG, MOST_CONFIG
from robustbench_coss.models.hub.libraries import CLIP_CONFIG, open_clip_folder, timm_folder
from robustbench_coss.models.hub.read import transformers_model
from robustbench_coss.models.other_tools.format import Colours
from robustbench_coss.reading import parse_json, read_text


def is_hub_folder(path: Path) -> bool:
    """Whether a path is a folder with a configuration of transformers, timm or open_clip."""
    if not path.is_dir() or (path / FILE_NAME).exists():
        return False
    return any((path / name).is_file() for name in (CONFIG, CLIP_CONFIG))


def model_in_folder(
    where: str, size: int | None, pooling: str | None = None, colours: Colours | None = None
) -> Checkpoint:
    """The model in a folder of transformers (`save_pretrained`), timm or open_clip.

    Args:
        pooling, colours: as in `transformers_model`; the other libraries state them.

    Raises:
        CossError: its configuration is damaged or says of neither library, or as the readers.
    """
    folder = Path(where)
    if (folder / CLIP_CONFIG).is_file():
        _check_stated(where, pooling, colours)
        return open_clip_folder(folder, size)
    path = folder / CONFIG
    try:
        stated = parse_json(read_text(path, MOST_CONFIG))
        if not isinstance(stated, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        reason = one_line(error, 120)
        raise CossError(
            f"{path} is damaged ({reason}); download or save the model again"
        ) from error
    if "model_type" in stated:
        return transformers_model(where, size, pooling, colours)
    if "architecture" in stated:
        _check_stated(where, pooling, colours)
        return timm_folder(folder, size)
    raise CossError(
        f"{path} states neither the model_type of transformers nor the architecture of timm; pass "
        "a folder that save_pretrained left"
    )


def _check_stated(where: str, pooling: str | None, colours: Colours | None) -> None:
    if pooling is not None or colours is not None:
        raise CossError(
            f"{where} states its pooling and normalisation; leave out --pooling, --mean and --std"
        )
