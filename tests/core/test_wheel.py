"""What an installation holds, and that it works beside a user's files called like our folders.

Built from a copy of the sources by the setuptools of this environment; no network is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = "robustbench_coss"
FOLDERS = (PACKAGE, "pretrain", "evaluations")

pytestmark = pytest.mark.skipif(find_spec("setuptools") is None, reason="setuptools builds wheels")


def run(*arguments: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a checkout has of the sources, links as links."""
    copy = tmp_path_factory.mktemp("tree")
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out)
    run("-m", "pip", "wheel", *options, tree, cwd=out)
    (made,) = out.glob("*.whl")
    return made


def test_the_wheel_holds_one_package_with_all_files_of_the_sources(wheel: Path) -> None:
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert {name.partition("/")[0] for name in inside} == {PACKAGE}
    kinds = {".py", ".yaml", ".html", ".css", ".js", ".mplstyle"}
    files = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds
    }
    wanted = {n if n.startswith(f"{PACKAGE}/") else f"{PACKAGE}/{n}" for n in files}
    assert {name for name in inside if Path(name).suffix in kinds} == wanted
    for kind in kinds:
        assert any(name.endswith(kind) for name in wanted), f"no {kind} was looked for"


# Run where `pretrain` and `evaluations` are the user's and say so when they are imported.
USE = """
import site, sys
site.addsitedir(sys.argv[1])
sys.path.append(sys.argv[2])
import robustbench_coss
print(robustbench_coss.__file__)
import robustbench_coss.evaluations.protocol
if sys.argv[3] == "all":
    import robustbench_coss.pretrain.train, robustbench_coss.evaluations.suites.clean
from robustbench_coss.pretrain.recipe import read_recipe
assert read_recipe("quickstart")
from robustbench_coss.cli import main
sys.argv[1:] = ["list"]
try:
    main()
finally:
    import pretrain
"""


@pytest.mark.parametrize("editable", [False, True])
def test_an_installation_works_beside_files_of_the_user_called_pretrain_and_evaluations(
    editable: bool, tree: Path, wheel: Path, tmp_path: Path
) -> None:
    installed, mine = tmp_path / "installed", tmp_path / "mine"
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--target", installed)
    what = ("--editable", tree) if editable else (wheel,)
    run("-m", "pip", "install", *options, *what, cwd=tmp_path)
    mine.mkdir()
    for name in ("pretrain", "evaluations"):
        (mine / f"{name}.py").write_text(f"print('the {name}.py of the user')\n")
    # -S: the package is that of `installed`, not one that this environment has as well.
    others = sysconfig.get_path("purelib")
    # The sources are the same: what takes long to import is imported from one of them.
    how = ("some" if editable else "all",)
    lines = run("-S", "-c", USE, installed, others, *how, cwd=mine, PYTHONPATH=".").splitlines()
    where = tree if editable else installed
    assert Path(lines[0]) == where / PACKAGE / "__init__.py"
    assert any("co-byol" in line for line in lines)
    assert [line for line in lines if "of the user" in line] == ["the pretrain.py of the user"]
    assert lines[-1] == "the pretrain.py of the user"  # which was there to be found
