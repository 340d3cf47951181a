"""Whether a model has learnt: its clean accuracy beside that of controls, which have not.

Two controls are measured like models: a classifier on raw pixels, and networks as they were drawn.
An encoder that does not beat both on clean images is no evidence of anything, however it compares
with another: its robustness is that of noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_coss import registry
from robustbench_coss.analysis.configurations import SeedGroup
from robustbench_coss.analysis.labels import control_name
from robustbench_coss.analysis.numbers import is_share, values_of
from robustbench_coss.analysis.pairing import mismatch
from robustbench_coss.records.training import recipe_in
from robustbench_coss.statistics.contrasts import difference

PIXELS, UNTRAINED = "pixels", "untrained"
LEVEL = 0.01
"""Largest p at which a run beats a control."""
NOT_TRAINED = "not trained enough to tell"


@dataclass(frozen=True)
class Standing:
    """A model beside the controls.

    Attributes:
        model: its label.
        unbeaten: labels of the controls that it does not beat.
        missing: kinds of controls that were not measured as it was.
    """

    model: str
    unbeaten: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why the model decides nothing; "" if it has learnt, or no control says otherwise."""
        if not self.unbeaten:
            return ""
        return (
            f"{self.model} does not beat {' and '.join(self.unbeaten)} on clean images "
            f"(every seed, paired, p < {LEVEL:g})"
        )


def standing(model: Sequence[SeedGroup], measured: Sequence[SeedGroup]) -> Standing:
    """Whether a model beats the controls in the first metric of the clean suite.

    Every seed of the model has to beat every seed of the control in a test of its own, paired by
    images (`contrasts.difference` of single runs, p < 0.01). What is asked is whether these
    networks have learnt, not whether a method would with other seeds: a seed that collapsed makes a
    mean of seeds worthless, and two good seeds are good without a spread to be known. Of untrained
    controls those that the model was before it was trained count (its architecture, width and
    number of parameters, which tells whether an MLP follows), else all there are.

    Args:
        model: what was measured of it, on one test set. Controls are never asked to beat controls.
        measured: all that was measured, the controls among it.
    """
    (label, control), *_ = [(m.label, m.control) for m in model] or [("", "")]
    if control:
        return Standing(label, (), ())
    unbeaten: list[str] = []
    found: set[str] = set()
    for mine in (m for m in model if m.suite == "clean"):
        for other in _controls(mine, measured):
            found.add(other.control)
            if not _beats(mine, other):
                unbeaten.append(other.label)
    missing = tuple(kind for kind in (PIXELS, UNTRAINED) if kind not in found)
    return Standing(label, tuple(dict.fromkeys(unbeaten)), missing)


def _controls(mine: SeedGroup, measured: Sequence[SeedGroup]) -> list[SeedGroup]:
    """Controls on the same images under the same protocol."""
    key = (mine.test_set, mine.suite, mine.protocol)
    alike = [
        m
        for m in measured
        if m.control
        and (m.test_set, m.suite, m.protocol) == key
        and not mismatch([*mine.records, *m.records])
    ]
    untrained = [m for m in alike if m.control == UNTRAINED]
    build = {key: mine.model.get(key) for key in ("arch", "width", "parameters")}
    own = [m for m in untrained if {key: m.model.get(key) for key in build} == build]
    return [m for m in alike if m.control != UNTRAINED] + (own or untrained)


def _beats(mine: SeedGroup, control: SeedGroup) -> bool:
    metric = mine.records[0].metrics[0]
    share = is_share(mine.records[0], metric.column)
    tests = [
        difference([values_of(a, metric)], [values_of(b, metric)], share=share)
        for a in mine.records
        for b in control.records
    ]
    return all(test.value > 0 and test.p < LEVEL for test in tests)


def without_controls(model: Sequence[SeedGroup], measured: Sequence[SeedGroup]) -> str:
    """What a test set lacks to tell whether a model has learnt, with the command that adds it; ""
    if nothing.

    Args:
        model: what was measured of it, on one test set.
        measured: all that was measured.
    """
    about, where = model[0].model, model[0].test_set.label
    if not any(m.suite == "clean" for m in model):
        return (
            f"{model[0].label} was not measured on clean images of {where}, so nothing "
            "says whether it has learnt; `coss-bench eval RUN --suite clean` measures it"
        )
    kinds = standing(model, measured).missing
    if about.get("arch") not in registry.names("encoder"):  # of another library, or unknown
        kinds = tuple(kind for kind in kinds if kind != UNTRAINED)
    if not kinds or model[0].control:
        return ""
    untrained = {key: about.get(key) for key in ("arch", "width")} | {"control": UNTRAINED}
    untrained["mlp"] = recipe_in(about).get("mlp")
    names = {PIXELS: "control:pixels", UNTRAINED: control_name(untrained)}
    wanted = " ".join(names[kind] for kind in kinds)
    which = "no controls" if len(kinds) > 1 else f"no control {names[kinds[0]]}"
    return (
        f"{which} measured on {where}, so nothing says whether the models have "
        f"learnt; `coss-bench eval {wanted}` with the options of the other models adds them"
    )
