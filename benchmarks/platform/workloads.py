"""The same work as requests to each server's public REST API: the same metrics, steps and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Protocol

from benchmarks.platform.raw_http import Call, Connection
from benchmarks.platform.servers import RunningServer

FIVE_METRICS = ("train/loss", "train/top1", "test/loss", "test/top1", "lr")
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
"""Tags of each run on MLflow's server; a run of the backend has its full spec."""


def metric_value(step: int, name: str) -> float:
    """Return a point of a smooth curve. Values have full mantissas, so that short numbers favour no server."""
    return 2.3 * math.exp(-step / 700) + 0.01 * math.sin(step + len(name))


class Workload(Protocol):
    """The requests that fill and read one server."""

    server: RunningServer

    def connect_writer(self) -> Connection: ...

    def make_runs(self, count: int) -> list[str]:
        """Make runs that accept points, and return their ids."""

    def post(self, run: str, steps: Sequence[int], names: Sequence[str], batch: int) -> Call:
        """Return a request that stores one point per step and name.

        Args:
            batch: The number of batches of this run, of as many steps each, that were sent before.
        """

    def read(self, run: str, name: str) -> Call: ...

    def count_points(self, answer: Any) -> int:
        """Return how many points an answer to ``read`` contains."""

    def list_runs(self, count: int) -> Call: ...

    def create_run(self, number: int) -> Call:
        """Return a request that makes a run with its configuration."""

    def create_in_bulk(self, count: int) -> Call | None:
        """Return a request that makes runs, or None if the server has none."""


class MlflowWorkload:
    """MLflow's REST API. It has no tokens, and no request that makes several runs."""

    _API = "/api/2.0/mlflow"

    def __init__(self, server: RunningServer) -> None:
        self.server = server

    def connect_writer(self) -> Connection:
        return self.server.connect()

    def make_runs(self, count: int) -> list[str]:
        with closing(self.server.connect()) as connection:
            answers = [connection.send_json(self._create(f"run {number}")) for number in range(count)]
        return [str(answer["run"]["info"]["run_id"]) for answer in answers]

    def post(self, run: str, steps: Sequence[int], names: Sequence[str], batch: int) -> Call:
        metrics = [
            {"key": name, "value": metric_value(step, name), "timestamp": 1_700_000_000_000 + step, "step": step}
            for step in steps
            for name in names
        ]
        return Call.post(f"{self._API}/runs/log-batch", {"run_id": run, "metrics": metrics})

    def read(self, run: str, name: str) -> Call:
        return Call.get(f"{self._API}/metrics/get-history", run_id=run, metric_key=name)

    def count_points(self, answer: Any) -> int:
        return len(answer["metrics"])

    def list_runs(self, count: int) -> Call:
        return Call.post(f"{self._API}/runs/search", {"experiment_ids": ["0"], "max_results": count})

    def create_run(self, number: int) -> Call:
        return self._create(f"made {number}")

    def create_in_bulk(self, count: int) -> Call | None:
        return None

    def _create(self, name: str) -> Call:
        tags = [{"key": f"spec.{key}", "value": str(value)} for key, value in PARAMETERS.items()]
        content = {"experiment_id": "0", "run_name": name, "start_time": 1_700_000_000_000, "tags": tags}
        return Call.post(f"{self._API}/runs/create", content)


class BackendWorkload:
    """The backend's REST API. Points are sent as a worker sends them: with its token, for runs that it has claimed."""

    _API = "/api/v1/worker"
    _WORKER_ID = "benchmark-worker"

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self._submissions = 0
        registration = {"worker_id": self._WORKER_ID, "name": "benchmark", "host": "here", "slots": 1024}
        with closing(self.connect_writer()) as connection:
            connection.send(Call.post(f"{self._API}/register", {**registration, "device": "cpu"}))

    def connect_writer(self) -> Connection:
        return self.server.connect_worker()

    def make_runs(self, count: int) -> list[str]:
        self._submissions += 1
        specs = [_spec(f"ready {self._submissions}, {number}") for number in range(count)]
        with closing(self.server.connect()) as connection:
            connection.send(Call.post("/api/v1/experiments/bulk", {"experiments": specs}))
        with closing(self.connect_writer()) as connection:
            return [self._claim(connection) for _ in range(count)]

    def post(self, run: str, steps: Sequence[int], names: Sequence[str], batch: int) -> Call:
        first = 2 + batch * len(steps)  # record 1 is the start of the training
        records = [
            {
                "seq": seq,
                "time": 1_700_000_000 + step / 1000,
                "event": {
                    "type": "metrics",
                    "step": step,
                    "epoch": step / 100,
                    "elapsed": step / 1000,
                    "values": {name: metric_value(step, name) for name in names},
                },
            }
            for seq, step in enumerate(steps, first)
        ]
        return self._events(run, records)

    def read(self, run: str, name: str) -> Call:
        return Call.get(f"/api/v1/runs/{run}/metrics", names=name, max_points=20_000)

    def count_points(self, answer: Any) -> int:
        (series,) = answer["series"]
        assert series["resolution"] == 1, "downsampled"
        return len(series["value"])

    def list_runs(self, count: int) -> Call:
        return Call.get("/api/v1/runs", limit=count)

    def create_run(self, number: int) -> Call:
        return Call.post("/api/v1/experiments", _spec(f"made {number}"))

    def create_in_bulk(self, count: int) -> Call | None:
        specs = [_spec(f"bulk {number}") for number in range(count)]
        return Call.post("/api/v1/experiments/bulk", {"experiments": specs})

    def _claim(self, connection: Connection) -> str:
        claim = connection.send_json(Call.post(f"{self._API}/{self._WORKER_ID}/claim", {}))["claim"]
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
        path = f"{self._API}/{self._WORKER_ID}/runs/{run}/events"
        return Call.post(path, {"attempt": 1, "records": records})


def _spec(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "dataset": PARAMETERS["dataset"],
        "student": {"model": PARAMETERS["model"]},
        "methods": [PARAMETERS["method"]],
        "seeds": [0],
        "training": {"epochs": PARAMETERS["epochs"]},
    }
