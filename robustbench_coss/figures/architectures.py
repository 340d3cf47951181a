"""A picture of where ResNets look: which k×k convolutions are 3×3, and the field after each stage.

For `coss-bench arch --picture`; figures of measurements are in `robustbench_coss.figures.write`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from robustbench_coss.encoders.resnet import STEM_LAYERS, ResNet
from robustbench_coss.figures.styles import FAINT, INK, SOFTWARE

WIDE, NARROW, STEM = "#0072B2", "#E3EBF1", "#7A8A96"
ROW = 2.0  # height of a row; widths and heights are in sides of a cell
HEADING = 1.2
GAP = 0.9  # between two stages
NAME = 5.2  # room for the name at the left
CELL_INCHES = 0.26


def draw(encoders: dict[str, ResNet]) -> bytes:
    """One row per encoder, as PNG.

    A cell is one k×k convolution (or the stem's pooling) with its kernel side: dark 3×3, light
    1×1, grey the stem. Beneath each stage stand the receptive field and the jump after it, in px.
    At the right is the field of the central local representation, to scale in the image.

    Args:
        encoders: by the name to be shown, at least one.
    """
    rows = [(name, encoder, _groups(encoder)) for name, encoder in encoders.items()]
    columns = [max(len(groups[place]) for _, _, groups in rows) for place in range(5)]
    starts = [NAME + sum(columns[:place]) + GAP * place for place in range(5)]
    right = starts[-1] + columns[-1] + 1.3
    width, height = right + 3.6, HEADING + ROW * len(rows) + 0.9
    figure = Figure(figsize=(width * CELL_INCHES, height * CELL_INCHES), dpi=160)
    FigureCanvasAgg(figure)
    with rc_context({"font.family": "DejaVu Sans", "font.size": 7}):
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        for place, (start, count) in enumerate(zip(starts, columns, strict=True)):
            title = f"stage {place}" if place else "stem"
            axes.text(start + count / 2, 0.65, title, ha="center", va="center", color=FAINT)
        axes.text(right + 1, 0.65, "field", ha="center", va="center", color=FAINT)
        for number, (name, encoder, groups) in enumerate(rows):
            top = HEADING + ROW * number
            axes.text(0.3, top + 0.5, name, va="center", color=INK, size=8)
            for start, cells, (field, jump) in zip(starts, groups, encoder.reach, strict=True):
                _draw_cells(axes, start, top, cells, STEM if start == starts[0] else None)
                label = f"{field} px  /  {jump}"
                axes.text(start, top + 1.32, label, va="center", color=FAINT, size=5.5)
            _draw_field(axes, right, top - 0.05, encoder)
        _draw_legend(axes, starts[0], height - 0.5)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": SOFTWARE})
    return buffer.getvalue()


def _groups(encoder: ResNet) -> list[list[int]]:
    """Kernel sides of the stem and of each stage."""
    stages = [[side for block in stage for side in block] for stage in encoder.kernels]
    return [[side for side, _ in STEM_LAYERS[encoder.stem]], *stages]


def _draw_cells(
    axes: Axes, left: float, top: float, sides: Sequence[int], colour: str | None
) -> None:
    for place, side in enumerate(sides):
        face = colour or (WIDE if side > 1 else NARROW)
        axes.add_patch(
            FancyBboxPatch(
                (left + place + 0.06, top + 0.06),
                0.88,
                0.88,
                boxstyle="round,pad=0,rounding_size=0.16",
                facecolor=face,
                edgecolor="none",
            )
        )
        axes.text(
            left + place + 0.5,
            top + 0.52,
            str(side),
            ha="center",
            va="center",
            color=FAINT if face == NARROW else "white",
            size=6.5,
        )


def _draw_legend(axes: Axes, left: float, middle: float) -> None:
    for colour, text in ((STEM, "stem, pooling"), (WIDE, "3×3"), (NARROW, "1×1")):
        axes.add_patch(Rectangle((left, middle - 0.25), 0.5, 0.5, facecolor=colour, linewidth=0))
        axes.text(left + 0.75, middle, text, va="center", color=FAINT, size=6)
        left += 4.3 if colour == STEM else 2.3
    axes.text(left, middle, "field / jump after the stage", va="center", color=FAINT, size=6)


def _draw_field(axes: Axes, left: float, top: float, encoder: ResNet) -> None:
    """The image as an outline, the field of its central local representation in it."""
    side, size = 1.5, encoder.input.size
    share = min(1.0, encoder.field / size)
    inner = side * share
    margin = (side - inner) / 2
    axes.add_patch(Rectangle((left, top), side, side, facecolor=NARROW, edgecolor="none"))
    axes.add_patch(
        Rectangle((left + margin, top + margin), inner, inner, facecolor=WIDE, edgecolor="none")
    )
    axes.text(left + side + 0.3, top + 0.5, f"{encoder.field}", va="center", color=INK, size=8)
    axes.text(left + side + 0.3, top + 1.2, f"of {size}", va="center", color=FAINT, size=5.5)
