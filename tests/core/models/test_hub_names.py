"""Models of transformers, timm and open_clip by their names: cached, absent, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT
from helpers.bench import Bench
from helpers.hub_models import drawn

from robustbench_coss.errors import CossError
from robustbench_coss.models.hub.libraries import OpenClipViT
from robustbench_coss.models.load import load_model
from robustbench_coss.models.seams import Followed

pytest.importorskip("transformers")
hub = pytest.importorskip("huggingface_hub")
open_clip = pytest.importorskip("open_clip")
timm = pytest.importorskip("timm")

COMMIT, OLDER = "a" * 40, "b" * 40
TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 8}
CLIPS = {
    "tiny-vit": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-average": {
        "embed_dim": 16,
        "vision_cfg": VISION | {"pool_type": "avg"},
        "text_cfg": TEXT,
    },
    "tiny-timm": {
        "embed_dim": 16,
        "vision_cfg": {
            "timm_model_name": "resnet10t",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 64,
        },
        "text_cfg": TEXT,
    },
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and no network."""

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    return tmp_path / "cache"


def put(cache: Path, repo: str, folder: Path, commit: str = COMMIT, ref: str = "main") -> None:
    """Lay a folder out as `huggingface_hub` keeps what it downloaded."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / ref).write_text(commit)
    shutil.copytree(folder, place / "snapshots" / commit)


@torch.no_grad()
def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).abs().max() <= 1e-4 * wanted.abs().max())


def test_a_cached_model_is_read_without_a_network_at_its_commit(
    cache: Path, tmp_path: Path
) -> None:
    drawn("dinov2").save_pretrained(tmp_path / "new")
    drawn("vit").save_pretrained(tmp_path / "old")
    put(cache, "org/net", tmp_path / "new")
    put(cache, "org/net", tmp_path / "old", OLDER, "v1")
    found = load_model("hf:org/net")
    assert found.name == "org-net"
    assert found.metadata["arch"] == "hf:org/net"
    assert found.metadata["reading"]["commit"] == COMMIT
    assert f"commit {COMMIT[:12]}" in found.preprocessing
    for revision in ("v1", OLDER):
        older = load_model(f"hf:org/net@{revision}")
        assert older.metadata["reading"]["commit"] == OLDER
        assert older.sha256 != found.sha256
        assert older.name == f"org-net@{revision}"


def test_a_model_that_is_not_there_is_one_line_that_says_how_to_fetch_it(
    cache: Path, tmp_path: Path, bench: Bench
) -> None:
    names = {
        "hf:org/absent": "run `hf download org/absent`",
        "hf:org/absent@v2": "run `hf download org/absent --revision v2`",
        "timm:hf-hub:org/absent": "run `hf download org/absent`",
        "open_clip:hf-hub:org/absent": "run `hf download org/absent`",
        "open_clip:ViT-B-32:laion2b_s34b_b79k": "run `hf download laion/CLIP-ViT-B-32-laion2B",
    }
    for name, says in names.items():
        with pytest.raises(CossError) as caught:
            load_model(name)
        assert says in str(caught.value)
        assert str(cache) in str(caught.value)
        assert "\n" not in str(caught.value)
    told = bench("eval", "hf:org/absent", "--dataset", "parts", "--results", tmp_path / "results")
    assert told.code == 1
    assert told.err.count("\n") == 1


def test_a_download_cut_off_counts_as_absent(cache: Path, tmp_path: Path) -> None:
    drawn("vit").save_pretrained(tmp_path / "whole", max_shard_size="20KB")
    shards = sorted((tmp_path / "whole").glob("model-*.safetensors"))
    assert len(shards) > 1
    put(cache, "org/whole", tmp_path / "whole")
    assert load_model("hf:org/whole").metadata["reading"]["commit"] == COMMIT
    shards[1].unlink()
    put(cache, "org/part", tmp_path / "whole")
    with pytest.raises(CossError, match="is not in the cache"):
        load_model("hf:org/part")


class Kind:
    """What `model_info` finds out: a stand-in for an answer of the Hub."""

    def __init__(self, name: str) -> None:
        self.error = type(name, (Exception,), {})

    def __call__(self, *_: Any, **__: Any) -> None:
        raise self.error("said at length\nby the Hub")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("GatedRepoError", "given only to those who accept its terms"),
        ("RepositoryNotFoundError", "the Hub has no model org/net"),
        ("RevisionNotFoundError", "the Hub has no model org/net at v9"),
    ],
)
def test_what_the_hub_answers_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str, says: str
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", Kind(kind))
    with pytest.raises(CossError, match=says) as caught:
        load_model("hf:org/net@v9" if "Revision" in kind else "hf:org/net")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:org/na me", "hf:../etc", "hf:org/net@"])
def test_what_is_no_name_is_refused(cache: Path, name: str) -> None:
    with pytest.raises(CossError, match=r"names no model|is not in the cache") as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_library_is_sent_there(cache: Path, tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model("resnet10t", num_classes=3), tmp_path / "timm")
    put(cache, "org/net", tmp_path / "timm")
    with pytest.raises(CossError, match="timm:hf-hub:ORG/NAME"):
        load_model("hf:org/net")
    with pytest.raises(CossError, match="leave out --arch"):
        load_model("hf:org/net", arch="resnet18")


@pytest.mark.parametrize("arch", ["resnet10t", "vit_tiny_patch16_224"])
@torch.no_grad()
def test_timm_models_of_the_hub_keep_head_seam_and_preprocessing(
    cache: Path, tmp_path: Path, arch: str
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=5, img_size=32) if "vit" in arch else None
    model = (model or timm.create_model(arch, num_classes=5)).eval()
    changed = {"mean": (0.1, 0.2, 0.3), "interpolation": "bilinear", "crop_pct": 0.5}
    model.pretrained_cfg.update(changed, input_size=(3, 32, 32))
    timm.models.save_for_hf(
        model, tmp_path / "net", model_args={"img_size": 32} if "vit" in arch else None
    )
    put(cache, "org/net", tmp_path / "net")
    named, folder = load_model("timm:hf-hub:org/net"), load_model(tmp_path / "net")
    assert named.metadata["reading"]["commit"] == COMMIT
    for found in (named, folder):
        encoder = found.encoder
        assert found.classes == 5
        assert found.head is not None
        assert encoder.input.size == 32
        assert encoder.input.mean == (0.1, 0.2, 0.3)
        assert encoder.input.geometry.resize == 64
        assert encoder.input.geometry.interpolation == "bilinear"
        x = torch.rand(2, 3, 32, 32)
        assert close(found.head(encoder(x)), model(encoder.normalise(x)))
        assert encoder.local(x).shape[2:] == ((1, 1) if arch == "resnet10t" else (2, 2))


@pytest.fixture
def clips(tmp_path: Path) -> Iterator[Path]:
    """Small models among open_clip's own configurations."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for name, config in CLIPS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    paths = list(open_clip.factory._MODEL_CONFIG_PATHS)
    open_clip.add_model_config(folder)
    yield tmp_path
    open_clip.factory._MODEL_CONFIG_PATHS[:] = paths
    open_clip.factory._rescan_model_configs()


@pytest.mark.parametrize("name", CLIPS)
@torch.no_grad()
def test_towers_of_open_clip_give_its_image_embeddings(clips: Path, name: str) -> None:
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    state = model.state_dict()
    files = {
        "whole": state,
        "training": {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}},
        "tower": model.visual.state_dict(),
    }
    for kind, content in files.items():
        torch.save(content, clips / f"{kind}.pt")
        found = load_model(f"open_clip:{name}:{clips / f'{kind}.pt'}")
        encoder = found.encoder
        assert isinstance(encoder, Followed if name == "tiny-timm" else OpenClipViT)
        size = encoder.input.size
        x = torch.rand(2, 3, size, size)
        assert close(encoder(x), model.encode_image(encoder.normalise(x)))
        local = encoder.local(x)
        keep = torch.zeros(2, *local.shape[2:], dtype=torch.bool)
        keep[:, 0] = True
        assert encoder.pool(local, keep).shape == (2, 16)
        assert not close(encoder.pool(local, keep), encoder(x))
        assert encoder.input.mean == open_clip.OPENAI_DATASET_MEAN


@torch.no_grad()
def test_a_folder_of_open_clip_is_read_with_its_own_preprocessing(cache: Path, clips: Path) -> None:
    model = open_clip.create_model("tiny-vit").eval()
    folder = clips / "folder"
    folder.mkdir()
    picture = {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}
    stated = {"model_cfg": CLIPS["tiny-vit"], "preprocess_cfg": picture}
    (folder / "open_clip_config.json").write_text(json.dumps(stated))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    put(cache, "org/clip", folder)
    for found in (load_model(folder), load_model("open_clip:hf-hub:org/clip")):
        encoder = found.encoder
        assert (encoder.input.mean, encoder.input.std) == ((0.5,) * 3, (0.25,) * 3)
        assert encoder.input.geometry.mode == "squash"
        x = torch.rand(2, 3, 32, 32)
        assert close(encoder(x), model.encode_image(encoder.normalise(x)))


def test_bad_names_of_open_clip_are_refused_in_one_line(clips: Path) -> None:
    torch.save({"a": torch.zeros(2)}, clips / "other.pt")
    torch.save({"a": Path(".")}, clips / "object.pt")
    (clips / "empty.pt").write_bytes(b"")
    cases = {
        "open_clip:ViT-B-33:openai": "unknown open_clip model 'ViT-B-33'",
        "open_clip:ViT-B-32:nowhere": "no weights 'nowhere' for ViT-B-32; it has: openai",
        "open_clip:ViT-B-32": "no weights '' for ViT-B-32",
        "open_clip:ViT-B-32-quickgelu:laion2b_s34b_b79k": "no weights",
        f"open_clip:tiny-vit:{clips / 'other.pt'}": "does not fit the vision tower",
        f"open_clip:tiny-vit:{clips / 'object.pt'}": "does not fit the vision tower|object",
        f"open_clip:tiny-vit:{clips / 'empty.pt'}": "does not fit the vision tower|empty",
    }
    for name, says in cases.items():
        with pytest.raises(CossError, match=says) as caught:
            load_model(name)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_folder_of_transformers_is_measured_and_its_reading_is_in_the_record(
    tmp_path: Path, bench: Bench
) -> None:
    drawn("dinov2").save_pretrained(tmp_path / "net")
    options = ("--dataset", "parts", "--suite", "clean,occlusion", "--limit", "40")
    options += ("--probe-train", "100", "--results", tmp_path / "results")
    done = bench("eval", tmp_path / "net", *options)
    assert done.code == 0, done.err
    (path,) = (tmp_path / "results").rglob("clean.json")
    model = json.loads(path.read_text())["model"]
    assert model["reading"]["pooling"] == "class"
    assert model["reading"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    written = ("--results", tmp_path / "results", "--out", tmp_path / "b.zip")
    assert bench("submit", tmp_path / "net", *written).code == 0
    verified = bench("verify", tmp_path / "b.zip", "--encoder", tmp_path / "net")
    assert verified.code == 0, verified.out
    before = path.stat().st_mtime_ns
    assert bench("eval", tmp_path / "net", *options).code == 0
    assert path.stat().st_mtime_ns == before  # up to date


def test_the_package_without_extras_imports_none_of_their_packages() -> None:
    """What is imported at the top of any module here must be an unconditional dependency."""
    import ast

    extras = {"timm", "transformers", "huggingface_hub", "open_clip", "ray", "onnx", "weasyprint"}
    for path in (ROOT / "robustbench_coss").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not {name.partition(".")[0] for name in names} & extras, path


def test_pooling_and_normalisation_can_be_asked_for(tmp_path: Path) -> None:
    drawn("dinov2").save_pretrained(tmp_path / "net")
    colours: dict[str, Any] = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    plain, asked = load_model(tmp_path / "net"), load_model(tmp_path / "net", **colours)
    assert (asked.encoder.input.mean, asked.encoder.input.std) == (colours["mean"], colours["std"])
    assert asked.sha256 != plain.sha256
    assert asked.metadata["reading"]["mean"] == list(colours["mean"])
    mean = load_model(tmp_path / "net", pooling="mean")
    assert mean.metadata["reading"]["pooling"] == "mean"
    with pytest.raises(CossError, match="leave out --heads"):
        load_model(tmp_path / "net", heads=4)
    timm.models.save_for_hf(timm.create_model("resnet10t", num_classes=0), tmp_path / "timm")
    with pytest.raises(CossError, match="leave out --pooling"):
        load_model(tmp_path / "timm", pooling="mean")
