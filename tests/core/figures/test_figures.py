"""Figures embed their fonts, fit their page and come out the same every time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import simulate
from helpers.bench import Bench
from PIL import Image

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.cli.plot import plot
from robustbench_coss.errors import CossError
from robustbench_coss.figures.styles import STYLES, panels_across, style, styled
from robustbench_coss.figures.write import write_figures
from robustbench_coss.records.record import Cell


def test_every_suite_has_its_figure_as_pdf_png_and_csv(drawn: Path) -> None:
    names = {
        "summary",
        "tradeoff",
        "corruption",
        "corruption-heat",
        "occlusion",
        "adversarial",
        "crop",
        "crop-agrees",
        "crop-cosine",
        "redundancy",
        "redundancy-metrics",
    }
    assert {path.name for path in drawn.iterdir()} == {
        f"{name}.{suffix}" for name in names for suffix in ("pdf", "png", "csv")
    }


def test_crops_are_drawn_by_agreement_and_cosine_too(drawn: Path) -> None:
    records = [m for m in load_measurements(drawn.parents[1]) if m.suite == "crop"]
    for column in ("agrees", "cosine"):
        data = pd.read_csv(drawn / f"crop-{column}.csv")
        for m in records:
            mine = data[(data["model"] == m.label) & (data["group"] == "centre")]
            expected = [
                np.mean([r.column(f"centre@{level}", column) for r in m.records])
                for level in mine["level"]
            ]
            assert len(mine) == 7
            assert mine["value"].tolist() == pytest.approx(expected)


def test_figures_are_one_column_wide(drawn: Path) -> None:
    for path in drawn.glob("*.png"):
        with Image.open(path) as image:
            assert image.width == round(3.4 * 300)
            assert image.info["Software"] == "robustbench-coss"  # and no version


def test_pdfs_embed_truetype_fonts_and_carry_no_date(drawn: Path) -> None:
    for path in drawn.glob("*.pdf"):
        raw = path.read_bytes()
        streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", raw, re.S)
        content = raw + b"".join(_inflated(stream) for stream in streams)
        assert b"/FontFile2" in content  # TrueType, embedded
        assert b"/Type3" not in content
        assert b"CreationDate" not in content


def sizes(folder: Path) -> set[float]:
    """Widths of the PDFs in a folder in inches: the pages' boxes, in points."""
    boxes = [
        re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", path.read_bytes())
        for path in folder.rglob("*.pdf")
    ]
    return {round(float(box[1]) / 72, 3) for box in boxes if box is not None}


@pytest.mark.parametrize(
    ("options", "inches"),
    [
        (("--venue", "cvpr"), 3.25),
        (("--venue", "ICML", "--width", "full"), 6.75),
        (("--venue", "neurips", "--width", "full"), 5.5),  # 33 picas of a sixth of an inch
        (("--style", "slides"), 12),
    ],
)
def test_figures_are_as_wide_as_the_page_they_are_for(
    bench: Bench, results: Path, tmp_path: Path, options: tuple[str, ...], inches: float
) -> None:
    chosen = ("--figure", "corruption,summary", "--out", tmp_path)
    outcome = bench("plot", "--results", results, *chosen, *options)
    assert outcome.code == 0, outcome.err
    assert sizes(tmp_path) == {inches}
    assert {path.stem for path in tmp_path.rglob("*.*")} == {"corruption", "summary"}
    for path in tmp_path.rglob("*.pdf"):
        assert b"/Type3" not in path.read_bytes()


def test_more_panels_stand_side_by_side_on_wider_figures() -> None:
    for name, inches, across in (("paper", 3.25, 2), ("paper", 6.875, 4), ("slides", None, 3)):
        with styled(name, inches):
            assert panels_across() == across


@pytest.mark.parametrize("name", STYLES)
def test_styles_embed_truetype_and_state_what_the_layout_needs(name: str) -> None:
    settings = style(name)
    assert settings["pdf.fonttype"] == 42
    assert {"figure.figsize", "font.size", "legend.fontsize"} <= set(settings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--figure", "corruptoin"), "no figure 'corruptoin'; did you mean corruption"),
        (("--venue", "nature"), "unknown venue 'nature'; known: cvpr"),
        (("--width", "full"), "--width is of the pages of a --venue"),
        (("--venue", "cvpr", "--style", "slides"), "--venue is for the pages of papers"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(
    bench: Bench, results: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    outcome = bench("plot", "--results", results, "--out", tmp_path / "out", *options)
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_hostile_names_do_not_break_a_figure(tmp_path: Path) -> None:
    for method in ("$\\frac{", "_hidden", "<script>alert(1)</script>", "a|b_50%"):
        simulate.save(tmp_path, simulate.clean(0.5, method=method))
    assert len(write_figures(tmp_path)) == 3


def test_other_processes_draw_the_same_bytes(tmp_path: Path) -> None:
    cells = [Cell("clean", "", 0, {"correct": simulate.exactly(1, 90)})]
    cells += [Cell(f"c{k}", "noise", k, {"correct": simulate.exactly(k / 9, 90)}) for k in range(6)]
    for method in ("byol", "co-byol"):
        record = simulate.record(cells, [], suite="corruption", method=method)
        simulate.save(tmp_path, record)
    here = {path: path.read_bytes() for path in write_figures(tmp_path)}
    assert len(here) == 6
    code = "import sys, pathlib; from robustbench_coss.figures.write import write_figures as w"
    subprocess.run(
        [sys.executable, "-c", f"{code}; w(pathlib.Path(sys.argv[1]))", str(tmp_path)],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        check=True,
    )
    assert {path: path.read_bytes() for path in here} == here


def test_drawing_leaves_the_style_of_other_figures_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    simulate.save(tmp_path, simulate.clean(0.5))
    write_figures(tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_no_records_is_an_error_that_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="coss-bench eval"):
        write_figures(tmp_path)


def test_the_command_prints_the_files_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate.save(tmp_path, simulate.clean(0.5))
    plot(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {tmp_path}/figures/parts-32px/summary.{suffix}" for suffix in ("pdf", "png", "csv")
    ]
