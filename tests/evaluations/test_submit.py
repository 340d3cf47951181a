from __future__ import annotations

import json
import re
import stat
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT
from helpers.bench import Outcome
from helpers.simulate import clean, save

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.submissions.bundle import (
    LIMITS,
    MANIFEST,
    open_bundle,
    write_bundle,
)
from robustbench_coss.evaluations.submissions.submit import submit
from robustbench_coss.files import sha256_of, write_atomically
from robustbench_coss.models.checkpoint import build_encoder, save_encoder
from robustbench_coss.records.record import Record, record_path

SHA = "0" * 64
HEAD: dict[str, Any] = {"checkpoint_sha256": SHA}


def measured(results: Path, *records: Record) -> None:
    """Records with a file in the place of each probe."""
    save(results, *records)
    for record in records:
        key = record.model["probe"]["key"]
        write_atomically(results / "probes" / f"{key}.safetensors", f"probe {key}".encode())


def make_run(folder: Path) -> str:
    encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
    metadata = {"arch": "rf29_resnet18", "width": 1 / 16, "size": 32, "dataset": "parts"}
    save_encoder(folder / "encoder.safetensors", encoder, metadata)
    return sha256_of(folder / "encoder.safetensors")


# ---- what is gathered ----


def test_a_bundle_holds_all_records_of_the_run_and_of_no_other(tmp_path: Path) -> None:
    mine, other = clean(0.5), clean(0.4, seed=1)
    elsewhere = clean(0.3, dataset="mnist")
    measured(tmp_path, mine, other, elsewhere)
    path, manifest = submit("byol-s0", tmp_path, tmp_path / "b.zip")
    bundle = open_bundle(path)
    probes = {f"probes/{r.model['probe']['key']}.safetensors" for r in (mine, elsewhere)}
    records = {"records/parts/clean.json", "records/mnist/clean.json"}
    assert set(bundle.names) == records | probes | {"environment.json"}
    sha256 = mine.model["checkpoint_sha256"]
    stored = record_path(tmp_path, "byol-s0", sha256, "parts", "clean").read_bytes()
    assert bundle.read("records/parts/clean.json") == stored
    assert manifest["checkpoint_sha256"] == sha256
    assert manifest["created"] == mine.created
    assert bundle.json("environment.json")["records/parts/clean.json"] == {
        "versions": mine.versions,
        "device": mine.device,
    }


def test_equal_records_give_equal_bytes_whenever_and_wherever_they_lie(tmp_path: Path) -> None:
    written = []
    for place in ("a", "b"):
        measured(tmp_path / place, clean(0.5), clean(0.4, seed=1))
        written.append(submit("byol-s0", tmp_path / place, tmp_path / f"{place}.zip")[0])
    assert written[0].read_bytes() == written[1].read_bytes()
    with zipfile.ZipFile(written[0]) as archive:
        entries = archive.infolist()
    assert [e.filename for e in entries] == sorted(e.filename for e in entries)
    assert {e.date_time for e in entries} == {(1980, 1, 1, 0, 0, 0)}


def test_a_run_folder_brings_its_recipe_and_if_asked_its_encoder(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    sha256 = make_run(run)
    (run / "recipe.yaml").write_text("method: byol\n")
    record = clean(0.5, name="mine")
    record.model["checkpoint_sha256"] = sha256
    measured(tmp_path, record)
    without = open_bundle(submit(str(run), tmp_path, tmp_path / "a.zip")[0])
    assert without.read("recipe.yaml") == b"method: byol\n"
    assert "encoder.safetensors" not in without.names
    whole = open_bundle(submit(str(run), tmp_path, tmp_path / "b.zip", with_encoder=True)[0])
    assert sha256_of(whole.read("encoder.safetensors")) == sha256
    with pytest.raises(CossError, match="--with-encoder needs the file and 'mine' is a name"):
        submit("mine", tmp_path, tmp_path / "c.zip", with_encoder=True)


def test_a_pickle_is_not_bundled_as_an_encoder(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(b"\x80\x02}q\x00.")
    record = clean(0.5, name="model")
    record.model["checkpoint_sha256"] = sha256_of(file)
    measured(tmp_path, record)
    with pytest.raises(CossError, match="pickle"):
        submit(str(file), tmp_path, tmp_path / "b.zip", with_encoder=True)


def test_what_cannot_be_bundled_is_named_with_the_remedy(tmp_path: Path) -> None:
    measured(tmp_path, clean(0.5), clean(0.4, seed=1))
    with pytest.raises(CossError, match=r"2 seeds: byol-s0, byol-s1; a bundle holds one run"):
        submit("BYOL", tmp_path)
    with pytest.raises(CossError, match="did you mean byol-s"):
        submit("biol-s0", tmp_path)
    make_run(tmp_path / "run")
    with pytest.raises(CossError, match=r"has no complete records of .*run; measure it first"):
        submit(str(tmp_path / "run"), tmp_path)
    next((tmp_path / "probes").glob(f"{clean(0.5).model['probe']['key']}*")).unlink()
    with pytest.raises(CossError, match=r"the probe of suite 'clean', is missing; .* --force"):
        submit("byol-s0", tmp_path)


def test_the_command_says_what_it_wrote_and_what_comes_next(
    bench: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    measured(tmp_path / "results", clean(0.5))
    outcome = bench("submit", "byol-s0")
    name = f"byol-s0-{clean(0.5).model['checkpoint_sha256'][:8]}.zip"
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"wrote {name}: byol-s0, 1 records")
    assert "parts clean: 200 images" in outcome.out
    assert f"coss-bench verify {name} --encoder RUN" in outcome.out
    assert (tmp_path / name).is_file()


# ---- opening what strangers send ----


def forged(path: Path, entries: dict[str, bytes], manifest: Any = None, **zip_options: Any) -> Path:
    """A zip file as nobody should send one; the manifest lists the entries unless it is given."""
    if manifest is None:
        files = [{"path": k, "bytes": len(v), "sha256": sha256_of(v)} for k, v in entries.items()]
        manifest = HEAD | {"schema": 1, "files": files}
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w", **zip_options) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, zip_options.get("compression"))
        archive.writestr(zipfile.ZipInfo(MANIFEST), text)
    return path


def test_a_sound_bundle_opens(tmp_path: Path) -> None:
    bundle = open_bundle(forged(tmp_path / "b.zip", {"recipe.yaml": b"x"}))
    assert bundle.names == ("recipe.yaml",)
    assert bundle.read("recipe.yaml") == b"x"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "/etc/passwd",
        "records/../../evil.json",
        "records/parts/..",
        "records/.hidden/clean.json",
        "records\\parts\\clean.json",
        "C:/records/parts/clean.json",
        "records/parts/deeper/clean.json",
        "records/parts/",
        "probes/short.safetensors",
        "model.pkl",
        "recipe.yaml\n",
    ],
)
def test_names_that_no_bundle_has_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CossError, match=r"a bundle has no file|link or folder"):
        open_bundle(forged(tmp_path / "b.zip", {name: b"{}"}))
    with pytest.raises(CossError, match="a bundle has no file"):
        write_bundle(tmp_path / "c.zip", HEAD, {name: b"{}"})


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    link = zipfile.ZipInfo("recipe.yaml")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(CossError, match=r"'recipe\.yaml' is a link or folder"):
        open_bundle(path)


def test_compressed_files_are_refused_before_they_are_inflated(tmp_path: Path) -> None:
    bomb = {"recipe.yaml": bytes(1 << 19)}
    path = forged(tmp_path / "b.zip", bomb, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CossError, match="is compressed or encrypted"):
        open_bundle(path)


def test_more_bytes_than_a_kind_of_file_may_have_are_refused(tmp_path: Path) -> None:
    content = bytes(LIMITS[r"recipe\.yaml"] + 1)
    with pytest.raises(CossError, match=r"recipe.yaml has 1,048,577 bytes, more than 1,048,576"):
        open_bundle(forged(tmp_path / "b.zip", {"recipe.yaml": content}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for content in ("a", "b"):
            archive.writestr(zipfile.ZipInfo("recipe.yaml"), content)
    with pytest.raises(CossError, match="holds a file twice"):
        open_bundle(tmp_path / "b.zip")


LISTED = {"path": "recipe.yaml", "bytes": 1, "sha256": sha256_of(b"x")}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (HEAD | {"schema": 1, "files": []}, "and the files in it differ: recipe.yaml"),
        (HEAD | {"schema": 1, "files": [LISTED, LISTED]}, "and the files in it differ"),
        (HEAD | {"schema": 1, "files": [LISTED | {"bytes": 2}]}, "does not have the 2 bytes"),
        (HEAD | {"schema": 1, "files": [LISTED | {"bytes": "1"}]}, "manifest.json is damaged"),
        (HEAD | {"schema": 1, "files": [LISTED | {"sha256": SHA}]}, "changed after"),
        (HEAD | {"schema": 2, "files": [LISTED]}, "has manifest schema 2, this version reads 1"),
        ({"schema": 1, "files": [LISTED]}, "damaged .*checkpoint_sha256"),
        ([], "manifest.json is damaged"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"schema": NaN}', "NaN is no JSON"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(tmp_path: Path, manifest: Any, message: str) -> None:
    with pytest.raises(CossError, match=message):
        open_bundle(forged(tmp_path / "b.zip", {"recipe.yaml": b"x"}, manifest))


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(CossError, match="is no file; pass a bundle"):
        open_bundle(tmp_path / "none.zip")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(CossError, match="is no zip file"):
        open_bundle(tmp_path / "text.zip")
    whole = forged(tmp_path / "b.zip", {"recipe.yaml": b"x" * 1000}).read_bytes()
    for end in (100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.zip").write_bytes(whole[:end])
        with pytest.raises(CossError):
            open_bundle(tmp_path / "cut.zip")


def test_a_byte_that_was_changed_in_the_file_is_found(tmp_path: Path) -> None:
    path = forged(tmp_path / "b.zip", {"recipe.yaml": b"method: byol"})
    path.write_bytes(path.read_bytes().replace(b"method: byol", b"method: dino"))
    with pytest.raises(CossError, match=r"damaged|SHA-256"):
        open_bundle(path)


# ---- GitHub ----

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/submission.yml").read_text())
FORM = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/submission.yml").read_text())
(JOB,) = WORKFLOW["jobs"].values()
STEPS: list[dict[str, Any]] = JOB["steps"]


def test_the_workflow_has_the_least_rights_and_a_time_limit() -> None:
    triggers = WORKFLOW[True]  # YAML 1.1 reads the key `on` as a truth value
    assert triggers == {"pull_request": {"paths": ["submissions/**"]}}
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "permissions" not in JOB
    assert 0 < JOB["timeout-minutes"] <= 120
    text = (ROOT / ".github/workflows/submission.yml").read_text()
    assert "secrets" not in re.sub(r"#.*", "", text)
    used = [step for step in STEPS if "uses" in step]
    assert used
    for step in used:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"])
        if "checkout" in step["uses"]:
            assert step["with"]["persist-credentials"] is False
    assert re.findall(r"uses: \S+(.*)", text) == [" # v4.2.2", " # v4.2.2", " # v5.6.0"]


def test_no_shell_of_the_workflow_is_given_text_of_strangers() -> None:
    for step in STEPS:
        assert "${{" not in step.get("run", "")
        assert "${{" not in json.dumps(step.get("env", {}))


def test_the_tool_that_judges_is_not_that_of_the_pull_request() -> None:
    tool = next(s for s in STEPS if s.get("with", {}).get("path") == "tool")
    assert tool["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    installs = [step["run"] for step in STEPS if "install" in step.get("run", "")]
    assert installs == ["python -m pip install ./tool --constraint tool/constraints.txt"]


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("added", "status", "verified"),
    [
        (["submissions/a.zip", "submissions/b-1.zip"], 0, ["a.zip", "b-1.zip"]),
        (["README.md"], 0, []),
        (["submissions/$(touch pwned).zip"], 1, []),
        (["submissions/a b.zip", "submissions/c.zip"], 1, ["c.zip"]),
        (["submissions/--help.zip"], 1, []),
        (["submissions/x\n.zip"], 1, []),
        (["submissions/deep/a.zip"], 1, []),
        (["submissions/run.sh"], 1, []),
        (["submissions/bad.zip", "submissions/good.zip"], 1, ["bad.zip", "good.zip"]),
    ],
)
def test_the_script_verifies_added_bundles_and_refuses_odd_names(
    tmp_path: Path, added: list[str], status: int, verified: list[str]
) -> None:
    proposal, bin_ = tmp_path / "proposal", tmp_path / "bin"
    proposal.mkdir()
    bin_.mkdir()
    log = tmp_path / "log"
    stub = bin_ / "coss-bench"  # in place of minutes of measuring
    stub.write_text(f'#!/bin/sh\necho "$1 $2" >> {log}\ncase "$2" in *bad*) exit 1;; esac\n')
    stub.chmod(0o755)
    git(proposal, "init", "-q")
    (proposal / "submissions").mkdir()
    (proposal / "submissions" / "old.zip").write_text("gone with the pull request")
    git(proposal, "add", "-A")
    git(proposal, "commit", "-q", "-m", "before")
    (proposal / "submissions" / "old.zip").unlink()
    for name in added:
        file = proposal / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("content of " + name)
    git(proposal, "add", "-A")
    git(proposal, "commit", "-q", "-m", "after")
    (script,) = (s["run"] for s in STEPS if s.get("name") == "Verify the bundles")
    path = f"{bin_}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == status, done.stdout + done.stderr
    called = log.read_text().splitlines() if log.exists() else []
    assert called == [f"verify proposal/submissions/{name}" for name in verified]
    assert not list(tmp_path.rglob("pwned"))


def test_the_form_is_one_that_github_takes() -> None:
    assert {"name", "description", "body"} <= FORM.keys()
    kinds = {"markdown", "input", "textarea", "dropdown", "checkboxes"}
    fields = [field for field in FORM["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in FORM["body"]} <= kinds
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names)
    assert all(field["attributes"]["label"] for field in fields)
    required = {f["id"] for f in fields if f.get("validations", {}).get("required")}
    assert {"bundle", "sha256", "verdict"} <= required


def test_a_record_that_was_damaged_is_not_bundled(tmp_path: Path) -> None:
    record = clean(0.5)
    record.model["parameters"] = -1
    measured(tmp_path, record)
    damaged = r"clean\.json is damaged \(model\.parameters: .* equal to 0, got -1"
    with pytest.raises(CossError, match=damaged):
        submit("byol-s0", tmp_path, tmp_path / "b.zip")
    path = record_path(tmp_path, "byol-s0", record.model["checkpoint_sha256"], "parts", "clean")
    assert '"parameters": -1' in path.read_text()
