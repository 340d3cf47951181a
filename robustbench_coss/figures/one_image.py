"""The picture that `coss-bench show` makes of one image and its disturbed versions.

What is drawn comes ready-made: nothing here knows models.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from robustbench_coss.figures.looks import ink_on
from robustbench_coss.figures.styles import FAINT, INK, SOFTWARE

Map = NDArray[np.float32]

HELD, LOST, CHOSEN = "#00724F", "#B84300", "#D55E00"  # Okabe and Ito's, two darkened for text
SALIENCY, SIMILARITY = "magma", "viridis"
SIDE, GAP = 1.3, 0.12  # inches: a map, and between two
BELOW = (0.44, 0.16, 0.34, 0.34)  # for the words beneath the maps of each row
MARGIN = 0.2
LABELS = 1.6  # for the names of the rows
BAR = 0.75  # for the colour bar
HEAD = 0.98  # for title and headings
NUMBERED = 5  # maps up to this side have their numbers written in
LONGEST = 23  # characters of an answer


@dataclass(frozen=True)
class View:
    """One version of the image and what the model makes of it.

    Attributes:
        title: what was done to it ("original"), in one line or two.
        image: [3, H, W] in [0, 1].
        answer, detail: what the model says, in words, and how firmly.
        held: whether that is the right answer, or as before; None where it is neither.
        saliency: [H, W], not negative, on any scale.
        local_global: [h, w] cosine of each local representation with the global one.
        likeness: [h, w] cosine of each local representation with the chosen one.
        within: mean cosine over pairs of local representations; NaN if there is only one.
    """

    title: str
    image: Map
    answer: str
    detail: str
    held: bool | None
    saliency: Map
    local_global: Map
    likeness: Map
    within: float


@dataclass(frozen=True)
class Sheet:
    """Everything in the picture.

    Attributes:
        title, subtitle: what it shows, and whose answers these are.
        answers, saliency_of: what stands beneath the images, and what the saliency is the
            derivative of; for the names of the rows.
        chosen: (row, column) of the position that the others are compared with.
        views: at least one; all of one size.
    """

    title: str
    subtitle: str
    answers: str
    saliency_of: str
    chosen: tuple[int, int]
    views: Sequence[View]


def draw_sheet(sheet: Sheet) -> bytes:
    """The picture as PNG, a column per version of the image; the same sheet gives the same bytes.

    The two rows of similarities share one scale, from the smallest value shown to 1. Saliencies
    have a scale each, cut at their 99th percentile.
    """
    views = sheet.views
    width = MARGIN + LABELS + len(views) * (SIDE + GAP) + BAR
    tops = [HEAD + row * SIDE + sum(BELOW[:row]) for row in range(5)]
    height = tops[-1]
    figure = Figure(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)
    names = (
        ("Image", f"as the model sees it; beneath it {sheet.answers}"),
        ("Saliency", f"change of {sheet.saliency_of} with each pixel; every map on its own scale"),
        ("Part and whole", "cosine of each local representation, pooled alone, with the global"),
        ("Part and part", "cosine of each local representation with the outlined one"),
    )
    lowest = min(float(m.min()) for view in views for m in (view.local_global, view.likeness))
    scale = Normalize(min(0.95, math.floor(20 * lowest) / 20), 1)
    with rc_context({"font.family": "DejaVu Sans", "font.size": 7.5}):
        _write(figure, MARGIN, 0.2, sheet.title, INK, 11)
        _write(figure, MARGIN, 0.43, sheet.subtitle, FAINT, 7.5)
        for top, (name, about) in zip(tops[:4], names, strict=True):
            _write(figure, MARGIN, top + 0.38, name, INK, 8.5)
            for line, words in enumerate(textwrap.wrap(about, 26)):
                _write(figure, MARGIN, top + 0.57 + 0.145 * line, words, FAINT, 7)
        for column, view in enumerate(views):
            left = MARGIN + LABELS + column * (SIDE + GAP)
            panels = [figure.add_axes(_place(figure, left, top, SIDE, SIDE)) for top in tops[:4]]
            _draw_view(panels, view, sheet.chosen, scale)
        left = MARGIN + LABELS + len(views) * (SIDE + GAP)
        tall = tops[3] + SIDE - tops[2]
        bar = figure.add_axes(_place(figure, left, tops[2], 0.1, tall))
        figure.colorbar(ScalarMappable(scale, SIMILARITY), cax=bar)
        bar.set_ylabel("cosine", color=FAINT)
        bar.tick_params(labelsize=6.5, color=FAINT, labelcolor=FAINT, length=2)
        bar.spines[:].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": SOFTWARE})
    return buffer.getvalue()


def shorten(text: str, longest: int = LONGEST) -> str:
    """A name in one line of at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _place(
    figure: Figure, left: float, top: float, width: float, height: float
) -> tuple[float, float, float, float]:
    """A box in inches from the figure's upper left, as matplotlib counts."""
    total_width, total_height = figure.get_size_inches()
    return (
        left / total_width,
        1 - (top + height) / total_height,
        width / total_width,
        height / total_height,
    )


def _text(colour: str, size: float) -> dict[str, Any]:
    # Names are others' text: "$" starts no formula.
    return {"color": colour, "size": size, "parse_math": False}


def _write(figure: Figure, left: float, top: float, words: str, colour: str, size: float) -> None:
    x, y, _, _ = _place(figure, left, top, 0, 0)
    figure.text(x, y, words, va="center", **_text(colour, size))


def _draw_view(
    panels: Sequence[Axes], view: View, chosen: tuple[int, int], scale: Normalize
) -> None:
    picture, saliency, whole, part = panels
    height, width = view.image.shape[1:]
    _show(picture, view.image.transpose(1, 2, 0).clip(0, 1), height, width)
    picture.set_title(view.title, pad=4, **_text(INK, 8))
    mark = {None: "", True: "✓ ", False: "✗ "}[view.held]
    colour = {None: INK, True: HELD, False: LOST}[view.held]
    _below(picture, f"{mark}{shorten(view.answer)}\n{view.detail}", colour)
    bright = float(np.quantile(view.saliency, 0.99)) or float(view.saliency.max()) or 1.0
    _show(saliency, view.saliency, height, width).set(cmap=SALIENCY, norm=Normalize(0, bright))
    for panel, values in ((whole, view.local_global), (part, view.likeness)):
        _show(panel, values, height, width).set(cmap=SIMILARITY, norm=scale)
        if max(values.shape) <= NUMBERED:
            _write_numbers(panel, values, height, width, scale)
    _below(whole, f"mean {view.local_global.mean():.3f}", FAINT)
    pairs = "one position" if math.isnan(view.within) else f"all pairs: mean {view.within:.3f}"
    _below(part, pairs, FAINT)
    rows, columns = view.likeness.shape
    box = (width / columns * chosen[1] - 0.5, height / rows * chosen[0] - 0.5)
    for panel in (picture, part):
        panel.add_patch(
            Rectangle(
                box, width / columns, height / rows, fill=False, edgecolor=CHOSEN, linewidth=1.2
            )
        )


def _show(panel: Axes, values: Map, height: int, width: int) -> AxesImage:
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    shown = panel.imshow(values, extent=extent, interpolation="antialiased")
    panel.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
    panel.spines[:].set_visible(False)
    return shown


def _write_numbers(panel: Axes, values: Map, height: int, width: int, scale: Normalize) -> None:
    rows, columns = values.shape
    for (row, column), value in np.ndenumerate(values):
        panel.text(
            width / columns * (column + 0.5) - 0.5,
            height / rows * (row + 0.5) - 0.5,
            f"{value:.2f}".replace("0.", ".", 1),
            ha="center",
            va="center",
            color=ink_on(colormaps[SIMILARITY](scale(value))),
            size=6,
        )


def _below(panel: Axes, words: str, colour: str) -> None:
    panel.annotate(
        words,
        (0.5, 0),
        (0, -4),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        va="top",
        **_text(colour, 7),
    )
