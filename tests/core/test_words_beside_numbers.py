"""What is said beside numbers: how many tests and claims there are, whose check failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import simulate
from markdown_it import MarkdownIt

from robustbench_coss.analysis.comparison import Comparison, compare
from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.claims.verdicts import ASKED, examine
from robustbench_coss.pages.dossier.suites import suite_parts
from robustbench_coss.pages.report.choice import choose
from robustbench_coss.pages.report.summary import claims_sentence, doubts
from robustbench_coss.records.record import Check, find_records, write_record
from robustbench_coss.tables.cells import TableCell, escape_markdown, without_constants
from robustbench_coss.tables.comparison import layout


@pytest.fixture
def half_seeded(tmp_path: Path) -> Path:
    """Two seeds of both under the clean suite, two and one under another."""
    for seed in (0, 1):
        simulate.save(
            tmp_path,
            simulate.clean(0.70 + 0.02 * seed, seed=seed),
            simulate.clean(0.50 + 0.03 * seed, method="dino", seed=seed),
        )
    for method, seeds in (("byol", (0, 1)), ("dino", (0,))):
        for seed in seeds:
            other = simulate.clean(0.9 if method == "byol" else 0.1, method=method, seed=seed)
            other.suite = "other"
            simulate.save(tmp_path, other)
    return tmp_path


def said_of(found: Comparison) -> str:
    return " ".join(text for s in layout(found) for text in (s.lead, *s.notes))


def test_tests_that_are_not_corrected_are_not_counted(half_seeded: Path) -> None:
    found = compare(half_seeded, "byol", "dino")
    assert found.table["p"].notna().sum() == 4
    assert found.table["p_holm"].notna().sum() == 2  # one run says nothing about seeds
    assert "all tests with a corrected p, 2 here" in said_of(found)
    assert "differ significantly in any of 2 measures; 2 of 4 measures undecided" in said_of(found)
    alone = compare(half_seeded, "byol", "dino", ["other"])
    assert "Nothing is decided between" in said_of(alone)
    assert "differ significantly" not in said_of(alone)


def test_a_question_is_no_claim_of_the_paper(tmp_path: Path) -> None:
    simulate.all_suites(tmp_path, ("byol", "co-byol", "dino", "co-dino"), seeds=1, n=40)
    for path, record in list(find_records(tmp_path)):
        if record.suite == "redundancy":
            rank = {"label": "RankMe", "value": float(len(record.model["method"]))}
            record.extra = {"facts": {"rankme": rank}}
            write_record(path, record)
    outcomes = examine(tmp_path)
    assert ASKED in {outcome.verdict for outcome in outcomes}
    said = claims_sentence(outcomes)
    assert said.startswith("The 7 claims of the CO-SSL paper")
    assert "rank with robustness" not in said.replace("redundancy with robustness", "")


def test_a_failed_check_names_its_model_whole(tmp_path: Path) -> None:
    for grid in (1, 2):
        checks = [Check("falls", False, f"detail {grid}")]
        training = {"options": {"grid": grid}}
        made = simulate.clean(0.6, name=f"run{grid}", training=training, checks=checks)
        simulate.save(tmp_path, made)
    subject = choose(load_measurements(tmp_path), [])
    (line,) = doubts(subject.measurements, subject.short)
    assert line.endswith("; BYOL · rf29_resnet18 ×0.25 (grid=1): detail 1.")


@pytest.mark.parametrize(("limit", "subset"), [(None, False), (200, True), (1000, False)])
def test_images_are_a_subset_where_there_are_more(
    tmp_path: Path, limit: int | None, subset: bool
) -> None:
    record = simulate.clean(0.6, 200)
    record.dataset["limit"] = limit
    simulate.save(tmp_path, record)
    (part,) = suite_parts(load_measurements(tmp_path), load_table(tmp_path))
    assert dict(part.facts)["Images"] == "200 of parts" + ", a fixed random subset" * subset


def test_a_caption_hides_no_interval_and_no_doubt() -> None:
    names = ("Model", [TableCell("a"), TableCell("b")])
    for cell in (TableCell("0.0", "[−1.0, 1.0]"), TableCell("0.0", marked=True)):
        column = ("Effect", [cell] * 2)
        assert without_constants([names, column]) == ([names, column], [])


@pytest.mark.parametrize(
    "text", ["[a [b]](http://x)", "[a](x)", "![a](x)", "1. x", "2) x", "+ x", "- x", "---", "-"]
)
def test_markdown_shows_text_of_others_as_it_is(text: str) -> None:
    shown = MarkdownIt("commonmark").render(escape_markdown(text))
    assert shown == f"<p>{text}</p>\n"
