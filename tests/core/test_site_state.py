"""The site in Chromium: what the address keeps, and what stands beside the table."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT, simulate
from helpers.chromium import (
    CHROMIUM,
    Open,
    compare_page,
    head,
    names,
)
from helpers.colours import contrast

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.pages.site import write_site

pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


def test_sorting_filters_and_columns_are_in_the_address_and_kept_on_back(
    site: Path, visit: Open
) -> None:
    tab = visit(site / "index.html")
    assert tab.evaluate("location.hash") == ""
    head(tab, "kNN").get_by_role("button").click()
    tab.get_by_label("Find").fill("byol")
    tab.locator(".picker summary").click()
    tab.locator("[data-columns]").get_by_label("Corruption top-1").uncheck()
    state = names(tab)
    assert set(state) == {"BYOL", "CO-BYOL"}
    address = tab.evaluate("location.hash")
    tab.locator(".name a:visible").first.click()
    tab.wait_for_load_state()
    tab.go_back()
    tab.wait_for_load_state()
    for shown in (tab, visit(site / "index.html", address)):  # and for whom it is sent to
        assert names(shown) == state
        assert head(shown, "kNN").get_attribute("aria-sort") == "descending"
        assert shown.get_by_label("Find").input_value() == "byol"
        assert not head(shown, "Corruption top-1").is_visible()
        assert not shown.get_by_role("columnheader", name="Corruptions").is_visible()
    tab.locator(".picker summary").click()
    tab.locator("[data-columns]").get_by_label("Corruption top-1").check()
    tab.get_by_label("Find").fill("")
    assert head(tab, "Corruption top-1").is_visible()


def test_ranks_follow_what_is_shown(site: Path, visit: Open) -> None:
    tab = visit(site / "index.html")
    head(tab, "kNN").get_by_role("button").click()
    tab.get_by_label("Find").fill("byol")
    shown = [span.inner_text() for span in tab.locator("[data-rank]").all() if span.is_visible()]
    assert shown == ["1", "2"]


def test_the_paired_difference_of_two_models_is_the_one_that_compare_finds(
    site: Path, visit: Open
) -> None:
    page = {name: next(site.glob(f"models/{name}-rf29*")).stem for name in ("CO-BYOL", "BYOL")}
    tab = visit(compare_page(site), f"#models={page['BYOL']},{page['CO-BYOL']}")
    names = tab.locator("#differences thead th").nth(1).inner_text().split(" − ")
    assert set(names) == set(page)
    found = compare(site.parent / "results", *names)
    rows = tab.locator("#differences tbody tr")
    assert rows.count() == len(found.table)
    for row, line in zip(rows.all(), found.table.to_dict("records"), strict=True):
        assert row.locator("th").inner_text() == line["heading"]
        shown = float(row.locator(".num").inner_text().replace("−", "-"))
        assert shown == pytest.approx(
            line["difference"] * (100 if line["percent"] else 1), abs=0.06
        )
        assert line["verdict"].removeprefix("A ").removeprefix("B ") in row.inner_text()
    tab.get_by_label("Add a model").select_option(label="SimCLR · rf29_resnet18 ×0.25")
    assert not tab.locator("#paired").is_visible()


def test_variants_of_a_method_are_told_apart_in_their_paired_difference(
    tmp_path: Path, visit: Open
) -> None:
    for grid, share in ((1, 0.9), (2, 0.3)):
        made = simulate.clean(share, name=f"grid{grid}", training={"options": {"grid": grid}})
        simulate.save(tmp_path / "results", made)
    write_site(tmp_path / "results", tmp_path / "site")
    tab = visit(compare_page(tmp_path / "site"))
    better, worse = (f"BYOL · rf29_resnet18 ×0.25 (grid={grid})" for grid in (1, 2))
    head = tab.locator("#differences thead th").nth(1).inner_text()
    assert head == f"{better} − {worse}"
    assert tab.locator("#differences tbody tr").first.inner_text().endswith(f"{better} better")


@pytest.mark.parametrize("name", ["BYOL · rf29", "it's", '$(touch x) `y` "z"', "'; echo x '"])
def test_the_command_of_a_page_is_what_a_shell_reads(name: str, site: Path, visit: Open) -> None:
    script = ROOT / "robustbench_coss/pages/templates/site_compare.js"
    (line,) = [x for x in script.read_text("utf-8").splitlines() if x.startswith("const quoted")]
    word = visit(compare_page(site)).evaluate(f"name => {{ {line} return quoted(name); }}", name)
    run = ["sh", "-c", f"printf %s {word}"]
    said = subprocess.run(run, capture_output=True, text=True, check=True)
    assert said.stdout == name


def test_dots_of_the_scatter_lie_where_their_numbers_are_and_lead_to_the_model(
    site: Path, visit: Open
) -> None:
    tab = visit(site / "index.html")
    plot = tab.locator("svg.scatter").first
    titles = plot.locator("a title").all_text_contents()
    clean = {t.split(" · ")[0]: float(re.search(r"Top-1 ([\d.]+) %", t)[1]) for t in titles}  # type: ignore[index]
    places = {
        title.split(" · ")[0]: float(re.match(r"M([\d.]+)", mark.get_attribute("d"))[1])  # type: ignore[index]
        for title, mark in zip(titles, plot.locator("a .point").all(), strict=True)
    }
    by_place, by_number = (sorted(of, key=of.__getitem__) for of in (places, clean))
    assert [clean[name] for name in by_place] == [clean[name] for name in by_number]
    assert plot.locator(".front").count() == 1
    plot.locator("a .point").last.click()
    assert tab.get_by_role("heading", level=1).inner_text().split(" ·")[0] in titles[-1]


def test_the_heat_map_has_a_cell_per_corruption_and_model(site: Path, visit: Open) -> None:
    tab = visit(site / "index.html")
    heat = tab.locator("table.heat")
    kinds = heat.locator("thead .kind").count()
    for row in heat.locator("tbody tr").all():
        assert row.locator("td").count() == kinds
    assert tab.locator("a[download]").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_number_of_the_heat_map_stands_out_from_its_shade(
    scheme: str, site: Path, visit: Open
) -> None:
    tab = visit(site / "index.html", color_scheme=scheme)
    pairs = tab.evaluate(
        """() => [...document.querySelectorAll("table.heat td[style]")].map((cell) => {
            const look = getComputedStyle(cell);
            return [look.color, look.backgroundColor];
        })"""
    )
    assert len(set(map(tuple, pairs))) > 9
    for text, shade in pairs:
        assert contrast(rgb(text), rgb(shade)) >= 4.5  # WCAG 2.1, 1.4.3


def test_tables_that_go_on_beyond_a_phone_fade_out_there(site: Path, visit: Open) -> None:
    phone = {"viewport": {"width": 390, "height": 800}}
    for page in (site / "index.html", compare_page(site), next(site.glob("models/BYOL*"))):
        tab = visit(page, **phone)
        for details in tab.locator("details").all():
            details.evaluate("e => { e.open = true; }")
        tab.wait_for_function(
            """() => [...document.querySelectorAll(".scroll")].every((box) =>
                box.classList.contains("more") === box.scrollWidth > box.clientWidth + 2)"""
        )
        assert tab.locator(".scroll.more").count() > 0


def rgb(css: str) -> tuple[float, ...]:
    """ "rgb(0, 9, 255)" or "color(srgb 0 0.04 1)"."""
    numbers = [float(n) for n in re.findall(r"(?<![a-z])[\d.]+", css)][:3]
    return tuple(n / 255 for n in numbers) if css.startswith("rgb") else tuple(numbers)
