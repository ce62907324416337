"""The client of the worker protocol."""

from __future__ import annotations

import httpx
import pytest

from client import ApiError, BackendUnreachable, WorkerClient
from common.home import Home
from core.events import Log, Metrics, Record
from core.protocol.worker import EventBatch, Heartbeat, LeaseRenewal, Outcome, Registration
from tests.client import fakes
from tests.client.fakes import FakeBackend

WORKER = "worker-0001"


def make(backend: FakeBackend) -> WorkerClient:
    return WorkerClient("http://127.0.0.1:9", "scoped", transport=backend.transport())


def test_a_worker_registers_claims_reports_and_finishes() -> None:
    claim = {
        "run_id": "r",
        "attempt": 2,
        "spec": fakes.spec().plan()[1].spec.model_dump(mode="json"),
        "lease_seconds": 300,
        "folder": "runs/r/attempt-2",
    }
    base = f"/api/v1/worker/{WORKER}"
    backend = FakeBackend(
        {
            "POST /api/v1/worker/register": {"heartbeat_seconds": 10, "lease_seconds": 300},
            f"POST {base}/heartbeat": {"orders": [{"run_id": "r", "attempt": 2, "order": "cancel"}], "eligible": 1},
            f"POST {base}/claim": [{"claim": claim}, {"claim": None}],
            f"POST {base}/runs/r/events": {"accepted_seq": 2},
            f"POST {base}/runs/r/finish": httpx.Response(204),
        }
    )
    client = make(backend)
    registration = Registration(worker_id=WORKER, name="w", host="h", slots=2, device="cpu")
    assert client.register(registration).lease_seconds == 300
    assert backend.requests[-1].headers["Authorization"] == "Bearer scoped"
    first = client.claim(WORKER)
    assert first is not None
    assert first.attempt == 2
    assert client.claim(WORKER) is None
    reply = client.heartbeat(WORKER, Heartbeat(holding=[LeaseRenewal(run_id="r", attempt=2)]))
    assert reply.orders[0].order == "cancel"
    records = [
        Record(seq=1, time=0, event=Log(message="hello")),
        Record(seq=2, time=1, event=Metrics(step=1, epoch=0.5, elapsed=1, values={"train/loss": float("nan")})),
    ]
    assert client.send_events(WORKER, "r", EventBatch(attempt=2, records=records)) == 2
    assert backend.sent()["records"][1]["event"]["values"] == {"train/loss": "NaN"}
    client.finish(WORKER, "r", Outcome(attempt=2, outcome="failed", reason="out of memory"))
    assert backend.sent()["reason"] == "out of memory"


def test_an_old_attempt_is_refused() -> None:
    path = f"POST /api/v1/worker/{WORKER}/runs/r/finish"
    backend = FakeBackend({path: fakes.problem(409, "attempt 1 is over")})
    with pytest.raises(ApiError) as caught:
        make(backend).finish(WORKER, "r", Outcome(attempt=1, outcome="failed"))
    assert caught.value.status == 409


def test_a_refused_connection_is_not_repeated() -> None:
    backend = FakeBackend({f"POST /api/v1/worker/{WORKER}/claim": httpx.ConnectError("refused")})
    with pytest.raises(BackendUnreachable):
        make(backend).claim(WORKER)
    assert len(backend.requests) == 1


def test_an_unavailable_backend_is_not_repeated() -> None:
    backend = FakeBackend({f"POST /api/v1/worker/{WORKER}/claim": fakes.problem(503, "starting")})
    with pytest.raises(ApiError):
        make(backend).claim(WORKER)
    assert len(backend.requests) == 1


def test_a_request_on_a_stale_connection_is_repeated_once() -> None:
    dropped = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    backend = FakeBackend({f"POST /api/v1/worker/{WORKER}/claim": [dropped, {"claim": None}]})
    assert make(backend).claim(WORKER) is None
    backend = FakeBackend({f"POST /api/v1/worker/{WORKER}/runs/r/finish": dropped})
    with pytest.raises(BackendUnreachable):
        make(backend).finish(WORKER, "r", Outcome(attempt=1, outcome="failed"))
    assert len(backend.requests) == 2


def test_the_workers_token_is_used(home: Home) -> None:
    home.worker_token.parent.mkdir(parents=True)
    home.worker_token.write_text("of-worker")
    home.admin_token.write_text("of-admin")
    backend = FakeBackend({f"POST /api/v1/worker/{WORKER}/claim": {"claim": None}})
    WorkerClient("http://127.0.0.1:9", transport=backend.transport()).claim(WORKER)
    assert backend.requests[0].headers["Authorization"] == "Bearer of-worker"
