"""What the site needs beside the Markdown of this folder, as hooks of MkDocs.

Links that lead out of docs/ work on GitHub; for the site, what they lead to is taken along under
repository/, pages as pages, and links are rewritten. Nothing else is.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
OUTSIDE = "repository"
REFERENCE = "reference"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]+)")
MODULE = re.compile(r"^(\[`([\w.]+)`\]\(\S+\.py\).*)$", re.MULTILINE)
LOADED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>"
)
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md")


def place(target: Path) -> str:
    """Path within the site of a file or folder of the repository."""
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    path = PurePosixPath(OUTSIDE, target.relative_to(ROOT).as_posix())
    return str(path / "index.md" if target.is_dir() else path)


def linked(page: Path) -> set[Path]:
    """Files and folders of the repository that a page links to."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {(page.parent / link).resolve() for link in LINK.findall(text)}


def tracked(folder: Path) -> list[Path]:
    """What git knows within a folder: no build leftovers."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "."], cwd=folder, capture_output=True, text=True, check=True
    )
    return [folder / name for name in sorted(listed.stdout.split("\0")) if name]


def taken_along() -> set[Path]:
    """All that is outside docs/ and reached by links from its pages, directly or not."""
    found: set[Path] = set()
    waiting = [*DOCS.glob("*.md"), *(ROOT / page for page in PAGES)]
    while waiting:
        target = waiting.pop()
        if target in found:
            continue
        found.add(target)
        if target.is_dir():
            waiting += tracked(target)
        elif target.suffix == ".md":
            waiting += linked(target)
    return {path for path in found if not path.is_relative_to(DOCS)}


def on_config(config: Any) -> Any:
    """Anchors spelled as GitHub spells them; a link to the repository where `REPO_URL` says which.

    In the navigation, not as `repo_url`: for that the theme fetches from GitHub.
    """
    if address := os.environ.get("REPO_URL"):
        config.nav = [*config.nav, {"Repository": address}]
    config.mdx_configs["toc"]["slugify"] = lambda text, separator: (
        re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", separator)
    )
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for path in sorted(taken_along()):
        if path.is_dir():
            name = path.relative_to(ROOT).as_posix()
            names = (inner.relative_to(path).as_posix() for inner in tracked(path))
            listing = "".join(f"- [{inner}]({inner})\n" for inner in names)
            made = File.generated(config, place(path), content=f"# {name}\n\n{listing}")
        else:
            made = File.generated(config, place(path), abs_src_path=str(path))
        files.append(made)
    for what, module in modules():
        content = f"# `{module}`\n\n{what}\n\n::: {module}\n"
        files.append(File.generated(config, f"{REFERENCE}/{module}.md", content=content))
    return files


def modules() -> list[tuple[str, str]]:
    """(its line, name) of each module that api.md lists."""
    return [(m[1], m[2]) for m in MODULE.finditer((DOCS / "api.md").read_text(encoding="utf-8"))]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    uri = PurePosixPath(page.file.src_uri)
    outside = uri.is_relative_to(OUTSIDE)
    source = ROOT / uri.relative_to(OUTSIDE) if outside else DOCS / uri
    if uri.name == "index.md" and outside:
        return markdown  # a list made above

    def rewrite(match: re.Match[str]) -> str:
        target = place((source.parent / match[1]).resolve())
        return os.path.relpath(target, uri.parent)

    if uri.parts[0] == REFERENCE:  # made above: read from the docstrings
        source = DOCS / "api.md"
    if str(uri) == "api.md":
        markdown = re.sub(r"\[`([\w.]+)`\]\(\S+\.py\)", rf"[`\1`]({REFERENCE}/\1.md)", markdown)
    fences = FENCE.findall(markdown)
    text = LINK.sub(rewrite, FENCE.sub("\0", markdown))
    for fence in fences:
        text = text.replace("\0", fence, 1)
    return text


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Pages must be whole without a network."""
    from mkdocs.exceptions import PluginError

    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads something from elsewhere: {found[0]}")
    return output
