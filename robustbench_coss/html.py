"""The HTML that this tool writes: templates that escape what they are given, and one look.

Pages are whole in themselves: style and script stand in the page or beside it, nothing is fetched.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment() -> Environment:
    """Templates of this package. Every value is escaped; a name that is not given is an error."""
    return Environment(
        loader=PackageLoader("robustbench_coss", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """A template of this package, filled in.

    Args:
        template: file name below `templates/`.
        values: what it names; strings are escaped.
    """
    return environment().get_template(template).render(**values)
