"""The routes that a worker's token allows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.backend.conftest import TestClient
from tests.backend.lab import Json, Lab, metrics, plain, started

PASSES = {"attempt": 1, "records": [started()]}


@pytest.fixture
def other(lab: Lab) -> tuple[Json, TestClient]:
    """Create a second worker token; return it and a client that uses it."""
    made = lab.admin.post("/api/v1/tokens", json={"name": "node2", "scopes": ["worker"]}).json()
    return made, TestClient(lab.app, headers={"Authorization": f"Bearer {made['token']}"})


def calls(claim: Json) -> list[tuple[str, Any]]:
    run = f"/api/v1/worker/worker-one/runs/{claim['run_id']}"
    weights = {"path": f"{claim['folder']}/weights.safetensors", "sha256": "b" * 64}
    registration = {"worker_id": "worker-one", "name": "x", "host": "x", "slots": 1, "device": "cpu"}
    return [
        ("/api/v1/worker/register", registration),
        ("/api/v1/worker/worker-one/claim", None),
        ("/api/v1/worker/worker-one/heartbeat", {"holding": []}),
        (f"{run}/events", PASSES),
        (f"{run}/finish", {"attempt": 1, "outcome": "succeeded", "weights": weights}),
    ]


def test_worker_routes_refuse_the_token_of_another_worker(lab: Lab, other: tuple[Json, TestClient]) -> None:
    """A token stolen from one node cannot report on another node's runs, take them over or replace weights."""
    lab.register()
    lab.submit(plain(runs=2))
    claim = lab.claim()
    _, other_worker = other
    for path, body in calls(claim):
        answer = other_worker.post(path, json=body)
        assert answer.status_code == 403, path
        assert "another token" in answer.json()["detail"]
    assert lab.run(claim["run_id"])["state"] == "running"
    assert lab.events(claim, started(), metrics(2, 10, {"train/loss": 1.0})) == 2
    lab.succeed(claim)


def test_worker_registers_with_a_new_token_after_the_old_one_is_revoked(
    lab: Lab, other: tuple[Json, TestClient]
) -> None:
    lab.register()
    old = next(token for token in lab.admin.get("/api/v1/tokens").json()["items"] if token["name"] == "worker")
    assert lab.admin.delete(f"/api/v1/tokens/{old['id']}").status_code == 200
    path, body = calls({"run_id": "x", "folder": "x"})[0]
    assert other[1].post(path, json=body).status_code == 200
    assert other[1].post("/api/v1/worker/worker-one/claim").status_code == 200


def test_worker_token_is_refused_outside_worker_routes(lab: Lab) -> None:
    lab.register()
    lab.submit(plain())
    claim = lab.claim()
    document = lab.admin.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        if path.startswith("/api/v1/worker/"):
            continue
        for method, operation in methods.items():
            if not operation.get("security"):  # probes and sign-in, which need no token
                continue
            url = path.replace("{run_id}", claim["run_id"])
            assert lab.worker.request(method, url).status_code == 403, (method, path)
