"""A picture of effective receptive fields, from what the suite `rf` leaves in its records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from numpy.typing import NDArray

from robustbench_coss.errors import CossError, kind_and_line
from robustbench_coss.figures.styles import FAINT, INK, enlarged, width_inches
from robustbench_coss.records.record import Record

NAME, TITLE = 0.16, 0.11  # inches above a map: the model's name, the stage's name
SIZES = 0.32  # inches below a map for two lines of numbers
MAP = 0.78  # inches, the most that a map takes
COLOURS = "magma"
BOX = "#56B4E9"


@dataclass(frozen=True)
class Field:
    """The effective field after one stage of a model.

    Attributes:
        map: [h, w] root mean square gradient in 0 … 1.
        size: side in px of the image that the map covers.
        centre: centroid (row, column) in px.
        field: side of the theoretical field in px; None where none is known.
        radius: mean effective radius in px over the measured images.
    """

    map: NDArray[np.float64]
    size: int
    centre: tuple[float, float]
    field: int | None
    radius: float


def read_fields(record: Record) -> dict[str, Field]:
    """The fields by stage of a record of the suite `rf`; empty if it has none.

    Raises:
        CossError: what the record holds is not such fields.
    """
    stored: Any = record.extra
    try:
        return {
            str(stage): _read(record, stage, f) for stage, f in stored.get("fields", {}).items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CossError(
            f"the {record.suite} record of {record.model['name']} holds damaged fields "
            f"({kind_and_line(error)}); measure it again with `coss-bench eval … --force`"
        ) from error


def _read(record: Record, stage: str, stored: Mapping[str, Any]) -> Field:
    shown = np.asarray(stored["map"], dtype=np.float64)
    if shown.ndim != 2 or not 0 < shown.size <= 64 * 64 or not np.isfinite(shown).all():
        raise ValueError(f"a map of shape {shown.shape}")
    row, column = (float(c) for c in stored["centre"])
    field = None if stored["field"] is None else int(stored["field"])
    radius = float(record.column(f"field@{stage}", "radius").mean())
    return Field(shown, int(stored["size"]), (row, column), field, radius)


def field_sizes(models: Mapping[str, Mapping[str, Field]]) -> pd.DataFrame:
    """The numbers in the picture. Columns: model, stage, radius_px, field_px, image_px."""
    return pd.DataFrame(
        [
            {
                "model": model,
                "stage": stage,
                "radius_px": field.radius,
                "field_px": field.field,
                "image_px": field.size,
            }
            for model, fields in models.items()
            for stage, field in fields.items()
        ]
    )


def draw_fields(models: Mapping[str, Mapping[str, Field]], basis: Mapping[str, str]) -> Figure:
    """A row per model, a map per stage, the last one at the right; each has its own brightness.

    The square is the theoretical field, where the image is larger than that; the circle has the
    effective radius.

    Args:
        models: fields by stage, by the model's label; at least one field in all.
        basis: by the label, what the fields are of.
    """
    columns = max(len(fields) for fields in models.values())
    width = width_inches() / enlarged()  # in inches at the text of a paper, as all lengths here
    pitch = width / columns
    side = min(MAP, pitch - 0.06)
    row = NAME + TITLE + side + SIZES
    height = row * len(models)
    figure = Figure(figsize=(enlarged() * width, enlarged() * height))
    FigureCanvasAgg(figure)
    for number, (model, fields) in enumerate(models.items()):
        top = row * number
        left = (pitch - side) / 2
        middle = 1 - (top + NAME / 2) / height
        figure.text(left / width, middle, model, va="center", **_text(INK, 7))
        right = 1 - left / width
        figure.text(right, middle, basis[model], va="center", ha="right", **_text(FAINT, 5.5))
        for place, (stage, field) in enumerate(fields.items(), start=columns - len(fields)):
            left, bottom = place * pitch + (pitch - side) / 2, height - top - row + SIZES
            axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
            axes.set_title(stage, pad=2, **_text(FAINT, 5.5))
            _draw(axes, field)
    return figure


def _text(colour: str, size: float) -> dict[str, Any]:
    # Names are others' text: "$" starts no formula.
    return {"color": colour, "size": size * enlarged(), "parse_math": False}


def _draw(axes: Axes, field: Field) -> None:
    edge = field.size - 0.5
    axes.imshow(
        field.map,
        cmap=COLOURS,
        vmin=0,
        vmax=1,
        extent=(-0.5, edge, edge, -0.5),
        interpolation="nearest",
    )
    axes.set(xlim=(-0.5, edge), ylim=(edge, -0.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    y, x = field.centre
    axes.add_patch(Circle((x, y), field.radius, fill=False, edgecolor="white", linewidth=0.5))
    below = "no bound known"
    if field.field is not None:
        below = f"field {field.field} px"
        if field.field < field.size:
            half = field.field / 2
            axes.add_patch(
                Rectangle(
                    (x - half, y - half), 2 * half, 2 * half, fill=False, edgecolor=BOX, lw=0.8
                )
            )
    for line, (words, colour) in enumerate(
        ((f"radius {field.radius:.3g} px", INK), (below, FAINT))
    ):
        axes.annotate(
            words,
            (0.5, 0),
            (0, -2 - 7 * line),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="top",
            **_text(colour, 5.5),
        )
