"""An artifact store in a bucket, against a real S3 server."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.object_store import ObjectStore, StoreError, parse_artifacts
from tests import services

FOLDER = "runs/abc/attempt-1"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with services.s3() as endpoint:
        yield endpoint


@pytest.fixture
def store(url: str) -> ObjectStore:
    store = ObjectStore(url)
    store.remove_folder("runs")
    return store


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_file_exists_once_the_manifest_names_it(store: ObjectStore, tmp_path: Path) -> None:
    entry = store.add(FOLDER, "weights.safetensors", write(tmp_path / "a", b"weights"))
    target = tmp_path / "deep" / "fetched"
    assert not store.fetch(f"{FOLDER}/weights.safetensors", target), "an object that no manifest names is no file"
    store.write_manifest(FOLDER, {"weights.safetensors": entry})
    assert store.fetch(f"{FOLDER}/weights.safetensors", target)
    assert target.read_bytes() == b"weights"
    assert store.manifest(FOLDER) == {"weights.safetensors": entry}
    assert store.read(f"{FOLDER}/{entry.object}", 2, 5) == b"igh"


@pytest.mark.parametrize("content", [b"weight", b"", b"WEIGHTS", b"weightsweights"])
def test_truncated_or_replaced_object_is_refused(store: ObjectStore, tmp_path: Path, content: bytes) -> None:
    entry = store.add(FOLDER, "weights", write(tmp_path / "a", b"weights"))
    store.write_manifest(FOLDER, {"weights": entry})
    store.put(write(tmp_path / "b", content), f"{FOLDER}/{entry.object}")
    target = write(tmp_path / "target", b"what was here before")
    with pytest.raises(StoreError, match="is not the file"):
        store.fetch(f"{FOLDER}/weights", target)
    assert target.read_bytes() == b"what was here before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "target"], "nothing half fetched is left"


@pytest.mark.parametrize(
    "manifest",
    [
        b'{"files": {"weights": {"object": "x", "si',
        b"[]",
        b'{"files": {"weights": {"object": "../../other/attempt-1/x", "size": 1, "sha256": ""}}}',
        b'{"files": {"weights": {"object": "x", "size": -1, "sha256": ""}}}',
    ],
)
def test_invalid_manifest_names_no_files(store: ObjectStore, tmp_path: Path, manifest: bytes) -> None:
    store.put(write(tmp_path / "m", manifest), f"{FOLDER}/manifest.json")
    assert store.manifest(FOLDER) == {}


def test_names_outside_of_the_folder_are_ignored(store: ObjectStore, tmp_path: Path) -> None:
    entry = {"object": "x", "size": 1, "sha256": "0"}
    names = ["../up", "/etc/passwd", "a/../../b", "", "fine", "deep/fine"]
    body = json.dumps({"files": dict.fromkeys(names, entry)}).encode()
    store.put(write(tmp_path / "m", body), f"{FOLDER}/manifest.json")
    assert sorted(store.manifest(FOLDER)) == ["deep/fine", "fine"]


def test_removing_a_run_keeps_runs_with_a_similar_name(store: ObjectStore, tmp_path: Path) -> None:
    for run in ("abc", "abcd"):
        store.put(write(tmp_path / "x", b"x"), f"runs/{run}/attempt-1/x")
    store.remove_folder("runs/abc")
    assert [key for key, _ in store.keys("runs")] == ["runs/abcd/attempt-1/x"]
    store.remove(["runs/none"])


@pytest.mark.slow
def test_large_file_is_uploaded_in_parts(store: ObjectStore, tmp_path: Path) -> None:
    content = bytes(range(256)) * (404 << 10)  # 101 MiB: more than s3fs sends at once
    entry = store.add(FOLDER, "large", write(tmp_path / "large", content))
    store.write_manifest(FOLDER, {"large": entry})
    assert store.fetch(f"{FOLDER}/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_missing_bucket_is_reported_in_one_sentence(tmp_path: Path, url: str) -> None:
    missing = ObjectStore("s3://no-such-bucket/prefix")
    with pytest.raises(StoreError, match="no-such-bucket/prefix"):
        missing.put(write(tmp_path / "a", b"a"), "key")
    assert missing.manifest(FOLDER) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/artifacts", Path("/srv/artifacts")),
        ("file:///srv/artifacts", Path("/srv/artifacts")),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("memory://x", "memory://x"),
    ],
)
def test_setting_is_a_folder_or_an_address(text: str, expected: Path | str) -> None:
    assert parse_artifacts(text) == expected


@pytest.mark.parametrize(
    "text", ["", "s3://", "s3://key:secret@bucket", "zip://a::s3://b", "nonsense://bucket", "s3://b?x=1", "s3://b/*"]
)
def test_invalid_setting_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"give a folder|^write s3|write |not supported by fsspec"):
        parse_artifacts(text)
