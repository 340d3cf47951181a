"""The overview of more models than there are colours."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import simulate
from helpers.site_pages import read

from robustbench_coss.figures.pens import MOST_MODELS
from robustbench_coss.pages.site import write_site


@pytest.mark.slow
def test_models_without_a_colour_are_faint_dots_that_still_say_their_intervals(
    tmp_path: Path,
) -> None:
    methods = tuple(f"method{i}" for i in range(MOST_MODELS + 2))
    simulate.all_suites(tmp_path / "results", methods=methods, seeds=1, n=20)
    write_site(tmp_path / "results", tmp_path / "site")
    index = read(tmp_path / "site" / "index.html")
    plot = index.all("svg", class_="scatter")[0]
    dots = plot.all("a")
    assert len(dots) == len(methods)
    whiskered = [dot for dot in dots if dot.all("path", class_="whisker")]
    assert len(whiskered) == MOST_MODELS
    assert [dot for dot in dots if "class" in dot.attributes] == [
        dot for dot in dots if dot not in whiskered
    ]
    for dot in dots:
        (title,) = dot.all("title")
        assert title.text.count("[") == title.text.count("]") == 2
    assert "of the models in the legend" in index.text
