"""Published checkpoints by name: the list, and downloads that are resumed and checked."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.bench import Bench
from torchvision.models import resnet18

from robustbench_coss.errors import CossError
from robustbench_coss.models.load import load_model
from robustbench_coss.zoo import download
from robustbench_coss.zoo.download import file_of
from robustbench_coss.zoo.entries import FILE, Entry, entries

BODY = bytes(range(256)) * 40_000  # 10 MB, ten chunks


@dataclass
class Server:
    """A file server on this machine, which can be told to fail."""

    url: str = ""
    body: bytes = BODY
    etag: str = '"one"'
    cut_after: int | None = None
    status: int = 200
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            told.asked.append(wanted)
            if told.status != 200:
                self.send_error(told.status)
                return
            start = 0
            if wanted and self.headers.get("If-Range") == told.etag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(told.body) - start))
            self.send_header("ETag", told.etag)
            self.end_headers()
            end = len(told.body) if told.cut_after is None else told.cut_after
            self.wfile.write(told.body[start:end])

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    told.url = f"http://127.0.0.1:{http.server_port}/net.pth"
    yield told
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("http_proxy", raising=False)
    return tmp_path / "cache" / "robustbench-coss" / "zoo" / "net"


def entry(source: str, **more: str) -> Entry:
    stated = {"name": "net", "method": "dino", "arch": "ResNet-18", "paper": "2104.14294"}
    return Entry(**stated, licence="MIT", parameters="11M", source=source, checked="here", **more)


def digests(body: bytes) -> tuple[str, str]:
    return hashlib.sha256(body).hexdigest(), hashlib.md5(body, usedforsecurity=False).hexdigest()


# ---- the list ----


def test_the_list_says_where_everything_in_it_was_read() -> None:
    found = list(entries(FILE).values())
    assert len(found) >= 30
    assert len({e.source for e in found}) == len(found)
    for e in found:
        assert e.source.startswith("https://")
        pattern = r"(facebookresearch|open-mmlab)/[\w-]+@[0-9a-f]{12} .+"
        assert re.fullmatch(pattern, e.checked), e.name
        assert e.licence in ("Apache-2.0", "CC-BY-NC-4.0", "MIT")
        assert e.command == f"coss-bench eval zoo:{e.name} --dataset imagenet"
    # As their publishers' READMEs have them, at the commits named.
    known = {e.name: e.digest for e in found if e.digest[0]}
    assert known["mocov2-resnet50-800ep"] == ("md5", "a04e12f8")
    assert known["mae-vitb16"] == ("md5", "8cad7c")
    # OpenMMLab's publish_model.py: NAME_DATE-XXXXXXXX.pth by the SHA-256 of the file.
    theirs = [e for e in found if "openmmlab" in e.source]
    assert len(theirs) == 16
    for e in theirs:
        assert e.digest == ("sha256", e.source[-12:-4]), e.name


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("ResNet-50", "resnet50"),
        ("ViT-S/16", "vit_small_patch16_224"),
        ("ViT-B/16", "vit_base_patch16_224"),
        ("ViT-L/16", "vit_large_patch16_224"),
        ("ViT-H/14", "vit_huge_patch14_224"),
    ],
)
def test_parameters_are_those_of_timms_network(arch: str, name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    millions = sum(p.numel() for p in network.parameters()) // 10**6
    assert {e.parameters for e in entries(FILE).values() if e.arch == arch} == {f"{millions}M"}


def test_the_command_lists_all_and_tells_all_of_one(bench: Bench) -> None:
    told = bench("zoo")
    assert told.code == 0
    for name in entries(FILE):
        assert name in told.out
    one = bench("zoo", "simsiam-resnet50-100ep")
    assert "licence: CC-BY-NC-4.0\n" in one.out
    assert "paper: https://arxiv.org/abs/2011.10566\n" in one.out
    assert "parameters: 23M\n" in one.out
    wrong = bench("zoo", "dino-vits61")
    assert (wrong.code, wrong.err.count("\n")) == (1, 1)
    assert "did you mean dino-vits16" in wrong.err


@pytest.mark.parametrize(
    "text", ["- name: x", "- 3", "{", "- name: NET\n  source: ftp://x", "a: b"]
)
def test_a_damaged_list_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.yaml").write_text(text)
    with pytest.raises(CossError, match="is damaged") as caught:
        entries(tmp_path / "list.yaml")
    assert "\n" not in str(caught.value)


# ---- downloads ----


@pytest.mark.parametrize("kind", ["sha256", "the first of sha256", "md5", ""])
def test_a_file_is_downloaded_once_and_held_to_what_is_published(
    server: Server, cache: Path, kind: str
) -> None:
    sha256, md5 = digests(BODY)
    stated = {
        "sha256": {"sha256": sha256},
        "the first of sha256": {"sha256": sha256[:8]},
        "md5": {"md5": md5[:6]},
        "": {},
    }[kind]
    seen: list[tuple[int, int | None]] = []
    path = file_of(entry(server.url, **stated), lambda done, total: seen.append((done, total)))
    assert path == cache / "net.pth"
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert file_of(entry(server.url, **stated)) == path
    assert server.asked == [None]
    assert [p.name for p in cache.iterdir()] == ["net.pth"]  # nothing half, no lock


def test_a_download_that_was_cut_off_goes_on_where_it_ended(server: Server, cache: Path) -> None:
    server.cut_after = 3_000_000
    with pytest.raises(CossError, match="cut off after 3,000,000 of 10,240,000 bytes"):
        file_of(entry(server.url))
    assert not (cache / "net.pth").exists()
    server.cut_after = None
    assert file_of(entry(server.url)).read_bytes() == BODY
    assert server.asked == [None, "bytes=3000000-"]


def test_a_file_that_changed_meanwhile_is_downloaded_anew(server: Server) -> None:
    server.cut_after = 3_000_000
    with pytest.raises(CossError, match="cut off"):
        file_of(entry(server.url))
    server.cut_after, server.body, server.etag = None, BODY[::-1], '"two"'
    assert file_of(entry(server.url)).read_bytes() == BODY[::-1]


def test_another_file_than_was_published_is_removed_and_refused(
    server: Server, cache: Path
) -> None:
    sha256, _ = digests(BODY + b"more")
    for _ in range(2):
        with pytest.raises(CossError, match=f"its publisher states {sha256}"):
            file_of(entry(server.url, sha256=sha256))
        assert list(cache.glob("net.pth*")) == []
    path = file_of(entry(server.url, md5=digests(BODY)[1]))
    path.write_bytes(b"changed in the cache")
    with pytest.raises(CossError, match="its publisher states"):
        file_of(entry(server.url, md5=digests(BODY)[1]))
    assert not path.exists()


def test_what_cannot_be_had_is_one_line_that_says_where_to_put_the_file(
    server: Server, cache: Path
) -> None:
    server.status = 404
    for source, says in (
        (server.url, "the server answers 404"),
        ("http://127.0.0.1:9/net.pth", "cannot be had"),
        ("http://no-such-host.invalid/net.pth", "cannot be had"),
        ("file:///nowhere/net.pth", "cannot be had"),
    ):
        with pytest.raises(CossError, match=says) as caught:
            file_of(entry(source))
        assert str(cache / "net.pth") in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_server_that_falls_silent_is_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SECONDS", 0.2)

    class Silent:
        headers: dict[str, str] = {"Content-Length": "10"}  # noqa: RUF012
        status = 200

        def __enter__(self) -> Silent:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, _: int) -> bytes:
            raise TimeoutError

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Silent())
    with pytest.raises(CossError, match="cut off after 0 of 10 bytes"):
        file_of(entry(server.url))


def test_a_published_checkpoint_is_measured_by_its_name(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = resnet18().eval()
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    torch.save(state, tmp_path / "net.pth")
    sha256 = digests((tmp_path / "net.pth").read_bytes())[0]
    listed = entry((tmp_path / "net.pth").as_uri(), sha256=sha256)
    monkeypatch.setattr("robustbench_coss.zoo.entries.entries", lambda _: {"net": listed})
    found = load_model("zoo:net", size=64)
    assert found.name == "net"
    assert found.metadata["method"] == "dino"
    x = torch.rand(2, 3, 64, 64)
    network.fc = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        wanted = network(found.encoder.normalise(x))
        torch.testing.assert_close(found.encoder(x), wanted, rtol=1e-4, atol=1e-4)
    absent = bench("eval", "zoo:absent", "--dataset", "parts", "--results", tmp_path / "results")
    assert (absent.code, absent.err.count("\n")) == (1, 1)
    assert "the zoo has no 'absent'" in absent.err
