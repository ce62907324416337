"""Results of different tasks are never compared, and those of detection are judged by AP."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.db import Database
from core.protocol.comparisons import Comparison
from core.protocol.result_tables import BesidePublished, ResultTable
from tests.backend import rows

AP = ("test/ap", "test/ap50", "test/ap75")
PATH = "/api/v1/comparisons"


def detector(backbone: str) -> dict[str, Any]:
    return {"model": {"name": "faster_rcnn", "params": {"backbone": backbone}}}


def detection(database: Database, name: str = "scenes", images: str = "", **changes: Any) -> str:
    """Create finished runs of detection, with a teacher of 60 % AP and students of 40 % and more; return the id."""
    spec = {
        "dataset": "digit_scenes",
        "teacher": detector("resnet20"),
        "student": detector("resnet8"),
        "methods": ["ce", "dkd"],
        "seeds": [0, 1],
    } | changes
    experiment = rows.experiment(database, name=name, **spec)
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        value = 60.0 if label == "teacher" else 40.0 + seed + 2 * (label != "ce")
        environment = {"images": images if label == "teacher" else "b" * 16} if images else {}
        rows.succeed(database, run_id, [value - 5, value + 1, value], AP, environment=environment)
    return experiment


def classification(database: Database, name: str = "digits") -> str:
    experiment = rows.experiment(database, name=name, seeds=[0])
    for run_id in rows.run_ids(database, experiment).values():
        rows.succeed(database, run_id, [70.0, 80.0])
    return experiment


@pytest.fixture
def both(database: Database) -> list[str]:
    return [classification(database), detection(database)]


@pytest.mark.parametrize("report", ["", "/overview", "/claims", "/table"])
def test_experiments_of_two_tasks_are_refused_with_both_names(report: str, both: list[str], api: TestClient) -> None:
    answer = api.get(PATH + report, params={"experiment": both})
    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert problem["path"] == "experiment"
    assert problem["message"] == (
        "digits is classification on digits, judged by test accuracy, and scenes is object detection on digit_scenes, "
        "judged by test AP; results of different tasks are not compared"
    )


def test_detectors_are_compared_by_ap(database: Database, api: TestClient) -> None:
    answer = api.get(PATH, params={"experiment": detection(database)})
    comparison = Comparison.model_validate(answer.json())
    assert (comparison.metric, comparison.title, comparison.unit) == ("test/ap", "Test AP", "%")
    assert comparison.teacher_top1 == 60.0
    assert comparison.target == pytest.approx(57.0)
    assert [group.mean for group in comparison.groups] == [40.5, 42.5]
    assert comparison.test_size == 899
    assert comparison.resolution is None, "AP is no share of images"


def test_notes_name_the_metric_of_the_task(database: Database, api: TestClient) -> None:
    answer = api.get(PATH, params={"experiment": detection(database, images="a" * 16)}).json()
    assert any("its test AP is not compared with theirs" in note for note in answer["notes"])
    best = api.get(PATH, params={"experiment": "scenes", "which": "oracle"}).json()
    assert not any("accuracy" in note for note in best["notes"])


def table(api: TestClient, **query: Any) -> ResultTable:
    answer = api.get(f"{PATH}/table", params=query)
    assert answer.status_code == 200, answer.text
    return ResultTable.model_validate(answer.json())


def test_a_table_is_of_one_task_and_counts_the_others(both: list[str], api: TestClient) -> None:
    first = table(api)
    assert (first.task, first.tasks, first.metric) == ("classification", ["classification", "detection"], "test/top1")
    assert [row.title for row in first.rows] == ["digits resnet8→small_cnn"]
    assert "This table is of classification. 1 experiment is left out, of object detection" in " ".join(first.notes)
    second = table(api, task="detection")
    assert (second.task, second.tasks, second.metric) == ("detection", first.tasks, "test/ap")
    assert [row.title for row in second.rows] == ["digit_scenes faster_rcnn resnet20→faster_rcnn resnet8"]
    assert [cell.mean for cell in second.rows[0].cells] == [40.5, 42.5]
    assert table(api, metric="test/ap50").task == "detection", "the task that measures it"
    assert [row.cells[0].mean for row in table(api, metric="test/ap50").rows] == [50.5]
    assert table(api, task="detection", experiment=both).methods == ["ce", "dkd"]


def test_an_unknown_task_is_refused(both: list[str], api: TestClient) -> None:
    answer = api.get(f"{PATH}/table", params={"task": "detections"})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "task")
    assert "detection" in answer.json()["errors"][0]["message"]


def test_lists_name_the_backbones_of_detectors(database: Database, api: TestClient) -> None:
    detection(database)
    found = api.get("/api/v1/experiments/scenes").json()
    assert (found["teacher_model"], found["student_model"]) == ("faster_rcnn resnet20", "faster_rcnn resnet8")


def test_published_ap_is_beside_the_runs_of_the_same_pair_of_detectors(database: Database, api: TestClient) -> None:
    review = {
        "name": "reviewkd",
        "label": "both",
        "params": {"student_taps": ["stages"], "teacher_taps": ["stages"]},
        "with": ["dkd"],
    }
    methods = ["ce", "dkd", review, {"name": "dkd", "label": "fixed", "regions": "fixed"}]
    pair: dict[str, Any] = {"teacher": detector("resnet101"), "student": detector("resnet18")}
    detection(database, "pair", dataset="coco", methods=methods, **pair)
    detection(database, "other", dataset="coco", teacher=detector("resnet50"), student=detector("resnet18"))
    detection(database, "helmets", dataset={"name": "coco", "params": {"path": "helmets"}}, **pair)
    query = {"student": "faster_rcnn resnet18"}
    reply = BesidePublished.model_validate(api.get(f"{PATH}/published/measured", params=query).json())
    assert {(item.teacher, item.student) for item in reply.items} == {("faster_rcnn resnet101", "faster_rcnn resnet18")}
    found = {(item.printed, item.metric): item for item in reply.items}
    assert len(found) == 24
    assert not any(item.confirmed for item in reply.items)
    for index, metric in enumerate(AP):
        here = {printed: found[printed, metric].measured for printed in ("Teacher", "Student", "DKD", "DKD+ReviewKD")}
        means = {printed: [item.last.mean for item in items if item.last] for printed, items in here.items()}
        more = 10.0 * index
        assert means == {
            "Teacher": [60.0 + more],
            "Student": [40.5 + more],
            "DKD": [42.5 + more],
            "DKD+ReviewKD": [42.5 + more],
        }
        assert [item.label for item in here["DKD+ReviewKD"]] == ["both"]
    assert found["FGFI", "test/ap"].measured == []
    settings = {(item.dataset, item.student): item.experiments for item in reply.settings if item.dataset == "coco"}
    assert settings["coco", "faster_rcnn mobilenet_v2"] == 0
    assert reply.sources[found["DKD", "test/ap"].source].startswith("AP75 of ReviewKD")
    shown = table(api, dataset="coco", metric="test/ap75")
    of_pair = next(row for row in shown.rows if row.experiments == ["pair"])
    assert [cell.published[0].value if cell.published else None for cell in of_pair.cells] == [
        35.26,
        37.54,
        39.85,
        None,
    ]
    assert [row.published == [] for row in shown.rows] == [False, True, True]
    assert any("unconfirmed" in note for note in shown.notes)
    marked = api.get(f"{PATH}/table", params={"dataset": "coco", "format": "markdown"}).text
    assert "35.05 unconfirmed" in marked
