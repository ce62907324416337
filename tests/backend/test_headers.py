"""The headers of every route of the API, of its errors, and of what the server answers without calling a route."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import headers
from tests.backend.conftest import TestClient
from tests.backend.lab import Lab, plain
from tests.backend.test_serving import answers, serve
from tests.services import free_port

PUBLIC = ("/healthz", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/docs/assets/swagger-ui.css")
STREAM = "/api/v1/runs/{run_id}/events"


@pytest.fixture
def database_url(tmp_path: Path, migrated_file: Path) -> str:
    shutil.copy(migrated_file, tmp_path / "dkd.sqlite3")
    return f"sqlite:///{tmp_path / 'dkd.sqlite3'}"


def requests(lab: Lab) -> Iterator[tuple[str, str]]:
    """Yield the method and the path of every route, once with ids that exist and once with others."""
    run_id = lab.submit(plain())["runs"][0]["id"]
    lab.cancel(run_id)
    for path, operations in lab.app.openapi()["paths"].items():
        for method in operations:
            for run, other in ((run_id, "plain"), ("0000000000000000", "none")):
                yield method.upper(), re.sub(r"\{\w+\}", other, path.replace("{run_id}", run))
    for path in (*PUBLIC, "/", "/nothing", "/api/v1/nothing", "/docs/assets/nothing"):
        for method in ("GET", "HEAD", "OPTIONS", "POST"):
            yield method, path


def test_every_answer_of_every_route_has_every_header(lab: Lab) -> None:
    anybody = TestClient(lab.app)
    statuses = set()
    count = 0
    for method, path in requests(lab):
        for client in (lab.admin, anybody):
            answer = client.request(method, path)
            count += 1
            statuses.add(answer.status_code)
            what = (method, path, answer.status_code)
            headers.check(answer.headers, what, data=path.startswith("/api/") or path == "/metrics")
    assert {200, 401, 404, 405, 422} <= statuses
    assert count > 200


def test_refusals_of_hosts_and_origins_have_every_header(lab: Lab) -> None:
    for name, value, status in (("Host", "evil.example", 400), ("Origin", "https://evil.example", 403)):
        for path in ("/api/v1/runs", "/docs", "/healthz", "/metrics"):
            answer = lab.admin.get(path, headers={name: value})
            assert answer.status_code == status
            headers.check(answer.headers, (name, path), data=path.startswith("/api/") or path == "/metrics")


def test_stream_has_every_header(lab: Lab) -> None:
    run_id = lab.submit(plain())["runs"][0]["id"]
    lab.cancel(run_id)
    answer = lab.admin.get(STREAM.replace("{run_id}", run_id))
    assert answer.headers["content-type"].startswith("text/event-stream")
    headers.check(answer.headers, STREAM)


def test_docs_pages_allow_their_own_scripts_by_hash_only(lab: Lab) -> None:
    for path in ("/docs", "/docs/oauth2-redirect"):
        answer = lab.admin.get(path)
        policy = headers.rules(answer.headers["content-security-policy"])
        assert "unsafe" not in policy["script-src"]
        scripts = re.findall(r"<script>", answer.text)
        assert scripts
        assert policy["script-src"].count("'sha256-") == len(scripts)
        assert "://" not in "".join(re.findall(r'(?:src|href)="([^"]+)"', answer.text)), "nothing of other servers"


def test_the_running_server_names_no_program(tmp_path: Path, database_url: str) -> None:
    """What the server itself answers: no HTTP, too long a head, an upgrade, an unknown route."""
    port = free_port()
    process = serve(tmp_path, port)
    try:
        assert answers(port, process)
        for path in ("/healthz", "/api/v1/runs", "/docs", "/docs/assets/swagger-ui.css", "/nothing"):
            headers.check(httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).headers, path, data=False)
        for request, status in (
            (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 80_000, 431),
            (headers.upgrade(port, "/api/v1/runs"), 401),
            (headers.upgrade(port, "/"), 404),
        ):
            got, answer = headers.raw_answer(port, request)
            assert got == status, request[:40]
            headers.check(answer, request[:40], data=False)
    finally:
        process.kill()
        process.wait()
