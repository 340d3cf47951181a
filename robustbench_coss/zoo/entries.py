"""What is known of published checkpoints: a list that is data (`checkpoints.yaml`)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from robustbench_coss.errors import CossError, did_you_mean, one_line
from robustbench_coss.reading import parse_yaml, read_text

FAMILY = "zoo"
FILE = Path(str(files("robustbench_coss.zoo"))) / "checkpoints.yaml"


class Entry(BaseModel):
    """A published checkpoint.

    Attributes:
        name: unique, as in `zoo:NAME`.
        method: of pretraining.
        arch: in its publisher's words.
        paper: number at arXiv.
        licence: of the weights; SPDX where there is one.
        parameters: of the encoder ("21M"), as stated or, where nothing is, as counted.
        source: URL of the file.
        md5, sha256: the first characters of the digest, as published; "" where none is.
        checked: repository, commit and file in which all of this was read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    method: str
    arch: str
    paper: str = Field(pattern=r"^\d{4}\.\d{4,5}$")
    licence: str
    parameters: str = Field(pattern=r"^\d+M$")
    source: str = Field(pattern=r"^(https|http|file)://")
    md5: str = Field("", pattern=r"^[0-9a-f]{0,32}$")
    sha256: str = Field("", pattern=r"^[0-9a-f]{0,64}$")
    checked: str

    @property
    def digest(self) -> tuple[str, str]:
        """Kind and first characters of the digest that is published; ("", "") for none."""
        if self.sha256:
            return "sha256", self.sha256
        return ("md5", self.md5) if self.md5 else ("", "")

    @property
    def command(self) -> str:
        """What measures it."""
        return f"coss-bench eval {FAMILY}:{self.name} --dataset imagenet"


@cache
def entries(path: Path = FILE) -> dict[str, Entry]:
    """All checkpoints of the list, by name and in its order.

    Raises:
        CossError: the list is damaged.
    """
    try:
        found = TypeAdapter(list[Entry]).validate_python(parse_yaml(read_text(path)))
    except (ValidationError, ValueError) as error:
        reason = one_line(error)
        raise CossError(f"{path} is damaged ({reason}); install the package again") from error
    return {entry.name: entry for entry in found}


def entry_of(name: str) -> Entry:
    """The checkpoint of a name, with or without `zoo:`. Raises CossError if there is none."""
    name = name.removeprefix(f"{FAMILY}:")
    known = entries(FILE)
    if name not in known:
        raise CossError(
            f"the zoo has no {name!r}; {did_you_mean(name, known, '`coss-bench zoo` lists all')}"
        )
    return known[name]
