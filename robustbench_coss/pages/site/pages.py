"""Writing the folder: every page from its template, all of them put in place at once."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from robustbench_coss import __version__
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import write_atomically
from robustbench_coss.pages.html import render
from robustbench_coss.pages.site import plots
from robustbench_coss.pages.site.compare import comparison
from robustbench_coss.pages.site.data import Site, load_site
from robustbench_coss.pages.site.plots import STROKES
from robustbench_coss.records.commands import MODEL, RECIPE

MARKER = "coss-bench-site.json"  # says that a folder is a site, and which files are part of it
INDEX = "index.html"


def write_site(results: Path, out: Path) -> Path:
    """Write the pages of all complete records of a results folder. Same records, same bytes.

    An earlier site at `out` is replaced as a whole once the new one is complete.

    Returns:
        The path of `index.html`.

    Raises:
        CossError: there are no complete records, one is damaged, `out` holds files that are not
            of a site, or it cannot be written.
    """
    check_free(out)
    put_in_place(out, render_site(load_site(results)))
    return out / INDEX


def render_site(site: Site) -> dict[str, str]:
    """Every file of the folder: path below it -> content."""
    shared = {"version": __version__, "geometry": plots, "strokes": STROKES}
    weights = {run.sha256 for page in site.models for run in page.model.runs}
    templates = files("robustbench_coss.pages").joinpath("templates")
    pages = {
        "assets/site.css": "".join(
            templates.joinpath(name).read_text(encoding="utf-8")
            for name in ("theme.css", "site.css")
        ),
        "assets/site.js": templates.joinpath("site.js").read_text(encoding="utf-8"),
        INDEX: render("site_index.html", root="", site=site, weights=len(weights), **shared),
    }
    for board in site.boards:
        pages[f"compare-{board.slug}.html"] = render(
            "site_compare.html", root="", board=board, **comparison(board), **shared
        )
    for page in site.models:
        pages[f"models/{page.row.page}.html"] = render(
            "site_model.html",
            root="../",
            page=page,
            recipe_name=RECIPE,
            unknown=MODEL,
            **shared,
        )
    return pages


def check_free(out: Path) -> None:
    """Refuse a folder that holds anything but an earlier site.

    Raises:
        CossError: it does, or it cannot be read.
    """
    with explain_os_errors("read", out):
        if not out.exists():
            return
        if not out.is_dir():
            raise CossError(f"{out} is a file; give --out a folder")
        present = {p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir()}
    if not present:
        return
    try:
        ours = set(json.loads((out / MARKER).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CossError(
            f"{out} is not empty and holds no earlier site; choose a new folder for --out"
        ) from None
    if foreign := sorted(present - ours - {MARKER}):
        raise CossError(
            f"{out / foreign[0]} is not part of the site and would be lost; move it elsewhere, or "
            "choose a new folder for --out"
        )


def put_in_place(out: Path, pages: Mapping[str, str]) -> None:
    """Write files to a new folder and let it take the place of `out`.

    Until then `out` is untouched: a crash leaves the old site or none, never a mixture.

    Raises:
        CossError: they cannot be written.
    """
    target = out.resolve()
    with explain_os_errors("write", out):
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        old = made.with_name(f"{made.name}.old")
        try:
            for name, text in pages.items():
                write_atomically(made / name, text)
            listed = {"written_by": "coss-bench site", "files": sorted(pages)}
            write_atomically(made / MARKER, json.dumps(listed, indent=1) + "\n")
            made.chmod(0o755)
            if target.exists():
                os.replace(target, old)
            try:
                os.replace(made, target)
            except OSError:
                if old.exists():
                    os.replace(old, target)
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)
