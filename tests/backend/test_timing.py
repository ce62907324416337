"""Times of methods are compared without the time of the teacher's logits, which only the first run computes."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.db import Database
from core.events import Metrics, Record
from core.protocol.comparisons import Comparison
from tests.backend import rows

METHODS = ["kd", "dkd", {"name": "dkd", "label": "B", "params": {"beta": 4.0}}]
EPOCH_SECONDS, TEACHER_SECONDS = 10.0, 5.0


def _compare(api: TestClient, experiment: str, **query: Any) -> Comparison:
    answer = api.get("/api/v1/comparisons", params={"experiment": experiment, **query})
    assert answer.status_code == 200, answer.text
    return Comparison.model_validate(answer.json())


def _trained(database: Database, reused: dict[str, float], *, measured: bool) -> str:
    """Create runs with 10 s per epoch, and 5 s more if they compute the teacher's logits; return the experiment's id.

    Args:
        reused: Percentage of logits that each label reused.
        measured: Whether the time of the teacher is recorded.
    """
    experiment = rows.experiment(database, methods=METHODS)
    for (label, _), run_id in rows.run_ids(database, experiment).items():
        records = []
        for epoch, top1 in enumerate([50.0, 88.0, 88.0, 88.0], 1):
            share = reused.get(label, 0.0)
            teacher_seconds = epoch * TEACHER_SECONDS * (1 - share / 100)
            values = {"test/top1": 90.0 if label == "teacher" else top1}
            if label != "teacher":
                values |= {"speed/teacher_reused": share}
                values |= {"speed/teacher_seconds": teacher_seconds} if measured else {}
            event = Metrics(
                step=10 * epoch, epoch=epoch, elapsed=EPOCH_SECONDS * epoch + teacher_seconds, values=values
            )
            records.append(Record(seq=epoch, time=1.0, event=event))
        rows.insert_records(database, run_id, *records)
        rows.change(database, run_id, state="succeeded", test_size=899)
    return experiment


FIRST_COMPUTES = {"kd": 0.0, "dkd": 100.0, "B": 100.0}


def test_measured_teacher_time_is_excluded(database: Database, api: TestClient) -> None:
    comparison = _compare(api, _trained(database, FIRST_COMPUTES, measured=True))
    assert comparison.timing == "student"
    assert [group.convergence and group.convergence.median_seconds for group in comparison.groups] == [20.0, 20.0, 20.0]
    assert [pair.convergence and pair.convergence.speed_up_seconds for pair in comparison.paired] == [1.0, 1.0]
    kd = comparison.groups[0].convergence
    assert kd is not None
    assert (kd.runs[0].seconds, kd.runs[0].teacher_seconds, kd.runs[0].teacher_reused) == (30.0, 10.0, 0.0)
    assert any("Times do not include the time of the teacher's logits" in note for note in comparison.notes)


def test_times_with_unknown_teacher_time_are_not_compared(database: Database, api: TestClient) -> None:
    experiment = _trained(database, FIRST_COMPUTES, measured=False)
    comparison = _compare(api, experiment)
    assert comparison.timing == "unlike"
    assert [pair.convergence and pair.convergence.speed_up_seconds for pair in comparison.paired] == [None, None]
    assert any("not comparable between methods" in note and "0 to 100 %" in note for note in comparison.notes)
    text = api.get("/api/v1/comparisons", params={"experiment": experiment, "format": "csv"}).text
    assert {row["timing"] for row in csv.DictReader(io.StringIO(text))} == {"unlike"}


@pytest.mark.parametrize("share", [0.0, 100.0])
def test_runs_with_equal_reuse_are_compared_by_total_time(database: Database, api: TestClient, share: float) -> None:
    comparison = _compare(api, _trained(database, dict.fromkeys(FIRST_COMPUTES, share), measured=False))
    assert comparison.timing == "whole"
    assert [pair.convergence and pair.convergence.speed_up_seconds for pair in comparison.paired] == [1.0, 1.0]
    assert any("do not include computing the teacher's logits" in note for note in comparison.notes) == (share == 100.0)


@pytest.mark.parametrize(("measured", "timing"), [(False, "unlike"), (True, "student")])
def test_timing_rule_applies_to_runs_that_never_reach_the_target(
    database: Database, api: TestClient, measured: bool, timing: str
) -> None:
    """Their curves over time are still drawn."""
    assert _compare(api, _trained(database, FIRST_COMPUTES, measured=measured), target=99).timing == timing
