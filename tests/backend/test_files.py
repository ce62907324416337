"""Files: artifacts by id and range, uploaded weights, and no access by path."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.settings import Settings
from tests.backend.lab import Json, Lab, log, metrics, plain, spec, started

UPLOADS = "/api/v1/teachers/uploads"


def safetensors(value: int = 0, **changes: object) -> bytes:
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes
    header = json.dumps({"__metadata__": {"a": "b"}, "weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([value]) * 24


@pytest.fixture
def stored(lab: Lab, settings: Settings) -> tuple[str, dict[str, Json]]:
    """Create a run with files; return its id and the listed files by name."""
    lab.register()
    lab.submit(plain())
    claim = lab.claim()
    folder = Path(settings.artifacts, claim["folder"])
    (folder / "deep").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(range(100)))
    (folder / "deep" / "log.txt").write_text("hello")
    (folder / "link").symlink_to("/etc/passwd")
    (folder.parent / "attempt-9").mkdir()
    (folder.parent / "attempt-9" / "late").write_text("of an attempt that nobody knows")
    listed = lab.admin.get(f"/api/v1/runs/{claim['run_id']}/artifacts").json()["items"]
    return claim["run_id"], {item["name"]: item for item in listed}


def test_files_are_listed_and_downloaded_by_id(lab: Lab, stored: tuple[str, dict[str, Json]]) -> None:
    run_id, files = stored
    assert {name: item["size"] for name, item in files.items()} == {"weights.safetensors": 100, "deep/log.txt": 5}
    answer = lab.admin.get(f"/api/v1/runs/{run_id}/artifacts/{files['deep/log.txt']['id']}")
    assert (answer.status_code, answer.text) == (200, "hello")
    assert 'filename="log.txt"' in answer.headers["content-disposition"]


@pytest.mark.parametrize(
    ("header", "status", "first", "last"),
    [
        ("bytes=10-19", 206, 10, 19),
        ("bytes=90-", 206, 90, 99),
        ("bytes=-5", 206, 95, 99),
        ("bytes=0-999", 206, 0, 99),
        ("bytes=9-3", 200, 0, 99),
        ("lines=1-2", 200, 0, 99),
        ("bytes=1-2,5-6", 200, 0, 99),
        ("bytes=100-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
def test_requested_range_is_returned(
    lab: Lab, stored: tuple[str, dict[str, Json]], header: str, status: int, first: int, last: int
) -> None:
    run_id, files = stored
    url = f"/api/v1/runs/{run_id}/artifacts/{files['weights.safetensors']['id']}"
    answer = lab.admin.get(url, headers={"Range": header})
    assert answer.status_code == status
    if status == 416:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["content-range"] == "bytes */100"
        return
    assert answer.content == bytes(range(first, last + 1))
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {first}-{last}/100"


@pytest.mark.parametrize("key", ["..%2f..%2fdkd.sqlite3", "%2fetc%2fpasswd", "weights.safetensors", "%00", "link"])
def test_paths_instead_of_ids_are_404(lab: Lab, stored: tuple[str, dict[str, Json]], key: str) -> None:
    run_id, _ = stored
    assert lab.admin.get(f"/api/v1/runs/{run_id}/artifacts/{key}").status_code == 404
    assert lab.admin.get(f"/api/v1/runs/{key}/artifacts").status_code == 404


def test_a_teacher_is_uploaded_and_named_in_a_spec(lab: Lab, settings: Settings) -> None:
    first = lab.admin.post(UPLOADS, params={"name": "mine"}, content=safetensors())
    assert first.status_code == 201, first.text
    made = first.json()
    assert (made["tensors"], made["parameters"], made["submitted_by"]) == (1, 6, "admin")
    assert Path(settings.artifacts, "uploads", f"{made['sha256']}.safetensors").read_bytes() == safetensors()
    assert lab.admin.post(UPLOADS, params={"name": "mine"}, content=safetensors()).json() == made
    assert lab.admin.get(UPLOADS).json()["items"] == [made]

    def teacher(name: str, source: str) -> Json:
        run: Json = lab.submit(spec(name, teacher={"model": "resnet8", "weights": source}))["runs"][0]
        return run

    by_name, by_hash = teacher("a", "upload:mine"), teacher("b", f"upload:{made['sha256']}")
    assert by_name["id"] == by_hash["id"], "one file is one teacher"
    assert lab.run(by_name["id"])["spec"]["weights"]["source"] == f"upload:{made['sha256']}"
    refused = lab.admin.post("/api/v1/experiments", json=spec("c", teacher={"model": "resnet8", "weights": "upload:x"}))
    assert [error["path"] for error in refused.json()["errors"]] == ["teacher.weights.source"]

    assert lab.admin.delete(f"{UPLOADS}/mine").status_code == 409, "a run waits for it"
    for name in ("a", "b"):
        lab.cancel_experiment(name)
    assert lab.admin.delete(f"{UPLOADS}/mine").status_code == 204
    assert lab.admin.get(UPLOADS).json()["items"] == []
    assert list(Path(settings.artifacts, "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin"),
        (b"\x80\x02}q\x00." * 20, "does not begin"),
        (struct.pack("<Q", 20) + b"[" * 20 + b"x" * 10, "not JSON"),
        (struct.pack("<Q", 2) + b"{}", "has no tensors"),
        (struct.pack("<Q", 29) + b'{"__metadata__": {"x": [1]}}  ', "map names to texts"),
        (safetensors()[:-1], "bytes of tensors, but"),
        (safetensors() + b"x", "bytes of tensors, but"),
        (safetensors(shape=[2, 4]), "its shape needs"),
        (safetensors(dtype="OBJECT"), "does not describe a tensor"),
        (safetensors(data_offsets=[8, 32]), "gaps"),
        (safetensors(shape=[-2, -3]), "not a whole number"),
    ],
)
def test_invalid_safetensors_file_is_refused_and_removed(
    lab: Lab, settings: Settings, content: bytes, message: str
) -> None:
    answer = lab.admin.post(UPLOADS, params={"name": "bad"}, content=content)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]
    assert list(Path(settings.artifacts, "uploads").iterdir()) == []


def test_upload_has_its_own_size_limit_and_a_unique_name_and_content(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(max_body_bytes=1024, max_upload_bytes=2048)
    assert lab.admin.post(UPLOADS, params={"name": "big"}, content=b"x" * 3000).status_code == 413
    streamed = (b"x" * 1000 for _ in range(3))
    assert lab.admin.post(UPLOADS, params={"name": "big"}, content=streamed).status_code == 413
    assert lab.admin.post(UPLOADS, params={"name": "a"}, content=safetensors()).status_code == 201
    assert lab.admin.post(UPLOADS, params={"name": "b"}, content=safetensors()).status_code == 409
    assert lab.admin.post(UPLOADS, params={"name": "a"}, content=safetensors(1)).status_code == 409
    assert lab.admin.post(UPLOADS, params={"name": "../x"}, content=safetensors(1)).status_code == 422


def test_long_poll_returns_changes_and_ends_with_the_run(lab: Lab) -> None:
    lab.register()
    run_id = lab.submit(plain())["runs"][0]["id"]

    def news(cursor: str, wait: float = 0.0) -> Json:
        answer = lab.admin.get(f"/api/v1/runs/{run_id}/news", params={"cursor": cursor, "wait": wait})
        assert answer.status_code == 200, answer.text
        updates: Json = answer.json()
        return updates

    first = news("")
    assert (first["state"], first["ended"]) == ("queued", False)
    assert news(first["cursor"])["cursor"] == first["cursor"]
    claim = lab.claim()
    lab.events(claim, started(), metrics(2, 10, {"test/top1": 50.0}), log(3, "hello"))
    second = news(first["cursor"], wait=30)
    assert [series["name"] for series in second["metrics"]["series"]] == ["test/top1"]
    assert [line["message"] for line in second["lines"]] == ["hello"]
    assert news(second["cursor"])["metrics"]["series"] == []
    lab.succeed(claim)
    last = news(second["cursor"], wait=30)
    assert (last["state"], last["ended"], last["lines"]) == ("succeeded", True, [])
    assert lab.admin.get(f"/api/v1/runs/{run_id}/news?cursor=x").status_code == 422
    assert lab.admin.get("/api/v1/runs/none/news").status_code == 404
