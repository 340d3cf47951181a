"""The documentation held to the code: links, commands, names, tables and examples."""

from __future__ import annotations

import importlib
import io
import itertools
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import typer.main
import yaml
from helpers import ROOT
from helpers.simulate import clean, save
from packaging.requirements import Requirement
from PIL import Image

import robustbench_coss
from robustbench_coss import registry
from robustbench_coss.cli import app
from robustbench_coss.cli.settings import parse_setting
from robustbench_coss.encoders.base import parameters
from robustbench_coss.encoders.receptive_field import field_by_gradient
from robustbench_coss.encoders.resnet import multiply_accumulates
from robustbench_coss.evaluations.protocol import Subject
from robustbench_coss.evaluations.running.job import make_suite
from robustbench_coss.figures.architectures import draw
from robustbench_coss.models.checkpoint import build_encoder, load_checkpoint
from robustbench_coss.pretrain.methods.local_global import CoOptions
from robustbench_coss.pretrain.recipe import (
    Recipe,
    build_recipe,
    merge,
    nested,
    read_recipe,
    shipped_recipes,
)

DOCS = ROOT / "docs"
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "results" / "README.md"],
    key=lambda page: page.relative_to(ROOT).as_posix(),
)
# What a study writes about itself is data; these are the pages that this file also reads closely.
MANUAL = [page for page in PAGES if page.parent != ROOT / "results"]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = PROJECT["optional-dependencies"]
DEVELOPMENT = [r for r in GROUPS["dev"] if not r.startswith(PROJECT["name"])]
EXTRAS = [r for group, members in GROUPS.items() if group != "dev" for r in members]


# What the packages in examples/ register when they are installed, by kind.
EXAMPLES: dict[str, dict[str, str]] = {}
for file in ROOT.glob("examples/*/pyproject.toml"):
    for group, entries in tomllib.loads(file.read_text())["project"]["entry-points"].items():
        kind = group.removeprefix("robustbench_coss.").removesuffix("s")
        EXAMPLES.setdefault(kind, {}).update(entries)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.exists() else ""


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(text_of(page)) if found == language]


def rows(text: str) -> Iterator[list[str]]:
    """Cells of every table row of a Markdown text."""
    for line in text.splitlines():
        if line.startswith("| ") and line.endswith(" |"):
            yield [cell.strip() for cell in line[1:-1].split(" | ")]


def own(kind: str) -> list[str]:
    return [n for n in registry.names(kind) if registry.origin(kind, n) == "robustbench-coss"]


# ---- links ----


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, spelled as GitHub does."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    assert page.is_file()
    links = re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", FENCE.sub("", text_of(page)))
    broken = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        missing = not target.exists()
        if missing or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


# ---- commands ----


def block_commands(page: Path) -> list[list[str]]:
    """Every `coss-bench …` of the shell blocks of a page, as its arguments."""
    found = []
    for body in (*blocks(page, "sh"), *blocks(page, "bash"), *blocks(page, "")):
        for line in re.sub(r"\\\n", " ", body).splitlines():
            words = shlex.split(line, comments=True)
            words = words[1:] if words[:1] == ["$"] else words
            if words and Path(words[0]).name == "coss-bench":
                found.append(words[1:])
    return found


def inline_commands(page: Path) -> list[list[str]]:
    """The same for commands within sentences, which may be abridged."""
    spans = re.findall(r"`coss-bench ([^`]+)`", FENCE.sub("", text_of(page)))
    return [span.replace("…", " ").split() for span in spans]


IN_BLOCKS = [pytest.param(c, id=" ".join(c)) for page in MANUAL for c in block_commands(page)]
IN_TEXT = [pytest.param(c, id=" ".join(c)) for page in MANUAL for c in inline_commands(page)]


@pytest.mark.parametrize("command", IN_BLOCKS)
def test_commands_in_blocks_parse(command: list[str]) -> None:
    assert command[0] in COMMANDS
    # Parses and converts every argument; raises a usage error for what the command does not take.
    COMMANDS[command[0]].make_context(command[0], command[1:])


@pytest.mark.parametrize("command", [*IN_BLOCKS, *IN_TEXT])
def test_commands_and_options_named_exist(command: list[str]) -> None:
    assert command[0] in COMMANDS
    known = {opt for p in COMMANDS[command[0]].params for opt in (*p.opts, *p.secondary_opts)}
    options = {word.partition("=")[0] for word in command[1:] if word.startswith("-")}
    assert options <= known | {"--help"}


@pytest.mark.parametrize("command", [*IN_BLOCKS, *IN_TEXT])
def test_names_given_to_options_are_registered(command: list[str]) -> None:
    kinds = {"--method": "method", "--arch": "encoder", "--dataset": "dataset", "--suite": "suite"}
    for option, value in itertools.pairwise(command):
        if option in kinds:
            for name in value.split(","):  # "my-…" stands for the reader's own
                known = [*registry.names(kinds[option]), *EXAMPLES.get(kinds[option], ())]
                assert name in known or name == "all" or name.startswith(("my-", "timm:"))
        if option == "--recipe":
            assert value in shipped_recipes()
    if command[0] == "arch":
        for name in itertools.takewhile(lambda word: not word.startswith("-"), command[1:]):
            assert name in registry.names("encoder") or name.startswith("timm:")


SETTING = [c for c in IN_BLOCKS if " --set " in str(c.id)]


@pytest.mark.parametrize("command", [c for c in SETTING if str(c.id).startswith("pretrain")])
def test_settings_shown_are_recipe_keys_with_valid_values(command: list[str]) -> None:
    values: dict[str, Any] = {}
    for option, value in itertools.pairwise(command):
        if option == "--recipe":
            values = merge(read_recipe(value), values)
        if option == "--set":
            values = merge(values, nested(*parse_setting(value, "")))
    recipe = build_recipe(values, "docs")
    registry.load("method", recipe.method).Options.model_validate(recipe.options)


@pytest.mark.parametrize("command", [c for c in SETTING if str(c.id).startswith("eval")])
def test_settings_shown_are_options_of_suites_with_valid_values(command: list[str]) -> None:
    for option, value in itertools.pairwise(command):
        if option == "--set":
            key, parsed = parse_setting(value, "")
            suite, _, name = key.partition(".")
            if suite not in EXAMPLES["suite"]:  # by the tests of the example
                make_suite(suite, {name: parsed})


def test_the_readme_shows_every_command() -> None:
    shown = {c[0] for c in block_commands(ROOT / "README.md")}
    assert shown | {"quickstart"} == set(COMMANDS)
    assert "make quickstart" in blocks(ROOT / "README.md", "sh")[0]


# ---- names ----


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_registered_name_is_in_the_readme_and_in_the_docs(kind: str) -> None:
    docs = "".join(text_of(page) for page in DOCS.glob("*.md"))
    for name in own(kind):
        assert f"`{name}`" in text_of(ROOT / "README.md"), name
        assert f"`{name}`" in docs, name


def test_every_data_set_has_a_row_with_its_size() -> None:
    listed = {row[0].strip("`"): row[2] for row in rows(text_of(DOCS / "datasets.md"))}
    for name in own("dataset"):
        assert listed[name].startswith(f"{registry.load('dataset', name).default_size} px")


def test_the_table_of_suites_counts_conditions_and_names_headline_metrics() -> None:
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    subject = Subject(encoder, torch.nn.Linear(encoder.dim, 10))
    listed = {row[0].strip("`"): row for row in rows(text_of(DOCS / "suites.md")) if len(row) == 4}
    for name in own("suite"):
        suite = registry.load("suite", name)()
        conditions = suite.conditions(subject)
        _, count, _, headline = listed[name]
        assert int(count) == len(conditions), name
        shown = [m.name for m in suite.metrics(conditions) if m.headline]
        assert re.findall(r"`(\w+)`", headline) == shown


# ---- pretraining ----


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def test_the_tables_of_recipe_keys_and_method_options_are_complete_and_give_the_defaults() -> None:
    page = text_of(DOCS / "pretraining.md")
    part = page[page.index("## Recipes") : page.index("## The run folder")]
    methods = {name: registry.load("method", name) for name in own("method")}
    bases = {name: method for name, method in methods.items() if not name.startswith("co-")}
    recipe = flat(Recipe().model_dump(mode="json"))
    expected = {("recipe", key): value for key, value in recipe.items()}
    for name, method in methods.items():
        for key, value in method.Options().model_dump(mode="json").items():
            if key in CoOptions.model_fields:
                expected["co", f"options.{key}"] = value
            elif name in bases:
                expected[name, f"options.{key}"] = value
    listed = {}
    for row in rows(part):
        if row[0].startswith("`"):
            key, default = row[0].strip("`"), yaml.safe_load(row[1].strip("`"))
            table = "co" if key.removeprefix("options.") in CoOptions.model_fields else "recipe"
            owners = re.findall(r"`([\w-]+)`", row[2]) if len(row) == 4 else [table]
            listed |= {(owner, key): default for owner in owners}
    assert listed.keys() == expected.keys()
    for where, value in expected.items():
        same = pytest.approx(value, abs=1e-4) if isinstance(value, float) else value
        assert listed[where] == same, where


def test_every_shipped_recipe_is_named() -> None:
    for name in shipped_recipes():  # tests/pretrain/test_recipes.py reads the table of the others
        if "/" not in name:
            assert f"`{name}`" in text_of(DOCS / "pretraining.md"), name


def test_the_defaults_of_views_in_words_are_those_of_the_code() -> None:
    page = text_of(DOCS / "pretraining.md")
    part = page[page.index("## Views") : page.index("## Recipes")]
    options = Recipe().views
    keys: list[str] = []
    for _, default, named in list(rows(part))[1:]:
        mine = re.findall(r"`(\w+)`", named)
        keys += mine
        stated = [float(Fraction(n)) for n in re.findall(r"[\d.]+(?:/\d+)?", default)]
        stated_size = {"local_size": 96 / 224}  # None, the default, stands for this share
        values = np.hstack([stated_size.get(key, getattr(options, key)) for key in mine])
        if "aspect" in mine:
            values = np.array([options.min_crop, options.max_crop, 1 / options.aspect, values[2]])
        assert stated == pytest.approx(values.tolist())
    assert set(keys) == set(type(options).model_fields)


# ---- encoders ----

ARCH_PAGES = (DOCS / "encoders.md", DOCS / "rf-resnet.md")
ARCH_ROWS = [
    row for page in ARCH_PAGES for row in rows(text_of(page)) if len(row) == 7 and row[0] != "name"
]


@pytest.mark.parametrize("row", ARCH_ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_the_table_of_encoders_states_what_is_built(row: list[str]) -> None:
    name, size, count, macs, local_map, features, field = row
    encoder = build_encoder(name.strip("`"), size=int(size.removesuffix(" px"))).eval()
    assert count == f"{parameters(encoder) / 1e6:.2f} M"
    assert macs == f"{multiply_accumulates(encoder) / 1e6:,.0f} M"
    assert int(features) == encoder.dim
    assert field == f"{encoder.field} px"
    side = encoder.input.size // encoder.jump  # type: ignore[operator]
    assert local_map == f"{side}×{side} × {encoder.local_dim}"


def test_every_encoder_has_a_row() -> None:
    assert {row[0].strip("`") for row in ARCH_ROWS} == set(own("encoder"))


def test_the_table_of_kernels_is_that_of_the_encoders() -> None:
    page = text_of(DOCS / "rf-resnet.md")
    listed = {row[0].strip("`"): row[1:] for row in rows(page) if len(row) == 5 and "`" in row[0]}
    assert listed.keys() == set(own("encoder")) - {"resnet18", "resnet50"}
    for name, stages in listed.items():
        encoder = build_encoder(name, size=32, width=1 / 64)
        kernels = [[[int(k) for k in b.split()] for b in cell.split(", ")] for cell in stages]
        flat_kernels = [[k for block in stage for k in block] for stage in kernels]
        assert flat_kernels == [[k for b in stage for k in b] for stage in encoder.kernels]  # type: ignore[union-attr]


@pytest.mark.parametrize("command", block_commands(DOCS / "rf-resnet.md"), ids=lambda c: c[-1])
def test_the_pictures_of_fields_are_what_the_command_draws(command: list[str]) -> None:
    options = dict(itertools.pairwise(command))
    names = list(itertools.takewhile(lambda word: not word.startswith("-"), command[1:]))
    size = int(options.get("--image-size", 224))
    encoders = {name: build_encoder(name, size=size, width=1 / 64) for name in names}
    picture = ROOT / options["--picture"]
    drawn, kept = (
        np.asarray(Image.open(source).convert("RGB"), np.float64)
        for source in (io.BytesIO(draw(encoders)), picture)  # type: ignore[arg-type]
    )
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 2  # of 255: letters differ between versions of matplotlib
    assert picture.stat().st_size < 150_000


def test_the_example_of_an_unregistered_field_has_that_field() -> None:
    (code,) = blocks(DOCS / "rf-resnet.md", "python")
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["rf139_resnet50"](size=32, width=1 / 64).field == 139


def test_the_split_of_parameters_between_body_and_mlp_is_as_stated() -> None:
    page = text_of(DOCS / "rf-resnet.md")
    for name, size in (("rf99_resnet50", 224), ("rf29_resnet18", 32)):
        encoder = build_encoder(name, size=size)
        mlp = parameters(encoder.mlp)  # type: ignore[arg-type]
        assert f"{(parameters(encoder) - mlp) / 1e6:.2f} M" in page
        assert f"{mlp / 1e6:.2f} M" in page


def test_weights_from_elsewhere_become_an_encoder_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = torchvision.models.resnet18()
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(DOCS / "encoders.md", "python")
    exec(code.replace("resnet50", "resnet18"), {})
    loaded = load_checkpoint(tmp_path / "runs" / "torchvision-resnet18")
    assert torch.equal(loaded.encoder.conv1.weight, reference.conv1.weight)  # type: ignore[union-attr, arg-type]
    assert loaded.metadata["method"] == "supervised"


# ---- other examples ----


def test_the_picture_of_parts_is_what_its_code_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs" / "images").mkdir(parents=True)
    (code,) = blocks(DOCS / "datasets.md", "python")
    exec(code, {})
    drawn, kept = (
        np.asarray(Image.open(folder / "docs" / "images" / "parts.png").convert("RGB"), np.float64)
        for folder in (tmp_path, ROOT)
    )
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 2  # of 255: the palette is the imaging library's choice


def test_the_example_of_reading_records_prints_accuracies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "results", clean(0.75, n=200, name="mine"))
    monkeypatch.chdir(tmp_path)
    code, _ = blocks(DOCS / "results.md", "python")
    exec(code, {})
    assert capsys.readouterr().out == "mine clean 0.75\n"


@pytest.fixture(scope="module")
def my_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The examples of docs/extending.md as the package that they stand for."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "my_package.py").write_text("\n".join(blocks(DOCS / "extending.md", "python")))
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("my_package")
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("my_package", None)


def test_the_entry_points_shown_name_what_the_examples_define(my_package: ModuleType) -> None:
    (text,) = blocks(DOCS / "extending.md", "toml")
    groups = tomllib.loads(text)["project"]["entry-points"]
    assert set(groups) == {f"robustbench_coss.{kind}s" for kind in registry.KINDS}
    assert groups.pop("robustbench_coss.suites").items() <= EXAMPLES["suite"].items()
    for entries in groups.values():
        for name, target in entries.items():
            made = getattr(my_package, target.removeprefix("my_package:"))
            assert getattr(made, "name", name) == name


def test_the_example_of_an_encoder_keeps_the_contract(my_package: ModuleType) -> None:
    encoder = my_package.Patches(size=32, width=0.5).eval()
    local = encoder.local(torch.rand(2, 3, 32, 32))
    assert local.shape == (2, 64, 4, 4)
    torch.testing.assert_close(encoder.pool(local), local.mean((2, 3)))
    assert field_by_gradient(encoder, 8) == encoder.field


def test_the_example_of_a_data_set_reads_arrays(my_package: ModuleType, tmp_path: Path) -> None:
    source = my_package.MY_DATA
    assert "train.npz" in source.missing(tmp_path)
    (tmp_path / "my-data").mkdir()
    for part, count in (("train", 20), ("test", 6)):
        x = np.full((count, 3, 32, 32), count, np.uint8)
        np.savez(tmp_path / "my-data" / f"{part}.npz", x=x, y=np.arange(count) % 2)
    assert source.missing(tmp_path) is None
    opened = {r: source.open(r, 32, tmp_path, False) for r in ("train", "validation", "test")}
    assert [len(images) for images in opened.values()] == [18, 2, 6]
    assert (opened["test"].images([0]) == 6).all()


@pytest.mark.parametrize("name", ["SimSiam", "COSimSiam"])
def test_the_example_of_a_method_trains(my_package: ModuleType, name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    method = getattr(my_package, name)(encoder, build_recipe({"options": {"dim": 16}}, "docs"))
    loss = method.losses(method.encode([torch.rand(6, 3, 32, 32) for _ in range(2)]))["loss"]
    assert 0 <= loss.item() <= 8  # 2 - 2·cos, summed over two directions
    loss.backward()
    assert encoder.conv1.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]
    assert float(method.embedding_std) > 0


def test_every_python_example_is_run_by_a_test_above() -> None:
    shown = {page.name: len(blocks(page, "python")) for page in MANUAL if blocks(page, "python")}
    assert shown == {
        "datasets.md": 1,
        "encoders.md": 1,
        "export.md": 5,  # by tests/core/test_export.py
        "extending.md": 3,
        "results.md": 2,  # the second by tests/core/test_paper_tables.py
        "rf-resnet.md": 1,
        "write-a-suite.md": 2,  # by tests/docs/test_example_rotation.py
        "evaluation.md": 1,  # by tests/core/test_api.py
    }


# ---- packaging ----


def test_versions_agree() -> None:
    newest = re.search(r"^## \[(.+?)\]", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert PROJECT["version"] == robustbench_coss.__version__ == newest[1]


def test_constraints_hold_one_version_each_at_or_above_the_declared_bounds() -> None:
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    # No address, option or path: only names and versions.
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.]*", line)] == []
    pinned = {re.sub(r"[-_.]+", "-", n).lower(): v for n, v in (s.split("==") for s in lines)}
    assert len(pinned) == len(lines)
    for text in [*PROJECT["dependencies"], *EXTRAS, *DEVELOPMENT]:
        declared = Requirement(text)
        assert [bound.operator for bound in declared.specifier] == [">="], text
        assert pinned[declared.name.lower()] in declared.specifier, text


def test_every_dependency_is_explained() -> None:
    page = text_of(DOCS / "dependencies.md")
    explained = {row[0].strip("`") for row in rows(page)}
    used = {Requirement(text).name for text in [*PROJECT["dependencies"], *EXTRAS]}
    assert explained - {"distribution"} == used
    for name in (Requirement(text).name for text in DEVELOPMENT):
        assert f"`{name}`" in page, name


def test_commit_hooks_run_from_the_environment_and_download_nothing() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert all(hook["language"] == "system" for hook in hooks)
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)
