"""A backend for tests, with clients of its HTTP API for a user and for workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.testclient import TestClient

if TYPE_CHECKING:
    from httpx2 import Response

Json = dict[str, Any]

TEACHER_WEIGHTS = "a" * 64


def spec(name: str = "first", **changes: Any) -> Json:
    """Return an experiment with one teacher and two distilled students (dkd, kd), one seed."""
    return {
        "name": name,
        "dataset": "digits",
        "teacher": {"model": "resnet8"},
        "student": {"model": "small_cnn"},
        "methods": ["dkd", "kd"],
        "seeds": [0],
        "training": {"epochs": 2},
    } | changes


def plain(name: str = "plain", runs: int = 1, **changes: Any) -> Json:
    """Return an experiment without a teacher, whose ``runs`` students can be claimed at once."""
    return spec(name, teacher=None, methods=["ce"], seeds=list(range(runs)), **changes)


def started(seq: int = 1, **changes: Any) -> Json:
    event = {
        "type": "started",
        "total_steps": 20,
        "total_epochs": 2,
        "train_size": 898,
        "test_size": 899,
        "parameters": 1234,
        "device": "cpu",
        "environment": {"torch": "2.14.0"},
    }
    return {"seq": seq, "time": 1000.0 + seq, "event": event | changes}


def metrics(seq: int, step: int, values: Mapping[str, float | str]) -> Json:
    event = {"type": "metrics", "step": step, "epoch": step / 10, "elapsed": float(step), "values": values}
    return {"seq": seq, "time": 1000.0 + seq, "event": event}


def log(seq: int, message: str) -> Json:
    return {"seq": seq, "time": 1000.0 + seq, "event": {"type": "log", "message": message}}


def checkpoint(seq: int, step: int, path: str = "checkpoint.pt") -> Json:
    return {"seq": seq, "time": 1000.0 + seq, "event": {"type": "checkpoint", "step": step, "path": path}}


@dataclass
class Lab:
    """Methods for the API's requests. Each asserts that the backend accepts the request, and returns the reply."""

    app: FastAPI
    admin: TestClient
    worker: TestClient

    def client(self, **options: Any) -> TestClient:
        """Return a client without a token, whose requests run in the event loop of the backend, as in a server."""
        client = TestClient(self.app, **options)
        client.portal = self.admin.portal
        return client

    def submit(self, body: Json) -> Json:
        return _ok(self.admin.post("/api/v1/experiments", json=body), 201)

    def experiment(self, key: str) -> Json:
        return _ok(self.admin.get(f"/api/v1/experiments/{key}"))

    def experiments(self) -> list[Json]:
        items: list[Json] = _ok(self.admin.get("/api/v1/experiments"))["items"]
        return items

    def states(self, key: str) -> dict[str, str]:
        """Return the state of each label of an experiment with one seed."""
        return {run["label"]: run["state"] for run in self.experiment(key)["runs"]}

    def run(self, run_id: str) -> Json:
        return _ok(self.admin.get(f"/api/v1/runs/{run_id}"))

    def cancel(self, run_id: str) -> Json:
        return _ok(self.admin.post(f"/api/v1/runs/{run_id}/cancel"))

    def retry(self, run_id: str) -> Json:
        return _ok(self.admin.post(f"/api/v1/runs/{run_id}/retry"))

    def pause(self, run_id: str) -> Json:
        return _ok(self.admin.post(f"/api/v1/runs/{run_id}/pause"))

    def resume(self, run_id: str) -> Json:
        return _ok(self.admin.post(f"/api/v1/runs/{run_id}/resume"))

    def priority(self, run_id: str, priority: int) -> Json:
        return _ok(self.admin.post(f"/api/v1/runs/{run_id}/priority", json={"priority": priority}))

    def pause_experiment(self, key: str) -> Json:
        return _ok(self.admin.post(f"/api/v1/experiments/{key}/pause"))

    def resume_experiment(self, key: str) -> Json:
        return _ok(self.admin.post(f"/api/v1/experiments/{key}/resume"))

    def priority_of_experiment(self, key: str, priority: int) -> Json:
        return _ok(self.admin.post(f"/api/v1/experiments/{key}/priority", json={"priority": priority}))

    def drain(self, key: str, draining: bool = True) -> Json:
        """Change a worker and return it. ``key`` is its id or name."""
        workers = _ok(self.admin.post(f"/api/v1/workers/{key}/drain", json={"draining": draining}))["items"]
        return next(worker for worker in workers if key in (worker["id"], worker["name"]))

    def workers(self) -> list[Json]:
        items: list[Json] = _ok(self.admin.get("/api/v1/workers"))["items"]
        return items

    def cancel_experiment(self, key: str) -> Json:
        return _ok(self.admin.post(f"/api/v1/experiments/{key}/cancel"))

    def register(self, worker_id: str = "worker-one", **changes: Any) -> Json:
        slots = (
            16 if changes.get("device", "cpu") == "cpu" else 1
        )  # the slots of a GPU worker are also its number of GPUs
        body = {"worker_id": worker_id, "name": worker_id, "host": "node", "slots": slots, "device": "cpu"} | changes
        return _ok(self.worker.post("/api/v1/worker/register", json=body))

    def try_claim(self, worker_id: str = "worker-one", **request: Any) -> Json | None:
        claim: Json | None = _ok(self.worker.post(f"/api/v1/worker/{worker_id}/claim", json=request or None))["claim"]
        return claim

    def claim(self, worker_id: str = "worker-one", **request: Any) -> Json:
        claim = self.try_claim(worker_id, **request)
        assert claim is not None, "nothing was eligible"
        return claim

    def heartbeat(self, *claims: Json, worker_id: str = "worker-one") -> Json:
        holding = [{"run_id": claim["run_id"], "attempt": claim["attempt"]} for claim in claims]
        return _ok(self.worker.post(f"/api/v1/worker/{worker_id}/heartbeat", json={"holding": holding}))

    def orders(self, *claims: Json, worker_id: str = "worker-one") -> list[str]:
        return [order["order"] for order in self.heartbeat(*claims, worker_id=worker_id)["orders"]]

    def post_events(self, claim: Json, *records: Json, worker_id: str = "worker-one") -> Response:
        body = {"attempt": claim["attempt"], "records": list(records)}
        return self.worker.post(f"/api/v1/worker/{worker_id}/runs/{claim['run_id']}/events", json=body)

    def events(self, claim: Json, *records: Json, worker_id: str = "worker-one") -> int:
        accepted: int = _ok(self.post_events(claim, *records, worker_id=worker_id))["accepted_seq"]
        return accepted

    def post_finish(self, claim: Json, outcome: str, worker_id: str = "worker-one", **more: Any) -> Response:
        body = {"attempt": claim["attempt"], "outcome": outcome, **more}
        return self.worker.post(f"/api/v1/worker/{worker_id}/runs/{claim['run_id']}/finish", json=body)

    def finish(self, claim: Json, outcome: str, worker_id: str = "worker-one", **more: Any) -> None:
        response = self.post_finish(claim, outcome, worker_id, **more)
        assert response.status_code == 204, response.text

    def succeed(self, claim: Json, worker_id: str = "worker-one") -> None:
        weights = {"path": f"{claim['folder']}/weights.safetensors", "sha256": TEACHER_WEIGHTS}
        self.finish(claim, "succeeded", worker_id, weights=weights)


def _ok(response: Response, status: int = 200) -> Json:
    assert response.status_code == status, response.text
    body: Json = response.json()
    return body
