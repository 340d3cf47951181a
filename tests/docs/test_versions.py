"""Versions agree, and every dependency is bounded and explained."""

from __future__ import annotations

import re
import tomllib

import yaml
from helpers import ROOT
from helpers.documents import DOCS, rows, text_of
from packaging.requirements import Requirement

import robustbench_coss

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = PROJECT["optional-dependencies"]
DEVELOPMENT = [r for r in GROUPS["dev"] if not r.startswith(PROJECT["name"])]
EXTRAS = [r for group, members in GROUPS.items() if group != "dev" for r in members]


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
