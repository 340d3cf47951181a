"""What `--set KEY=VALUE` says, for recipes and for suites."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustbench_coss.errors import CossError
from robustbench_coss.reading import parse_yaml


def parse_setting(text: str, example: str) -> tuple[str, Any]:
    """`a.b=value` as the dotted key and the value, which is read as YAML.

    Raises:
        CossError: the text is something else; `example` is shown.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise CossError(f"--set takes KEY=VALUE, such as {example}; got {text!r}")
    try:
        return key, parse_yaml(value)
    except ValueError as error:
        raise CossError(f"--set {key}: {value[:80]!r} is not a YAML value ({error})") from error


def at_least_one(counts: Mapping[str, int | None]) -> None:
    """Refuse a count below one by the name of its option; None is none given.

    Raises:
        CossError: there is one.
    """
    for option, value in counts.items():
        if value is not None and value < 1:
            raise CossError(f"{option} must be at least 1, got {value}")


def possible_size(option: str, size: int | None) -> None:
    """Refuse a side of images that is below 1 px or beyond reason."""
    from robustbench_coss.datasets.base import LARGEST_IMAGE

    if size is not None and not 1 <= size <= LARGEST_IMAGE:
        raise CossError(f"{option} must be 1 to {LARGEST_IMAGE} px, got {size}")


def colour(option: str, text: str | None) -> tuple[float, float, float] | None:
    """Three numbers with commas between them, one for each channel; None if there are none.

    Raises:
        CossError: the text is something else.
    """
    if text is None:
        return None
    try:
        r, g, b = (float(word) for word in text.split(","))
    except ValueError as error:
        raise CossError(
            f"{option} takes three numbers, such as 0.485,0.456,0.406; got {text[:60]!r}"
        ) from error
    if not all(abs(value) < 1e6 for value in (r, g, b)):
        raise CossError(f"{option} takes numbers of the size of pixels in [0, 1], got {text[:60]}")
    return r, g, b


def not_the_root(option: str, folder: Path | None) -> None:
    """Refuse the root of a file system as a folder to write many files into.

    Raises:
        CossError: it is that.
    """
    if folder is not None and folder.resolve() == folder.resolve().parent:
        raise CossError(f"{option} {folder} is the root of the file system; choose a folder in it")


def suite_options(
    settings: list[str], suites: list[str], corruption: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Keyword arguments of suites by name, from `--set` and the options for corruptions.

    Raises:
        CossError: an option is for a suite that is not measured.
    """
    given = [("corruption", key, value) for key, value in corruption.items() if value is not None]
    for text in settings:
        key, value = parse_setting(text, "occlusion.stages=[stage2]")
        name, _, option = key.partition(".")
        if not option:
            raise CossError(f"--set takes SUITE.KEY=VALUE; got {text!r}")
        given.append((name, option, value))
    options: dict[str, dict[str, Any]] = {}
    for name, option, value in given:
        if name not in suites:
            raise CossError(
                f"an option of suite {name!r} ({option}) is given, but only "
                f"{', '.join(suites)} will be measured; leave it out or add --suite {name}"
            )
        options.setdefault(name, {})[option] = value
    return options
