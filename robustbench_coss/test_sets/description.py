"""What a YAML file says of a published test set: layout, classes, how an answer is decided.

Nothing is opened here but these files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from robustbench_coss.errors import CossError, did_you_mean, one_line
from robustbench_coss.reading import from_home, parse_yaml, read_text

Decision = Literal["all", "within", "mean"]
LEVELS = (1, 2, 3, 4, 5)


class Archive(BaseModel):
    """A file that a set is published as.

    Attributes:
        name: of the file.
        bytes: its size.
        digest: ALGORITHM:HEX, of sha256, md5, or git (what `git hash-object` prints).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    bytes: int | None = Field(None, ge=1)
    digest: str = Field(pattern="^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|git:[0-9a-f]{40})$")


class Description(BaseModel):
    """A published test set.

    Attributes:
        title: for headings.
        about: what the pictures are, in a sentence or two.
        trained_on: the data set whose classes the map leads to.
        folders: where it may lie below the data root; the first that is there is taken.
        layout: "folders" (CLASS/PICTURE), "arrays" (NumPy files of pixels and labels), "answers" (a
            JSON file with a list of right classes for each test picture), or "cue-conflict"
            (SHAPE/SHAPE1-TEXTURE2.png).
        classes: class folder to training class or classes; or a list of classes, which are both;
            or the name of a file beside this one, with one a line; or of a shipped set whose map
            it is.
        numbered: whether class folders are named by the class's place in `classes`, from 0.
        class_in: where pictures of all classes lie together: a regular expression that a picture's
            path below the folder matches whole, whose one group is the class.
        others: whether there may be class folders of other names, which are left out.
        decision: "all": the highest output decides, and one beyond the set's classes is wrong;
            "within": the highest among the set's classes; "mean": the class whose training classes
            have the highest mean probability.
        kinds, levels: disturbed sets: names of disturbances, and their levels; none for others.
        path: where the pictures of a kind and level lie below the folder.
        pairs: whether the pictures are those of the test set, disturbed or labelled anew.
        border: px that are cut off all around.
        images, labels: NumPy files of "arrays", also as FILE.npz/KEY; `images` may hold {kind}.
        answers: file of "answers".
        pictures: how many there are, under each condition; None where no source says.
        archives: the files that it is published as, with sizes and digests where a source states
            them.
        paper, source, licence: where it comes from, and its terms.
        checked: what class map, number of pictures and digests were held against, and what was not.
    """

    # Folders may be called by numbers, which YAML reads as such.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    title: str
    about: str
    trained_on: str
    folders: tuple[str, ...] = Field(min_length=1)
    layout: Literal["folders", "arrays", "answers", "cue-conflict"]
    classes: str | tuple[str, ...] | dict[str, str | tuple[str, ...]]
    numbered: bool = False
    class_in: str = ""
    others: bool = False
    decision: Decision = "all"
    kinds: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    path: str = ""
    pairs: bool = False
    border: int = Field(0, ge=0)
    images: str = ""
    labels: str = ""
    answers: str = ""
    pictures: int | None = Field(ge=1)
    archives: tuple[Archive, ...] = ()
    paper: str
    source: str
    licence: str
    checked: str

    @model_validator(mode="before")
    @classmethod
    def _five_levels(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kinds"):
            return {"levels": LEVELS, "path": "{kind}/{level}"} | values
        return values

    @model_validator(mode="after")
    def _fits(self) -> Description:
        for key in ("kinds", "levels"):
            values = getattr(self, key)
            if twice := [each for each in values if values.count(each) > 1]:
                raise ValueError(f"{key} has {twice[0]} twice")
        needed = {"arrays": ("images", "labels"), "answers": ("answers",)}.get(self.layout, ())
        if missing := [key for key in needed if not getattr(self, key)]:
            raise ValueError(f"layout {self.layout} needs {' and '.join(missing)}")
        if self.pairs and self.layout != "answers" and not self.kinds:
            raise ValueError("pictures that are those of the test set, disturbed, need kinds")
        for key, allowed in (("path", {"kind", "level"}), ("images", {"kind"})):
            try:
                named = {field for _, field, _, _ in Formatter().parse(getattr(self, key))}
            except ValueError as error:
                raise ValueError(f"{key} is no pattern ({error})") from None
            if foreign := named - allowed - {None}:
                raise ValueError(f"{key} may hold {_braced(allowed)}, and has {_braced(foreign)}")
            try:
                getattr(self, key).format(kind="fog", level=1)
            except (ValueError, MemoryError, OverflowError) as error:
                raise ValueError(f"{key} is no pattern ({one_line(error)})") from None
        for each in ("kind", "level") if self.layout == "folders" else ():
            if len(getattr(self, f"{each}s")) > 1 and f"{{{each}" not in self.path:
                raise ValueError(f"path lacks {{{each}}}, and all {each}s would be the same")
        if self.class_in and (self.layout != "folders" or self.pairs):
            raise ValueError("class_in is for pictures in folders that are not the test set's")
        try:
            groups = re.compile(self.class_in).groups
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"class_in is no regular expression ({error})") from None
        if self.class_in and groups != 1:
            raise ValueError(f"class_in needs one group, which is the class, and has {groups}")
        if self.numbered and isinstance(self.classes, dict):
            raise ValueError("classes that folders are numbers of must be a list")
        return self


def _braced(names: Iterable[str | None]) -> str:
    return " and ".join(f"{{{name}}}" for name in sorted(map(str, names)))


def shipped() -> tuple[str, ...]:
    """Names of the test sets that this package describes, sorted."""
    names = (entry.name for entry in files("robustbench_coss.test_sets").iterdir())
    return tuple(sorted(n.removesuffix(".yaml") for n in names if n.endswith(".yaml")))


def describe(name: str) -> Description:
    """The description of a shipped test set, or of a YAML file of the user's.

    Raises:
        CossError: no such set, or a file that is none; a wrong key is named.
    """
    if name.endswith((".yaml", ".yml")):  # of a user, who may have changed it since
        return _parse(read_text(from_home(name)), name)
    if name in shipped():
        return _describe_shipped(name)
    hint = did_you_mean(name, shipped(), f"known: {', '.join(shipped())}")
    raise CossError(f"unknown test set {name!r}; {hint}, or name a YAML file of yours")


@cache
def _describe_shipped(name: str) -> Description:
    place = files("robustbench_coss.test_sets") / f"{name}.yaml"
    return _parse(place.read_text("utf-8"), place.name)


def _parse(text: str, where: str) -> Description:
    try:
        return Description.model_validate(parse_yaml(text))
    except ValidationError as error:
        found = error.errors(include_url=False)
        same = [each for each in found if each["loc"][:1] == found[0]["loc"][:1]]
        first = max(same, key=lambda each: len(each["loc"]))
        # What may be of several kinds has the kind in its place, as "tuple[str, ...]".
        key = ".".join(str(p) for p in first["loc"] if str(p) != "str" and "[" not in str(p))
        if not key and first["type"] == "model_type":
            raise CossError(f"{where} holds no keys and values") from error
        key = key or "the file"
        raise CossError(f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}") from error
    except ValueError as error:
        raise CossError(f"{where} is no YAML: {one_line(error)}") from error


def label_of(name: str) -> str:
    """A short name for conditions and metrics: that of the file, without folder and ending."""
    return Path(name).stem if name.endswith((".yaml", ".yml")) else name


def class_map(name: str) -> dict[str, tuple[str, ...]]:
    """Class folder (or label) to the training classes that it stands for, in order.

    Raises:
        CossError: as `describe`; a training class stands for two classes, or a list of classes is
            missing.
    """
    told = describe(name)
    classes = told.classes
    if classes in shipped():
        return class_map(classes)
    if isinstance(classes, str):
        classes = tuple(_beside(name, classes).split())
    if isinstance(classes, dict):
        found = {k: (v,) if isinstance(v, str) else tuple(v) for k, v in classes.items()}
    elif told.numbered or told.layout == "arrays":
        found = {str(number): (each,) for number, each in enumerate(classes)}
    else:
        found = {each: (each,) for each in classes}
    if empty := [key for key, targets in found.items() if not targets]:
        raise CossError(f"test set {name}: classes gives {empty[0]} no training class; remove it")
    every = [target for targets in found.values() for target in targets]
    if not every:
        raise CossError(f"test set {name}: classes lists none at all; name two or more")
    if twice := next((t for t in every if every.count(t) > 1), ""):
        raise CossError(f"test set {name}: classes lists {twice} twice; each stands for one class")
    return found


def _beside(name: str, file: str) -> str:
    own = from_home(name).parent / file
    if name.endswith((".yaml", ".yml")) and own.exists():
        return read_text(own)
    place = files("robustbench_coss.test_sets") / Path(file).name
    if not place.is_file():
        raise CossError(
            f"test set {name}: there is no file {file!r} beside it; write one class a line"
        )
    return place.read_text("utf-8")
