"""What no one can mean is refused in one line: numbers, names and places to write to."""

from __future__ import annotations

import csv
import io
import math
import os
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from helpers import simulate
from helpers.bench import Bench
from helpers.pdfs import need_weasyprint

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.submissions.bundle import open_bundle, write_bundle
from robustbench_coss.figures.styles import PDF_MARK
from robustbench_coss.files import csv_text, write_chosen
from robustbench_coss.pages.report.pdf import to_pdf

LONG = "n" * 300
PRETRAIN = ["pretrain", "--method", "byol", "--dataset", "parts", "--limit", "8", "--out", "q"]
EVAL = ["eval", "control:pixels", "--dataset", "parts", "--suite"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*PRETRAIN, "--image-size", "1000000"], "less than or equal to 4096"),
        ([*PRETRAIN, "--epochs", "10000000"], "less than or equal to 1000000"),
        ([*PRETRAIN, "--width", "1000"], "less than or equal to 8"),
        ([*PRETRAIN, "--set", "optimizer.lr=1.0e+300"], "less than or equal to 10000"),
        ([*PRETRAIN, "--set", "options.hidden=100000000000"], "less than or equal to 65536"),
        ([*PRETRAIN, "--set", "workers=100000"], "less than or equal to 1024"),
        ([*PRETRAIN, "--seed", "1" + "0" * 30], "seed"),
        ([*EVAL, ","], "no suite was named"),
        ([*EVAL, "corruption", "--set", "corruption.workers=-1"], "1 to 1,024, got -1"),
        ([*EVAL, "corruption", "--set", "corruption.workers=x"], "1 to 1,024, got 'x'"),
        ([*EVAL, "adversarial", "--set", f"adversarial.steps={10**20}"], "from 1 to"),
        ([*EVAL, "clean", "--set", "clean.bank=x"], "clean.bank must be a whole number"),
        ([*EVAL, "clean", "--size", "1000000"], "--size must be 1 to 4096 px"),
        ([*EVAL, "clean", "--seed", str(2**63)], "seed must be at least 0 and below 2^63"),
        ([*EVAL, "clean", "--batch-size", str(2**40)], "batch_size must be below 2^31"),
        (["arch", "rf9_resnet18", "--image-size", "1000000"], "at most 4096 px"),
        (["arch", "rf9_resnet18", "--width", "1000"], "at most 8"),
        (["eval", LONG, "--suite", "clean"], "nnn"),
        (["leaderboard", "--results", LONG], "nnn"),
        (["verify", LONG], "nnn"),
        (["export", LONG, "--format", "timm"], "nnn"),
        ([*PRETRAIN[:-1], LONG], "nnn"),
        (["sweep", f"{LONG}.yaml"], "nnn"),
        (["leaderboard", "--results", "a\0b"], "NUL"),
        (["site", "--out", "/"], "is not empty and holds no earlier site"),
        (["pretrain", "--method", "byol", "--out", "/"], "is not empty"),
        (["plot", "--out", "/"], "--out / is the root of the file system"),
        (["sweep", "crop", "--out", "/tmp/.."], "--out /tmp/.. is the root of the file system"),
        (["quickstart", "--out", "/"], "--out / is the root of the file system"),
        ([*EVAL, "clean", "--results", "/"], "--results / is the root of the file system"),
    ],
)
def test_a_value_out_of_reason_is_refused_in_one_line(
    words: list[str], said: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = bench(*words)
    assert found.code == 1
    assert len(found.err.splitlines()) == 1, found.err
    assert found.err.startswith("error: ")
    assert said in found.err
    assert not (tmp_path / "q").exists()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for method in ("byol", "co-byol"):
        simulate.save(tmp_path / "results", simulate.clean(0.5, method=method))
    monkeypatch.chdir(tmp_path)
    return tmp_path


WRITERS = {
    "table.md": ["leaderboard", "--models", "BYOL,CO-BYOL", "--out"],
    "table.csv": ["leaderboard", "--models", "BYOL,CO-BYOL", "--out"],
    "table.tex": ["leaderboard", "--models", "BYOL,CO-BYOL", "--out"],
    "compare.md": ["compare", "BYOL", "CO-BYOL", "--out"],
    "compare.csv": ["compare", "BYOL", "CO-BYOL", "--out"],
    "claims.json": ["claims", "--out"],
    "claims.tex": ["claims", "--out"],
    "report.html": ["report", "--out"],
    "claims.md": ["claims", "--out"],
    "picture.png": ["arch", "rf9_resnet18", "--width", "0.0625", "--image-size", "16", "--picture"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_command_replaces_its_own_file_and_a_foreign_one_only_by_force(
    study: Path, bench: Bench, name: str
) -> None:
    out = study / name
    words = [*WRITERS[name], out]
    assert bench(*words).code == 0
    own = out.read_bytes()
    assert bench(*words).code == 0  # again
    foreigners = [b"years of work\n", b"\x89PNG\r\n\x1a\n and more", b"PK\x03\x04", b"# Notes\n"]
    # Some begin as ours do, some speak of this tool.
    foreigners += [own[:8], own.split(b"\n")[0][:30] + b"\n\nyears of work\n"]
    foreigners += [own[:6] + b" robustbench-coss, coss-bench, manifest.json\n" * 3]
    foreigners += [b"%PDF-1.7 about robustbench-coss (Aubret)\n"]
    for foreign in foreigners:
        out.write_bytes(foreign)
        found = bench(*words)
        assert found.code == 1
        assert "exists and is not what this command writes; pass --force" in found.err
        assert out.read_bytes() == foreign
    assert bench(*words, "--force").code == 0
    assert out.read_bytes() == own
    out.unlink()
    os.mkfifo(out)
    for force in ([], ["--force"]):
        found = bench(*words, *force)
        assert found.code == 1
        assert "not a regular file" in found.err
    assert out.is_fifo()


def test_a_report_as_pdf_is_known_again(tmp_path: Path) -> None:
    need_weasyprint()
    out = tmp_path / "report.pdf"
    for text in ("one", "two"):
        data = to_pdf(f"<html><head><title>{text}</title></head><body>{text}</body></html>")
        write_chosen(out, data, force=False, mark=PDF_MARK)
    assert out.read_bytes() == data
    out.write_bytes(b"%PDF-1.7 on robustbench-coss")
    with pytest.raises(CossError, match="--force"):
        write_chosen(out, data, force=False, mark=PDF_MARK)


@pytest.mark.slow
def test_plot_replaces_figures_of_its_own_and_a_foreign_file_only_by_force(
    study: Path, bench: Bench
) -> None:
    words = ["plot", "--figure", "summary", "--out", "drawn"]
    assert bench(*words).code == 0
    own = {path: path.read_bytes() for path in (study / "drawn").glob("*/*")}
    assert {path.name for path in own} == {"summary.pdf", "summary.png", "summary.csv"}
    beside = next(iter(own)).with_name("notes.txt")
    beside.write_bytes(b"years of work\n")
    assert bench(*words).code == 0  # again
    for path, content in own.items():
        for foreign in (b"model,accuracy\nmine,1\n", b"\x89PNG\r\n\x1a\n and more"):
            path.write_bytes(foreign)
            found = bench(*words)
            assert found.code == 1
            assert f"{path} exists and is not what this command writes" in found.err
            assert path.read_bytes() == foreign
        assert bench(*words, "--force").code == 0
        assert path.read_bytes() == content
    assert beside.read_bytes() == b"years of work\n"


def test_a_bundle_replaces_bundles_and_follows_links(tmp_path: Path) -> None:
    """A manifest.json alone makes no bundle: extensions of browsers have one, too."""
    files = {"environment.json": b"{}", "records/a/b.json": b"x" * 100_000}
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    write_bundle(link, {"model": {}, "checkpoint_sha256": "0" * 64}, files)
    write_bundle(link, {"model": {}, "checkpoint_sha256": "1" * 64}, files)
    assert link.is_symlink()
    assert open_bundle(real).manifest["checkpoint_sha256"] == "1" * 64
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("manifest.json", '{"tool": {"name": "robustbench-coss"}, "files": []}')
    real.write_bytes(raw.getvalue())
    with pytest.raises(CossError, match="--force"):
        write_bundle(link, {"model": {}, "checkpoint_sha256": "1" * 64}, files)
    assert real.read_bytes() == raw.getvalue()


def test_cells_of_csv_are_no_formulas_and_numbers_stay_numbers() -> None:
    """The characters are those of OWASP's "CSV injection"."""
    texts = ["=1+1", "+cmd", "-x", "@SUM(A1)", "\tx", "\rx", "plain", "a=b", "-0.5", "+3", "-inf"]
    table = pd.DataFrame({"=name": texts, "number": [-0.5] * 10 + [math.nan]})
    rows = list(csv.reader(io.StringIO(csv_text(table), newline="")))
    assert rows[0] == ["'=name", "number"]
    assert [row[0] for row in rows[1:]] == [
        *("'=1+1", "'+cmd", "'-x", "'@SUM(A1)", "'\tx", " x"),
        *("plain", "a=b", "-0.5", "+3", "-inf"),
    ]
    assert [row[1] for row in rows[1:]] == ["-0.5"] * 10 + [""]


def test_names_of_foreign_models_are_no_formulas_in_tables(study: Path, bench: Bench) -> None:
    simulate.save(study / "results", simulate.clean(0.7, method="=HYPERLINK(1)", name="@evil"))
    assert bench("leaderboard").code == 0
    text = (study / "results" / "leaderboard.csv").read_text()
    for row in csv.reader(io.StringIO(text)):
        for cell in row:
            if cell[:1] in set("=+-@"):
                float(cell)
