"""Pages are well formed, show names as they are, and fetch nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from helpers import simulate
from helpers.html_pages import parse
from helpers.site_pages import board_rows, page_of, read, texts, write

from robustbench_coss.analysis.configurations import TestSet
from robustbench_coss.pages.site.board import page_name
from robustbench_coss.records.record import Axis, Cell, Check, Metric

NASTY = "<script>alert(1)</script> \u2028 & \"quoted\" 'x' {{ 7*7 }} </script><!-- | ../../a"


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of records that try to be markup in every field."""
    record = simulate.clean(0.5, name=NASTY, checks=[Check(NASTY, False, NASTY)], dataset="parts")
    record.model |= {"method": None, "arch": None, "dataset": NASTY, "training": {"seed": NASTY}}
    record.device, record.versions = NASTY, {NASTY: NASTY}
    record.suite_config = {NASTY: NASTY}
    record.cells[0].problem = NASTY
    odd = [Cell(NASTY, NASTY, 1.0, {"correct": simulate.exactly(0.5, 200)})]
    odd += [Cell("clean", "", 0.0, {"correct": simulate.exactly(0.6, 200)})]
    metric = Metric("m", NASTY, "correct", (NASTY,))
    other = simulate.record(
        odd, [metric], suite="odd", name=NASTY, axis=Axis(NASTY, "correct", NASTY)
    )
    other.model |= record.model
    out = tmp_path_factory.mktemp("nasty")
    return write(out, record, other, simulate.clean(0.4, method="dino"))


def test_names_are_shown_as_they_are_and_never_run(nasty: Path) -> None:
    shown = " ".join(NASTY.split())
    assert shown in board_rows(read(nasty / "index.html"))
    assert page_of(nasty, shown).all("h1")[0].text == shown
    for name, text in texts(nasty).items():
        if not name.startswith("data/"):  # which no browser takes for a page
            assert "<script>alert" not in text, name
        if name.endswith(".html"):
            scripts = parse(text).all("script")
            assert all("src" in s.attributes or "json" in s.attributes["type"] for s in scripts)
            on = [a for e in parse(text).walk() for a in e.attributes if a.startswith("on")]
            assert on == []


def test_data_for_the_script_is_json_that_no_name_can_leave(nasty: Path) -> None:
    page = (nasty / "compare-parts-32px.html").read_text(encoding="utf-8")
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert not set("<>&\u2028\u2029") & set(block)
    assert NASTY in [name for _, name, _ in json.loads(block)["models"]]


@pytest.mark.parametrize("which", ["site", "nasty"])
def test_pages_are_well_formed_and_their_links_lead_somewhere(
    which: str, request: pytest.FixtureRequest
) -> None:
    site: Path = request.getfixturevalue(which)
    trees = {p: read(p) for p in site.rglob("*.html")}
    assert len(trees) >= 4
    ids = {p.resolve(): {e.attributes.get("id") for e in t.walk()} for p, t in trees.items()}
    for page, tree in trees.items():
        for element in tree.walk():
            for attribute in ("href", "src"):
                if attribute not in element.attributes:
                    continue
                address = element.attributes[attribute]
                if address.startswith("https://"):
                    assert element.tag == "a"  # followed by hand, to papers
                    assert address.startswith("https://arxiv.org/abs/")
                    continue
                if address == "data:,":
                    continue
                path, anchor = urldefrag(address)
                target = (page.parent / unquote(path)).resolve() if path else page.resolve()
                assert target.is_file(), address
                if anchor and not anchor.startswith("models="):
                    assert anchor in ids[target], address


def test_nothing_is_fetched(site: Path) -> None:
    for name, text in texts(site).items():
        if name.endswith(".css"):
            assert not re.search(r"url\(|@import|@font-face", text), name
        if name.endswith(".js"):
            assert not re.search(r"fetch\(|XMLHttp|import\b|WebSocket|Beacon|Worker|\bsrc\b", text)
            assert re.findall(r"https?://\S+", text.replace("http://www.w3.org/2000/svg", "")) == []
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function", text
            )
        if name.endswith(".html"):
            tags = {e.tag for e in parse(text).walk()}
            assert not tags & {"img", "iframe", "object", "embed", "video", "audio", "base", "form"}
            assert re.findall(r"style=\"(?!--)", text) == []


def test_tables_are_named_and_their_headings_scoped(site: Path) -> None:
    for page in site.rglob("*.html"):
        tree = read(page)
        for table in tree.all("table"):
            if table.attributes.get("id") in ("numbers", "differences"):  # filled by the script
                continue  # filled by the script; see test_site_browser.py
            assert len(table.all("caption")) == 1
            assert all("scope" in th.attributes for th in table.all("th"))
        for region in tree.all("div", role="region"):
            assert region.attributes.get("tabindex") == "0"
            assert {"aria-label", "aria-labelledby"} & set(region.attributes)
        assert tree.all("html")[0].attributes["lang"] == "en"
        (skip,) = tree.all("a", class_="skip")
        assert skip.attributes["href"] == "#main"


@pytest.mark.slow
def test_same_records_same_bytes_in_another_process(
    results: Path, site: Path, tmp_path: Path
) -> None:
    again = ["--results", str(results), "--out", str(tmp_path / "again")]
    words = [sys.executable, "-m", "robustbench_coss", "site", *again]
    subprocess.run(words, check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert texts(tmp_path / "again") == texts(site)


def test_pages_of_long_and_like_names_have_names_of_their_own() -> None:
    test_set = TestSet("parts, 32 px", "parts-32px", 10)
    models = ["x" * 300 + "a", "x" * 300 + "b", "é?", "é!", "../../etc/passwd", ".", "A", "a"]
    names = {page_name(test_set, model).lower() for model in models}  # some disks ignore case
    assert len(names) == len(models)
    assert max(map(len, names)) < 100
    assert all(re.fullmatch(r"[\w+][\w.+-]*", name, re.ASCII) for name in names)
