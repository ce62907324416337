"""A fake backend: the worker protocol as method calls or over HTTP."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import BaseModel

from client import ApiError, BackendUnreachable
from core.events import Record
from core.protocol.public import ProblemDetails
from core.protocol.worker import (
    Claim,
    ClaimReply,
    ClaimRequest,
    EventBatch,
    EventReply,
    Heartbeat,
    HeartbeatReply,
    Outcome,
    Registration,
    RegistrationReply,
    RunOrder,
)
from core.specs import RunSpec

RUN = RunSpec.model_validate(
    {
        "role": "teacher",
        "dataset": "digits",
        "model": "small_cnn",
        "method": "ce",
        "training": {"epochs": 1},
        "seed": 0,
        "data_seed": 0,
    }
)


def refusal(status: int, detail: str = "refused", retry_after: float = 0.0) -> ApiError:
    return ApiError(status, ProblemDetails(title=detail, status=status, detail=detail), retry_after)


class FakeBackend:
    """Holds the queue of claims and everything that was reported. Tests set its attributes."""

    def __init__(self, lease: float = 60.0, heartbeat: float = 0.1) -> None:
        self.lease = lease
        self.heartbeat_seconds = heartbeat
        self.queue: list[Claim] = []
        self.claimed: list[Claim] = []
        self.registrations: list[Registration] = []
        self.heartbeats: list[Heartbeat] = []
        self.records: dict[tuple[str, int], list[Record]] = {}
        self.batches: list[list[int]] = []
        self.outcomes: list[tuple[str, Outcome]] = []
        self.orders: dict[str, str] = {}
        self.fenced: set[str] = set()
        self.down = False
        self.forgotten = False
        self.refuse_events: int | None = None
        self.limit = 0
        """Number of reports and outcomes that are refused because there are too many."""
        self.retry_after = 0.0
        self.lose_replies = 0
        self.lose_claims = 0
        self.pauses: set[str] = set()
        self.requests: list[ClaimRequest] = []
        self.tokens: set[str] | None = None
        """Valid tokens of requests over HTTP; None to accept any."""
        self.refused = 0
        self._granted: dict[str, Claim] = {}
        self.announce = True
        self._lock = threading.RLock()

    def add(
        self,
        run_id: str = "run-1",
        attempt: int = 1,
        spec: RunSpec = RUN,
        teacher_spec: RunSpec | None = None,
        **more: Any,
    ) -> Claim:
        claim = Claim(
            run_id=run_id,
            attempt=attempt,
            spec=spec.model_dump(mode="json"),
            teacher_spec=teacher_spec.model_dump(mode="json") if teacher_spec else None,
            lease_seconds=self.lease,
            folder=more.pop("folder", f"runs/{run_id}/attempt-{attempt}"),
            **more,
        )
        self.queue.append(claim)
        return claim

    def outcome(self, run_id: str = "run-1") -> Outcome | None:
        return next((outcome for name, outcome in self.outcomes if name == run_id), None)

    def seqs(self, run_id: str = "run-1", attempt: int = 1) -> list[int]:
        return [record.seq for record in self.records.get((run_id, attempt), [])]

    def types(self, run_id: str = "run-1", attempt: int = 1) -> list[str]:
        return [record.event.type for record in self.records.get((run_id, attempt), [])]

    def register(self, registration: Registration) -> RegistrationReply:
        self._require_up()
        self.registrations.append(registration)
        self.forgotten = False
        return RegistrationReply(heartbeat_seconds=self.heartbeat_seconds, lease_seconds=self.lease)

    def heartbeat(self, worker_id: str, heartbeat: Heartbeat) -> HeartbeatReply:
        self._require_up()
        self._require_registered()
        self.heartbeats.append(heartbeat)
        orders = [
            RunOrder.model_validate(
                {
                    "run_id": item.run_id,
                    "attempt": item.attempt,
                    "order": self.orders.get(item.run_id, "continue"),
                    "pause": item.run_id in self.pauses,
                }
            )
            for item in heartbeat.holding
        ]
        return HeartbeatReply(orders=orders, eligible=len(self.queue) if self.announce else 0)

    def claim(self, worker_id: str, request: ClaimRequest) -> Claim | None:
        self._require_up()
        self._require_registered()
        with self._lock:
            self.requests.append(request)
            claim = self._granted.get(request.key or "")
            if claim is None:
                fits = request.free_gpus or 1
                claim = next((claim for claim in self.queue if claim.gpus <= fits), None)
                if claim is None:
                    return None
                self.queue.remove(claim)
                self.claimed.append(claim)
                self._granted[request.key or ""] = claim
            if self.lose_claims:
                self.lose_claims -= 1
                raise BackendUnreachable("fake", "the reply was lost")
            return claim

    def send_events(self, worker_id: str, run_id: str, batch: EventBatch) -> int:
        self._require_up()
        self._require_rate()
        if run_id in self.fenced:
            raise refusal(409, "another attempt has this run")
        if self.refuse_events:
            raise refusal(self.refuse_events)
        with self._lock:
            self.batches.append([record.seq for record in batch.records])
            taken = self.records.setdefault((run_id, batch.attempt), [])
            taken.extend(record for record in batch.records if record.seq == len(taken) + 1)
            if self.lose_replies:
                self.lose_replies -= 1
                raise BackendUnreachable("fake", "the reply was lost")
            return len(taken)

    def finish(self, worker_id: str, run_id: str, outcome: Outcome) -> None:
        self._require_up()
        self._require_rate()
        if run_id in self.fenced:
            raise refusal(409, "another attempt has this run")
        self.outcomes.append((run_id, outcome))

    def _require_up(self) -> None:
        if self.down:
            raise BackendUnreachable("fake", "switched off")

    def _require_rate(self) -> None:
        with self._lock:
            if self.limit:
                self.limit -= 1
                raise refusal(429, "too many requests", self.retry_after)

    def _require_registered(self) -> None:
        if self.forgotten:
            raise refusal(404, "no such worker")


@contextmanager
def served(backend: FakeBackend) -> Iterator[str]:
    """Serve the backend over HTTP, for workers that are processes; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if backend.tokens is not None and token not in backend.tokens:
                    backend.refused += 1
                    raise refusal(401, "this token is unknown, was revoked, or has expired")
                self._reply(200, _answer(backend, self.path, body))
            except ApiError as error:
                self._reply(error.status, error.problem)
            except BackendUnreachable:
                self._reply(503, refusal(503).problem)

        def _reply(self, status: int, answer: BaseModel | None) -> None:
            content = b"" if answer is None else answer.model_dump_json().encode()
            self.send_response(204 if answer is None else status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(backend: FakeBackend, path: str, body: bytes) -> BaseModel | None:
    if path == "/api/v1/worker/register":
        return backend.register(Registration.model_validate_json(body))
    match = re.fullmatch(r"/api/v1/worker/([^/]+)/(heartbeat|claim|runs/([^/]+)/(events|finish))", path)
    if match is None:
        raise refusal(404, f"no route {path}")
    worker, what, run, report = match.groups()
    if what == "heartbeat":
        return backend.heartbeat(worker, Heartbeat.model_validate_json(body))
    if what == "claim":
        return ClaimReply(claim=backend.claim(worker, ClaimRequest.model_validate_json(body)))
    if report == "events":
        return EventReply(accepted_seq=backend.send_events(worker, run, EventBatch.model_validate_json(body)))
    backend.finish(worker, run, Outcome.model_validate(json.loads(body)))
    return None
