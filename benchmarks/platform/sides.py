"""The same work as requests to each server: the same metrics, steps and values, in each one's public REST API."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Protocol

from benchmarks.platform.servers import Started
from benchmarks.platform.wire import Call, Connection

FIVE = ("train/loss", "train/top1", "test/loss", "test/top1", "lr")
SERIES = "train/loss"
PARAMETERS = {
    "dataset": "digits",
    "model": "small_cnn",
    "method": "ce",
    "epochs": 2,
    "batch_size": 64,
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "precision": "fp32",
    "schedule": "cosine",
}
"""Of each run that MLflow makes; ours has its whole spec."""


def value(step: int, name: str) -> float:
    """A smooth curve with full mantissas, so that no server gains by short numbers."""
    return 2.3 * math.exp(-step / 700) + 0.01 * math.sin(step + len(name))


class Side(Protocol):
    """A server filled and read through its REST API."""

    started: Started

    def writer(self) -> Connection: ...

    def ready_runs(self, count: int) -> list[str]:
        """Ids of new runs that take points."""

    def post(self, run: str, steps: Sequence[int], names: Sequence[str], sent: int) -> Call:
        """A batch of points; ``sent`` is how many batches of this run, each of as many steps, went before."""

    def read(self, run: str, name: str) -> Call: ...

    def count(self, answer: Any) -> int:
        """How many points an answer to ``read`` has."""

    def listing(self, count: int) -> Call: ...

    def create(self, number: int) -> Call:
        """One new run with its configuration."""

    def create_in_bulk(self, count: int) -> Call | None:
        """None where the server cannot."""


class Mlflow:
    """Its REST API has no token, and no creation of many runs in one request."""

    _API = "/api/2.0/mlflow"

    def __init__(self, started: Started) -> None:
        self.started = started

    def writer(self) -> Connection:
        return self.started.connect()

    def ready_runs(self, count: int) -> list[str]:
        with closing(self.started.connect()) as connection:
            made = [connection.ask(self._create(f"run {number}")) for number in range(count)]
        return [str(item["run"]["info"]["run_id"]) for item in made]

    def post(self, run: str, steps: Sequence[int], names: Sequence[str], sent: int) -> Call:
        metrics = [
            {"key": name, "value": value(step, name), "timestamp": 1_700_000_000_000 + step, "step": step}
            for step in steps
            for name in names
        ]
        return Call.post(f"{self._API}/runs/log-batch", {"run_id": run, "metrics": metrics})

    def read(self, run: str, name: str) -> Call:
        return Call.get(f"{self._API}/metrics/get-history", run_id=run, metric_key=name)

    def count(self, answer: Any) -> int:
        return len(answer["metrics"])

    def listing(self, count: int) -> Call:
        return Call.post(f"{self._API}/runs/search", {"experiment_ids": ["0"], "max_results": count})

    def create(self, number: int) -> Call:
        return self._create(f"made {number}")

    def create_in_bulk(self, count: int) -> Call | None:
        return None

    def _create(self, name: str) -> Call:
        tags = [{"key": f"spec.{key}", "value": str(item)} for key, item in PARAMETERS.items()]
        content = {"experiment_id": "0", "run_name": name, "start_time": 1_700_000_000_000, "tags": tags}
        return Call.post(f"{self._API}/runs/create", content)


class Ours:
    """Points go in as a worker sends them: by its own token, for runs that it has claimed."""

    _WORKER = "/api/v1/worker"

    def __init__(self, started: Started) -> None:
        self.started = started
        self._id = "benchmark-worker"
        self._made = 0
        registration = {"worker_id": self._id, "name": "benchmark", "host": "here", "slots": 1024, "device": "cpu"}
        with closing(self.writer()) as connection:
            connection.send(Call.post(f"{self._WORKER}/register", registration))

    def writer(self) -> Connection:
        return self.started.connect_worker()

    def ready_runs(self, count: int) -> list[str]:
        self._made += 1
        specs = [_spec(f"ready {self._made}, {number}") for number in range(count)]
        with closing(self.started.connect()) as connection:
            connection.send(Call.post("/api/v1/experiments/bulk", {"experiments": specs}))
        with closing(self.writer()) as connection:
            return [self._claimed(connection) for _ in range(count)]

    def post(self, run: str, steps: Sequence[int], names: Sequence[str], sent: int) -> Call:
        first = 2 + sent * len(steps)  # the training's start was record 1
        records = [
            {
                "seq": seq,
                "time": 1_700_000_000 + step / 1000,
                "event": {
                    "type": "metrics",
                    "step": step,
                    "epoch": step / 100,
                    "elapsed": step / 1000,
                    "values": {name: value(step, name) for name in names},
                },
            }
            for seq, step in enumerate(steps, first)
        ]
        return self._events(run, records)

    def read(self, run: str, name: str) -> Call:
        return Call.get(f"/api/v1/runs/{run}/metrics", names=name, max_points=20_000)

    def count(self, answer: Any) -> int:
        (series,) = answer["series"]
        assert series["resolution"] == 1, "downsampled"
        return len(series["value"])

    def listing(self, count: int) -> Call:
        return Call.get("/api/v1/runs", limit=count)

    def create(self, number: int) -> Call:
        return Call.post("/api/v1/experiments", _spec(f"made {number}"))

    def create_in_bulk(self, count: int) -> Call | None:
        specs = [_spec(f"bulk {number}") for number in range(count)]
        return Call.post("/api/v1/experiments/bulk", {"experiments": specs})

    def _claimed(self, connection: Connection) -> str:
        claim = connection.ask(Call.post(f"{self._WORKER}/{self._id}/claim", {}))["claim"]
        started = {
            "type": "started",
            "total_steps": 10_000,
            "total_epochs": 100,
            "train_size": 898,
            "test_size": 899,
            "parameters": 1234,
            "device": "cpu",
            "environment": {"torch": "none"},
        }
        connection.send(self._events(claim["run_id"], [{"seq": 1, "time": 1_700_000_000.0, "event": started}]))
        return str(claim["run_id"])

    def _events(self, run: str, records: list[dict[str, Any]]) -> Call:
        return Call.post(f"{self._WORKER}/{self._id}/runs/{run}/events", {"attempt": 1, "records": records})


def _spec(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "dataset": PARAMETERS["dataset"],
        "student": {"model": PARAMETERS["model"]},
        "methods": [PARAMETERS["method"]],
        "seeds": [0],
        "training": {"epochs": PARAMETERS["epochs"]},
    }
