"""What `--set KEY=VALUE` says."""

from __future__ import annotations

from typing import Any

from robustbench_coss.errors import CossError


def parse_setting(text: str, example: str) -> tuple[str, Any]:
    """`a.b=value` as the dotted key and the value, which is read as YAML.

    Raises:
        CossError: the text is something else; `example` is shown.
    """
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise CossError(f"--set takes KEY=VALUE, such as {example}; got {text!r}")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise CossError(f"--set {key}: {value!r} is not a YAML value") from error
