"""The HTML that this tool writes: templates that escape what they are given, and one look.

Pages are whole in themselves: style and script stand in the page or beside it, nothing is fetched.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def environment() -> Environment:
    """Templates of this package. Every value is escaped; a name that is not given is an error.

    `tojson` gives JSON that a script element can hold: `<`, `>`, `&`, `'` and everything outside
    ASCII are escaped, and what JSON does not have is an error.
    """
    made = Environment(
        loader=PackageLoader("robustbench_coss.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made


def render(template: str, **values: Any) -> str:
    """A template of this package, filled in.

    Args:
        template: file name below `templates/`.
        values: what it names; strings are escaped.
    """
    return environment().get_template(template).render(**values)
