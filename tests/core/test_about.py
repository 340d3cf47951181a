"""A suite's own words reach tables, figures and pages through its records alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import simulate

from robustbench_coss import registry
from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.errors import CossError
from robustbench_coss.figures.styles import styled
from robustbench_coss.figures.write import draw_figures
from robustbench_coss.pages.report.page import make_page
from robustbench_coss.records.about import (
    OWN_SUITES,
    SuiteAbout,
    about_of,
    about_suite,
    asked_only,
    in_order,
)
from robustbench_coss.records.migrate import migrate
from robustbench_coss.records.record import (
    SCHEMA,
    Axis,
    Cell,
    Metric,
    Record,
    read_record,
    to_json,
    write_record,
)
from robustbench_coss.tables.leaderboard import headline_columns

TILT = SuiteAbout(
    title="Tilted pictures",
    does="The camera is tilted.",
    order=15,
    panels={"left": "To the left", "far": "Far away"},
    x_label="tilt (°)",
    captions={"": "Top-1 against the tilt."},
)


def tilted(about: SuiteAbout = TILT, suite: str = "tilt-of-nobody") -> Record:
    """A record of a suite that no installed package has."""
    right = {"correct": simulate.exactly(0.5, 20)}
    cells = [
        Cell("level", "", 0.0, right),
        Cell("left@5", "left", 5.0, right),
        Cell("early left@5", "early left", 5.0, right, stage="early", kind="left"),
        Cell("odd@5", "odd", 5.0, right),
    ]
    metric = Metric("tilt_top1", "Tilted top-1", "correct", ("left@5",))
    record = simulate.record(cells, [metric], suite=suite, axis=Axis("degrees from upright"))
    record.about = about.stored()
    return record


def test_what_a_suite_says_survives_being_written_as_json() -> None:
    for name in registry.names("suite"):
        about = about_suite(name)
        record = tilted()
        record.about = json.loads(json.dumps(about.stored()))
        assert about_of(record) == about


def test_panels_keep_their_order_through_a_record(tmp_path: Path) -> None:
    assert list(TILT.panels) != sorted(TILT.panels)
    write_record(tmp_path / "record.json", tilted())
    assert list(about_of(read_record(tmp_path / "record.json")).panels) == list(TILT.panels)


def test_a_suite_that_is_not_installed_has_its_titles_and_captions(tmp_path: Path) -> None:
    simulate.save(tmp_path, tilted())
    (m,) = load_measurements(tmp_path)
    with styled():
        drawings = {d.name: d for d in draw_figures([m], m.test_set)}
        figure = drawings["tilt-of-nobody"].draw()
    assert drawings["tilt-of-nobody"].caption == "Top-1 against the tilt."
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["To the left", "early: To the left", "odd", ""]
    assert {axes.get_xlabel() for axes in figure.axes} == {"tilt (°)", ""}
    page = make_page(tmp_path, [], full=True)
    for words in ("<h2>Tilted pictures</h2>", "The camera is tilted.", "Top-1 against the tilt."):
        assert words in page


def test_columns_follow_the_order_that_suites_ask_for_then_their_names(tmp_path: Path) -> None:
    silent = [tilted(SuiteAbout(), name) for name in ("z-silent", "a-silent")]
    corruption = tilted(SuiteAbout(), "corruption")  # an older record: the installed suite's words
    simulate.save(tmp_path, *silent, corruption, tilted(), simulate.clean(0.5, n=20))
    table = load_table(tmp_path)
    order = list(dict.fromkeys(str(c["suite"].iloc[0]) for c in headline_columns(table)))
    assert order == ["clean", "tilt-of-nobody", "corruption", "a-silent", "z-silent"]
    assert list(dict.fromkeys(table["suite"])) == order


def test_words_of_a_later_version_are_passed_over_and_nonsense_is_refused(tmp_path: Path) -> None:
    record = tilted()
    record.about["of_next_year"] = {"a": 1}
    assert about_of(record) == TILT
    record.about["scale"] = "sideways"
    simulate.save(tmp_path, record)
    with pytest.raises(CossError, match=r"contradicts itself .*about\.scale") as caught:
        load_measurements(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_suite_that_says_something_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="tilte"):
        SuiteAbout(tilte="Rotation")  # type: ignore[call-arg]


def test_the_projects_own_suites_are_read_in_this_order() -> None:
    own = [n for n in registry.names("suite") if registry.origin("suite", n) == registry.OWN]
    unasked = {name: about_suite(name) for name in own if not asked_only(name)}
    assert in_order(unasked) == list(OWN_SUITES)


@pytest.mark.parametrize(
    ("suite", "condition", "group", "stage", "kind"),
    [
        ("corruption", "clean", "", "", ""),
        ("corruption", "gaussian_noise@3", "noise", "", "gaussian_noise"),
        ("occlusion", "stage2 block-zero@0.5", "stage2 block-zero", "stage2", "block-zero"),
        ("occlusion", "noise@0.5", "noise", "", "noise"),
        ("adversarial", "transfer@8/255", "sanity", "", "transfer"),
        ("adversarial", "gradient", "sanity", "", "sanity"),
        ("rf", "field@stage2", "stages", "stage2", "field"),
        ("redundancy", "k@16", "", "", ""),
        ("theirs", "my odd@3", "odd ones", "", "my odd"),
    ],
)
def test_older_records_have_stage_and_kind_in_names(
    suite: str, condition: str, group: str, stage: str, kind: str
) -> None:
    column = {"correct": simulate.exactly(0.5, 10)}
    content = to_json(simulate.record([Cell(condition, group, 1.0, column)], [], suite=suite))
    for cell in content["cells"]:
        del cell["stage"], cell["kind"]
    (cell,) = migrate(content | {"schema": 2}, SCHEMA)["cells"]
    assert (cell["stage"], cell["kind"]) == (stage, kind)
