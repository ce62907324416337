"""``dkd export``: records, specs, TensorBoard event files, MLflow tracking servers."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from client.cli.app import run
from client.client import Client
from client.exporters.mlflow import MlflowError, TrackingServer, send_all
from core.protocol.public import MetricsReply, Series
from core.protocol.records import ExperimentRecord, RunRecord
from core.specs import parse_experiment
from tests.client import fakes
from tests.client.captured import Captured
from tests.client.fakes import NOW, FakeBackend


def _record(**changes: Any) -> RunRecord:
    planned = fakes.spec().plan()[1]
    values: dict[str, Any] = {
        "run_id": "run-1",
        "label": "dkd (log)",
        "state": "succeeded",
        "experiment": "small",
        "spec": planned.spec.model_dump(mode="json"),
        "fingerprint": planned.spec.fingerprint(),
        "repeat": fakes.spec("again").model_dump(mode="json"),
        "environment": {"torch": "2.14.0"},
        "packages": ["torch==2.14.0"],
        "commit": "abc",
        "attempts": [],
        "parameters": 10,
        "train_size": 20,
        "test_size": 5,
        "metrics": {"test/top1": 92.0},
        "created_at": NOW,
        "started_at": NOW,
        "ended_at": NOW,
    }
    return RunRecord.model_validate(values | changes)


def _metrics(resolution: int = 1) -> MetricsReply:
    values = [90.0, float("nan"), 92.0]
    top1 = Series(
        name="test/top1",
        step=[10, 20, 30],
        epoch=[1, 2, 3],
        elapsed=[1.5, 3.0, 4.5],
        value=values,
        resolution=resolution,
    )
    return MetricsReply(run_id="run-1", state="succeeded", cursor=1, series=[top1])


@pytest.fixture
def filled(backend: FakeBackend) -> FakeBackend:
    experiment = fakes.experiment()
    record = ExperimentRecord(
        experiment_id="exp-1", name="small", spec=fakes.spec().model_dump(mode="json"), created_at=NOW, runs=[_record()]
    )
    backend.answers |= {
        "GET /api/v1/experiments/small": experiment,
        "GET /api/v1/runs/run-1": fakes.run(),
        "GET /api/v1/exports/runs/run-1": _record(),
        "GET /api/v1/exports/experiment": record,
        "GET /api/v1/runs/run-1/metrics": _metrics(),
    }
    return backend


def test_an_exported_spec_submits_the_same_experiment(filled: FakeBackend, capsys: Captured, tmp_path: Path) -> None:
    assert run(["export", "small", "--format", "spec"]) == 0
    assert parse_experiment(yaml.safe_load(capsys.readouterr().out)).plan() == fakes.spec().plan()
    assert run(["export", "run-1", "--format", "spec", "--out", str(tmp_path / "again.yaml")]) == 0
    assert capsys.readouterr().out == ""
    assert parse_experiment(yaml.safe_load((tmp_path / "again.yaml").read_text())).name == "again"


def test_records_of_a_run_and_of_an_experiment(filled: FakeBackend, capsys: Captured) -> None:
    assert run(["export", "run-1"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"] == ["torch==2.14.0"]
    assert run(["export", "small"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["run_id"] == "run-1"


def test_event_files_contain_every_point(filled: FakeBackend, capsys: Captured, tmp_path: Path) -> None:
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    assert run(["export", "small", "--format", "tensorboard", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "dkd-log-seed0-run-1"
    assert capsys.readouterr().out.strip() == str(folder)
    (path,) = folder.glob("events.out.tfevents.*")
    points: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    raw = path.read_bytes()
    while raw:  # length, its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", raw[:8])
        event = event_pb2.Event.FromString(raw[12 : 12 + length])
        raw = raw[16 + length :]
        for value in event.summary.value:
            points[value.tag].append((event.step, value.simple_value, event.wall_time))
    assert [(step, value) for step, value, _ in points["test/top1"] if value == value] == [(10, 90.0), (30, 92.0)]
    assert len(points["test/top1"]) == 3  # NaN included
    assert points["test/top1"][0][2] == NOW.timestamp() + 1.5
    assert json.loads((folder / "record.json").read_text())["fingerprint"] == _record().fingerprint


class FakeMlflow:
    """A tracking server that records its requests."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, str] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/2.0/mlflow/")
        body = json.loads(request.content) if request.content else {}
        match path:
            case "experiments/get-by-name":
                name = request.url.params["experiment_name"]
                if name not in self.experiments:
                    return httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"})
                return httpx.Response(200, json={"experiment": {"experiment_id": self.experiments[name]}})
            case "experiments/create":
                self.experiments[body["name"]] = str(len(self.experiments) + 1)
                return httpx.Response(200, json={"experiment_id": self.experiments[body["name"]]})
            case "runs/search":
                mark = body["filter"].split("'")[1]
                matching = [one for one in self.runs.values() if {"key": "dkd.run_id", "value": mark} in one["tags"]]
                return httpx.Response(200, json={"runs": matching} if matching else {})
            case "runs/create":
                run_id = f"m{len(self.runs)}"
                self.runs[run_id] = body | {"params": [], "metrics": []}
                return httpx.Response(200, json={"run": {"info": {"run_id": run_id}}})
            case "runs/log-batch":
                assert len(body.get("params", [])) <= 100
                assert len(body.get("metrics", [])) <= 1000
                self.runs[body["run_id"]]["params"] += body.get("params", [])
                self.runs[body["run_id"]]["metrics"] += body.get("metrics", [])
                return httpx.Response(200, json={})
            case "runs/update":
                self.runs[body["run_id"]] |= body
                return httpx.Response(200, json={})
        return httpx.Response(404, text="no such thing")


def test_each_run_is_sent_to_mlflow_once(filled: FakeBackend) -> None:
    server = FakeMlflow()
    with Client() as client, TrackingServer("http://mlflow", transport=httpx.MockTransport(server)) as tracking:
        record = client.experiment_record("small")
        assert list(send_all(client, tracking, record, record.runs)) == ["dkd (log) seed 0: sent as m0"]
        assert list(send_all(client, tracking, record, record.runs)) == ["dkd (log) seed 0: sent before"]
    (sent,) = server.runs.values()
    assert (sent["status"], sent["run_name"]) == ("FINISHED", "dkd (log) seed 0")
    assert {"key": "training.epochs", "value": "4"} in sent["params"]
    start = round(NOW.timestamp() * 1000)
    assert sent["metrics"] == [
        {"key": "test/top1", "value": 90.0, "timestamp": start + 1500, "step": 10},
        {"key": "test/top1", "value": 92.0, "timestamp": start + 4500, "step": 30},
    ]


def test_a_server_that_is_not_mlflow_is_named() -> None:
    def other(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>")

    with (
        TrackingServer("http://other", transport=httpx.MockTransport(other)) as tracking,
        pytest.raises(MlflowError, match="http://other is not an MLflow server"),
    ):
        tracking.experiment("x")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["small", "--format", "pdf"],
            2,
            "--format pdf: must be one of json, csv, spec, html, parquet, tensorboard, wandb, mlflow",
        ),
        (["small", "--format", "mlflow"], 2, "needs --to"),
        (["small", "--format", "tensorboard"], 2, "needs --out"),
        (["small", "--format", "parquet"], 2, "needs --out"),
        (["small", "--all", "--format", "parquet"], 2, "not both"),
        (["--all"], 2, "--all: only with --format parquet"),
        (["small", "run-1", "--format", "csv"], 2, "only html takes several"),
        (["--format", "csv"], 2, "name an experiment or a run"),
        (["run-1", "--format", "html"], 2, "this format is for whole experiments"),
        (["run-1", "--format", "csv"], 2, "csv has one row per run of an experiment"),
        (["small", "--format", "mlflow", "--to", "http://127.0.0.1:1"], 1, "no MLflow server responds"),
        (["small", "--format", "mlflow", "--to", "foo"], 2, "--to 'foo' is not an address: it must begin with http://"),
        (["small", "--to", "http://127.0.0.1:1"], 2, "--to http://127.0.0.1:1: only with --format mlflow"),
        (["small", "--out", "/nonexistent/x"], 2, "--out /nonexistent/x: No such file or directory"),
        (["nobody"], 1, "there is no run and no experiment 'nobody'"),
    ],
)
def test_invalid_export_options_are_refused(
    filled: FakeBackend, capsys: Captured, words: list[str], code: int, message: str
) -> None:
    assert run(["export", *words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_a_downsampled_series_is_not_exported(filled: FakeBackend, capsys: Captured, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    filled.answers["GET /api/v1/runs/run-1/metrics"] = _metrics(resolution=2)
    assert run(["export", "run-1", "--format", "tensorboard", "--out", str(tmp_path)]) == 1
    assert "test/top1 of run run-1 has more than 20,000 points" in capsys.readouterr().err
