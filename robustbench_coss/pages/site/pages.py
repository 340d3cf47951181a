"""Writing the folder: every page from its template, one after the other, the index last."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from robustbench_coss import __version__
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import LOCK, alone, is_leftover, write_atomically
from robustbench_coss.pages.html import render
from robustbench_coss.pages.site import overview, plots
from robustbench_coss.pages.site.compare import comparison
from robustbench_coss.pages.site.data import Site, load_site
from robustbench_coss.pages.site.plots import STROKES
from robustbench_coss.reading import MOST_TEXT, parse_json, read_bytes
from robustbench_coss.records.commands import MODEL, RECIPE

MARKER = "coss-bench-site.json"  # says that a folder is a site, and which files are part of it
INDEX = "index.html"
SCRIPTS = ("site.js", "site_board.js", "site_compare.js", "site_start.js")


def write_site(results: Path, out: Path) -> Path:
    """Write the pages of all complete records of a results folder. Same records, same bytes.

    The files of an earlier site at `out` are replaced, one after the other.

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
        "assets/site.js": _script(templates),
        INDEX: render(
            "site_index.html", root="", site=site, weights=len(weights), frame=overview, **shared
        ),
    }
    for board, beside in zip(site.boards, site.beside, strict=True):
        pages[f"data/{board.slug}.csv"] = beside.csv
        pages[f"data/{board.slug}.json"] = beside.json
        pages[f"compare-{board.slug}.html"] = render(
            "site_compare.html", root="", board=board, **comparison(board, beside.pairs), **shared
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


def _script(templates: Traversable) -> str:
    """The scripts as one, whose names nothing else on a page can meet."""
    parts = (templates.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    return f'"use strict";\n\n(() => {{\n{"".join(parts)}}})();\n'


def check_free(out: Path) -> set[str]:
    """Refuse a folder that holds anything but an earlier site.

    Returns:
        The files of that site, by their paths below the folder.

    Raises:
        CossError: it does, or it cannot be read.
    """
    with explain_os_errors("read", out):
        if not out.exists():
            return set()
        if not out.is_dir():
            raise CossError(f"{out} is a file; give --out a folder")
        filled = any(not is_leftover(path) for path in out.iterdir())
        if filled and not (out / MARKER).is_file():  # without a walk through all of it
            raise CossError(
                f"{out} is not empty and holds no earlier site; choose a new folder for --out"
            )
        present = {
            p.relative_to(out).as_posix()
            for p in out.rglob("*")
            if not is_leftover(p) and (p.is_symlink() or not p.is_dir())
        }
    if not present:
        return set()
    try:
        ours = set(parse_json(read_bytes(out / MARKER, MOST_TEXT))["files"])
    except (CossError, ValueError, KeyError, TypeError):
        raise CossError(
            f"{out} is not empty and holds no earlier site; choose a new folder for --out"
        ) from None
    if foreign := sorted(present - ours - {MARKER}):
        raise CossError(
            f"{out / foreign[0]} is not part of the site and would be lost; move it elsewhere, or "
            "choose a new folder for --out"
        )
    return present - {MARKER}


def put_in_place(out: Path, pages: Mapping[str, str]) -> None:
    """Write files over those of an earlier site, the index last, and remove what is left of it.

    Every file is the old or the new one at any time. A folder that a killed process left half new
    still counts as a site, so that the next process can end what that one began.

    Raises:
        CossError: `out` holds other files, they cannot be written, or another process writes them.
    """
    check_free(out)
    with alone(out / LOCK, f"writing a site to {out}"):
        before = check_free(out)
        _mark(out, before | pages.keys())
        for name in sorted(pages, key=lambda name: (name == INDEX, name)):
            write_atomically(out / name, pages[name])
        with explain_os_errors("write", out):
            for name in sorted(before - pages.keys()):
                (out / name).unlink()
                with suppress(OSError):  # not empty
                    (out / name).parent.rmdir()
        _mark(out, pages.keys())


def _mark(out: Path, names: Iterable[str]) -> None:
    listed = {"written_by": "coss-bench site", "files": sorted(names)}
    write_atomically(out / MARKER, json.dumps(listed, indent=1) + "\n")
