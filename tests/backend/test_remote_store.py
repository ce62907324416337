"""A backend whose artifact store is a bucket: list, download by range, upload, delete; no file on its own disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.object_store import ObjectStore
from tests import services
from tests.backend.lab import Json, Lab, plain
from tests.backend.test_files import UPLOADS, safetensors

CONTENT = bytes(range(100))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with services.s3() as url:
        yield url


@pytest.fixture
def store(bucket: str) -> ObjectStore:
    store = ObjectStore(bucket)
    for folder in ("runs", "uploads"):
        store.remove_folder(folder)
    return store


@pytest.fixture
def remote(make_lab: Callable[..., Lab], bucket: str) -> Lab:
    return make_lab(artifacts=bucket)


@pytest.fixture
def stored(remote: Lab, store: ObjectStore, tmp_path: Path) -> tuple[str, Json]:
    """Create a run with weights and with an object that no manifest names; return its id and the listed weights."""
    remote.register()
    remote.submit(plain())
    claim = remote.claim()
    (tmp_path / "file").write_bytes(CONTENT)
    entry = store.add(claim["folder"], "weights.safetensors", tmp_path / "file")
    store.write_manifest(claim["folder"], {"weights.safetensors": entry})
    store.put(tmp_path / "file", f"{claim['folder']}/torn")
    late = claim["folder"].replace("attempt-1", "attempt-9")
    store.write_manifest(late, {"late": store.add(late, "late", tmp_path / "file")})
    items = remote.admin.get(f"/api/v1/runs/{claim['run_id']}/artifacts").json()["items"]
    assert [(item["name"], item["size"], item["attempt"]) for item in items] == [("weights.safetensors", 100, 1)]
    return claim["run_id"], items[0]


@pytest.mark.parametrize(
    ("header", "status", "first", "last"),
    [
        ("", 200, 0, 99),
        ("bytes=10-19", 206, 10, 19),
        ("bytes=90-", 206, 90, 99),
        ("bytes=-5", 206, 95, 99),
        ("bytes=0-999", 206, 0, 99),
        ("bytes=9-3", 200, 0, 99),
        ("bytes=1-2,5-6", 200, 0, 99),
        ("bytes=100-", 416, 0, 0),
    ],
)
def test_requested_range_is_returned(
    remote: Lab, stored: tuple[str, Json], header: str, status: int, first: int, last: int
) -> None:
    run_id, item = stored
    url = f"/api/v1/runs/{run_id}/artifacts/{item['id']}"
    answer = remote.admin.get(url, headers={"Range": header} if header else {})
    assert answer.status_code == status
    if status == 416:
        return
    assert answer.content == CONTENT[first : last + 1]
    assert answer.headers["content-length"] == str(last + 1 - first)
    assert answer.headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert answer.headers.get("content-range") == (f"bytes {first}-{last}/100" if status == 206 else None)


def test_range_of_a_replaced_file_returns_the_whole_file(remote: Lab, stored: tuple[str, Json]) -> None:
    run_id, item = stored
    headers = {"Range": "bytes=10-19", "If-Range": '"of another"'}
    answer = remote.admin.get(f"/api/v1/runs/{run_id}/artifacts/{item['id']}", headers=headers)
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_deleted_experiment_deletes_its_objects(remote: Lab, stored: tuple[str, Json], store: ObjectStore) -> None:
    run_id, _ = stored
    remote.post_finish({"run_id": run_id, "attempt": 1}, "failed")
    assert remote.admin.delete("/api/v1/experiments/plain").status_code == 204
    assert list(store.keys("runs")) == []


def test_uploaded_weights_are_stored_in_the_bucket(remote: Lab, store: ObjectStore) -> None:
    made = remote.admin.post(UPLOADS, params={"name": "mine"}, content=safetensors())
    assert made.status_code == 201, made.text
    sha256 = made.json()["sha256"]
    assert [key for key, _ in store.keys("uploads")] == [f"uploads/{sha256}.safetensors"]
    assert remote.admin.post(UPLOADS, params={"name": "other"}, content=safetensors()).status_code == 409
    assert remote.admin.post(UPLOADS, params={"name": "mine"}, content=safetensors(1)).status_code == 409
    assert [key for key, _ in store.keys("uploads")] == [f"uploads/{sha256}.safetensors"], "a refused one is not kept"
    assert remote.admin.delete(f"{UPLOADS}/mine").status_code == 204
    assert list(store.keys("uploads")) == []


def test_unavailable_store_is_a_503(make_lab: Callable[..., Lab], stored: tuple[str, Json]) -> None:
    run_id, _ = stored
    lab = make_lab(artifacts="s3://no-such-bucket/x")
    answer = lab.admin.post(UPLOADS, params={"name": "mine"}, content=safetensors())
    assert answer.status_code == 503
    assert "artifact store" in answer.json()["detail"]
    assert lab.admin.get(f"/api/v1/runs/{run_id}/artifacts").json()["items"] == []
