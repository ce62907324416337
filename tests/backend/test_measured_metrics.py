"""The metrics that runs have reported, which Compare offers."""

from __future__ import annotations

from tests.backend.lab import Lab, metrics, spec, started

PATH = "/api/v1/comparisons/metrics"


def names(lab: Lab, **query: str | list[str]) -> list[str]:
    answer = lab.admin.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    found: list[str] = answer.json()["names"]
    return found


def test_names_are_of_the_students_of_experiments_and_of_single_runs(lab: Lab) -> None:
    lab.register()
    lab.submit(spec("one"))
    lab.submit(spec("two", methods=["ce"], teacher=None))
    assert names(lab, experiment="one") == []
    teacher = lab.claim()
    lab.events(teacher, started(), metrics(2, 10, {"test/top1": 1.0, "val/top1": 2.0}))
    student = lab.claim()
    lab.events(student, started(), metrics(2, 10, {"zz/plugin": 3.0, "train/loss": 1.0, "test/top1": 2.0}))
    assert teacher["run_id"] != student["run_id"]
    by_experiment = {key: names(lab, experiment=key) for key in ("one", "two")}
    # The student that can be claimed beside the teacher is the one without a teacher.
    assert by_experiment == {"one": [], "two": ["test/top1", "train/loss", "zz/plugin"]}
    assert names(lab, run=teacher["run_id"]) == ["test/top1", "val/top1"]
    assert names(lab, experiment=["one", "two"], run=[teacher["run_id"]]) == [
        "test/top1",
        "val/top1",
        "train/loss",
        "zz/plugin",
    ]
    assert names(lab) == []


def test_unknown_experiment_is_not_found(lab: Lab) -> None:
    assert lab.admin.get(PATH, params={"experiment": "nowhere"}).status_code == 404
