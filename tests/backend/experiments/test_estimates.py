"""The preview's estimate of the training time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from backend.db import Database
from backend.db.models import Attempt
from core.specs import parse_experiment
from tests.backend.lab import Json, Lab, metrics, plain, spec, started


def preview(lab: Lab, body: Json) -> Json:
    response = lab.admin.post("/api/v1/experiments/preview", json=body)
    assert response.status_code == 200, response.text
    reply: Json = response.json()
    return reply


def estimate(lab: Lab, body: Json) -> Json:
    reply: Json = preview(lab, body)["estimate"]
    return reply


def train(lab: Lab, seconds_a_step: float, **begun: Any) -> str:
    """Train the next eligible run: two epochs of ten steps; return its id."""
    claim = lab.claim()
    point = metrics(2, 20, {"train/loss": 0.5})
    point["event"]["elapsed"] = 20 * seconds_a_step
    lab.events(claim, started(**begun), point)
    lab.succeed(claim)
    return str(claim["run_id"])


def test_runs_without_past_runs_are_counted_as_unknown(lab: Lab) -> None:
    assert estimate(lab, spec()) == {"times": [], "unknown": 3}


def test_estimate_is_the_median_of_past_runs_of_the_same_kind(lab: Lab) -> None:
    lab.register()
    lab.submit(plain("past", runs=3))
    for seconds in (1.0, 2.0, 9.0):
        train(lab, seconds)
    reply = estimate(lab, plain("next", runs=4, training={"epochs": 6}))
    assert reply == {"times": [{"device": "cpu", "seconds": 4 * 6 * 10 * 2.0, "runs": 4, "based_on": 3}], "unknown": 0}


def lasted(database: Database, run_id: str, seconds: float) -> None:
    """Let the attempt of a run have taken this time, from its claim to its end."""
    with database.write() as session:
        attempt = session.scalars(select(Attempt).where(Attempt.run_id == run_id)).one()
        assert attempt.ended_at is not None
        attempt.started_at = attempt.ended_at - timedelta(seconds=seconds)


def test_estimate_contains_start_up_and_final_measurements_once_per_run(lab: Lab, database: Database) -> None:
    lab.register()
    lab.submit(plain("past", runs=3))
    for whole in (30.0, 129.0, 500.0):
        run_id = train(lab, 1.0)
        lasted(database, run_id, whole)
    (time,) = estimate(lab, plain("next", runs=2, training={"epochs": 6}))["times"]
    assert time["seconds"] == pytest.approx(2 * (6 * 10 * 1.0 + 109), abs=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"epochs": 2, "batch_size": 32}},
        {"student": {"model": "resnet8"}},
        {"student": {"model": {"name": "small_cnn", "params": {"width": 24}}}},
        {"dataset": {"name": "digits", "params": {"val_fraction": 0.1}}},
        {"resources": {"device": "gpu"}},
    ],
)
def test_runs_of_another_kind_are_ignored(lab: Lab, changes: Json) -> None:
    lab.register()
    lab.submit(plain("past"))
    train(lab, 1.0)
    assert estimate(lab, plain("next") | changes) == {"times": [], "unknown": 1}


def test_gpu_seconds_on_the_most_frequent_device(lab: Lab) -> None:
    lab.register()
    lab.submit(plain("past", runs=3))
    train(lab, 50.0)
    for card in (0, 1):
        train(lab, 1.0, device=f"cuda:{card} NVIDIA H200", environment={"ranks": "2"})
    (time,) = estimate(lab, plain("next"))["times"]
    assert time == {"device": "cuda NVIDIA H200", "seconds": 2 * 10 * 1.0 * 2, "runs": 1, "based_on": 2}


def test_existing_teachers_and_given_weights_cost_nothing(lab: Lab) -> None:
    lab.submit(spec("past"))
    assert estimate(lab, spec("next"))["unknown"] == 2
    teacher = {"model": "resnet18", "weights": {"source": "pretrained", "fine_tune": True}}
    body = spec("given", dataset={"name": "cifar100", "params": {"image_size": 224}}, student={"model": "resnet18"})
    assert estimate(lab, body | {"teacher": teacher})["unknown"] == 3


def test_preview_returns_the_completed_spec(lab: Lab) -> None:
    body = {"name": "quick", "preset": "quick"}
    assert preview(lab, body)["spec"] == parse_experiment(body).model_dump(mode="json")
    assert lab.experiments() == []
