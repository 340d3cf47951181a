"""The site's configuration and hooks, without building it: `make docs` does that, strictly."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from helpers import ROOT
from packaging.requirements import Requirement

DOCS = ROOT / "docs"
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def load_hooks() -> Any:
    (path,) = CONFIG["hooks"]
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_hooks()


def leaves(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from leaves(inner)


def test_every_page_is_in_the_navigation_once() -> None:
    pages = list(leaves(CONFIG["nav"]))
    assert len(set(pages)) == len(pages)
    own = {page for page in pages if not page.startswith("repository/")}
    assert own == {page.name for page in DOCS.glob("*.md")}
    others = [page.removeprefix("repository/") for page in pages if page not in own]
    assert set(others) <= set(hooks.PAGES)


def test_the_navigation_has_its_parts_in_order() -> None:
    parts = [name for part in CONFIG["nav"] for name in part]
    assert parts == ["Start here", "Pretrain", "Evaluate", "Results", "Extend", "Reference"]


def test_pages_link_to_the_repository_where_its_address_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nav() -> list[Any]:
        config = SimpleNamespace(mdx_configs={"toc": {}}, nav=[{"Overview": "index.md"}])
        return hooks.on_config(config).nav

    monkeypatch.delenv("REPO_URL", raising=False)
    assert nav() == [{"Overview": "index.md"}]
    monkeypatch.setenv("REPO_URL", "https://example.org/coss")
    assert nav() == [{"Overview": "index.md"}, {"Repository": "https://example.org/coss"}]


def test_what_pages_link_to_outside_of_docs_is_there_and_within_the_repository() -> None:
    taken = hooks.taken_along()
    assert ROOT / "results" / "README.md" in taken
    for path in taken:
        assert path.exists(), path
        assert path.is_relative_to(ROOT), path


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("results.md", "compare.md#how", "compare.md#how"),
        ("results.md", "../results/README.md", "repository/results/README.md"),
        ("write-a-suite.md", "../examples/coss-bench-rotation", None),
        ("repository/README.md", "docs/suites.md", "../suites.md"),
        ("repository/README.md", "docs/images/parts.png", "../images/parts.png"),
        ("repository/README.md", "results/README.md", "results/README.md"),
        ("repository/results/README.md", "../docs/suites.md", "../../suites.md"),
        ("results.md", "https://example.org/a.md", "https://example.org/a.md"),
    ],
)
def test_links_are_rewritten_for_where_pages_lie_in_the_site(
    page: str, link: str, expected: str | None
) -> None:
    if expected is None:  # a folder is a list of its files
        expected = "repository/examples/coss-bench-rotation/index.md"
    where = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    text = f"[a]({link}) and\n\n```sh\n# [a]({link})\n```\n"
    made = hooks.on_page_markdown(text, where, None, None)
    assert made == f"[a]({expected}) and\n\n```sh\n# [a]({link})\n```\n"


def test_anchors_are_spelled_as_on_github() -> None:
    config = hooks.on_config(SimpleNamespace(mdx_configs={"toc": {}}))
    slugify = config.mdx_configs["toc"]["slugify"]
    assert slugify("What's `equal` — and not?", "-") == "whats-equal--and-not"


def test_modules_of_the_reference_are_shown_from_their_docstrings() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^\[`([\w.]+)`\]\(\.\./(\S+)\)", page, re.MULTILINE)
    assert named
    for module, path in named:
        there = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        # pretrain/ and evaluations/ lie at the top and are linked into the package.
        assert module == f"robustbench_coss.{there.removeprefix('robustbench_coss.')}"
    assert [module for _, module in hooks.modules()] == [module for module, _ in named]
    where = SimpleNamespace(file=SimpleNamespace(src_uri="api.md"))
    shown = hooks.on_page_markdown(page, where, None, None)
    for module, _ in named:
        assert f"[`{module}`](reference/{module}.md)" in shown
    where = SimpleNamespace(file=SimpleNamespace(src_uri=f"reference/{named[0][0]}.md"))
    own = hooks.on_page_markdown(f"::: {named[0][0]}\n", where, None, None)
    assert own == f"::: {named[0][0]}\n"


@pytest.mark.parametrize(
    ("html", "loads"),
    [
        ('<script src="https://cdn.example/a.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example/a.css">', True),
        ('<img alt="a" src="https://example.org/a.png">', True),
        ('<a href="https://example.org">a</a><script src="assets/a.js"></script>', False),
    ],
)
def test_pages_that_load_something_from_elsewhere_are_found(html: str, loads: bool) -> None:
    assert bool(hooks.LOADED.search(html)) is loads


def test_fonts_come_from_the_readers_machine() -> None:
    assert CONFIG["theme"]["font"] is False


def test_the_environment_of_the_site_is_pinned_at_or_above_its_bounds() -> None:
    lines = (DOCS / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [p for p in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.]*", p)] == []
    pinned = {n.lower().replace("_", "-"): v for n, v in (pin.split("==") for pin in pins)}
    lines = (DOCS / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = [Requirement(text) for line in lines if (text := line.partition("#")[0].strip())]
    assert {wanted.name for wanted in asked} >= {"mkdocs-material", "mkdocstrings"}
    for wanted in asked:
        assert pinned[wanted.name] in wanted.specifier, wanted.name
