"""Teachers are trained once, shared by experiments, and determine the state of waiting students."""

from __future__ import annotations

import pytest

from tests.backend.concurrently import concurrently
from tests.backend.lab import TEACHER_WEIGHTS, Json, Lab, plain, spec


@pytest.fixture
def shared(lab: Lab) -> tuple[Json, Json]:
    """Two experiments with the same teacher, and a worker."""
    lab.register()
    return lab.submit(spec("first")), lab.submit(spec("second"))


def test_two_experiments_share_one_teacher(lab: Lab, shared: tuple[Json, Json]) -> None:
    first, second = shared
    assert first["runs"][0]["id"] == second["runs"][0]["id"]
    teacher = lab.run(first["runs"][0]["id"])
    assert teacher["experiments"] == [first["id"], second["id"]]
    assert teacher["experiment"] == "first"
    assert len(second["runs"]) == 3


def test_different_trainings_are_different_teachers(lab: Lab) -> None:
    first = lab.submit(spec("first"))
    other = lab.submit(spec("second", teacher={"model": "resnet8", "seed": 1}))
    assert first["runs"][0]["id"] != other["runs"][0]["id"]


def test_students_are_queued_when_their_teacher_succeeds(lab: Lab, shared: tuple[Json, Json]) -> None:
    claim = lab.claim()
    assert claim["spec"]["role"] == "teacher"
    assert lab.try_claim() is None, "students wait"
    lab.succeed(claim)
    for name in ("first", "second"):
        assert lab.states(name) == {"teacher": "succeeded", "dkd": "queued", "kd": "queued"}
    student = lab.claim()
    assert student["teacher"] == {"path": f"{claim['folder']}/weights.safetensors", "sha256": TEACHER_WEIGHTS}
    assert student["teacher_spec"] == claim["spec"]


def test_succeeded_teacher_is_not_trained_again(lab: Lab) -> None:
    lab.register()
    lab.submit(spec("first"))
    lab.succeed(lab.claim())
    later = lab.submit(spec("later"))
    assert lab.states("later") == {"teacher": "succeeded", "dkd": "queued", "kd": "queued"}
    assert 0 < later["progress"] < 1


def test_students_fail_and_are_retried_with_their_teacher(lab: Lab, shared: tuple[Json, Json]) -> None:
    lab.finish(lab.claim(), "failed", reason="loss is NaN", log_tail=["step 1", "step 2"])
    for experiment in shared:
        current = lab.experiment(experiment["id"])
        assert current["state"] == "failed"
        assert {run["state"] for run in current["runs"]} == {"failed"}
        assert all("loss is NaN" in run["reason"] for run in current["runs"])
    teacher = lab.run(shared[0]["runs"][0]["id"])
    assert teacher["log_tail"] == ["step 1", "step 2"]

    assert lab.retry(shared[0]["runs"][1]["id"])["state"] == "waiting"
    for name in ("first", "second"):
        assert lab.states(name) == {"teacher": "queued", "dkd": "waiting", "kd": "waiting"}
    revived = lab.run(teacher["id"])
    assert (revived["log_tail"], revived["reason"], revived["ended_at"]) == ([], "", None)
    lab.succeed(lab.claim())
    assert lab.states("second") == {"teacher": "succeeded", "dkd": "queued", "kd": "queued"}


def test_teacher_that_another_experiment_uses_is_not_archived(lab: Lab, shared: tuple[Json, Json]) -> None:
    first, _ = shared
    teacher = first["runs"][0]["id"]
    lab.finish(lab.claim(), "failed", reason="loss is NaN")
    lab.admin.post("/api/v1/experiments/first/archive").raise_for_status()
    assert lab.run(teacher)["archived"] is False
    assert [run["archived"] for run in lab.experiment("first")["runs"]] == [False, True, True]
    assert lab.retry(teacher)["state"] == "queued"
    lab.finish(lab.claim(), "failed", reason="loss is NaN")
    lab.admin.post("/api/v1/experiments/second/archive").raise_for_status()
    assert lab.run(teacher)["archived"] is True
    assert lab.admin.post(f"/api/v1/runs/{teacher}/retry").status_code == 409


@pytest.mark.parametrize("retried", ["teacher", "student"])
def test_students_of_an_archived_experiment_are_not_revived(lab: Lab, shared: tuple[Json, Json], retried: str) -> None:
    first, second = shared
    lab.finish(lab.claim(), "failed", reason="loss is NaN")
    lab.admin.post("/api/v1/experiments/first/archive").raise_for_status()
    lab.retry((first if retried == "teacher" else second)["runs"][0 if retried == "teacher" else 1]["id"])
    assert set(lab.states("first").values()) == {"queued", "failed"}
    assert lab.states("second") == {"teacher": "queued", "dkd": "waiting", "kd": "waiting"}
    lab.succeed(lab.claim())
    assert set(lab.states("first").values()) == {"succeeded", "failed"}
    lab.admin.post("/api/v1/experiments/first/unarchive").raise_for_status()
    assert lab.retry(first["runs"][1]["id"])["state"] == "queued"


def test_retry_of_a_teacher_retries_failed_but_not_cancelled_students(lab: Lab, shared: tuple[Json, Json]) -> None:
    first, _ = shared
    lab.cancel(first["runs"][1]["id"])
    lab.finish(lab.claim(), "failed", reason="broken")
    assert lab.retry(first["runs"][0]["id"])["state"] == "queued"
    assert lab.states("first") == {"teacher": "queued", "dkd": "cancelled", "kd": "waiting"}
    assert lab.states("second") == {"teacher": "queued", "dkd": "waiting", "kd": "waiting"}


def test_teacher_is_cancelled_only_if_no_run_waits_for_it(lab: Lab, shared: tuple[Json, Json]) -> None:
    teacher_id = shared[0]["runs"][0]["id"]
    claim = lab.claim()
    refused = lab.admin.post(f"/api/v1/runs/{teacher_id}/cancel")
    assert refused.status_code == 409
    assert "4 run(s) wait for this teacher: 2 of 'first', 2 of 'second'" in refused.json()["detail"]
    assert lab.run(teacher_id)["state"] == "running"
    for experiment in shared:
        for run in experiment["runs"][1:]:
            lab.cancel(run["id"])
    assert lab.cancel(teacher_id)["state"] == "cancelling"
    assert lab.cancel(teacher_id)["state"] == "cancelling", "a repetition changes nothing"
    lab.finish(claim, "cancelled")
    assert lab.cancel(teacher_id)["state"] == "cancelled"


def test_teacher_inherits_the_priority_of_its_students(lab: Lab, shared: tuple[Json, Json]) -> None:
    first, second = shared
    teacher = first["runs"][0]["id"]

    def priority(run_id: str) -> int:
        return int(lab.run(run_id)["priority"])

    lab.priority(first["runs"][1]["id"], 5)
    assert priority(teacher) == 5
    lab.priority_of_experiment("second", 9)
    assert [priority(run["id"]) for run in second["runs"]] == [9, 9, 9]
    lab.priority_of_experiment("first", -3)
    assert [priority(run["id"]) for run in first["runs"]] == [9, -3, -3], "the other experiment still waits for it"
    lab.cancel_experiment("second")
    assert priority(teacher) == -3
    refused = lab.admin.post(f"/api/v1/runs/{teacher}/priority", json={"priority": 50})
    assert (refused.status_code, priority(teacher)) == (409, -3)
    lab.cancel(first["runs"][1]["id"])
    lab.retry(second["runs"][1]["id"])
    assert priority(teacher) == 9


def test_cancelling_an_experiment_keeps_a_shared_teacher(lab: Lab, shared: tuple[Json, Json]) -> None:
    lab.cancel_experiment("first")
    assert lab.states("first") == {"teacher": "queued", "dkd": "cancelled", "kd": "cancelled"}
    assert lab.states("second") == {"teacher": "queued", "dkd": "waiting", "kd": "waiting"}
    lab.cancel_experiment("second")
    assert lab.states("first")["teacher"] == "cancelled"


def test_teacher_has_the_highest_priority_of_its_experiments(lab: Lab) -> None:
    lab.register()
    low = lab.submit(spec("low", priority=-1))
    lab.submit(plain("middle", priority=2))
    lab.submit(spec("high", priority=5))
    assert lab.claim()["run_id"] == low["runs"][0]["id"]
    lab.submit(spec("lower", priority=-7))
    assert lab.run(low["runs"][0]["id"])["priority"] == 5


def test_retried_students_move_to_the_teachers_successor(lab: Lab) -> None:
    lab.register()
    first = lab.submit(spec("first"))
    lab.finish(lab.claim(), "failed", reason="broken")
    second = lab.submit(spec("second"))
    old, new = first["runs"][0]["id"], second["runs"][0]["id"]
    assert old != new
    refused = lab.admin.post(f"/api/v1/runs/{old}/retry")
    assert refused.status_code == 409
    assert new in refused.json()["detail"]
    moved = lab.retry(first["runs"][1]["id"])
    assert (moved["state"], moved["teacher_run_id"]) == ("waiting", new)
    lab.succeed(lab.claim())
    assert lab.run(moved["id"])["state"] == "queued"


def test_teacher_being_cancelled_continues_if_needed_again(lab: Lab) -> None:
    lab.register()
    lab.submit(spec("first"))
    claim = lab.claim()
    lab.cancel_experiment("first")
    assert lab.orders(claim) == ["cancel"]
    lab.submit(spec("second"))
    lab.finish(claim, "cancelled")
    assert lab.states("second") == {"teacher": "queued", "dkd": "waiting", "kd": "waiting"}
    assert lab.claim()["run_id"] == claim["run_id"]


def test_concurrent_submissions_share_one_teacher(lab: Lab) -> None:
    made = concurrently(lab, 6, lambda one, index: one.submit(spec(f"number {index}")))
    assert len({experiment["runs"][0]["id"] for experiment in made}) == 1
    teachers = [run for run in lab.admin.get("/api/v1/runs").json()["items"] if run["role"] == "teacher"]
    assert len(teachers) == 1


def test_one_of_concurrent_submissions_with_the_same_name_succeeds(lab: Lab) -> None:
    def submit(one: Lab, _: int) -> int:
        return one.admin.post("/api/v1/experiments", json=plain("same")).status_code

    assert sorted(concurrently(lab, 5, submit)) == [201, 422, 422, 422, 422]
    assert len(lab.admin.get("/api/v1/runs").json()["items"]) == 1


def test_concurrent_repeats_of_a_request_are_executed_once(lab: Lab) -> None:
    def submit(one: Lab, _: int) -> tuple[int, str]:
        response = one.admin.post("/api/v1/experiments", json=spec(), headers={"Idempotency-Key": "k"})
        return response.status_code, response.json().get("id", response.text)

    assert len(set(concurrently(lab, 5, submit))) == 1
    assert len(lab.experiments()) == 1


def test_teacher_list_shows_users_and_source_of_weights(lab: Lab) -> None:
    first, second = lab.submit(spec("first")), lab.submit(spec("second", seeds=[0, 1]))
    tuned = {"model": "resnet18", "weights": {"source": "pretrained", "fine_tune": True}}
    lab.submit(spec("third", teacher=tuned, student={"model": "resnet8"}, dataset="cifar100"))
    newest, oldest = lab.admin.get("/api/v1/teachers").json()["items"]
    assert (newest["model"], newest["weights"], newest["fine_tuned"]) == ("resnet18", "pretrained", True)
    assert (oldest["weights"], oldest["fine_tuned"]) == (None, False)
    assert oldest["run_id"] == first["runs"][0]["id"]
    assert (oldest["students"], oldest["experiments"], oldest["example"]) == (6, 2, second["id"])
    assert oldest["reason"] == "waits for a worker; none is online"
    students = lab.admin.get("/api/v1/runs", params={"teacher": oldest["run_id"], "experiment": "first"}).json()
    assert {run["label"] for run in students["items"]} == {"dkd", "kd"}
