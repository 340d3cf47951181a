"""Pages of the site, read as a browser reads them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from helpers import simulate
from helpers.html_pages import Element, parse
from robustbench_coss.pages.site import write_site
from robustbench_coss.records.record import Record


def read(page: Path) -> Element:
    return parse(page.read_text(encoding="utf-8"))


def board_rows(index: Element) -> dict[str, list[Element]]:
    """Model -> its number cells, of the first table of headline numbers."""
    (table, *_) = index.all("table", class_="numbers")
    (body,) = table.all("tbody")
    found = {}
    for row in body.all("tr"):
        found[name_in(row)] = row.all("td")
    return found


def name_in(row: Element) -> str:
    """The model of a row, without its place and counts."""
    (name,) = row.all("th")
    (link,) = name.all("a")
    return link.text


def write(tmp_path: Path, *records: Record) -> Path:
    simulate.save(tmp_path / "results", *records)
    write_site(tmp_path / "results", tmp_path / "site")
    return tmp_path / "site"


def page_of(site: Path, model: str) -> Element:
    """The page that the leaderboard links a model's name to."""
    index = read(site / "index.html")
    (table, *_) = index.all("table", class_="numbers")
    (link,) = [a for a in table.all("a") if a.text == model]
    return read(site / unquote(link.attributes["href"]))


def texts(site: Path) -> dict[str, str]:
    return {
        p.relative_to(site).as_posix(): p.read_text(encoding="utf-8")
        for p in site.rglob("*")
        if p.is_file()
    }
