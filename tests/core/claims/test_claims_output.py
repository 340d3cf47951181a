"""The tables, the JSON and the command of claims."""

from __future__ import annotations

import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, simulate
from helpers.claim_cases import outcome_of, top1
from rich.console import Console
from typer.testing import CliRunner

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.claims.definitions import CLAIMS
from robustbench_coss.claims.verdicts import examine
from robustbench_coss.cli import app
from robustbench_coss.errors import CossError
from robustbench_coss.records.record import Check, read_record
from robustbench_coss.tables.cells import to_markdown
from robustbench_coss.tables.claims import layout, to_json
from robustbench_coss.tables.latex import to_latex
from robustbench_coss.tables.terminal import to_rich

COMMITTED = ROOT / "results" / "fashion-mnist"
ROW_KEYS = {
    "kind", "measure", "compared", "protocol", "decides", "effect", "unit", "low", "high", "test",
    "p", "p_holm", "verdict", "images", "sources", "untrained",
}  # fmt: skip


def test_the_json_has_a_stable_form_and_points_to_records(simulated: Path) -> None:
    content = json.loads(json.dumps(to_json(examine(simulated)), allow_nan=False))
    assert content.keys() == {"schema", "test_sets"}
    assert content["schema"] == 1
    (test_set,) = content["test_sets"]
    assert test_set.keys() == {"test_set", "controls", "claims"}
    assert [c["claim"] for c in test_set["claims"]] == [
        "clean", "noise-corruption", "internal-corruption", "small-attacks", "large-crops",
        "redundant-locals", "redundancy-robustness",
    ]  # fmt: skip
    rows = 0
    for claim in test_set["claims"]:
        assert claim.keys() == {"claim", "statement", "verdict", "rows", "lacking"}
        for row in claim["rows"]:
            rows += 1
            assert row.keys() == ROW_KEYS
            if row["unit"] == "rho":  # of three families
                assert (row["low"], row["high"]) == (None, None)
            else:
                assert row["low"] <= row["effect"] <= row["high"]
            assert row["verdict"] in ("supported", "not supported", "undecided")
            for source in row["sources"]:
                assert source.keys() == {
                    "configuration", "role", "suite", "seeds", "doubts", "records"
                }  # fmt: skip
                assert len(source["records"]) == source["seeds"] == 3
                assert all((simulated / path).is_file() for path in source["records"])
    # Two pairs and their mean in seven measures, two correlations.
    assert rows == 7 * 3 + 2


def test_shares_are_in_points_and_cosines_are_not(simulated: Path) -> None:
    outcomes = examine(simulated)
    claims = to_json(outcomes)["test_sets"][0]["claims"]
    for o, shown in zip(outcomes, claims, strict=True):
        for row, line in zip(o.rows, shown["rows"], strict=True):
            factor = {"points": 100, "cosine": 1, "rho": 1}[line["unit"]]
            assert line["effect"] == pytest.approx(factor * row.effect)
    units = {line["unit"] for c in claims for line in c["rows"]}
    assert units == {"points", "cosine", "rho"}


def test_tables_show_every_row_and_say_which_records_they_rest_on(simulated: Path) -> None:
    outcomes = examine(simulated)
    (section,) = layout(outcomes)
    claims, evidence = section.blocks
    assert [r[0].text for r in claims.rows] == [c.statement for c in CLAIMS]
    assert [r[1].text for r in claims.rows] == [o.verdict for o in outcomes]
    assert len(evidence.rows) == sum(len(o.rows) for o in outcomes)
    cells = {h: [r[i] for r in evidence.rows] for i, h in enumerate(evidence.headings)}
    assert cells["Runs"][0].text == "3 + 3"
    assert cells["Runs"][2].text == "6 + 6"
    assert cells["Runs"][-1].text == "15"
    assert "100 test images" in section.caption
    (note,) = (n for n in section.notes if n.startswith("Records of CO-DINO"))
    folders, dataset, suites = note.split("records/")[1].split("/")
    assert dataset == "parts"
    for folder, suite in itertools.product(
        folders.strip("{}").split(","), suites.removesuffix(".json").strip("{}").split(",")
    ):
        assert (simulated / "records" / folder / dataset / f"{suite}.json").is_file()
    # One run of the simulated BYOL fails a check of its attacks.
    marked = [r[0].text for r in evidence.rows if any(cell.marked for cell in r)]
    assert marked
    assert all("ℓ∞" in text for text in marked)
    assert any(n.startswith("† BYOL") for n in section.notes)


def test_names_are_escaped_in_markdown_and_latex(tmp_path: Path) -> None:
    records = [*top1((0.6, 0.7), "byol"), *top1((0.6, 0.8), "co-byol")]
    for record in records:
        record.model["arch"] = "a|b_{%}<i>"
    records[0].checks.append(Check("50% & more_", False, "$x$"))
    simulate.save(tmp_path, *records)
    sections = layout(examine(tmp_path))
    markdown, latex = to_markdown("Claims", sections), to_latex("claims", sections)
    assert r"a\|b\_{%}&lt;i&gt;" in markdown
    assert r"a\textbar{}b\_\{\%\}\textless{}i\textgreater{}" in latex
    assert "50% & more_ (1 of 2 seeds): $x$" in latex  # a note, which is a comment
    assert "<i>" not in markdown + re.sub("(?m)^%.*", "", latex)


@pytest.mark.parametrize("ending", ["md", "tex", "json"])
def test_the_command_writes_what_is_asked_for(simulated: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"claims.{ending}"
    call = ["claims", "--results", str(simulated)]
    written = CliRunner().invoke(app, [*call, "--out", str(out)])
    assert written.exit_code == 0, written.output
    assert written.output.split() == ["wrote", *str(out).split()]
    printed = CliRunner().invoke(app, [*call, "--format", ending])
    assert printed.output == out.read_text()
    start = {"md": "# Claims of the CO-SSL paper", "tex": "% Needs", "json": "{"}[ending]
    assert printed.output.startswith(start)
    assert str(simulated) not in printed.output


def test_the_command_shows_tables_and_refuses_other_files(simulated: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["claims", "--results", str(simulated)])
    assert shown.exit_code == 0, shown.output
    assert "Verdict" in shown.output
    refused = CliRunner().invoke(app, ["claims", "--out", str(tmp_path / "claims.pdf")])
    assert isinstance(refused.exception, CossError)
    assert "end it in .md, .tex or .json" in str(refused.exception)
    nothing = CliRunner().invoke(app, ["claims", "--results", str(tmp_path)])
    assert isinstance(nothing.exception, CossError)


@pytest.mark.slow
def test_the_committed_records_are_judged_as_they_compare() -> None:
    outcomes = examine(COMMITTED, ablations=True)
    rows = {r.question.compared: r for r in outcome_of(outcomes, "clean").rows}
    for co in ("CO-BYOL", "CO-MoCo v3", "CO-SimCLR"):
        (label,) = (c for c in rows if c.startswith(co))
        table = compare(COMMITTED, co, co.removeprefix("CO-"), ["clean"]).table
        line = table.set_index("metric").loc["clean_top1"]
        assert rows[label].effect == pytest.approx(line["difference"])
        assert rows[label].p == pytest.approx(line["p"])
    # The mean is over the seeds that all pairs have, which MoCo v3's three are.
    top1 = {
        path.parts[-3].rpartition("-")[0]: read_record(path).cells[0].outcomes["correct"].mean()
        for path in COMMITTED.glob("records/*/*/clean.json")
    }
    gains = [
        top1[f"co-{base}-s{seed}"] - top1[f"{base}-s{seed}"]
        for base in ("byol", "mocov3", "simclr")
        for seed in range(3)
    ]
    assert rows["mean of 3 pairs"].effect == pytest.approx(np.mean(gains))
    console = Console(file=io.StringIO(), width=80)
    console.print(to_rich(layout(outcomes)))
    assert all(len(line) <= 80 for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
