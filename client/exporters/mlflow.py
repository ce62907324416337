"""Sends runs to an MLflow tracking server over its REST API 2.0; the package mlflow is not needed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import httpx

from client.client import Client
from client.exporters.series import points
from common.http_clients import HttpSettingsError, open_client
from core.protocol.records import ExperimentRecord, RunRecord

_API = "/api/2.0/mlflow"
# The server's own limits for one log-batch.
_MAX_METRICS, _MAX_PARAMS, _MAX_TAG_CHARACTERS, _MAX_PARAM_CHARACTERS = 1000, 100, 5000, 6000
_STATES = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
_RUN_ID_TAG = "dkd.run_id"


class MlflowError(Exception):
    """The tracking server refused a request, or does not respond."""


class TrackingServer:
    """A connection to a tracking server. A context manager.

    Args:
        url: The server's address. Credentials are read from MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and
            MLFLOW_TRACKING_PASSWORD, like MLflow's client does.
        transport: Replaces the network in tests.

    Raises:
        MlflowError: The environment names a proxy or certificates for the server that cannot be used.
    """

    def __init__(self, url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        self.url = url.rstrip("/")
        try:
            self._http = open_client(
                self.url,
                base_url=self.url,
                timeout=30.0,
                transport=transport,
                headers={"Authorization": f"Bearer {token}"} if token else {},
                auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user and not token else None,
            )
        except HttpSettingsError as error:
            raise MlflowError(str(error)) from None

    def __enter__(self) -> TrackingServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def experiment(self, name: str) -> str:
        """Return the id of the MLflow experiment with that name; create the experiment if it does not exist."""
        reply = self._request("GET", "experiments/get-by-name", {"experiment_name": name}, may_be_missing=True)
        if reply is None:
            return str(self._request("POST", "experiments/create", {"name": name})["experiment_id"])
        return str(reply["experiment"]["experiment_id"])

    def has(self, experiment_id: str, run: RunRecord) -> bool:
        """Return whether the run was sent before."""
        query = {
            "experiment_ids": [experiment_id],
            "filter": f"tags.`{_RUN_ID_TAG}` = '{run.run_id}'",
            "max_results": 1,
        }
        return bool(self._request("POST", "runs/search", query).get("runs"))

    def send(self, client: Client, experiment_id: str, record: ExperimentRecord, run: RunRecord) -> str:
        """Create a run with its parameters, tags and all finite points, and return its MLflow id.

        NaN and ±infinity are left out: not all databases of MLflow can store them.
        """
        tags = [{"key": key, "value": value[:_MAX_TAG_CHARACTERS]} for key, value in _tags(record, run).items()]
        created = self._request(
            "POST",
            "runs/create",
            {
                "experiment_id": experiment_id,
                "run_name": f"{run.label} seed {run.spec['seed']}",
                "start_time": _milliseconds(run.started_at or run.created_at),
                "tags": tags,
            },
        )
        run_id = str(created["run"]["info"]["run_id"])
        params = [{"key": key, "value": value[:_MAX_PARAM_CHARACTERS]} for key, value in _params(run)]
        for start in range(0, len(params), _MAX_PARAMS):
            self._request("POST", "runs/log-batch", {"run_id": run_id, "params": params[start : start + _MAX_PARAMS]})
        metrics = [
            {"key": point.name, "value": point.value, "timestamp": round(point.time * 1000), "step": point.step}
            for point in points(client, run)
            if math.isfinite(point.value)
        ]
        for start in range(0, len(metrics), _MAX_METRICS):
            self._request(
                "POST", "runs/log-batch", {"run_id": run_id, "metrics": metrics[start : start + _MAX_METRICS]}
            )
        end = {"end_time": _milliseconds(run.ended_at)} if run.ended_at else {}
        status = _STATES.get(run.state, "RUNNING")
        self._request("POST", "runs/update", {"run_id": run_id, "status": status, **end})
        return run_id

    def _request(self, method: str, path: str, content: dict[str, Any], *, may_be_missing: bool = False) -> Any:
        query = content if method == "GET" else None
        body = None if method == "GET" else content
        try:
            response = self._http.request(method, f"{_API}/{path}", params=query, json=body)
        except httpx.HTTPError as error:
            raise MlflowError(f"no MLflow server responds at {self.url}: {error}") from None
        if may_be_missing and response.status_code == 404:
            return None
        try:
            reply = response.json()
        except ValueError:
            raise MlflowError(f"{self.url} is not an MLflow server: status {response.status_code} for {path}") from None
        if response.is_error:
            raise MlflowError(f"MLflow refused {path}: {reply.get('message') or response.status_code}")
        return reply


def send_all(
    client: Client, server: TrackingServer, record: ExperimentRecord, runs: Sequence[RunRecord]
) -> Iterator[str]:
    """Send the runs that were not sent before, and yield a line for each."""
    experiment_id = server.experiment(record.name)
    for run in runs:
        name = f"{run.label} seed {run.spec['seed']}"
        if server.has(experiment_id, run):
            yield f"{name}: sent before"
        else:
            yield f"{name}: sent as {server.send(client, experiment_id, record, run)}"


def _tags(record: ExperimentRecord, run: RunRecord) -> dict[str, str]:
    tags = {
        _RUN_ID_TAG: run.run_id,
        "dkd.experiment": record.name,
        "dkd.label": run.label,
        "dkd.role": run.spec["role"],
        "dkd.fingerprint": run.fingerprint,
        "mlflow.source.git.commit": run.commit,
        **{f"dkd.{key}": value for key, value in run.environment.items()},
    }
    return {key: value for key, value in tags.items() if value}


def _params(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield the spec's fields by their paths, such as training.optimizer.lr."""
    yield from _flatten("", run.spec)


def _flatten(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(f"{path}.{key}" if path else key, item)
    elif value is not None and value != "":
        yield path, str(value)


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
