"""Bundles whose files were edited, exchanged or damaged."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from helpers.bundles import IMAGES, PLAN, Files, rebuilt, with_record

from robustbench_coss.datasets import parts
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.submissions.verify import verify
from robustbench_coss.models.checkpoint import build_encoder, save_encoder
from robustbench_coss.records.record import Record


def test_a_file_edited_in_the_bundle_is_found_by_its_hash(bundle: Path, tmp_path: Path) -> None:
    edited = tmp_path / "b.zip"
    content = bundle.read_bytes()
    at = content.index(b'"created": "20')
    edited.write_bytes(content[:at] + b'"created": "19' + content[at + 14 :])
    with pytest.raises(CossError, match=r"damaged|SHA-256"):
        verify(edited, PLAN)


def test_a_key_that_is_not_that_of_the_settings_is_refused(bundle: Path, tmp_path: Path) -> None:
    def reseed(record: Record) -> None:
        record.seed = 7

    with pytest.raises(CossError, match=r"the key of records/parts/crop\.json is not that of its"):
        verify(with_record(bundle, tmp_path / "b.zip", "crop", reseed), PLAN)


def test_other_data_are_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parts.COUNTS, "test", IMAGES - 10)
    with pytest.raises(CossError, match="was measured on other images: fingerprint is"):
        verify(bundle, PLAN)


def test_another_encoder_is_refused(bundle: Path, tmp_path: Path) -> None:
    def swap(files: Files, head: dict[str, Any]) -> None:
        metadata = {"arch": "rf29_resnet18", "width": 1 / 16, "size": 32, "dataset": "parts"}
        encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
        save_encoder(tmp_path / "e.safetensors", encoder, metadata)
        files["encoder.safetensors"] = (tmp_path / "e.safetensors").read_bytes()

    with pytest.raises(CossError, match=r"has the SHA-256 .*… was measured"):
        verify(rebuilt(bundle, tmp_path / "b.zip", swap), PLAN)


def test_a_pickle_in_the_encoders_place_is_never_opened(bundle: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    def swap(files: Files, head: dict[str, Any]) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return (marker.touch, ())

        files["encoder.safetensors"] = pickle.dumps(Evil())

    with pytest.raises(CossError, match="could execute code and is not opened"):
        verify(rebuilt(bundle, tmp_path / "b.zip", swap), PLAN)
    assert not marker.exists()


def test_a_missing_or_damaged_probe_is_not_replaced_quietly(bundle: Path, tmp_path: Path) -> None:
    def drop(files: Files, head: dict[str, Any]) -> None:
        del files[next(name for name in files if name.startswith("probes/"))]

    def damage(files: Files, head: dict[str, Any]) -> None:
        files[next(name for name in files if name.startswith("probes/"))] = b"damaged"

    with pytest.raises(CossError, match=r"lacks probes/[0-9a-f]{64}\.safetensors"):
        verify(rebuilt(bundle, tmp_path / "b.zip", drop), PLAN)
    with pytest.raises(CossError, match="is damaged or no probe of this encoder"):
        verify(rebuilt(bundle, tmp_path / "c.zip", damage), PLAN)


def test_columns_longer_than_the_images_are_refused_before_they_are_inflated(
    bundle: Path, tmp_path: Path
) -> None:
    def bomb(files: Files, head: dict[str, Any]) -> None:
        content = json.loads(files["records/parts/clean.json"])
        content["cells"][0]["outcomes"]["correct"]["n"] = 10**12
        files["records/parts/clean.json"] = json.dumps(content).encode()

    with pytest.raises(
        CossError, match=r"cells\[0\]\.outcomes\.correct: 1000000000000 values where 200"
    ):
        verify(rebuilt(bundle, tmp_path / "b.zip", bomb), PLAN)


def test_a_record_without_the_form_of_one_is_refused(bundle: Path, tmp_path: Path) -> None:
    def strip(files: Files, head: dict[str, Any]) -> None:
        files["records/parts/clean.json"] = b'{"suite": "clean"}'

    with pytest.raises(CossError, match=r"clean\.json is no record"):
        verify(rebuilt(bundle, tmp_path / "b.zip", strip), PLAN)
