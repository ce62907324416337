"""``dkd export-model`` and ``dkd measure``: a run's files are fetched, and core exports or measures them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from client import deployment
from client.cli.app import run as dkd
from client.cli.deploy import export_lines
from core.protocol.artifacts import Artifact, ArtifactList
from core.protocol.comparisons import RunValue, TeacherUsed
from core.settings import TrainingSettings
from core.specs import parse_experiment
from core.tasks.classification import data, models
from core.tasks.classification.weights_metadata import training_metadata
from core.weights.network_weights import save_weights
from tests.client import fakes
from tests.client.captured import Captured
from tests.client.fakes import FakeBackend

SPEC = (
    parse_experiment(
        {
            "name": "small",
            "dataset": "digits",
            "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
            "methods": ["ce"],
            "seeds": [0],
            "training": {"epochs": 1},
        }
    )
    .plan()[0]
    .spec
)


@pytest.fixture
def finished(backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """A run that has succeeded and left its weights."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    dataset = data.load(SPEC.dataset, TrainingSettings())
    weights = tmp_path / "weights.safetensors"
    network = models.build("small_cnn", num_classes=10, image_size=8, in_channels=1, width=4)
    save_weights(network, weights, training_metadata(SPEC, dataset))
    file = Artifact(id="w", attempt=1, name="weights.safetensors", size=weights.stat().st_size)
    backend.answers |= {
        "GET /api/v1/runs/run-1": fakes.run(state="succeeded", model="small_cnn", spec=SPEC.model_dump(mode="json")),
        "GET /api/v1/runs/run-1/artifacts": ArtifactList(run_id="run-1", items=[file]),
        "GET /api/v1/runs/run-1/artifacts/w": lambda _: httpx.Response(200, content=weights.read_bytes()),
    }
    return backend


def test_a_network_is_exported_and_checked(
    finished: FakeBackend, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dkd(["export-model", "run-1", "--format", "safetensors", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["file"] == "small_cnn-run-1.safetensors"
    assert (tmp_path / report["file"]).read_bytes() == (tmp_path / "weights.safetensors").read_bytes()
    assert report["check"]["largest"] == 0
    assert report["accuracy"]["agreement"] == {"safetensors": 100.0}
    assert dkd(["export-model", "run-1", "--out", str(tmp_path / "none" / "x.onnx")]) == 1
    assert "none" in capsys.readouterr().err


def test_networks_are_measured(finished: FakeBackend, capsys: Captured) -> None:
    assert dkd(["measure", "run-1", "--threads", "1", "--rounds", "2"]) == 0
    out = capsys.readouterr().out
    assert "dkd seed 0 small_cnn" in " ".join(out.split())
    assert "CPU, 1 thread, float32" in out


def test_the_networks_of_an_experiment_are_measured_and_the_smallest_is_named(
    finished: FakeBackend, capsys: Captured
) -> None:
    runs = [fakes.run_summary(1, state="succeeded"), fakes.run_summary(2, state="failed")]
    value = RunValue(run_id="run-1", experiment="small", seed=0, state="succeeded", value=96.25)
    group = fakes.comparison().groups[1].model_copy(update={"runs": [value]})
    teacher = TeacherUsed(run_id="run-1", fingerprint="v1", seed=0, state="succeeded", top1=98.0)
    finished.answers |= {
        "GET /api/v1/experiments/small": fakes.experiment(runs=runs),
        "GET /api/v1/comparisons": fakes.comparison(groups=[group], teachers=[teacher]),
    }
    options = ["--threads", "1", "--rounds", "1"]
    assert dkd(["measure", "small", "run-1", *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [network["run_id"] for network in report["networks"]] == ["run-1"]
    assert dkd(["measure", "small", *options, "--within", "2"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
    assert len(lines) == 4
    assert "dkd of small_cnn has the fewest parameters: " in lines[0]
    finished.answers["GET /api/v1/experiments/small"] = fakes.experiment(runs=runs[1:])
    assert dkd(["measure", "small"]) == 1
    assert "no run of small has succeeded" in capsys.readouterr().err


def test_only_a_run_that_succeeded_has_a_network(finished: FakeBackend, capsys: Captured) -> None:
    finished.answers["GET /api/v1/runs/run-1"] = fakes.run(state="failed")
    assert dkd(["export-model", "run-1"]) == 1
    assert "dkd seed 0 is failed: only a run that has succeeded leaves a network" in capsys.readouterr().err
    finished.answers["GET /api/v1/runs/run-1"] = fakes.run(state="succeeded")
    finished.answers["GET /api/v1/runs/run-1/artifacts"] = ArtifactList(run_id="run-1", items=[])
    assert dkd(["measure", "run-1"]) == 1
    assert "has no file weights.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["export-model", "run-1", "--format", "tflite"],
        ["export-model", "run-1", "--format", "torchscript", "--int8"],
        ["measure", "run-1", "--device", "tpu"],
        ["measure", "run-1", "--json", "--within", "1"],
    ],
)
def test_wrong_options_are_refused(words: list[str], capsys: Captured) -> None:
    assert dkd(words) == 2
    assert next(word for word in reversed(words) if word.startswith("--")) in capsys.readouterr().err


def test_torch_is_needed(finished: FakeBackend, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "find_spec", lambda _: None)
    assert dkd(["measure", "run-1"]) == 1
    assert "pip install 'dkd-lab[train,deploy]'" in capsys.readouterr().err


def test_a_report_is_shown_in_sentences() -> None:
    report: dict[str, Any] = {
        "file": "n.onnx",
        "bytes": 1234,
        "input": [3, 32, 32],
        "classes": 100,
        "check": {"largest": 1e-6, "relative": 1e-7},
        "int8": {"file": "n.int8.onnx", "bytes": 400},
        "accuracy": {
            "images": 10000,
            "top1": {"pytorch": 70.0, "onnx": 70.0, "int8": 69.5},
            "agreement": {"onnx": 100.0, "int8": 98.0},
        },
    }
    lines = export_lines(report)
    assert lines[0] == "n.onnx: 1,234 bytes, images 3 × 32 × 32 in 0–1, 100 classes"
    assert "int8 69.50 %" in lines[3]
    assert "int8 98.00 %" in lines[4]
    assert export_lines(report | {"accuracy": "there are no images"})[-1].endswith("there are no images")
