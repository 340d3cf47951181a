"""The tables of the documentation name all there is, with its numbers and defaults."""

from __future__ import annotations

import io
import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import ROOT
from helpers.documents import DOCS, block_commands, blocks, rows, text_of
from PIL import Image

from robustbench_coss import registry
from robustbench_coss.encoders.base import multiply_accumulates, parameters
from robustbench_coss.evaluations.protocol import Subject
from robustbench_coss.figures.architectures import draw
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain.methods.local_global import CoOptions
from robustbench_coss.pretrain.recipe import (
    Recipe,
)
from robustbench_coss.pretrain.shipped import shipped_recipes


def own(kind: str) -> list[str]:
    return [n for n in registry.names(kind) if registry.origin(kind, n) == "robustbench-coss"]


# ---- names ----


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_registered_name_is_in_the_docs(kind: str) -> None:
    docs = "".join(text_of(page) for page in DOCS.glob("*.md"))
    for name in own(kind):
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
    for name in shipped_recipes():  # tests/pretrain/recipes reads the table of the others
        if "/" not in name:
            assert f"`{name}`" in text_of(DOCS / "pretraining.md"), name


# ---- encoders ----

ARCH_PAGES = (DOCS / "encoders.md", DOCS / "rf-resnet.md")
ARCH_ROWS = [
    row for page in ARCH_PAGES for row in rows(text_of(page)) if len(row) == 7 and row[0] != "name"
]


@pytest.mark.slow
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
