"""Lines of models: families share a colour, and colours stay apart for colour-blind readers."""

from __future__ import annotations

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from helpers.colours import NOTICED, SEEN, lab
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robustbench_coss.analysis.labels import Configuration
from robustbench_coss.figures.curves import legend, new_figure
from robustbench_coss.figures.pens import FAMILIES, MOST_MODELS, OTHERS, pens_of
from robustbench_coss.figures.styles import styled

NET = "net"


@pytest.mark.parametrize("who", SEEN)
def test_colours_are_told_apart_with_every_kind_of_eyes(who: str) -> None:
    colours = [colour for colour, _ in (*FAMILIES.values(), *OTHERS)]
    apart = [
        np.linalg.norm(lab(a, SEEN[who]) - lab(b, SEEN[who])) for a, b in combinations(colours, 2)
    ]
    assert min(apart) > 4 * NOTICED


def models(*names: str, differs: str = "") -> list[Configuration]:
    return [Configuration("", name, NET, differs=differs) for name in names]


def test_a_base_method_is_hollow_and_its_co_form_filled_in_one_colour() -> None:
    pens, common = pens_of(models("CO-SimCLR", "SimCLR", "BYOL", "CO-BYOL", "supervised"))
    assert common == NET
    for base in ("SimCLR", "BYOL"):
        mine, theirs = pens[f"{base} · {NET}"], pens[f"CO-{base} · {NET}"]
        assert (mine.colour, mine.marker) == (theirs.colour, theirs.marker) == FAMILIES[base]
        assert (mine.filled, mine.face, theirs.filled) == (False, "white", True)
        assert mine.dash != theirs.dash == "-"
    assert pens[f"supervised · {NET}"].filled


def test_a_method_has_its_colour_whatever_else_is_drawn() -> None:
    alone, _ = pens_of(models("MoCo v3"))
    ranked_last, _ = pens_of(models("mine", "BYOL", "other", "MoCo v3"))
    assert alone[f"MoCo v3 · {NET}"].colour == ranked_last[f"MoCo v3 · {NET}"].colour


def test_no_two_models_of_a_figure_look_alike() -> None:
    many = [
        *models("BYOL", "CO-BYOL"),
        *(m for k in range(9) for m in models("BYOL", differs=f"k={k}")),
    ]
    pens, _ = pens_of(many)
    assert len(pens) == MOST_MODELS
    assert len({(pen.colour, pen.marker, pen.filled) for pen in pens.values()}) == MOST_MODELS


def test_controls_are_grey_and_called_by_their_kind() -> None:
    controls = [
        Configuration("", "control:pixels", control="pixels"),
        Configuration("", "control:untrained:net", control="untrained"),
    ]
    pens, _ = pens_of([*models("BYOL"), *controls])
    assert [pen.label for pen in pens.values()] == ["BYOL · net", "pixels", "untrained"]
    assert all(np.ptp(to_rgb(pens[c.label].colour)) == 0 for c in controls)


@pytest.mark.parametrize("inches", [3.25, 6.875])
@pytest.mark.parametrize("length", [5, 30, 150])
def test_a_legend_stays_on_the_canvas(inches: float, length: int) -> None:
    words = ("wide MWQ@ name " * 20)[:length]
    with styled("paper", inches):
        figure = new_figure(2.0)
        figure.subplots()
        legend(
            figure, [Line2D([], [], label=f"{k} {words}") for k in range(11)], f"{words} {words}"
        )
        assert _inside(figure)


def _inside(figure: Figure) -> bool:
    figure.canvas.draw()
    (box,) = (legend.get_window_extent() for legend in figure.legends)
    whole = figure.bbox
    return bool(
        box.x0 >= whole.x0 and box.x1 <= whole.x1 and box.y0 >= whole.y0 and box.y1 <= whole.y1
    )


def test_that_test_would_see_a_legend_that_leaves_the_canvas() -> None:
    with styled("paper", 3.25), matplotlib.rc_context({"legend.fontsize": 30}):
        figure = new_figure(2.0)
        figure.subplots()
        figure.legend(handles=[Line2D([], [], label="M" * 60)])
        assert not _inside(figure)
