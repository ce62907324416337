"""Weights by address: the Hugging Face Hub through a local mirror, and files with a hash through the cache."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from core.settings import TrainingSettings
from core.specs import SpecError, parse_experiment
from core.tasks.classification.models import weight_sources
from core.tasks.classification.models.weight_sources import local_file
from core.weights.errors import WeightsError

hub = pytest.importorskip("huggingface_hub.constants")
COMMIT = "a" * 40
CONTENT = b"the weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Mirror:
    """A mirror of the Hub on this machine: its files by path, and the requests that it got.

    Attributes:
        files: Content by path, such as ``/owner/name/resolve/main/model.safetensors``.
        requests: Method and path of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                mirror.requests.append((self.command, self.path))
                content = mirror.files.get(self.path)
                self.send_response(404 if content is None else 200)
                if content is None:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content or b"")

            do_GET = do_HEAD = answer  # noqa: N815 (http.server names it)

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    mirror = Mirror()
    monkeypatch.setenv("HF_ENDPOINT", mirror.url)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield mirror
    mirror.close()


def _settings(tmp_path: Path, **changes: Any) -> TrainingSettings:
    return TrainingSettings(cache_dir=tmp_path / "cache", **{"download": True, **changes})


def _read(source: str, settings: TrainingSettings, sha256: str | None = None) -> bytes:
    with local_file(source, sha256, settings) as path:
        return path.read_bytes()


def test_a_file_of_the_hub_is_downloaded_once_and_then_read_offline(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["/owner/name/resolve/main/model.safetensors"] = CONTENT
    assert _read("hf://owner/name", _settings(tmp_path), SHA256) == CONTENT
    assert [path for method, path in mirror.requests if method == "GET"] == [
        "/owner/name/resolve/main/model.safetensors"
    ]
    mirror.requests.clear()
    assert _read("hf://owner/name", _settings(tmp_path, download=False)) == CONTENT
    assert mirror.requests == []
    with pytest.raises(WeightsError, match="not the expected file"):
        _read("hf://owner/name", _settings(tmp_path, download=False), "0" * 64)


def test_an_address_may_name_a_revision_and_a_file(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["/owner/name/resolve/v1.0/sub/net.bin"] = CONTENT
    assert _read("hf://owner/name@v1.0/sub/net.bin", _settings(tmp_path)) == CONTENT
    mirror.files["/owner/old/resolve/main/pytorch_model.bin"] = CONTENT  # a repository without safetensors
    assert _read("hf://owner/old", _settings(tmp_path)) == CONTENT


def test_what_the_hub_lacks_is_named(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no model.safetensors and no pytorch_model.bin"):
        _read("hf://owner/name", _settings(tmp_path))
    with pytest.raises(WeightsError, match=r"has no other.bin"):
        _read("hf://owner/name/other.bin", _settings(tmp_path))


def test_offline_mode_is_honoured(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.files["/owner/name/resolve/main/model.safetensors"] = CONTENT
    with pytest.raises(WeightsError, match="DKD_DOWNLOAD=1"):
        _read("hf://owner/name", _settings(tmp_path, download=False))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        _read("hf://owner/name", _settings(tmp_path))
    assert mirror.requests == []


def test_a_file_that_is_too_large_is_not_downloaded(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["/owner/name/resolve/main/model.safetensors"] = CONTENT
    with pytest.raises(WeightsError, match="DKD_MAX_WEIGHTS_GB"):
        _read("hf://owner/name", _settings(tmp_path, max_weights_gb=1e-9))
    assert "GET" not in [method for method, _ in mirror.requests]


def test_without_a_network_the_cache_is_used(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.files["/owner/name/resolve/main/model.safetensors"] = CONTENT
    _read("hf://owner/name", _settings(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert _read("hf://owner/name", _settings(tmp_path)) == CONTENT
    with pytest.raises(WeightsError, match="cannot fetch hf://owner/other"):
        _read("hf://owner/other", _settings(tmp_path))


def test_a_file_with_a_hash_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = {"content": CONTENT}
    fetched: list[str] = []

    def fetch(source: str, path: Path, settings: TrainingSettings) -> None:
        fetched.append(source)
        path.write_bytes(served["content"])

    monkeypatch.setattr(weight_sources, "_fetch", fetch)
    source, settings = "https://weights.example/a.bin", _settings(tmp_path)
    served["content"] = b"something else"
    with pytest.raises(WeightsError, match="not the expected file"):
        _read(source, settings, SHA256)
    served["content"] = CONTENT
    assert _read(source, settings, SHA256) == CONTENT
    assert _read("https://mirror.example/b.bin", settings, SHA256) == CONTENT  # the hash is the name
    assert fetched == [source, source]
    (cached,) = (tmp_path / "cache" / "weights").iterdir()
    cached.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="not the expected file"):
        _read(source, settings, SHA256)
    served["content"] = b"of now"  # without a hash nothing is kept
    assert _read(source, settings) == b"of now"
    assert [path.name for path in (tmp_path / "cache" / "weights").iterdir()] == [SHA256]


@pytest.mark.parametrize(
    "source", ["hf://name", "hf://owner/name/../x", "hf://owner/name@/x", "hf://o/n?x", "hf://o n/m"]
)
def test_a_spec_refuses_an_address_of_another_form(source: str) -> None:
    fields: dict[str, Any] = {
        "name": "a",
        "dataset": "digits",
        "teacher": {"model": "resnet8", "weights": source},
        "student": {"model": "small_cnn"},
        "methods": ["kd"],
        "seeds": [0],
        "training": {"epochs": 1},
    }
    with pytest.raises(SpecError, match="hf://OWNER/NAME"):
        parse_experiment(fields)
    fields["teacher"]["weights"] = {"source": "hf://owner/name@main/model.safetensors", "sha256": SHA256}
    assert parse_experiment(fields).teacher is not None
