"""The site in Chromium, from disk: what tests of it share."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import simulate
from robustbench_coss.pages.site import write_site

CHROMIUM = shutil.which("chromium")
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NASTY = "<script>alert(1)</script>"
METHODS = ("byol", "co-byol", "dino", "co-dino", "simclr")
ROWS = "table.numbers tbody tr"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five models with all suites; one, with a name that is markup, with the clean suite alone."""
    folder = tmp_path_factory.mktemp("site")
    simulate.all_suites(folder / "results", methods=METHODS, seeds=1, n=40)
    nasty = simulate.clean(0.3, n=40, name=NASTY, seed=1)
    nasty.model |= {"method": None, "training": {}}
    simulate.save(folder / "results", nasty)
    write_site(folder / "results", folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with pytest.importorskip("playwright.sync_api").sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens a page from disk; what it logs, asks or requests from elsewhere fails the test."""
    contexts, trouble = [], []

    def go(page: Path, fragment: str = "", **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: trouble.append(message.text))
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
        tab.on(
            "request",
            lambda r: r.url.startswith(("file:", "data:")) or trouble.append(f"request {r.url}"),
        )
        tab.goto(page.as_uri() + fragment)
        return tab

    yield go
    for context in contexts:
        context.close()
    assert trouble == []


def head(tab: Any, heading: str) -> Any:
    return tab.get_by_role("columnheader", name=re.compile(rf"^{heading}"))


def names(tab: Any) -> list[str]:
    """Models shown, from top to bottom."""
    return [r.inner_text() for r in tab.locator(f"{ROWS} .short").all() if r.is_visible()]


def compare_page(site: Path) -> Path:
    (page,) = site.glob("compare-*.html")
    return page
