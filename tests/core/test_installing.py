"""What installs the package elsewhere: the container, the workflows, the documented lines."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = {
    "actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683": "v4.2.2",
    "actions/setup-python@a26af69be951a213d495a4c3e4e4022e16d87065": "v5.6.0",
    "actions/upload-artifact@ea165f8d65b6e75b540449e92b4886f43607fa02": "v4.6.2",
    "actions/download-artifact@d3f86a106a0bac45b974a628896c90dbdf5c8093": "v4.3.0",
    "pypa/gh-action-pypi-publish@76f52bc884231f62b9a034ebfe128415bbaabdfc": "v1.12.4",
}


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: keyword and the rest, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(keyword, rest) for keyword, rest in lines]


def values(keyword: str) -> list[str]:
    return [rest for found, rest in instructions() if found == keyword]


def read(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text())
    return found


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


# ---- the container ----


def test_the_container_copies_what_is_there_and_what_is_not_ignored() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert "*" in rules
    copied = {source for rest in values("COPY") for source in rest.split()[:-1]}
    assert copied == let_through
    for source in copied:
        assert (ROOT / source).exists(), source
    # The package links to the two folders: all three lie side by side there too.
    targets = {rest.split()[0]: rest.split()[1] for rest in values("COPY") if rest.count(" ") == 1}
    assert targets == {n: f"./{n}" for n in ("robustbench_coss", "pretrain", "evaluations")}


def test_the_container_runs_the_quickstart_as_a_user_without_root() -> None:
    keywords = [keyword for keyword, _ in instructions()]
    assert values("ENTRYPOINT") == ['["coss-bench"]']
    assert values("CMD") == ['["quickstart"]']
    assert "coss-bench" in PROJECT["scripts"]
    (user,) = values("USER")
    assert user not in ("root", "0")
    assert f"useradd --create-home --uid 1000 {user}" in DOCKERFILE
    assert keywords.index("USER") < keywords.index("ENTRYPOINT")
    assert not any(keyword == "RUN" for keyword in keywords[keywords.index("USER") :])


def test_the_container_has_known_extras_and_versions() -> None:
    arguments = dict(rest.split("=", 1) for rest in values("ARG"))
    extras = arguments["EXTRAS"].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert arguments["PYTHON"] == "3.11"
    assert arguments["TORCH"] == "cpu"
    pinned = (ROOT / "constraints.txt").read_text()
    found = re.findall(r"^(torch|torchvision)==", pinned, re.MULTILINE)
    assert sorted(found) == ["torch", "torchvision"]  # what the CPU build is chosen by


@pytest.mark.parametrize(("torch", "installs"), [("cpu", 2), ("cuda", 1), ("tpu", 0)])
def test_the_containers_shell_installs_the_build_asked_for(
    tmp_path: Path, torch: str, installs: int
) -> None:
    """The step itself, run by a shell with a `pip` that notes what it is asked for."""
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@" >> pip.log\n')
    (tmp_path / "pip").chmod(0o755)
    (step,) = [rest for rest in values("RUN") if "pip install" in rest]
    step = step.replace("rm -rf /src/*", "true")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", step],
        cwd=tmp_path,
        env={"PATH": path, "TORCH": torch, "EXTRAS": "models"},
        capture_output=True,
        text=True,
    )
    log = tmp_path / "pip.log"
    asked = log.read_text().splitlines() if log.exists() else []
    assert len(asked) == installs, done.stderr
    assert (done.returncode == 0) == (torch != "tpu")
    if torch == "cpu":
        assert re.search(r"whl/cpu torch==\S+ torchvision==\S+$", asked[0])
    if asked:
        assert asked[-1].endswith("--constraint constraints.txt .[models]")


# ---- workflows ----


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_have_least_rights_time_limits_and_pinned_actions(path: Path) -> None:
    workflow, text = read(path), path.read_text()
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets" not in re.sub(r"#.*", "", text)
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 120
    for step in steps(workflow):
        if "uses" in step:
            assert f"{step['uses']} # {PINNED[step['uses']]}" in text
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
        assert "${{" not in step.get("run", "")


def test_the_tests_run_on_every_version_of_python_that_the_package_names() -> None:
    workflow = read(ROOT / ".github" / "workflows" / "tests.yml")
    tested = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    named = [c.removeprefix(prefix) for c in PROJECT["classifiers"] if c.startswith(prefix)]
    assert tested == [version for version in named if "." in version]
    assert PROJECT["requires-python"] == f">={tested[0]}"
    assert any(step.get("run") == ".ci/run" for step in steps(workflow))
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_a_release_is_trusted_and_its_tag_is_the_version() -> None:
    workflow = read(ROOT / ".github" / "workflows" / "release.yml")
    (pattern,) = workflow[True]["push"]["tags"]  # YAML 1.1 reads the key `on` as a truth value
    assert fnmatch.fnmatch(f"v{PROJECT['version']}", pattern)
    build, publish = (workflow["jobs"][name] for name in ("build", "publish"))
    assert publish["permissions"] == {"id-token": "write"}
    assert (publish["needs"], publish["environment"]) == ("build", "pypi")
    assert "permissions" not in build
    assert all("run" not in step for step in publish["steps"])  # no code beside that right
    check = next(s["run"] for s in build["steps"] if "tomllib" in s.get("run", ""))
    for tag, fine in ((f"v{PROJECT['version']}", True), ("v0.0.9", False)):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "GITHUB_REF_NAME": tag}
        done = subprocess.run(["bash", "-ec", check], cwd=ROOT, env=environment)
        assert (done.returncode == 0) == fine


# ---- versions of Python, and the documented lines ----


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_newer_versions_of_python_read_every_module(version: str) -> None:
    versions = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")
    python = next(map(str, versions), None) or shutil.which(f"python{version}")
    if python is None:
        pytest.skip(f"there is no python{version} here")
    script = (
        "import pathlib, sys, warnings; warnings.simplefilter('error')\n"
        "for folder in sys.argv[1:]:\n"
        "    for path in pathlib.Path(folder).rglob('*.py'):\n"
        "        compile(path.read_text(encoding='utf-8'), str(path), 'exec')"
    )
    folders = [str(ROOT / name) for name in ("robustbench_coss", "pretrain", "evaluations")]
    done = subprocess.run([python, "-c", script, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.network
@pytest.mark.slow
def test_the_documented_line_resolves_beside_torchattacks() -> None:
    if os.environ.get("COSS_TEST_NETWORK") != "1":
        pytest.skip("asks a package registry; COSS_TEST_NETWORK=1 lets it")
    page = (ROOT / "docs" / "dependencies.md").read_text()
    line = "pip install '.[models,hub]' --constraint constraints.txt"
    assert f"\n{line}\n" in page
    options = ("--dry-run", "--ignore-installed", "--quiet", "--report", "-")
    words = [".[models,hub]", "--constraint", "constraints.txt"]
    command = [sys.executable, "-m", "pip", "install", *options, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("torchattacks", "transformers", "open_clip_torch"):
        assert f'"name": "{name}"' in done.stdout
