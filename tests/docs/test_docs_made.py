"""What of the documentation is made from the code is up to date."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from helpers import ROOT
from PIL import Image


def maker(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_options_says_what_the_help_texts_say() -> None:
    made = maker("make_options")
    stale = "run `python docs/make_options.py`"
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), stale
    assert "## compare" in made.page()
    assert "| `--all` |  |  | Compare in all metrics" in made.page()


def test_screenshots_are_of_the_pages_as_they_are_made_now() -> None:
    made = maker("make_screenshots")
    for name in made.MADE_OF:
        with Image.open(made.IMAGES / name) as picture:
            stale = f"{name}: run `python docs/make_screenshots.py`"
            assert picture.info[made.KEY] == made.mark(name), stale
