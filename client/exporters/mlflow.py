"""Runs sent to an MLflow tracking server by its REST API 2.0; MLflow itself is not needed here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import httpx

from client.client import Client
from client.exporters.series import finite, points
from common.http_clients import HttpSettingsError, open_client
from core.protocol.records import ExperimentRecord, RunRecord

_API = "/api/2.0/mlflow"
# The server's own limits for one log-batch.
_METRICS, _PARAMS, _TAG_CHARACTERS, _PARAM_CHARACTERS = 1000, 100, 5000, 6000
_STATES = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
_MARK = "dkd.run_id"


class MlflowError(Exception):
    """The tracking server refused something, or does not answer."""


class Tracking:
    """A tracking server. A context manager.

    Args:
        url: its address; MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD, are used as MLflow's own
            client does.

    Raises:
        MlflowError: the environment names a proxy or certificates for it that cannot be used.
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

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def experiment(self, name: str) -> str:
        """The id of MLflow's experiment of that name, made where there is none."""
        found = self._ask("GET", "experiments/get-by-name", {"experiment_name": name}, missing=True)
        if found is None:
            return str(self._ask("POST", "experiments/create", {"name": name})["experiment_id"])
        return str(found["experiment"]["experiment_id"])

    def has(self, experiment_id: str, run: RunRecord) -> bool:
        """Whether the run was sent before."""
        query = {"experiment_ids": [experiment_id], "filter": f"tags.`{_MARK}` = '{run.run_id}'", "max_results": 1}
        return bool(self._ask("POST", "runs/search", query).get("runs"))

    def send(self, client: Client, experiment_id: str, record: ExperimentRecord, run: RunRecord) -> str:
        """Make a run with its parameters, tags and every finite point; returns MLflow's id of it.

        NaN and ±infinity are left out: MLflow's databases do not all keep them.
        """
        made = self._ask(
            "POST",
            "runs/create",
            {
                "experiment_id": experiment_id,
                "run_name": f"{run.label} seed {run.spec['seed']}",
                "start_time": _milliseconds(run.started_at or run.created_at),
                "tags": [{"key": key, "value": value[:_TAG_CHARACTERS]} for key, value in _tags(record, run).items()],
            },
        )
        run_id = str(made["run"]["info"]["run_id"])
        params = [{"key": key, "value": value[:_PARAM_CHARACTERS]} for key, value in _params(run)]
        for start in range(0, len(params), _PARAMS):
            self._ask("POST", "runs/log-batch", {"run_id": run_id, "params": params[start : start + _PARAMS]})
        metrics = [
            {"key": point.name, "value": point.value, "timestamp": round(point.time * 1000), "step": point.step}
            for point in points(client, run)
            if finite(point.value)
        ]
        for start in range(0, len(metrics), _METRICS):
            self._ask("POST", "runs/log-batch", {"run_id": run_id, "metrics": metrics[start : start + _METRICS]})
        end = {"end_time": _milliseconds(run.ended_at)} if run.ended_at else {}
        status = _STATES.get(run.state, "RUNNING")
        self._ask("POST", "runs/update", {"run_id": run_id, "status": status, **end})
        return run_id

    def _ask(self, method: str, path: str, content: dict[str, Any], *, missing: bool = False) -> Any:
        query = content if method == "GET" else None
        body = None if method == "GET" else content
        try:
            response = self._http.request(method, f"{_API}/{path}", params=query, json=body)
        except httpx.HTTPError as error:
            raise MlflowError(f"no MLflow server answers at {self.url}: {error}") from None
        if missing and response.status_code == 404:
            return None
        try:
            reply = response.json()
        except ValueError:
            raise MlflowError(f"{self.url} is no MLflow server: status {response.status_code} to {path}") from None
        if response.is_error:
            raise MlflowError(f"MLflow refused {path}: {reply.get('message') or response.status_code}")
        return reply


def send_all(client: Client, tracking: Tracking, record: ExperimentRecord, runs: Sequence[RunRecord]) -> Iterator[str]:
    """Send runs that are not there yet; a sentence for each, as it goes."""
    experiment_id = tracking.experiment(record.name)
    for run in runs:
        name = f"{run.label} seed {run.spec['seed']}"
        if tracking.has(experiment_id, run):
            yield f"{name}: there already"
        else:
            yield f"{name}: sent as {tracking.send(client, experiment_id, record, run)}"


def _tags(record: ExperimentRecord, run: RunRecord) -> dict[str, str]:
    found = {
        _MARK: run.run_id,
        "dkd.experiment": record.name,
        "dkd.label": run.label,
        "dkd.role": run.spec["role"],
        "dkd.fingerprint": run.fingerprint,
        "mlflow.source.git.commit": run.commit,
        **{f"dkd.{key}": value for key, value in run.environment.items()},
    }
    return {key: value for key, value in found.items() if value}


def _params(run: RunRecord) -> Iterator[tuple[str, str]]:
    """The spec's fields by their paths, as training.optimizer.lr."""
    yield from _flat("", run.spec)


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{path}.{key}" if path else key, item)
    elif value is not None and value != "":
        yield path, str(value)


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
