"""A report says what the records say, is whole in itself, and prints."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import simulate
from helpers.bench import Bench
from helpers.html_pages import Element, parse
from scipy import stats

from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.errors import CossError
from robustbench_coss.pages.report import page as page_module
from robustbench_coss.pages.report.page import make_page
from robustbench_coss.pages.report.recipes import recipes_apart
from robustbench_coss.records.record import find_records
from robustbench_coss.tables.cells import number_text

NASTY = "<script>alert(1)</script> \"quoted\" 'x' {{ 7*7 }} --><!-- ../../a"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, three seeds, six suites; a failed check among them."""
    folder = tmp_path_factory.mktemp("results")
    simulate.all_suites(folder, seeds=3, n=60)
    return folder


@pytest.fixture(scope="module")
def page(results: Path) -> str:
    return make_page(results, [], full=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of two methods that differ in the local-global term alone, as trained here."""
    folder = tmp_path_factory.mktemp("trained")
    for method, options in (("byol", {"ema": 0.9}), ("co-byol", {"ema": 0.9, "w_s": 0.3})):
        for seed in range(3):
            recipe = {"method": method, "epochs": 3, "batch_size": 8, "seed": seed}
            training = {"recipe": recipe | {"views": {"min_crop": 0.5}, "options": options}}
            share = (0.6 if method == "byol" else 0.9) + 0.01 * seed
            simulate.save(
                folder, simulate.clean(share, method=method, seed=seed, training=training)
            )
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run: 60 of 200 images right."""
    folder = tmp_path_factory.mktemp("single")
    simulate.save(folder, simulate.clean(0.3, n=200))
    return folder


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is said in words: drawing takes most of the time."""
    monkeypatch.setattr(page_module, "draw_figures", lambda *_: [])


def section(page: Element, end: str) -> Element:
    (found,) = [s for s in page.all("section") if s.attributes.get("id", "").endswith(end)]
    return found


# What it says


@pytest.mark.usefixtures("no_figures")
def test_a_single_run_is_reported_with_wilsons_interval(single: Path) -> None:
    wilson = stats.binomtest(60, 200).proportion_ci(method="wilson")
    said = f"30.0 % [{100 * wilson.low:.1f}, {100 * wilson.high:.1f}]"
    page = parse(make_page(single, [], full=True))
    assert said in section(page, "summary").text
    card = section(page, "headline").all("div", class_="card")[0].text
    assert said in re.sub(r"\s+", " ", card)


def test_headline_tables_hold_every_headline_number_of_the_long_table(
    results: Path, page: str
) -> None:
    table = load_table(results)
    shown = section(parse(page), "headline").text
    headline = table[table["headline"]]
    assert len(headline) > 10
    for line in headline.to_dict("records"):
        low, high = (number_text(line[k], line["value"], line["percent"]) for k in ("low", "high"))
        assert f"[{low}, {high}]" in shown


def test_every_condition_of_every_suite_is_there(results: Path, page: str) -> None:
    text = parse(page).text
    records = [record for _, record in find_records(results)]
    for record in records:
        # What is a metric by itself stands in the suite's table under the metric's name.
        alone = {k.conditions[0] for k in record.metrics if len(k.conditions) == 1}
        for cell in record.cells:
            assert cell.condition in alone or cell.condition in text
    assert sum(len(record.cells) for record in records) > 1000


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_a_full_table_names_its_models_only_where_it_does_not_hold_all(results: Path) -> None:
    def titles(*names: str) -> list[str]:
        tree = parse(make_page(results, names, full=True))
        return [s.text for full in tree.all("details", class_="full") for s in full.all("summary")]

    alone, both = titles("byol-s0"), titles()
    assert alone
    assert both
    assert all(re.search(r"condition(s)?$", title) for title in (*alone, *both))


def test_failed_checks_are_told_before_the_first_number(page: str) -> None:
    summary = section(parse(page), "summary").text
    assert "20 steps 3.1 % above 10 steps" in summary
    assert summary.index("more steps do not help") < summary.index("test images of")


@pytest.mark.usefixtures("no_figures")
def test_a_co_model_stands_against_its_base_method(trained: Path) -> None:
    compared = section(parse(make_page(trained, [], full=True)), "compared")
    (title, *others) = [heading.text for heading in compared.all("h3")]
    assert re.fullmatch(r"CO-BYOL · .* against BYOL · .*", title)
    assert others == []


@pytest.mark.usefixtures("no_figures")
def test_controls_are_set_apart_and_no_model_is_measured_by_their_rank(tmp_path: Path) -> None:
    simulate.save(
        tmp_path, simulate.clean(0.5), simulate.clean(0.4, method="dino"), simulate.control(0.6)
    )
    tree = parse(make_page(tmp_path, [], full=True))
    apart = [row.all("th")[0].text for row in tree.all("tr", class_="apart")]
    assert set(apart) == {"control:pixels"}
    summary = section(tree, "summary").text
    assert "2 models were measured" in summary
    assert "goes from 40.0 %" in summary
    assert "1 control that learnt nothing" in summary
    titles = [heading.text for heading in section(tree, "compared").all("h3")]
    assert len(titles) == 1
    assert "control" not in titles[0]


@pytest.mark.usefixtures("no_figures")
def test_names_choose_what_is_reported(results: Path) -> None:
    page = parse(make_page(results, ["byol-s1"], full=True))
    (title,) = page.all("h1")
    assert title.text == "byol-s1"
    runs = section(page, "provenance").all("table", class_="runs")
    assert "byol-s1" in runs[0].text
    assert "byol-s0" not in runs[0].text


@pytest.mark.usefixtures("no_figures")
def test_commands_are_those_of_the_first_run_and_the_others_are_named(trained: Path) -> None:
    provenance = section(parse(make_page(trained, ["BYOL"], full=True)), "provenance")
    commands = provenance.all("pre", class_="commands")[0].text
    assert "coss-bench pretrain --recipe recipe.yaml --seed 0 --out runs/byol-s0" in commands
    assert "byol-s1" not in commands
    assert "byol-s1 and byol-s2: as byol-s0, with their own seeds and --out." in provenance.text
    assert "epochs: 3" in provenance.all("pre", class_="commands")[1].text


@pytest.mark.slow
def test_the_same_records_give_the_same_page(results: Path, page: str) -> None:
    assert make_page(results, [], full=True) == page


# Whole in itself


def test_nothing_is_fetched_and_nothing_runs(page: str) -> None:
    tree = parse(page)
    for tag in ("script", "link", "img", "iframe", "object", "embed", "image"):
        assert tree.all(tag) == []
    for element in tree.walk():
        outside = [
            f"{key}={value}"
            for key, value in element.attributes.items()
            if key in ("src", "href", "xlink:href", "style", "clip-path", "fill")
            and re.search(r"https?:|//", value)
        ]
        if element.tag != "a":
            assert outside == []
        assert not any(key.startswith("on") for key in element.attributes)
    styles = " ".join(style.text for style in tree.all("style"))
    assert "@import" not in styles
    assert "url(" not in styles


def test_every_id_is_there_once_and_every_inner_link_has_its_target(page: str) -> None:
    tree = parse(page)
    ids = [e.attributes["id"] for e in tree.walk() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    links = [e.attributes["href"] for e in tree.all("a") if e.attributes["href"].startswith("#")]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_names_are_text_whatever_they_contain(tmp_path: Path) -> None:
    record = simulate.clean(0.3, n=40, name=NASTY)
    record.model |= {"method": None, "training": {}, "arch": NASTY}
    simulate.save(tmp_path, record)
    page = make_page(tmp_path, [], full=True)
    tree = parse(page)
    assert tree.all("script") == []
    assert "<script" not in page
    assert NASTY.split(" ", maxsplit=1)[0] in tree.all("h1")[0].text
    assert "{{ 7*7 }}" in tree.all("h1")[0].text


# The command


def test_the_command_writes_html(bench: Bench, single: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "r.html"
    outcome = bench("report", "--results", single, "--out", out)
    assert (outcome.code, outcome.out) == (0, f"wrote {out}\n")
    assert out.read_text(encoding="utf-8") == make_page(single, [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "r.docx"), "cannot tell the format of r.docx; end it in .html or .pdf"),
        (("byol-s7",), "no model 'byol-s7' was measured; did you mean byol-s0"),
        (("--results", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_reported_is_said_in_one_line(
    bench: Bench,
    single: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = bench("report", "--results", single, *arguments)
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_without_weasyprint_the_page_is_written_and_what_to_install_is_said(
    bench: Bench, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    outcome = bench("report", "--results", single, "--out", tmp_path / "r.pdf")
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert "pip install 'robustbench-coss[report]'" in line
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


# PDF


@pytest.mark.slow
def test_printing_leaves_pillow_strict_about_damaged_images() -> None:
    program = """
from PIL import ImageFile
from robustbench_coss.pages.report.pdf import to_pdf
to_pdf("<html><head></head><body>page</body></html>")
print(ImageFile.LOAD_TRUNCATED_IMAGES)
"""
    # In a process of its own: what an import does is seen once.
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if "CossError: PDF needs" in run.stderr:
        pytest.skip(run.stderr.splitlines()[-1])
    assert run.stdout == "False\n", run.stderr


@pytest.fixture(scope="module")
def pdf(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from robustbench_coss.pages.report.pdf import to_pdf

    out = tmp_path_factory.mktemp("pdf") / "report.pdf"
    try:
        data = to_pdf(make_page(results, ["byol-s0"], full=True))
    except CossError as error:
        pytest.skip(str(error))
    out.write_bytes(data)
    return out


def poppler(tool: str, *arguments: object) -> str:
    if shutil.which(tool) is None:
        pytest.skip("poppler-utils is not installed")
    command = [tool, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")  # the PDF has them
def test_the_pdf_holds_the_same_numbers_and_numbers_its_pages(results: Path, pdf: Path) -> None:
    text = re.sub(r"\s+", " ", poppler("pdftotext", pdf, "-"))
    tree = parse(make_page(results, ["byol-s0"], full=True))
    values = [p.text for p in section(tree, "headline").all("p", class_="value")]
    assert len(values) > 5
    for value in values:
        number = value.split()[0].rstrip("†")
        assert number in text
    assert re.search(r"Tagged: +yes", poppler("pdfinfo", pdf))  # for screen readers
    pages = int(re.search(r"Pages: +(\d+)", poppler("pdfinfo", pdf))[1])  # type: ignore[index]
    assert f"{pages} / {pages}" in text


@pytest.mark.slow
def test_the_fonts_of_the_pdf_are_embedded_and_are_those_of_matplotlib(pdf: Path) -> None:
    fonts = poppler("pdffonts", pdf).splitlines()[2:]
    assert fonts
    for line in fonts:
        assert re.search(r"\+(STIXGeneral|DejaVu)", line), line
        assert " yes " in line
        assert "Type 3" not in line


@pytest.mark.slow
def test_a_short_report_has_every_headline_number_and_what_recipes_differ_in(
    results: Path, page: str
) -> None:
    short = make_page(results, [])
    table = load_table(results)
    text = parse(short).text
    for value in table.loc[table["headline"] & table["percent"], "value"]:
        assert f"{100 * value:.1f}" in text
    assert len(text) < 0.7 * len(parse(page).text)
    assert parse(short).all("details", class_="full") == []
    scatter, numbers = "Headline shares against clean top-1", "Headline numbers</h2>"
    assert short.index(scatter) < short.index(numbers)


def test_recipes_are_what_they_share_and_what_sets_them_apart() -> None:
    views = "views: {crop: 0.2, blur: "
    texts = {"a": f"method: byol\n{views}0.5}}", "b": f"method: dino\n{views}0}}\nema: 0.9"}
    shared, (apart,) = recipes_apart(texts | {"c": ""})
    assert shared == "views:\n  crop: 0.2\n"
    assert list(apart.headings) == ["Setting", "a", "b"]
    assert [[cell.text for cell in row] for row in apart.rows] == [
        ["ema", "–", "0.9"],
        ["method", "byol", "dino"],
        ["blur", "0.5", "0"],
    ]
    assert recipes_apart({"a": texts["a"]})[1] == []
    assert recipes_apart({}) == ("", [])
