"""Webhooks: recipients, contents, signatures, repetition after failures, and hosts that the settings allow."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from backend.db import Database, models, now
from tests.backend import rows
from tests.backend.lab import Json, Lab, plain
from tests.waiting import until


class Receiver:
    """A web server on the loopback address that records its requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((dict(self.headers), body))
                self.send_response(receiver.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"

    def bodies(self) -> list[Json]:
        return [json.loads(body) for _, body in self.requests]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable delivery in the background, which would race with the test's."""

    async def nothing(*_: object) -> None:
        return

    monkeypatch.setattr("backend.operations.webhooks.Webhooks.run_until", nothing)


@pytest.fixture
def lab(quiet: None, make_lab: Callable[..., Lab], receiver: Receiver) -> Lab:
    lab = make_lab(webhook_hosts=(receiver.origin,), webhook_secret="geheim", stalled_minutes=10)
    lab.register()
    return lab


def test_end_of_an_experiment_sends_one_signed_message(lab: Lab, receiver: Receiver) -> None:
    made = lab.submit(plain("mine", webhook=f"{receiver.origin}/hook"))
    assert lab.app.state.webhooks.run_once() == 0
    lab.succeed(lab.claim())
    assert [lab.app.state.webhooks.run_once() for _ in range(2)] == [1, 0]
    ((headers, body),) = receiver.requests
    message = json.loads(body)
    assert (message["event"], message["experiment_id"], message["counts"]) == ("finished", made["id"], {"succeeded": 1})
    assert message["text"] == "mine: finished (1 succeeded)"
    parts = dict(part.split("=") for part in headers["DKD-Signature"].split(","))
    expected = hmac.new(b"geheim", parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert parts["v1"] == expected


def test_failure_and_the_end_after_a_retry_each_send_a_message(lab: Lab, receiver: Receiver) -> None:
    made = lab.submit(plain("mine", webhook=receiver.origin))
    lab.finish(lab.claim(), "failed", reason="NaN")
    lab.app.state.webhooks.run_once()
    lab.retry(made["runs"][0]["id"])
    lab.app.state.webhooks.run_once()
    lab.succeed(lab.claim())
    lab.app.state.webhooks.run_once()
    assert [body["event"] for body in receiver.bodies()] == ["failed", "finished"]


def test_training_without_reports_is_stalled(lab: Lab, database: Database, receiver: Receiver) -> None:
    made = lab.submit(plain("mine", webhook=receiver.origin))
    claim = lab.claim()
    assert lab.app.state.webhooks.run_once() == 0
    with database.read() as session:
        before = now(session) - timedelta(minutes=11)
    rows.change(database, made["runs"][0]["id"], started_at=before)
    assert [lab.app.state.webhooks.run_once() for _ in range(2)] == [1, 0]
    lab.events(claim, {"seq": 1, "time": 1.0, "event": {"type": "log", "message": "alive"}})
    assert lab.app.state.webhooks.run_once() == 0
    rows.change(database, made["runs"][0]["id"], reported_at=before)
    lab.app.state.webhooks.run_once()
    assert [body["event"] for body in receiver.bodies()] == ["stalled", "stalled"]


@pytest.mark.parametrize("status", [500, 302])
def test_failed_delivery_is_repeated_later_and_finally_abandoned(
    lab: Lab, database: Database, receiver: Receiver, status: int
) -> None:
    receiver.status = status
    lab.submit(plain("mine", webhook=receiver.origin))
    lab.succeed(lab.claim())
    waits: list[float] = []
    for _ in range(8):
        lab.app.state.webhooks.run_once()
        with database.write() as session:
            message = session.query(models.WebhookDelivery).one()
            waits.append(round((message.not_before - now(session)).total_seconds(), -1))
            message.not_before = now(session)
    assert len(receiver.requests) == 6, "once, and five times again"
    assert waits[:3] == [10, 60, 300]
    assert (message.done, message.error) == (True, f"status {status}")
    assert len({body["id"] for body in receiver.bodies()}) == 1


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/x", "https://127.0.0.1", "http://user:pw@127.0.0.1", "ftp://x"]
)
def test_spec_with_an_unlisted_webhook_host_is_refused(lab: Lab, url: str) -> None:
    answer = lab.admin.post("/api/v1/experiments", json=plain("mine", webhook=url))
    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == ["webhook"]


def test_default_webhook_gets_every_experiment(quiet: None, make_lab: Callable[..., Lab], receiver: Receiver) -> None:
    lab: Any = make_lab(webhook_url=f"{receiver.origin}/all")
    lab.submit(plain("mine"))
    lab.cancel_experiment("mine")
    lab.app.state.webhooks.run_once()
    lab.submit(plain("other"))
    lab.register()
    lab.succeed(lab.claim())
    lab.app.state.webhooks.run_once()
    assert [body["experiment"] for body in receiver.bodies()] == ["other"], "who cancels knows it"
    assert "DKD-Signature" not in receiver.requests[0][0]


def test_a_backend_of_a_copied_database_sends_nothing(
    make_lab: Callable[..., Lab], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.operations.webhooks._PERIOD_SECONDS", 0.01)
    sending = {"webhook_hosts": (receiver.origin,), "stalled_minutes": 10}
    silent = make_lab(**sending, send_webhooks=False)
    silent.register()
    silent.submit(plain("mine", webhook=receiver.origin))
    silent.succeed(silent.claim())
    assert silent.admin.portal is not None
    silent.admin.portal.call(silent.app.state.webhooks.run_until, asyncio.Event())  # it returns at once
    assert receiver.bodies() == []
    make_lab(**sending)
    until(receiver.bodies, "the message of a backend that sends")
