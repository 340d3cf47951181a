"""How figures look: a style file each for papers and slides, and the widths that venues print.

What is drawn in inches is meant for the text of a paper; a style with larger text makes it larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

import matplotlib
import matplotlib.style

STYLES = ("paper", "slides")
SOFTWARE = "robustbench-coss"
"""What pictures name as the software that drew them."""

PNG_MARK, PDF_MARK = f"Software\0{SOFTWARE}".encode(), f"({SOFTWARE})".encode()
"""How that stands in their bytes (PNG's tEXt, PDF's /Creator)."""

INK, FAINT = "#1F2A33", "#5E6B75"  # of text that pictures carry themselves

TEXT = 7.0  # points: the text of a paper's figures, for which sizes in the code are meant
PANEL = 1.7  # inches that a panel beside others has at least, at that text


@dataclass(frozen=True)
class Venue:
    """Widths of a venue's pages in inches: one column, and the whole text; alike if it has one."""

    column: float
    full: float


# From the author kits: CVPR and ICCV 3 1/4 in columns in 6 7/8 in; ICML 3.25 in columns in 6.75 in;
# NeurIPS and ICLR 33 picas; Springer LNCS (ECCV) 122 mm; IEEE transactions 3.5 in and 7.16 in.
VENUES = {
    "cvpr": Venue(3.25, 6.875),
    "iccv": Venue(3.25, 6.875),
    "eccv": Venue(4.803, 4.803),
    "icml": Venue(3.25, 6.75),
    "neurips": Venue(5.5, 5.5),
    "iclr": Venue(5.5, 5.5),
    "ieee": Venue(3.5, 7.16),
}


def style(name: str = "paper") -> dict[str, Any]:
    """The settings of a style file."""
    with as_file(files(__name__).joinpath(f"{name}.mplstyle")) as path:
        found = matplotlib.rc_params_from_file(path, use_default_template=False)
    return {str(key): value for key, value in found.items()}


@contextmanager
def styled(
    name: str = "paper", inches: float | None = None, more: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """While active, figures are drawn and saved in a style, and in no setting of the user's.

    Args:
        name: one of `STYLES`.
        inches: width of figures; None for that of the style.
        more: further settings of matplotlib.
    """
    settings = style(name)
    width, height = settings["figure.figsize"]
    settings["figure.figsize"] = [inches or width, height]
    with matplotlib.style.context(["default", settings | dict(more or {})]):
        yield


def width_inches() -> float:
    """Width of figures in the style that is active."""
    return float(matplotlib.rcParams["figure.figsize"][0])


def enlarged() -> float:
    """How much larger text is than in a paper."""
    return float(matplotlib.rcParams["font.size"]) / TEXT


def panels_across() -> int:
    """How many panels stand side by side."""
    return max(1, int(width_inches() / enlarged() / PANEL + 0.1))
