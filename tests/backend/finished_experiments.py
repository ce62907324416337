"""Finished experiments with given accuracies, and their comparison over the API."""

from __future__ import annotations

from typing import Any

from fastapi.testclient import TestClient

from backend.db import Database
from core.protocol.comparisons import Comparison
from tests.backend import rows

METHODS = ["kd", {"name": "dkd", "label": "DKD"}]


def compare(api: TestClient, experiment: str, **query: Any) -> Comparison:
    answer = api.get("/api/v1/comparisons", params={"experiment": experiment, **query})
    assert answer.status_code == 200, answer.text
    return Comparison.model_validate(answer.json())


def finished(database: Database, last: dict[tuple[str, int], float], **changes: Any) -> str:
    """Create an experiment whose teacher reached 90 % and whose given students these last accuracies; return its id."""
    experiment = rows.experiment(database, **{"methods": METHODS} | changes)
    for key, run_id in rows.run_ids(database, experiment).items():
        if key == ("teacher", 0):
            rows.succeed(database, run_id, [50, 80, 91, 90])
        elif key in last:
            value = last[key]
            rows.succeed(database, run_id, [value - 30, value - 4, value, value])
    return experiment


THREE = {("kd", 0): 80.0, ("kd", 1): 82.0, ("kd", 2): 84.0, ("DKD", 0): 81.0, ("DKD", 1): 83.5, ("DKD", 2): 86.0}
