"""The site in Firefox: it sorts, keeps its state, compares, and fits a phone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import simulate
from helpers.marionette import FIREFOX, Firefox, firefox

from robustbench_coss.pages.site import write_site

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(FIREFOX is None, reason="firefox-esr is not installed"),
]
NAMES = "return [...document.querySelectorAll('tr[data-id] .short')].map(n => n.textContent)"


def await_true(browser: Firefox, script: str) -> None:
    end = time.monotonic() + 30
    while not browser.ask(script) and time.monotonic() < end:
        time.sleep(0.1)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of a site of two methods."""
    folder = tmp_path_factory.mktemp("firefox")
    for method, share in (("byol", 0.4), ("co-byol", 0.7)):
        simulate.save(folder / "results", simulate.clean(share, method=method))
    return write_site(folder / "results", folder / "site")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    with firefox(tmp_path_factory.mktemp("profile") / "p") as started:
        yield started


def test_firefox_sorts_and_comes_back_to_the_sorted_table(page: Path, browser: Firefox) -> None:
    browser.open(page)
    assert browser.ask(NAMES) == ["CO-BYOL", "BYOL"]
    browser.ask("document.querySelectorAll('.sort')[1].click()")
    assert browser.ask(NAMES) == ["BYOL", "CO-BYOL"]
    assert ".sort=1%2Cascending" in browser.ask("return location.hash")
    browser.ask("document.querySelector('.name a').click()")
    there = "location.href.includes('models/') && document.readyState == 'complete'"
    await_true(browser, f"return {there}")
    browser.back()
    await_true(browser, "return document.querySelector('tr[data-id]') !== null")
    assert browser.ask(NAMES) == ["BYOL", "CO-BYOL"]


def test_firefox_compares_two_models(page: Path, browser: Firefox) -> None:
    (comparison,) = page.parent.glob("compare-*.html")
    browser.open(comparison)
    said = browser.ask("return document.querySelector('[data-verdict]').textContent")
    assert said.startswith("CO-BYOL")
    rows = "return document.querySelectorAll('#differences tbody tr').length"
    assert browser.ask(rows) == 2  # top-1 and kNN


def test_firefox_scrolls_no_page_sideways_on_a_phone(page: Path, browser: Firefox) -> None:
    browser.size(450, 800)  # the least that its window takes
    for shown in (page, *page.parent.glob("compare-*.html"), *page.parent.glob("models/*.html")):
        browser.open(shown)
        wide, window = browser.ask(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide <= window
