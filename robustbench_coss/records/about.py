"""What a suite says of itself: the words, order and scales of its tables, figures and pages.

Records carry it, so that they are shown alike where the suite is not installed.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from robustbench_coss import registry
from robustbench_coss.errors import CossError
from robustbench_coss.records.record import Axis, Record

OWN_SUITES = ("clean", "corruption", "occlusion", "adversarial", "crop", "redundancy", "rf")
"""This project's suites that "all" stands for, in reading order. To ask them takes torch."""


class SuiteAbout(BaseModel):
    """Everything is optional: a suite that says nothing is shown by its conditions' own names.

    Attributes:
        title: as a heading; "" takes the suite's name.
        does: what is done to the images or the model, in a sentence or two.
        order: place among suites, smaller first, then by name.
        panels: titles of panels by group or kind of conditions, in the order drawn; groups not
            named follow under their own name. A kind's title is that of its groups at every stage,
            after the stage's name.
        x_label: x label of all panels that is shorter than the axis' own ("" keeps that).
        x_labels: x labels of groups or kinds with an axis of their own.
        scale: of the x axis: "log" of shares, largest first; "symlog" of budgets from 0 up,
            doubling.
        hidden: groups that are not drawn.
        controls: for a control group the panels it is drawn into, thin, instead of its own.
        control: what the thin lines are.
        suffices: whether levels are shares of which the smallest that keeps 95 % of the reference
            value is marked.
        also: further outcome columns that are drawn in figures of their own, or statistics of the
            probabilities (`records.confidence.STATISTICS`), of records that hold these.
        pictures: further figures, of what the suite leaves in `Record.extra`: "fields" (as `rf`
            does, `{"fields": …}`) and "cka" (as `redundancy` does, `{"cka": …}`).
        captions: of the figures, by what follows the suite's name in theirs: "" for its curves,
            else a column of `also`, "metrics", or one of `pictures`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = ""
    does: str = ""
    order: int = 1_000
    panels: dict[str, str] = {}
    x_label: str = ""
    x_labels: dict[str, str] = {}
    scale: Literal["linear", "log", "symlog"] = "linear"
    hidden: tuple[str, ...] = ()
    controls: dict[str, tuple[str, ...]] = {}
    control: str = "control"
    suffices: bool = False
    also: tuple[Axis, ...] = ()
    pictures: tuple[Literal["fields", "cka"], ...] = ()
    captions: dict[str, str] = {}

    def stored(self) -> dict[str, Any]:
        """What a record keeps: JSON-able, without what is left at its default."""
        return self.model_dump(mode="json", exclude_defaults=True)


def about_of(record: Record) -> SuiteAbout:
    """What the suite of a record says of itself: in the record, or for an older one where the
    suite is installed; else nothing.

    Raises:
        ValueError: what the record holds is not that.
    """
    if not record.about:
        return about_suite(record.suite)
    # A later version may have more to say.
    known = {key: value for key, value in record.about.items() if key in SuiteAbout.model_fields}
    try:
        return SuiteAbout.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"about.{where}: {first['msg']}") from error


@cache
def about_suite(name: str) -> SuiteAbout:
    """What an installed suite says of itself; nothing if none of that name can be imported."""
    try:
        found = getattr(registry.load("suite", name), "about", None)
    except CossError:
        found = None
    return found if isinstance(found, SuiteAbout) else SuiteAbout()


def asked_only(name: str) -> bool:
    """Whether a suite is measured only where it is named; False if it cannot be imported."""
    try:
        return bool(getattr(registry.load("suite", name), "asked_only", False))
    except CossError:
        return False


def in_order(abouts: dict[str, SuiteAbout]) -> list[str]:
    """Names of suites in reading order."""
    return sorted(abouts, key=lambda name: (abouts[name].order, name))
