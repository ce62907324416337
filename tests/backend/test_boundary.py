"""The order of checks on every route: the token, the ids, the query, and only then the body."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from backend import routes
from backend.api.body_limits import limits
from backend.api.boundary import BoundedRoute
from backend.settings import Settings
from tests.backend.conftest import ADMIN_TOKEN, WORKER_TOKEN
from tests.backend.lab import Json, Lab, plain

ROUTES = [route for router in (*routes.API, *routes.ROOT) for route in router.routes]
NOT_ALLOWED = ("PUT", "/api/v1/runs")
SECURED = [("GET", "/metrics"), ("GET", "/nothing"), NOT_ALLOWED, ("POST", "/api/v1/nothing")]
PEOPLE = {"project": "detection", "person": "anna", "session": "0" * 16}
NAMES = {"run_id": "0" * 16, "token_id": "0" * 16, "worker_id": "worker-one", "key": "x", **PEOPLE}


@pytest.fixture
def database_url(tmp_path: Any, migrated_file: Any) -> str:
    """Return the URL of a SQLite database: these checks precede every query, so that PostgreSQL adds nothing."""
    path = tmp_path / "dkd.sqlite3"
    path.write_bytes(migrated_file.read_bytes())
    return f"sqlite:///{path}"


def operations(app: FastAPI) -> Iterator[tuple[str, str, Json]]:
    for path, methods in app.openapi()["paths"].items():
        for method, about in methods.items():
            yield method.upper(), path, about


async def sent(
    app: FastAPI, method: str, path: str, headers: dict[str, str], *chunks: bytes, leaves: bool = False
) -> tuple[int, int]:
    """Send a request whose body never ends.

    Args:
        leaves: Whether the client closes its connection after the last chunk.

    Returns:
        The status, and how many chunks the application requested.
    """
    receives, status = 0, 0

    async def receive() -> dict[str, Any]:
        nonlocal receives
        receives += 1
        if receives > len(chunks):
            if leaves:
                return {"type": "http.disconnect"}
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": chunks[receives - 1], "more_body": True}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    raw, _, query = path.partition("?")
    all_headers = {"Host": "testserver"} | headers
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": raw,
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in all_headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    return status, receives


def test_every_route_is_bounded_and_every_body_has_a_limit() -> None:
    assert all(isinstance(route, BoundedRoute) for route in ROUTES if isinstance(route, APIRoute))
    table = limits(Settings())
    takes = [
        route.path
        for route in ROUTES
        if isinstance(route, APIRoute) and (route.body_field or "requestBody" in (route.openapi_extra or {}))
    ]
    assert set(takes) == set(table)


def test_body_is_not_read_without_a_token(lab: Lab) -> None:
    """This includes unknown routes and methods."""
    secured = [(method, path) for method, path, about in operations(lab.app) if about.get("security")]
    assert len(secured) > 45
    for method, path in [*secured, *SECURED]:
        for token in ({}, {"Authorization": "Bearer wrong"}):
            headers = token | {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
            status, receives = asyncio.run(sent(lab.app, method, path.replace("{run_id}", "x"), headers, b"[" * 1000))
            expected = 404 if "nothing" in path else 405 if (method, path) == NOT_ALLOWED else 401
            assert (status, receives) == (expected, 0), (method, path)


def test_body_is_not_read_without_the_scope(lab: Lab) -> None:
    for method, path, about in operations(lab.app):
        if about.get("security") and "requestBody" in about:
            other = ADMIN_TOKEN if path.startswith("/api/v1/worker/") else WORKER_TOKEN
            headers = {"Authorization": f"Bearer {other}", "Content-Type": "application/json"}
            assert asyncio.run(sent(lab.app, method, path, headers, b"[")) == (403, 0), path


def test_overlong_or_missing_body_is_refused_on_every_route(make_lab: Any) -> None:
    lab = make_lab(body_seconds=0.05, max_upload_bytes=4096)
    bodies = 0
    for method, path, about in operations(lab.app):
        if "requestBody" not in about:
            continue
        bodies += 1
        token = WORKER_TOKEN if path.startswith("/api/v1/worker/") else ADMIN_TOKEN
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        address = path.format(**NAMES) + "?name=x" * ("uploads" in path)
        for announced in ("99999999", "9" * 30):
            long = headers | {"Content-Length": announced}
            assert asyncio.run(sent(lab.app, method, address, long, b"[")) == (413, 0), path
        chunks = [b" " * 1_000_000] * 12
        status, receives = asyncio.run(sent(lab.app, method, address, headers, *chunks))
        assert status == 413, path
        assert receives <= 9
        assert asyncio.run(sent(lab.app, method, address, headers, b"["))[0] == 408, path
    assert bodies >= 15


def test_client_that_disconnects_during_its_body_causes_no_error(lab: Lab) -> None:
    for method, path, about in operations(lab.app):
        if "requestBody" in about:
            token = WORKER_TOKEN if path.startswith("/api/v1/worker/") else ADMIN_TOKEN
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            address = path.format(**NAMES) + "?name=x" * ("uploads" in path)
            status, _ = asyncio.run(sent(lab.app, method, address, headers, b"[", leaves=True))
            assert status < 500, path


ELSE = {
    "worker_id": "worker-one",
    "artifact_id": "0123456789abcdef",
    "sha256": "0" * 64,
    "token_id": "0" * 16,
    "item": "12",
    "name": "search",
    "layout": "paper",
    **PEOPLE,
}


def test_malformed_id_is_404_on_every_route(lab: Lab) -> None:
    """A backend that removed the invalid characters would use another run."""
    lab.register()
    experiment = lab.submit(plain("victim", runs=2))
    claim = lab.claim()
    run_id = claim["run_id"]
    ended = lab.submit(plain("ended"))
    lab.cancel(ended["runs"][0]["id"])
    known = ELSE | {"run_id": ended["runs"][0]["id"], "key": "ended"}
    base = {name: value for name, value in plain().items() if name != "name"}
    sweep = {"name": ELSE["name"], "experiment": base, "grid": {"training.optimizer.lr": [0.01, 0.1]}}
    assert lab.admin.post("/api/v1/sweeps", json=sweep).status_code == 201
    assert lab.admin.get(f"/api/v1/sweeps/{ELSE['name']}").status_code == 200
    board = {"name": ELSE["layout"], "layout": {"figures": []}}
    assert lab.admin.post("/api/v1/layouts", json=board).status_code == 201
    before = [lab.run(run_id), lab.experiment("ended"), lab.experiment("victim")]
    malformed = ["{0}%00{1}", "%00{0}{1}", "{0}{1}%00", "{0}{1}%0A", "{0}{1}%FF", "{0}%ED%A0%80{1}", "{0}%C0%80{1}"]
    tried = 0
    for method, path, _ in operations(lab.app):
        for name in re.findall(r"{(\w+)}", path):
            half = len(known[name]) // 2
            for form in malformed:
                address = path
                for other, value in known.items():
                    segment = form.format(value[:half], value[half:]) if other == name else value
                    address = address.replace(f"{{{other}}}", segment)
                client = lab.worker if path.startswith("/api/v1/worker/") else lab.admin
                answer = client.request(method, address)
                assert answer.status_code == 404, (method, address, answer.text)
                assert answer.headers["content-type"] == "application/problem+json"
                tried += 1
    assert tried > 200
    assert [lab.run(run_id), lab.experiment("ended"), lab.experiment("victim")] == before
    assert experiment["id"] == before[2]["id"]


@pytest.mark.parametrize(
    "run_id",
    [ADMIN_TOKEN, "x" * 4000, "06H2D3D0000000AB", "0" * 15, "0" * 17, "iiiiiiiiiiiiiiii", "..", "%2e%2e", "0-0"],
)
def test_malformed_run_id_is_404_and_not_repeated(lab: Lab, run_id: str) -> None:
    for path in (f"/api/v1/runs/{run_id}/logs", f"/api/v1/exports/runs/{run_id}", f"/api/v1/runs/{run_id}/artifacts"):
        answer = lab.admin.get(path)
        assert answer.status_code == 404
        assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/v1/runs", "text=a%00b"),
        ("/api/v1/runs", "id=%00"),
        ("/api/v1/runs", "cursor=%ff"),
        ("/api/v1/experiments", "tag=%00&tag=b"),
        ("/api/v1/experiments", "sweep=%ED%A0%80"),
        ("/api/v1/comparisons", "experiment=%00"),
        ("/api/v1/exports/experiment", "experiment=a%00"),
    ],
)
def test_query_parameter_with_invalid_characters_is_refused(lab: Lab, path: str, query: str) -> None:
    answer = lab.admin.get(f"{path}?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == query.partition("=")[0]


def test_header_with_a_control_character_is_refused(lab: Lab) -> None:
    for name in ("Idempotency-Key", "Last-Event-ID", "Range", "If-Range"):
        answer = lab.admin.post("/api/v1/experiments", json=plain(), headers={name.encode(): b"a\x9bb"})
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, name.lower())
    assert lab.experiments() == []
