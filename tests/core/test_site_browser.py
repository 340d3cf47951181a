"""The site in a real browser, from disk: sorting, filters, comparing, themes, and no requests."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import simulate
from helpers.chromium import (
    CHROMIUM,
    NASTY,
    ROWS,
    Open,
    compare_page,
    head,
    names,
)

from robustbench_coss.pages.site import write_site
from robustbench_coss.pages.site.data import Site, load_site
from robustbench_coss.pages.site.pages import put_in_place, render_site
from robustbench_coss.pages.site.plots import STROKES

pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def column(tab: Any, heading: str) -> list[float | None]:
    """The values of a column from top to bottom, None for those not measured."""
    texts = tab.evaluate(
        """(heading) => {
            const heads = [...document.querySelectorAll("table.numbers th[scope=col]")];
            const at = heads.findIndex((th) => th.innerText.trim().startsWith(heading));
            return [...document.querySelectorAll("table.numbers tbody tr")]
                .map((row) => row.cells[at].innerText);
        }""",
        heading,
    )
    numbers = [re.match(r"[\d.]+", text) for text in texts]
    return [None if found is None else float(found[0]) for found in numbers]


# ---- leaderboard ----


def test_columns_sort_by_number_both_ways_with_missing_values_last(site: Path, visit: Open) -> None:
    tab = visit(site / "index.html")
    button = head(tab, "Corruption top-1").get_by_role("button")
    for direction, reverse in (("descending", True), ("ascending", False), ("descending", True)):
        button.click()
        assert head(tab, "Corruption top-1").get_attribute("aria-sort") == direction
        found = column(tab, "Corruption")
        assert found[-1] is None
        assert found[:-1] == sorted(found[:-1], reverse=reverse)
    assert tab.locator("[aria-sort]").count() == 1
    head(tab, "Model").get_by_role("button").click()
    assert names(tab) == sorted(names(tab), key=str.lower)


def test_numbers_sort_as_numbers_and_not_as_text(tmp_path: Path, visit: Open) -> None:
    shares = {"byol": 0.09, "dino": 0.1, "simclr": 0.95}
    simulate.save(tmp_path / "r", *(simulate.clean(s, method=m) for m, s in shares.items()))
    write_site(tmp_path / "r", tmp_path / "site")
    tab = visit(tmp_path / "site" / "index.html")
    assert column(tab, "Top-1") == [95.0, 10.0, 9.0]
    head(tab, "Top-1").get_by_role("button").click()  # it is sorted the best way already
    assert column(tab, "Top-1") == [9.0, 10.0, 95.0]


def test_the_keyboard_alone_sorts(site: Path, visit: Open) -> None:
    tab = visit(site / "index.html")
    for _ in range(40):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.closest('th')?.innerText ?? ''").startswith("kNN"):
            break
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.evaluate(outline) == "solid"
    tab.keyboard.press("Enter")
    assert head(tab, "kNN").get_attribute("aria-sort") == "descending"
    tab.keyboard.press("Space")
    assert head(tab, "kNN").get_attribute("aria-sort") == "ascending"


def test_the_skip_link_is_first_and_leads_to_the_content(site: Path, visit: Open) -> None:
    tab = visit(site / "index.html")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"


def test_filters_narrow_the_rows_and_say_how_many_are_left(site: Path, visit: Open) -> None:
    tab = visit(site / "index.html")
    count = tab.locator("[data-shown]")
    assert count.inner_text() == "6 of 6 models"
    assert count.get_attribute("role") == "status"
    tab.get_by_label("Find").fill("byol RF29")
    assert set(names(tab)) == {"BYOL", "CO-BYOL"}
    assert count.inner_text() == "2 of 6 models"
    tab.get_by_label("Method").select_option("CO-BYOL")
    assert names(tab) == ["CO-BYOL"]
    tab.get_by_label("Find").fill("nothing like this")
    assert tab.get_by_text("No model fits.").is_visible()
    tab.get_by_label("Find").fill("<script>")
    tab.get_by_label("Method").select_option("")
    assert names(tab) == [NASTY]


def test_two_to_four_models_are_compared_and_a_fifth_is_refused(site: Path, visit: Open) -> None:
    tab = visit(site / "index.html")
    boxes = tab.get_by_role("checkbox").all()
    boxes[0].check()
    go = tab.locator("[data-tray-go]")
    assert go.get_attribute("aria-disabled") == "true"
    for box in boxes[1:4]:
        box.check()
    boxes[4].click()
    assert not boxes[4].is_checked()
    assert "At most 4 models" in tab.locator("[data-tray-status]").inner_text()
    assert go.inner_text() == "Compare 4"
    chosen = names(tab)[:4]
    go.click()
    tab.wait_for_selector("#compare:not([hidden])")
    legend = [li.inner_text() for li in tab.locator("#legend a").all()]
    assert [name.partition(" · ")[0] for name in legend] == chosen
    tab.get_by_label("Add a model").select_option(index=5)
    assert "At most 4 models" in tab.locator("#message").inner_text()
    assert tab.locator("#legend li").count() == 4


def test_a_model_whose_name_is_markup_is_shown_and_not_run(site: Path, visit: Open) -> None:
    tab = visit(site / "index.html")
    box = tab.get_by_role("checkbox", name=f"Compare {NASTY}")
    box.check()
    tab.get_by_role("checkbox").first.check()
    assert NASTY in tab.locator("[data-tray-names]").inner_text()
    tab.locator("[data-tray-go]").click()
    tab.wait_for_selector("#compare:not([hidden])")
    assert tab.locator("#legend").get_by_text(NASTY).count() == 1
    assert tab.locator("#numbers th", has_text=NASTY).count() == 1
    tab.locator("#legend").get_by_text(NASTY).click()
    assert tab.get_by_role("heading", level=1).inner_text() == NASTY
    assert tab.locator("script:not([src])").count() == 0


# ---- comparison ----


def test_the_comparison_shows_the_numbers_of_the_leaderboard(site: Path, visit: Open) -> None:
    tab = visit(site / "index.html")
    shown = {
        row.locator(".short").inner_text(): row.locator("td").first.inner_text().split("\n")[0]
        for row in tab.locator(ROWS).all()
    }
    tab = visit(compare_page(site))
    heads = [th.inner_text().partition(" · ")[0] for th in tab.locator("#numbers thead th").all()]
    cells = tab.locator("#numbers tbody tr").first.locator("td .num").all()
    assert len(cells) == 2
    assert {
        n: c.inner_text() for n, c in zip(heads[1:], cells, strict=True)
    }.items() <= shown.items()


def test_the_script_lays_the_curves_of_the_models_own_pages_into_one_frame(
    site: Path, visit: Open
) -> None:
    page = next(iter(site.glob("models/CO-BYOL*.html")))
    other = next(iter(site.glob("models/SimCLR*.html")))
    own = visit(page).locator("#suite-corruption figure").first.locator(".own .line")
    tab = visit(compare_page(site), f"#models={page.stem},{other.stem}&show=0")
    drawn = tab.locator("[data-view='0'] figure").first.locator(".curves .line")
    assert drawn.count() == 2
    mine, theirs = (p.get_attribute("d") for p in (own, drawn.first))
    assert mine == theirs
    assert mine.count("L") == 5  # six points
    marks = tab.locator("[data-view='0'] figure").first.locator(".curves .marks").nth(1)
    assert marks.get_attribute("d").count(STROKES[1].marker) == 6
    colours = [p.evaluate("e => getComputedStyle(e).stroke") for p in drawn.all()]
    assert colours == ["rgb(0, 114, 178)", "rgb(213, 94, 0)"]  # #0072B2 and #D55E00
    assert drawn.nth(1).get_attribute("stroke-dasharray") != ""
    table = tab.locator("#numbers tbody tr").first
    assert table.locator("th").inner_text() == "Noise, severity 0"
    assert tab.locator("#numbers th:not([scope])").count() == 0
    assert tab.locator("#numbers caption").count() == 1


def test_models_are_taken_out_and_the_address_keeps_the_choice(site: Path, visit: Open) -> None:
    tab = visit(compare_page(site))
    tab.get_by_role("button", name="Take out").first.click()
    assert "Choose another one" in tab.locator("#message").inner_text()
    tab.get_by_label("Add a model").select_option(label="SimCLR · rf29_resnet18 ×0.25")
    tab.get_by_label("Show").select_option("1")
    before = [a.inner_text() for a in tab.locator("#legend a").all()]
    tab.reload()
    tab.wait_for_selector("#compare:not([hidden])")
    assert [a.inner_text() for a in tab.locator("#legend a").all()] == before
    assert tab.get_by_label("Show").input_value() == "1"


# ---- every reader ----


@pytest.mark.parametrize(
    "name", ["index.html", "compare-*.html", "models/*script*.html", "models/CO-BYOL*"]
)
def test_a_phone_scrolls_tables_and_not_the_page(name: str, site: Path, visit: Open) -> None:
    page = next(iter(site.glob(name)))
    tab = visit(page, viewport={"width": 375, "height": 700})
    for details in tab.locator("details").all():
        details.evaluate("e => { e.open = true; }")
    assert tab.evaluate("document.documentElement.scrollWidth") == 375


def test_the_first_column_stays_while_a_phone_scrolls(site: Path, visit: Open) -> None:
    tab = visit(site / "index.html", viewport={"width": 375, "height": 700})
    name = tab.locator(f"{ROWS} th").first
    before = name.bounding_box()["x"]
    tab.locator(".scroll.tall").evaluate("e => e.scrollTo(300, 0)")
    assert name.bounding_box()["x"] == before


def test_everything_but_the_extras_is_there_without_javascript(site: Path, visit: Open) -> None:
    tab = visit(site / "index.html", java_script_enabled=False)
    assert tab.locator(ROWS).count() == 6
    assert tab.locator(f"{ROWS} td").first.is_visible()
    assert not tab.get_by_label("Find").is_visible()
    assert tab.get_by_role("button").count() == 0
    tab.locator(".name a").first.click()
    assert tab.locator("path.line").first.is_visible()
    tab.goto(compare_page(site).as_uri())
    assert tab.locator("noscript p").is_visible()


def test_the_theme_follows_the_system_until_it_is_chosen(site: Path, visit: Open) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    white, black = "rgb(255, 255, 255)", "rgb(20, 23, 27)"
    assert visit(site / "index.html", color_scheme="light").evaluate(background) == white
    tab = visit(site / "index.html", color_scheme="dark")
    assert tab.evaluate(background) == black
    tab.get_by_role("button", name="Switch to the light theme").click()
    assert tab.evaluate(background) == white
    tab.locator(".name a").first.click()
    tab.wait_for_load_state()
    assert tab.evaluate(background) == white  # remembered on other pages
    tab.get_by_role("button", name="Switch to the dark theme").click()
    tab.reload()
    assert tab.evaluate(background) == black


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(scheme: str, site: Path, visit: Open) -> None:
    tab = visit(site / "index.html", color_scheme=scheme)
    root = "getComputedStyle(document.documentElement).getPropertyValue"
    colour = {
        n: tab.evaluate(f"{root}('--{n}')").strip()
        for n in ("page", "panel", "text", "faint", "accent", "warn", "good")
    }

    def luminance(code: str) -> float:  # WCAG 2.1, "relative luminance"
        parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for behind in ("page", "panel"):
        for name in ("text", "faint", "accent", "warn", "good"):
            dark, light = sorted(luminance(colour[n]) for n in (name, behind))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, behind)


def test_five_hundred_models_load_sort_and_filter_within_two_seconds(
    site: Path, tmp_path: Path, visit: Open
) -> None:
    small = load_site(site.parent / "results")
    (board,), beside = small.boards, small.beside
    rows = []
    for i in range(500):
        row = board.rows[i % 5]
        shifted = tuple(
            number if number.value is None else replace(number, value=number.value * (1 + i % 97))
            for number in row.numbers
        )
        about = row.about | {"Model": f"model {i} {row.model}"}
        rows.append(
            replace(row, name=f"model {i}", page=f"model-{i}", about=about, numbers=shifted)
        )
    (little,) = beside
    plots = replace(  # as large as those of 500 models
        little.overview,
        scatters=tuple(replace(s, dots=100 * s.dots) for s in little.overview.scatters),
        heats=tuple(replace(h, rows=100 * h.rows) for h in little.overview.heats),
    )
    big = Site((replace(board, rows=tuple(rows)),), (), (replace(little, overview=plots),))
    put_in_place(tmp_path / "big", render_site(big))
    tab = visit(site / "index.html")
    devtools = tab.context.new_cdp_session(tab)
    # The time that the page's thread computes: other work on the machine is not the page's.
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds() -> float:
        found = devtools.send("Performance.getMetrics")["metrics"]
        return next(m["value"] for m in found if m["name"] == "TaskDuration")

    before = seconds()
    tab.goto((tmp_path / "big" / "index.html").as_uri())
    # A forced layout after each step, so that what the reader waits for is in the time.
    tab.evaluate(
        """() => {
            document.body.offsetHeight;
            const sorts = [...document.querySelectorAll("th[data-sort] button")].slice(0, 3);
            sorts.forEach((button) => { button.click(); document.body.offsetHeight; });
            const find = document.querySelector("[data-find]");
            find.value = "model 49";
            find.dispatchEvent(new Event("input"));
            document.body.offsetHeight;
        }"""
    )
    took = seconds() - before
    assert tab.locator(ROWS).count() == 500
    assert tab.locator(".scatter a").count() >= 500
    assert tab.locator(".heat tbody tr").count() >= 500
    for table in tab.locator(".scroll:is(.tall, .long)").all():  # the page stays short
        assert table.bounding_box()["height"] < tab.viewport_size["height"]
    assert tab.locator("[data-shown]").inner_text() == "15 of 500 models"  # x49, 490 … 499
    assert 0.01 < took < 2
