"""Figures of a report in a browser that asks for dark pages."""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from helpers import simulate
from helpers.chromium import CHROMIUM, Open
from helpers.colours import NOTICED, SEEN, contrast, lab
from PIL import Image

from robustbench_coss.figures.pens import FAMILIES, OTHERS
from robustbench_coss.pages.report.page import make_page

pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
COLOURS = [colour for colour, _ in (*FAMILIES.values(), *OTHERS)]
PAGE = "getComputedStyle(document.body).backgroundColor"


def test_figures_keep_their_colours_apart_and_off_the_ground_in_the_dark(
    tmp_path: Path, visit: Open
) -> None:
    simulate.save(tmp_path / "r", simulate.clean(0.5, n=40))
    page = make_page(tmp_path / "r", [])
    squares = "".join(
        f'<rect x="{10 * i}" width="10" height="10" fill="{colour}"/>'
        for i, colour in enumerate(["#ffffff", *COLOURS])
    )
    figure = f'<figure><svg id="probe" viewBox="0 0 {10 + 10 * len(COLOURS)} 10">{squares}</svg>'
    path = tmp_path / "report.html"
    path.write_text(page.replace("<main>", f"<main>{figure}</figure>"), encoding="utf-8")

    def seen(scheme: str) -> list[str]:
        tab = visit(path, color_scheme=scheme)
        picture = np.array(
            Image.open(io.BytesIO(tab.locator("#probe").screenshot())).convert("RGB")
        )
        row, left = picture[len(picture) // 2], 11  # padding and border
        step = (picture.shape[1] - 2 * left) / (1 + len(COLOURS))
        places = [round(left + step * (i + 0.5)) for i in range(1 + len(COLOURS))]
        return ["#{:02x}{:02x}{:02x}".format(*row[x]) for x in places]

    assert seen("light") == ["#ffffff", *(c.lower() for c in COLOURS)]
    ground, *shown = seen("dark")
    body = visit(path, color_scheme="dark").evaluate(PAGE)
    assert np.abs(np.array(lab(ground, SEEN["all"])) - lab(_hex(body), SEEN["all"])).max() < 8
    for before, after in zip(COLOURS, shown, strict=True):
        assert contrast(after, ground) > 3  # WCAG 2.1, 1.4.11
        assert contrast(after, ground) > contrast(before, "#ffffff") or before == "#000000"
    for eyes in SEEN.values():
        apart = [np.linalg.norm(lab(a, eyes) - lab(b, eyes)) for a, b in combinations(shown, 2)]
        assert min(apart) > 3 * NOTICED


def _hex(css: str) -> str:
    return "#{:02x}{:02x}{:02x}".format(*map(int, css.removeprefix("rgb(").strip(")").split(", ")))
