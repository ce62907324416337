"""The stream of a run's events, read by the real client from a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update

from backend.app import create_app
from backend.db import Database, now
from backend.db.models import Token
from backend.routes.events import StreamCursor
from backend.settings import Settings
from client import ApiError, Client, ServerEvent
from core.protocol.public import LogLine, MetricsReply, RunProgress
from tests.backend import rows
from tests.backend.conftest import ADMIN_TOKEN
from tests.services import free_port


@pytest.fixture
def app(settings: Settings, database: Database) -> FastAPI:
    return create_app(settings.model_copy(update={"allowed_hosts": ("127.0.0.1",)}))


@contextmanager
def _served(app: FastAPI) -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, ws="none", log_config=None, timeout_graceful_shutdown=20))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        url = f"http://127.0.0.1:{port}"
        with Client(url, ADMIN_TOKEN) as client:
            while not client.ready():
                assert thread.is_alive()
        yield url
    finally:
        app.state.stopping.set()
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(app: FastAPI) -> Iterator[Client]:
    with _served(app) as url, Client(url, ADMIN_TOKEN) as client:
        yield client


def _until(events: Iterator[ServerEvent], kind: str) -> ServerEvent:
    return next(event for event in events if event.event == kind)


def test_stream_of_an_ended_run_is_complete_and_ends(database: Database, client: Client) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, rows.metrics(10, {"x": 1.0}), rows.log("one", 2), rows.log("two", 3))
    rows.change(database, run_id, state="failed", reason="it broke", step=10, total_steps=40)
    events = list(client.events(run_id))
    assert [(event.event, event.id) for event in events] == [
        ("state", "0-0"),
        ("metrics", "1-0"),
        ("log", "1-1"),
        ("log", "1-2"),
        ("end", "1-2"),
    ]
    progress = RunProgress.model_validate_json(events[0].data)
    assert (progress.run_id, progress.state, progress.reason) == (run_id, "failed", "it broke")
    assert (progress.step, progress.total_steps) == (10, 40)
    assert MetricsReply.model_validate_json(events[1].data).series[0].value == [1.0]
    assert LogLine.model_validate_json(events[2].data).message == "one"
    assert events[4].data == events[0].data


def test_stream_of_a_running_run_sends_each_change_once(database: Database, client: Client) -> None:
    run_id = rows.one_run(database)
    events = client.events(run_id)
    assert RunProgress.model_validate_json(next(events).data).state == "waiting"
    rows.change(database, run_id, state="running", attempt=1)
    assert RunProgress.model_validate_json(_until(events, "state").data).state == "running"
    rows.insert_records(database, run_id, rows.metrics(10, {"x": 1.0}))
    assert MetricsReply.model_validate_json(_until(events, "metrics").data).series[0].step == [10]
    rows.insert_records(
        database, run_id, rows.metrics(5, {"x": 0.5})
    )  # a late point is sent too, and nothing is sent twice
    assert MetricsReply.model_validate_json(_until(events, "metrics").data).series[0].step == [5]
    rows.insert_records(database, run_id, rows.log("hello"))
    assert LogLine.model_validate_json(_until(events, "log").data).message == "hello"
    rows.change(database, run_id, state="succeeded")
    assert [event.event for event in events] == ["state", "end"]


def test_stream_continues_after_the_last_event_id(database: Database, client: Client) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, rows.metrics(10, {"x": 1.0}), rows.log("one", 2))
    rows.insert_records(database, run_id, rows.metrics(20, {"x": 2.0}), rows.log("two", 3))
    rows.change(database, run_id, state="succeeded")
    first = next(event for event in client.events(run_id) if event.event == "log")
    assert first.id == "2-1"
    rest = list(client.events(run_id, last_event_id=first.id))
    assert [event.event for event in rest] == ["state", "log", "end"]
    assert LogLine.model_validate_json(rest[1].data).message == "two"
    assert [event.event for event in client.events(run_id, last_event_id="no position")][1] == "metrics"


def test_stream_sends_every_line_of_a_long_log(database: Database, client: Client) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, *(rows.log(f"line {number}", number) for number in range(1, 1202)))
    rows.change(database, run_id, state="cancelled")
    events = list(client.events(run_id))
    assert [event.event for event in events].count("log") == 1201
    assert events[-1].event == "end"


def test_stream_ends_when_the_server_stops(database: Database, app: FastAPI) -> None:
    run_id = rows.one_run(database)
    with _served(app) as url, Client(url, ADMIN_TOKEN) as client:
        events = client.events(run_id)
        assert next(events).event == "state"
        app.state.stopping.set()
        assert list(events) == []


def test_waiting_stream_holds_no_database_connection(database: Database, app: FastAPI, client: Client) -> None:
    run_id = rows.one_run(database)
    streams = [client.events(run_id) for _ in range(3)]
    assert [next(stream).event for stream in streams] == ["state"] * 3
    served: Database = app.state.database
    pool: Any = served.engine.pool
    seen = {pool.checkedout() for _ in range(200)}
    assert min(seen) <= (1 if served.is_sqlite else 0)  # the writer of SQLite keeps one


@pytest.mark.parametrize("query", [{"since": 10**30}, {"after": 10**30}, {"since": -1}, {"max_points": 0}])
def test_stream_query_out_of_range_is_refused(database: Database, app: FastAPI, query: dict[str, int]) -> None:
    run_id = rows.one_run(database)
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    with TestClient(app, base_url="http://127.0.0.1", headers=headers) as client:
        reply = client.get(f"/api/v1/runs/{run_id}/events", params=query)
    assert reply.status_code == 422
    assert [error["path"] for error in reply.json()["errors"]] == list(query)


def test_stream_requires_a_token(database: Database, app: FastAPI) -> None:
    with TestClient(app, base_url="http://127.0.0.1") as anybody:
        assert anybody.get(f"/api/v1/runs/{rows.one_run(database)}/events").status_code == 401


@pytest.mark.parametrize("text", ["", "1", "-1-2", "1-2-3", "a-b", "9" * 30 + "-1", "1-2\n"])
def test_invalid_cursor_is_refused(text: str) -> None:
    assert StreamCursor.parse(text) is None


def test_cursor_is_parsed_from_its_text() -> None:
    assert StreamCursor.parse(str(StreamCursor(17, 4))) == StreamCursor(17, 4)


def _revoke(client: Client, token_id: str) -> None:
    client.revoke_token(token_id)


def _expire(database: Database, token_id: str) -> None:
    with database.write() as session:
        session.execute(update(Token).where(Token.id == token_id).values(expires_at=now(session)))


@pytest.mark.parametrize("over", ["revoked", "expired"])
def test_a_stream_ends_with_its_token(database: Database, client: Client, over: str) -> None:
    run_id = rows.one_run(database)
    made = client.create_token("for a while", ["read"])
    with Client(client.url, made.token) as reader:
        events = reader.events(run_id)
        assert next(events).event == "state"
        _revoke(client, made.id) if over == "revoked" else _expire(database, made.id)
        rows.insert_records(database, run_id, rows.log("of later", 1))
        seen: list[str] = []
        thread = threading.Thread(target=lambda: seen.extend(event.event for event in events), daemon=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive(), "the stream goes on"
        assert "end" not in seen
        with pytest.raises(ApiError) as refused:
            next(reader.events(run_id))
        assert refused.value.status == 401


@pytest.mark.parametrize("over", ["revoked", "expired"])
def test_a_long_poll_ends_with_its_token(database: Database, client: Client, over: str) -> None:
    run_id = rows.one_run(database)
    made = client.create_token("for a while", ["read"])
    with httpx.Client(base_url=client.url, headers={"Authorization": f"Bearer {made.token}"}, timeout=50) as reader:
        address = f"/api/v1/runs/{run_id}/news"
        cursor = reader.get(address, params={"wait": 0}).json()["cursor"]
        timer = threading.Timer(
            0.5, lambda: _revoke(client, made.id) if over == "revoked" else _expire(database, made.id)
        )
        timer.start()
        # A request that waited for its timeout would be answered with 200 and no changes.
        assert reader.get(address, params={"cursor": cursor, "wait": 40}).status_code == 401
        timer.join()
