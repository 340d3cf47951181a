"""A site replaces nothing but itself, and is whole or as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import simulate
from helpers.bench import Outcome
from helpers.site_pages import texts, write

from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.errors import CossError
from robustbench_coss.pages.site import pages, write_site


def test_a_rebuild_takes_away_what_is_no_longer_measured(tmp_path: Path) -> None:
    write(tmp_path, simulate.clean(0.5), simulate.clean(0.6, method="dino"))
    (gone,) = (tmp_path / "results" / "records").glob("dino*")
    (gone / "parts" / "clean.json").unlink()
    site = write(tmp_path, simulate.clean(0.5))
    assert len(list((site / "models").iterdir())) == 1
    listed = json.loads((site / pages.MARKER).read_text())["files"]
    assert sorted([*listed, pages.MARKER]) == sorted(texts(site))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_crash_leaves_every_page_old_or_new_and_the_index_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write(tmp_path, simulate.clean(0.5))
    before = texts(site)
    simulate.save(tmp_path / "results", simulate.clean(0.6, method="dino"))
    new = texts(write_site(tmp_path / "results", tmp_path / "undisturbed").parent)
    written = []

    def fail(path: Path, data: str) -> None:
        written.append(path)
        if len(written) == 5:
            raise CossError("cannot write: disk full")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data)

    with monkeypatch.context() as patch:
        patch.setattr(pages, "write_atomically", fail)
        with pytest.raises(CossError, match="disk full"):
            write_site(tmp_path / "results", site)
    left = texts(site)
    assert left[pages.INDEX] == before[pages.INDEX] != new[pages.INDEX]
    for name in before.keys() - {pages.MARKER}:
        assert left[name] in (before[name], new.get(name)), name
    assert texts(write_site(tmp_path / "results", site).parent) == new


def test_a_folder_of_other_things_is_left_alone(
    tmp_path: Path, bench: Callable[..., Outcome]
) -> None:
    simulate.save(tmp_path / "results", simulate.clean(0.5))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    command = ["site", "--results", str(tmp_path / "results"), "--out", str(mine)]
    found = bench(*command)
    assert found.code == 1
    assert "is not empty and holds no earlier site" in found.err
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert texts(mine) == {"thesis.tex": "years of work"}


def test_a_file_put_into_a_site_is_not_lost(tmp_path: Path) -> None:
    site = write(tmp_path, simulate.clean(0.5))
    (site / "CNAME").write_text("example.org")
    with pytest.raises(CossError, match="CNAME is not part of the site"):
        write_site(tmp_path / "results", site)
    assert (site / "CNAME").exists()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    simulate.save(tmp_path / "results", simulate.clean(0.5))
    (tmp_path / "site").write_text("")
    with pytest.raises(CossError, match="is a file"):
        write_site(tmp_path / "results", tmp_path / "site")


def test_an_empty_folder_is_taken_and_the_default_lies_in_the_results(
    tmp_path: Path, bench: Callable[..., Outcome]
) -> None:
    simulate.save(tmp_path / "results", simulate.clean(0.5))
    (tmp_path / "results" / "site").mkdir()
    found = bench("site", "--results", tmp_path / "results")
    index = tmp_path / "results" / "site" / "index.html"
    assert (found.code, found.out) == (0, f"wrote {index}\n")
    assert oct(index.parent.stat().st_mode & 0o777) == "0o755"  # a web server can read it
    assert load_table(tmp_path / "results").shape[0] == 3  # the site is no record


def test_without_records_there_is_one_line_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="no complete records"):
        write_site(tmp_path, tmp_path / "site")
    assert not (tmp_path / "site").exists()
