"""What is typed is what is done, for the commands beside `eval` and `pretrain`.

Each command hands its options to one function, or to several in turn; these are replaced by what
notes their arguments. The table names every option; one that is added without a line here fails.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.bench import Bench
from typer.main import get_command

from robustbench_coss.cli import app
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.submissions.verify import Plan

PACKAGE = "robustbench_coss"
CHECK = f"{PACKAGE}.evaluations.submissions.verify.verify"
SUBMIT = f"{PACKAGE}.evaluations.submissions.submit.submit"
EXPORT = f"{PACKAGE}.models.export.export"
FIGURES = f"{PACKAGE}.figures.write.write_figures"
SITE = f"{PACKAGE}.pages.site.write_site"
PAGE, PDF = f"{PACKAGE}.pages.report.page.make_page", f"{PACKAGE}.pages.report.pdf.to_pdf"
COMPARE = f"{PACKAGE}.analysis.comparison.compare"
CLAIMS = f"{PACKAGE}.tables.claims.layout"
TRIALS = f"{PACKAGE}.analysis.trials.read_trials"
EXAMINE = f"{PACKAGE}.claims.verdicts.examine"
PAPER = f"{PACKAGE}.tables.paper.paper_table"
LOAD = f"{PACKAGE}.analysis.configurations.load_measurements"
TABLE = f"{PACKAGE}.analysis.numbers.table_of"
CALIBRATED = f"{PACKAGE}.analysis.calibration.with_calibration"
WRITE = f"{PACKAGE}.files.write_chosen"
PLAN, READ = f"{PACKAGE}.pretrain.sweep.plan", f"{PACKAGE}.pretrain.sweep.read_sweep"
TRAIN = f"{PACKAGE}.cli.sweep._train"
BUILD = f"{PACKAGE}.models.checkpoint.build_encoder"
DOCTOR = f"{PACKAGE}.machine.environment.doctor"
SHOWN, DRAWN = f"{PACKAGE}.cli.show._image", f"{PACKAGE}.cli.show._draw"
FOUND = f"{PACKAGE}.evaluations.show.find_classifier"
DEVICE = f"{PACKAGE}.machine.environment.resolve_device"
QUICK = f"{PACKAGE}.pretrain.train.pretrain"
PAIR = "compare A B"

# Command, option and its value -> where it arrives, the argument there, what is there.
OPTIONS: dict[tuple[str, str, str | None], tuple[str, str, Any]] = {
    ("verify b.zip", "--encoder", "runs/x"): (CHECK, "encoder", "runs/x"),
    ("verify b.zip", "--cells", "7"): (CHECK, "plan.cells", 7),
    ("verify b.zip", "--seed", "9"): (CHECK, "plan.seed", 9),
    ("verify b.zip", "--retrain-probe", None): (CHECK, "plan.retrain_probe", True),
    ("verify b.zip", "--batch-size", "33"): (CHECK, "plan.here.batch_size", 33),
    ("verify b.zip", "--device", "cpu"): (CHECK, "plan.here.device", "cpu"),
    ("verify b.zip", "--data-root", "there"): (CHECK, "plan.here.data_root", Path("there")),
    ("verify b.zip", "--download", None): (CHECK, "plan.here.download", True),
    ("verify b.zip", "--corruption-root", "made"): (
        CHECK, "plan.here.options", {"corruption": {"root": Path("made")}},
    ),
    ("submit x", "--with-encoder", None): (SUBMIT, "with_encoder", True),
    ("submit x", "--out", "b.zip"): (SUBMIT, "out", Path("b.zip")),
    ("submit x", "--results", "r"): (SUBMIT, "results", Path("r")),
    ("submit x", "--force", None): (SUBMIT, "force", True),
    ("export x", "--format", "timm"): (EXPORT, "name", "timm"),
    ("export x --format timm", "--out", "y"): (EXPORT, "out", Path("y")),
    ("export x --format timm", "--force", None): (EXPORT, "force", True),
    ("plot", "--results", "r"): (FIGURES, "results", Path("r")),
    ("plot", "--figure", "crop,rf"): (FIGURES, "names", ["crop", "rf"]),
    ("plot", "--style", "slides"): (FIGURES, "style", "slides"),
    ("plot", "--venue", "neurips"): (FIGURES, "inches", 5.5),  # its style's text width
    ("plot --venue cvpr", "--width", "full"): (FIGURES, "inches", 6.875),
    ("plot", "--out", "f"): (FIGURES, "out", Path("f")),
    ("plot", "--force", None): (FIGURES, "force", True),
    ("site", "--results", "r"): (SITE, "results", Path("r")),
    ("site", "--out", "s"): (SITE, "out", Path("s")),
    ("report x y", "--results", "r"): (PAGE, "results", Path("r")),
    ("report", "--full", None): (PAGE, "full", True),
    ("report", "--out", "z.html"): (WRITE, "path", Path("z.html")),
    ("report", "--force", None): (WRITE, "force", True),
    (PAIR, "--suite", "clean,crop"): (COMPARE, "suites", ["clean", "crop"]),
    (PAIR, "--cells", None): (COMPARE, "cells", True),
    (PAIR, "--trials", "t.csv"): (TRIALS, "place", Path("t.csv")),
    (PAIR, "--calibration", None): (COMPARE, "calibration", True),
    (PAIR, "--all", None): (COMPARE, "everything", True),
    (PAIR, "--results", "r"): (COMPARE, "results", Path("r")),
    (f"{PAIR} --out t.md", "--format", "csv"): (WRITE, "data", "CSV"),
    (PAIR, "--out", "t.md"): (WRITE, "path", Path("t.md")),
    (f"{PAIR} --out t.md", "--force", None): (WRITE, "force", True),
    ("claims", "--verbose", None): (CLAIMS, "records", True),
    ("claims", "--ablations", None): (EXAMINE, "ablations", True),
    ("claims", "--results", "r"): (EXAMINE, "results", Path("r")),
    ("claims --out t.md", "--format", "json"): (WRITE, "data", '{\n "schema": 1,\n'),
    ("claims", "--out", "t.md"): (WRITE, "path", Path("t.md")),
    ("claims --out t.md", "--force", None): (WRITE, "force", True),
    ("leaderboard", "--results", "r"): (LOAD, "results", Path("r")),
    ("leaderboard", "--baseline", "A"): (TABLE, "baseline", "A"),
    ("leaderboard", "--calibration", None): (CALIBRATED, "measured", []),
    ("leaderboard --spread sd", "--baseline", "A"): (PAPER, "baseline", "A"),
    ("leaderboard", "--models", "A,B"): (PAPER, "models", ["A", "B"]),
    ("leaderboard", "--metrics", "m,n"): (PAPER, "metrics", ["m", "n"]),
    ("leaderboard", "--suites", "clean"): (PAPER, "suites", ["clean"]),
    ("leaderboard", "--against", "A"): (PAPER, "against", "A"),
    ("leaderboard", "--relative-to", "A"): (PAPER, "relative_to", "A"),
    ("leaderboard", "--spread", "sd"): (PAPER, "spread", "sd"),
    ("leaderboard --out t.md", "--format", "tex"): (WRITE, "data", "TEX"),
    ("leaderboard", "--out", "t.md"): (WRITE, "path", Path("t.md")),
    ("leaderboard --out t.md", "--force", None): (WRITE, "force", True),
    ("sweep crop", "--recipe", "quickstart"): (PLAN, "sweep.recipe", "quickstart"),
    ("sweep crop", "--out", "s"): (PLAN, "out", Path("s")),
    ("sweep crop", "--device", "cpu"): (TRAIN, "device", "cpu"),
    ("sweep crop", "--jobs", "3"): (TRAIN, "jobs", 3),
    ("sweep crop", "--cluster", "auto"): (TRAIN, "cluster", "auto"),
    ("sweep crop --cluster auto", "--gpus-per-run", "0.5"): (TRAIN, "gpus", 0.5),
    ("sweep crop", "--data-root", "there"): (TRAIN, "data_root", Path("there")),
    ("sweep crop", "--download", None): (TRAIN, "download", True),
    ("arch resnet18", "--image-size", "48"): (BUILD, "size", 48),
    ("arch resnet18", "--width", "0.25"): (BUILD, "width", 0.25),
    ("arch resnet18", "--mlp", None): (BUILD, "mlp", True),
    ("arch resnet18", "--no-mlp", None): (BUILD, "mlp", False),
    ("doctor", "--data-root", "there"): (DOCTOR, "data_root", Path("there")),
    ("doctor", "--results", "r"): (DOCTOR, "results", Path("r")),
    ("show x --index 2", "--image", "p.png"): (SHOWN, "image", Path("p.png")),
    ("show x", "--index", "7"): (SHOWN, "index", 7),
    ("show x --index 7", "--dataset", "parts"): (SHOWN, "dataset", "parts"),
    ("show x --index 7", "--data-root", "there"): (SHOWN, "data_root", Path("there")),
    ("show x --index 7 --data-root d", "--results", "r"): (FOUND, "results", Path("r")),
    ("show x --index 7", "--class", "cat"): (DRAWN, "explained", "cat"),
    ("show x --index 7", "--device", "cpu"): (DEVICE, "name", "cpu"),
    ("show x --index 7", "--out", "o.png"): (WRITE, "path", Path("o.png")),
    ("show x --index 7", "--force", None): (WRITE, "force", True),
    ("quickstart", "--out", "q"): (QUICK, "out", Path("q/simclr")),
    ("quickstart", "--device", "cpu"): (QUICK, "device", "cpu"),
}  # fmt: skip
ELSEWHERE = {
    ("sweep", "--dry-run"),
    ("arch", "--picture"),
    ("compare", "--data-root"),  # test_trials
    ("arch", "--force"),  # test_out_of_reason
    ("submit", "--card"),  # test_card
    ("submit", "--robustbench"),
}


class Stopped(BaseException):
    """Raised where an option has arrived."""


def test_the_table_names_every_option() -> None:
    named = {(words.split()[0], option) for words, option, _ in OPTIONS} | ELSEWHERE
    commands = get_command(app).commands  # type: ignore[attr-defined]
    every = {
        (name, option)
        for name, command in commands.items()
        if name not in ("eval", "pretrain")
        for parameter in command.params
        for option in (*parameter.opts[:1], *parameter.secondary_opts[:1])
        if option.startswith("--") and option != "--help"
    }
    assert named == every


def arrives(
    words: list[str], target: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The arguments, by name, that a function gets when a command runs."""
    module, _, name = target.rpartition(".")
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    seen: list[dict[str, Any]] = []

    def note(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        seen.append(bound.arguments)
        raise Stopped

    stand_ins(monkeypatch)
    put(monkeypatch, target, note)
    with pytest.raises(Stopped):
        bench(*words)
    return seen[0]


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """All modules concerned: one that is first imported beside a stand-in would keep it."""
    for target, _, _ in OPTIONS.values():
        importlib.import_module(target.rpartition(".")[0])


def put(patch: pytest.MonkeyPatch, target: str, value: Any) -> None:
    """Replace a function; some modules of commands are hidden by the command of their name."""
    module, _, name = target.rpartition(".")
    patch.setattr(importlib.import_module(module), name, value)


def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands ask before they come to what is looked at, answering at once."""
    texts = {"to_markdown": "MD", "to_csv": "CSV", "to_latex": "TEX"}
    paper = SimpleNamespace(**{name: (lambda text=text: text) for name, text in texts.items()})
    put(monkeypatch, PAPER, lambda *_, **__: paper)
    put(monkeypatch, LOAD, lambda *_: [])
    put(monkeypatch, COMPARE, lambda *_, **__: SimpleNamespace(a="A", b="B", table=0, refused=()))
    put(monkeypatch, f"{PACKAGE}.tables.comparison.layout", lambda _: [])
    put(monkeypatch, f"{PACKAGE}.files.csv_text", lambda _: "CSV")
    put(monkeypatch, EXAMINE, lambda *_: [])
    put(monkeypatch, PAGE, lambda *_: "page")
    put(monkeypatch, f"{PACKAGE}.figures.architectures.draw", lambda _: b"")
    encoder = SimpleNamespace(to=lambda *_, **__: None)
    model = SimpleNamespace(name="x", encoder=encoder, metadata={})
    put(monkeypatch, f"{PACKAGE}.models.load.load_model", lambda *_, **__: model)
    shown = SimpleNamespace(stem="7", dataset="parts")
    put(monkeypatch, SHOWN, lambda *_: shown)
    put(monkeypatch, FOUND, lambda *_, **__: SimpleNamespace(module=encoder))
    put(monkeypatch, DRAWN, lambda *_: b"")


@pytest.mark.parametrize(("words", "option", "value"), OPTIONS)
def test_an_option_arrives(
    words: str, option: str, value: str | None, bench: Bench, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    target, argument, wanted = OPTIONS[words, option, value]
    typed = [*words.split(), option, *([] if value is None else [value])]
    found: Any = SimpleNamespace(**arrives(typed, target, bench, monkeypatch))
    for part in argument.split("."):
        found = getattr(found, part)
    if target is WRITE and argument == "data" and wanted.startswith("{"):
        assert found.startswith(wanted)
    else:
        assert found == wanted


def test_nothing_else_of_a_plan_moves(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    found = arrives(["verify", "b.zip", "--seed", "1"], CHECK, bench, monkeypatch)
    here = Evaluation(options={"corruption": {"root": None}})
    assert (found["path"], found["plan"]) == (Path("b.zip"), Plan(1, here=here))
    assert found["encoder"] is None
