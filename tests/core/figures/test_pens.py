"""Lines of models: families share a colour, and colours stay apart for colour-blind readers."""

from __future__ import annotations

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robustbench_coss.analysis.labels import Configuration
from robustbench_coss.figures.curves import legend, new_figure
from robustbench_coss.figures.pens import FAMILIES, MOST_MODELS, OTHERS, pens_of
from robustbench_coss.figures.styles import styled

NET = "net"

# Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color
# vision deficiency", table 1, severity 1.0: what dichromats see, in linear RGB.
SEEN = {
    "all": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
# Of linear sRGB to XYZ, and D65's white (IEC 61966-2-1).
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
NOTICED = 2.3  # CIELAB, Mahy et al. 1994: what is just noticed; thin lines need several times that


def lab(colour: str, seen: np.ndarray) -> np.ndarray:
    """CIELAB of a colour as somebody sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = (XYZ @ np.clip(seen @ linear, 0, 1)) / (XYZ @ np.ones(3))
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


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
