"""The documentation held to the code: links, commands, options and settings."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from helpers import ROOT
from helpers.documents import EXAMPLES, FENCE, MANUAL, PAGES, block_commands, blocks, text_of

from robustbench_coss import registry
from robustbench_coss.cli import app
from robustbench_coss.cli.settings import parse_setting
from robustbench_coss.evaluations.protocol import make_suite
from robustbench_coss.pretrain.recipe import (
    build_recipe,
    merge,
    nested,
    read_recipe,
)
from robustbench_coss.pretrain.shipped import shipped_recipes

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


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


def test_every_command_is_shown_and_a_newcomer_sees_six_at_most() -> None:
    shown = {c[0] for c in block_commands(ROOT / "docs" / "commands.md")}
    assert shown | {"quickstart"} == set(COMMANDS)
    readme = {c[0] for c in block_commands(ROOT / "README.md")}
    assert len(readme) <= 6


def test_the_readme_is_short_and_begins_with_the_quickstart() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split()) < 700
    assert "make quickstart" in blocks(ROOT / "README.md", "sh")[0]
