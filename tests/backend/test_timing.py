"""Times of methods are compared without what only the order of the runs decides: who computed the teacher's logits."""

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
    """Every method takes 10 s an epoch of its own, and 5 s more where it computes the teacher's logits."""
    experiment = rows.experiment(database, methods=METHODS)
    for (label, _), run_id in rows.run_ids(database, experiment).items():
        records = []
        for epoch, top1 in enumerate([50.0, 88.0, 88.0, 88.0], 1):
            share = reused.get(label, 0.0)
            spent = epoch * TEACHER_SECONDS * (1 - share / 100)
            values = {"test/top1": 90.0 if label == "teacher" else top1}
            if label != "teacher":
                values |= {"speed/teacher_reused": share}
                values |= {"speed/teacher_seconds": spent} if measured else {}
            event = Metrics(step=10 * epoch, epoch=epoch, elapsed=EPOCH_SECONDS * epoch + spent, values=values)
            records.append(Record(seq=epoch, time=1.0, event=event))
        rows.take(database, run_id, *records)
        rows.change(database, run_id, state="succeeded", test_size=899)
    return experiment


FIRST_COMPUTES = {"kd": 0.0, "dkd": 100.0, "B": 100.0}


def test_the_teachers_part_is_left_out_where_it_was_measured(database: Database, api: TestClient) -> None:
    found = _compare(api, _trained(database, FIRST_COMPUTES, measured=True))
    assert found.timing == "student"
    assert [group.convergence and group.convergence.median_seconds for group in found.groups] == [20.0, 20.0, 20.0]
    assert [pair.convergence and pair.convergence.speed_up_seconds for pair in found.paired] == [1.0, 1.0]
    kd = found.groups[0].convergence
    assert kd is not None
    assert (kd.runs[0].seconds, kd.runs[0].teacher_seconds, kd.runs[0].teacher_reused) == (30.0, 10.0, 0.0)
    assert any("Times do not include the time of the teacher's logits" in note for note in found.notes)


def test_times_of_which_the_part_is_not_known_are_not_compared(database: Database, api: TestClient) -> None:
    experiment = _trained(database, FIRST_COMPUTES, measured=False)
    found = _compare(api, experiment)
    assert found.timing == "unlike"
    assert [pair.convergence and pair.convergence.speed_up_seconds for pair in found.paired] == [None, None]
    assert any("not comparable between methods" in note and "0 to 100 %" in note for note in found.notes)
    text = api.get("/api/v1/comparisons", params={"experiment": experiment, "format": "csv"}).text
    assert {row["timing"] for row in csv.DictReader(io.StringIO(text))} == {"unlike"}


@pytest.mark.parametrize("share", [0.0, 100.0])
def test_runs_of_like_reuse_are_compared_by_their_whole_time(database: Database, api: TestClient, share: float) -> None:
    found = _compare(api, _trained(database, dict.fromkeys(FIRST_COMPUTES, share), measured=False))
    assert found.timing == "whole"
    assert [pair.convergence and pair.convergence.speed_up_seconds for pair in found.paired] == [1.0, 1.0]
    assert any("do not include computing the teacher's logits" in note for note in found.notes) == (share == 100.0)


@pytest.mark.parametrize(("measured", "timing"), [(False, "unlike"), (True, "student")])
def test_the_rule_holds_for_runs_that_never_reach_the_target(
    database: Database, api: TestClient, measured: bool, timing: str
) -> None:
    """Their curves over time are drawn all the same."""
    assert _compare(api, _trained(database, FIRST_COMPUTES, measured=measured), target=99).timing == timing
