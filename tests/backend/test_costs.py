"""What the methods of a comparison cost, with the teacher's part apart."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.db import Database, models, now
from common.formatting import NOTHING
from core.events import Metrics, Record
from core.protocol.comparisons import Comparison
from core.protocol.costs import CostValue, MethodCost, cost_table
from tests.backend import rows

METHODS = ["kd", "dkd", "ce"]
SECONDS = 100.0


def _trained(database: Database, values: dict[str, dict[str, float]], *, device: str = "cpu", **changes: Any) -> str:
    """Create runs of 100 s that succeeded with these last values by label; return the experiment's id."""
    experiment = rows.experiment(database, **{"methods": METHODS} | changes)
    for (label, _), run_id in rows.run_ids(database, experiment).items():
        own = values.get(label, {})
        seconds = SECONDS + own.get("speed/teacher_seconds", 0.0)
        end = {"test/top1": 90.0, "train/loss": 0.1} | own
        events = [Metrics(step=step, epoch=step / 10, elapsed=seconds * step / 20, values=end) for step in (10, 20)]
        rows.insert_records(
            database, run_id, *(Record(seq=seq, time=1.0, event=event) for seq, event in enumerate(events, 1))
        )
        rows.change(database, run_id, state="succeeded", test_size=899)
    _add_attempts(database, experiment, device)
    return experiment


def _add_attempts(database: Database, experiment: str, device: str) -> None:
    with database.write() as session:
        moment = now(session)
        if session.get(models.Worker, "w") is None:
            session.add(
                models.Worker(
                    id="w", name="w", host="h", slots=1, device="gpu", registered_at=moment, last_heartbeat=moment
                )
            )
            session.flush()
        for run_id in rows.run_ids(database, experiment).values():
            session.add(
                models.Attempt(
                    run_id=run_id,
                    number=1,
                    worker_id="w",
                    worker_name="w",
                    host="h",
                    device=device,
                    started_at=moment,
                )
            )


def _compare(api: TestClient, *experiments: str, **query: Any) -> Comparison:
    answer = api.get("/api/v1/comparisons", params={"experiment": experiments, **query})
    assert answer.status_code == 200, answer.text
    return Comparison.model_validate(answer.json())


def _costs(comparison: Comparison) -> dict[str, MethodCost]:
    return {cost.label: cost for cost in comparison.costs}


FIRST_COMPUTES = {
    "kd": {"speed/teacher_reused": 0.0, "speed/teacher_seconds": 60.0},
    "dkd": {"speed/teacher_reused": 100.0, "speed/teacher_seconds": 2.0},
}


def test_teachers_part_is_apart(database: Database, api: TestClient) -> None:
    costs = _costs(_compare(api, _trained(database, FIRST_COMPUTES)))
    assert [costs[label].student_seconds for label in METHODS] == [CostValue(mean=SECONDS, n=3)] * 3
    assert [costs[label].teacher_seconds for label in METHODS] == [
        CostValue(mean=60.0, n=3),
        CostValue(mean=2.0, n=3),
        None,
    ]
    assert [costs[label].seconds for label in METHODS] == [CostValue(mean=mean, n=3) for mean in (160.0, 102.0, 100.0)]
    assert [costs[label].uses_teacher for label in METHODS] == [True, True, False]
    assert (costs["teacher"].is_teacher, costs["teacher"].runs) == (True, 1)


def test_processor_has_no_gpu_hours_and_claims_no_energy(database: Database, api: TestClient) -> None:
    comparison = _compare(api, _trained(database, FIRST_COMPUTES))
    assert all(cost.gpu_hours is None and cost.gpu_energy is None for cost in comparison.costs)
    table = cost_table(comparison.costs)
    assert table is not None
    assert table.header == ["Method", "Runs", "Training without the teacher's part", "Teacher's part"]
    assert table.rows[0] == ["kd", "3", "1 min 40 s", "1 min 00 s, 38 %"]
    assert table.rows[2] == ["ce", "3", "1 min 40 s", NOTHING]
    assert any(note.startswith("Energy was not measured") for note in table.notes)


def test_gpu_hours_and_energy_with_the_teachers_part(database: Database, api: TestClient) -> None:
    values = {label: own | {"machine/gpu_energy": 8.0} for label, own in FIRST_COMPUTES.items()}
    values["ce"] = {"machine/gpu_energy": 5.0}
    comparison = _compare(api, _trained(database, values, device="cuda:0 NVIDIA H200"))
    kd, ce = _costs(comparison)["kd"], _costs(comparison)["ce"]
    assert kd.gpu_hours is not None
    assert kd.gpu_hours.mean == pytest.approx(160 / 3600)
    assert kd.teacher_gpu_hours is not None
    assert kd.teacher_gpu_hours.mean == pytest.approx(60 / 3600)
    assert kd.teacher_gpu_energy is not None
    assert kd.teacher_gpu_energy.mean == pytest.approx(3.0)
    assert (ce.gpu_energy, ce.teacher_gpu_energy) == (CostValue(mean=5.0, n=3), None)
    table = cost_table(comparison.costs)
    assert table is not None
    assert table.header[-2:] == ["GPU-hours", "GPU energy"]
    assert table.rows[0][-1] == "8.000 Wh; teacher's part about 3.000 Wh"


def test_runs_without_a_measurement_are_not_mixed_in(database: Database, api: TestClient) -> None:
    older = _compare(api, _trained(database, {"kd": {"speed/teacher_reused": 0.0}}))
    assert _costs(older)["kd"].teacher_seconds is None
    assert _costs(older)["kd"].student_seconds is None
    table = cost_table(older.costs)
    assert table is not None
    assert table.rows[0] == ["kd", "3", "not measured", "not measured"]
    mixed = MethodCost(label="kd", runs=3, seconds=CostValue(mean=100, n=3), student_seconds=CostValue(mean=100, n=2))
    shown = cost_table([mixed])
    assert shown is not None
    assert shown.rows[0][2] == "1 min 40 s (2 of 3 runs)"


def test_no_run_that_succeeded_has_no_table(database: Database, api: TestClient) -> None:
    comparison = _compare(api, rows.experiment(database, methods=METHODS))
    assert cost_table(comparison.costs) is None


def test_exports_have_the_costs(database: Database, api: TestClient) -> None:
    experiment = _trained(database, FIRST_COMPUTES)
    text = api.get("/api/v1/comparisons", params={"experiment": experiment, "format": "csv"}).text
    first = next(csv.DictReader(io.StringIO(text)))
    assert (first["seconds_without_teacher"], first["teacher_seconds"], first["gpu_hours"]) == ("100.0", "60.0", "")
    text = api.get("/api/v1/comparisons", params={"experiment": experiment, "format": "markdown"}).text
    assert "1 min 00 s, 38 %" in text
    table = api.get("/api/v1/comparisons/table", params={"experiment": experiment}).json()
    cells = {cell["label"]: cell for cell in table["rows"][0]["cells"]}
    assert cells["kd"]["cost"]["teacher_seconds"] == {"mean": 60.0, "n": 3}
    text = api.get("/api/v1/comparisons/table", params={"experiment": experiment, "format": "csv"}).text
    assert next(csv.DictReader(io.StringIO(text)))["seconds_without_teacher"] == "100.0"


def test_metric_of_the_machine_is_shown_and_not_tested(database: Database, api: TestClient) -> None:
    values = {label: own | {"machine/cpu_use": 50.0} for label, own in FIRST_COMPUTES.items()}
    comparison = _compare(api, _trained(database, values), metric="machine/cpu_use")
    assert comparison.groups[0].mean == 50.0
    assert all(pair.sign_flip_p is None and pair.verdict is None for pair in comparison.paired)
    assert "it describes the machines of the runs, so it is not tested" in comparison.paired[0].sentence
