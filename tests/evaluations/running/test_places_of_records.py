"""Measurements whose outcomes differ lie at different paths: none replaces another's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.picture_files import write_pictures
from helpers.toy_suite import ToyEncoder, measure
from torch import nn

from robustbench_coss.analysis.configurations import load_measurements
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.evaluations.submissions.bundle import open_bundle, write_bundle
from robustbench_coss.evaluations.submissions.contents import read_records
from robustbench_coss.evaluations.submissions.submit import submit
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.models.load import load_model
from robustbench_coss.records.record import find_records, path_of, read_record

PROBES: dict[str, dict[str, Any]] = {
    "logistic": {},
    "sgd": {"kind": "sgd", "epochs": 2},
    "shorter": {"kind": "sgd", "epochs": 1},
    "simclr": {"kind": "simclr", "epochs": 2},
    "fewer": {"max_train": 40},
    "seed": {"max_train": 40, "seed": 1},
    "values": {"l2_values": 3},
}


def test_probes_that_differ_in_anything_leave_records_of_their_own(run: Path) -> None:
    for options in PROBES.values():
        measure(run, limit=20, probe=ProbeConfig(**options))
    results = run.parent.parent / "results"
    found = dict(find_records(results))
    settings = [json.dumps(r.model["probe"]["settings"], sort_keys=True) for r in found.values()]
    assert len({*settings}) == len(PROBES)
    assert {path.relative_to(results) for path in found} == {path_of(r) for r in found.values()}
    plain = [p for p, r in found.items() if r.model["probe"]["settings"]["kind"] == "logistic"]
    assert min(plain).parent.name == "toy-data"
    before = {path: path.read_bytes() for path in found}
    for options in PROBES.values():  # all are up to date
        measure(run, limit=20, probe=ProbeConfig(**options))
    assert {path: path.read_bytes() for path in before} == before
    assert len({m.label for m in load_measurements(results)}) == len(PROBES) - 1  # less the seed

    bundle, _ = submit(str(run), results, out=results / "b.zip")
    assert len(read_records(open_bundle(bundle))) == len(PROBES)


def test_the_head_of_a_model_and_a_probe_in_its_place_are_two_measurements(tmp_path: Path) -> None:
    def load() -> Checkpoint:
        about = {"arch": "toy", "width": 1.0, "size": 8, "dataset": None, "training": {}}
        return Checkpoint(ToyEncoder(), "net", None, "ab" * 32, about, nn.Linear(6, 3), 3)

    places = []
    for transfer in (False, True):
        request = Evaluation("toy", dataset="toy-data", transfer=transfer, results=tmp_path)
        ((path, record),) = evaluate_run(load, request).items()
        places.append(path.parent.name)
        assert bool(record.model["probe"].get("own_head")) is not transfer
        assert path.relative_to(tmp_path) == path_of(read_record(path))
    assert places == ["toy-data", "toy-data+probe"]


def test_a_control_at_another_size_is_another_model() -> None:
    spec = "control:untrained:rf29_resnet18:0.125"
    usual, named, small = (load_model(spec, size=s, dataset="parts") for s in (None, 32, 16))
    assert usual.sha256 == named.sha256 != small.sha256


def test_two_folders_of_pictures_are_two_data_sets(tmp_path: Path) -> None:
    spec, places = "control:pixels", []
    for seed in (1, 2):
        root = tmp_path / str(seed)
        for role in ("train", "val", "test"):
            write_pictures(root / role, ("a", "b"), 4, seed)
        request = Evaluation("clean", dataset="imagefolder", data_root=root, results=tmp_path)
        done = evaluate_run(lambda: load_model(spec, size=8, dataset="imagefolder"), request)
        ((path, record),) = done.items()
        test = open_dataset("imagefolder", "test", size=8, root=root)
        assert record.dataset["fingerprint"] == test.fingerprint
        places.append(path.parent.name)
    assert len({*places}) == 2
    assert len(dict(find_records(tmp_path))) == 2


def test_bundles_of_earlier_versions_have_one_place_for_all_probes(run: Path) -> None:
    measure(run, limit=20, probe=ProbeConfig("sgd", epochs=2))
    results = run.parent.parent / "results"
    path, manifest = submit(str(run), results, out=results / "b.zip")
    bundle = open_bundle(path)
    (new,) = (name for name in bundle.names if name.startswith("records/"))
    files = {name: bundle.read(name) for name in bundle.names}
    old = "records/toy-data/toy.json"

    def moved(*names: str) -> Path:
        environment = json.loads(files["environment.json"])[new]
        rest = {k: v for k, v in files.items() if k not in (new, "environment.json")}
        rest["environment.json"] = json.dumps(dict.fromkeys(names, environment)).encode()
        listed = [{**manifest["records"][0], "path": name} for name in names]
        write_bundle(
            results / "old.zip",
            manifest | {"records": sorted(listed, key=lambda r: r["path"])},
            rest | dict.fromkeys(names, files[new]),
            force=True,
        )
        return results / "old.zip"

    assert new != old
    assert [*read_records(open_bundle(moved(old)))] == [old]
    with pytest.raises(CossError, match="twice"):
        read_records(open_bundle(moved(old, new)))
    shutil.rmtree(results)
