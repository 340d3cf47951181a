"""Numbers on shades are black or white, whichever is read better."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from helpers.colours import contrast

from robustbench_coss.figures.looks import ink_on


@pytest.mark.parametrize("shades", ["Blues", "viridis", "cividis"])
def test_ink_stands_out_from_every_shade(shades: str) -> None:
    for share in np.linspace(0, 1, 41):
        shade = matplotlib.colormaps[shades](share)
        inks = {ink: contrast(ink, shade[:3]) for ink in ("black", "white")}
        assert inks[ink_on(shade)] == max(inks.values()) > 4.5
