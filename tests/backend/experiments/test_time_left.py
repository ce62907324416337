"""The estimate of the time until an experiment has ended."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from backend.db import Database, models
from tests.backend.lab import Json, Lab, checkpoint, metrics, plain, spec, started


def time_left(lab: Lab, experiment: str) -> Json:
    answer = lab.admin.get("/api/v1/time-left", params={"experiment": experiment})
    assert answer.status_code == 200, answer.text
    reply: Json = answer.json()
    return reply


def test_without_any_measurement_the_time_is_unknown(lab: Lab) -> None:
    lab.submit(plain("one", runs=3))
    assert time_left(lab, "one") == {
        "seconds": None,
        "teacher_seconds": None,
        "parallel": 1,
        "runs": 3,
        "paused": 0,
        "unknown": 3,
        "following": 0,
    }
    assert lab.admin.get("/api/v1/time-left", params={"experiment": "nothing"}).status_code == 404


def test_waiting_runs_take_as_long_as_the_running_one(lab: Lab) -> None:
    lab.register(slots=1)
    lab.submit(plain("one", runs=3))
    claim = lab.claim()
    lab.events(claim, started(), metrics(2, 5, {"train/loss": 1.0}))  # 5 of 20 steps after 5 s
    reply = time_left(lab, "one")
    assert (reply["parallel"], reply["runs"], reply["unknown"]) == (1, 3, 0)
    assert reply["seconds"] == 15 + 20 + 20
    lab.register("worker-two", slots=1)
    assert time_left(lab, "one")["seconds"] == 15 + 20, "two at once: the third follows the first"


def test_slots_of_workers_that_cannot_take_the_runs_do_not_count(lab: Lab) -> None:
    lab.register("worker-gpu", device="gpu", slots=3)
    lab.submit(plain("one", runs=5, resources={"device": "gpu", "gpus": 2, "labels": ["big"]}))
    assert time_left(lab, "one")["parallel"] == 1, "no worker has the label; one is assumed"
    for number in range(2):
        lab.register(f"worker-{number}", device="cpu", slots=8, labels=["big"])
    assert time_left(lab, "one")["parallel"] == 1
    for number in range(2):
        lab.register(f"worker-big-{number}", device="gpu", slots=3, labels=["big"])
    assert time_left(lab, "one")["parallel"] == 2, "a run cannot have one GPU of each of two workers"


def test_students_follow_their_teacher(lab: Lab) -> None:
    lab.register(slots=4)
    lab.submit(spec("past"))
    teacher = lab.claim()
    lab.events(teacher, started(), metrics(2, 10, {"train/loss": 1.0}))  # 10 of 20 steps after 10 s
    reply = time_left(lab, "past")
    assert reply["teacher_seconds"] == 10
    assert (reply["seconds"], reply["unknown"]) == (10, 2), "no student has been trained"


def test_speed_of_other_experiments_counts_if_there_is_none_of_its_own(lab: Lab) -> None:
    lab.register(slots=1)
    lab.submit(plain("past"))
    claim = lab.claim()
    lab.events(claim, started(), metrics(2, 20, {"train/loss": 1.0}))
    lab.succeed(claim)
    assert time_left(lab, "past") == {
        "seconds": 0.0,
        "teacher_seconds": None,
        "parallel": 0,
        "runs": 0,
        "paused": 0,
        "unknown": 0,
        "following": 0,
    }
    lab.submit(plain("next", runs=2, training={"epochs": 4}))
    assert time_left(lab, "next")["seconds"] == 2 * 40, "2 epochs took 20 s"


def test_runs_that_have_not_begun_take_the_time_outside_of_the_epochs(lab: Lab, database: Database) -> None:
    lab.register(slots=1)
    lab.submit(plain("past", runs=2))
    claim = lab.claim()
    lab.events(claim, started(), metrics(2, 20, {"train/loss": 1.0}))
    lab.succeed(claim)
    with database.write() as session:
        (attempt,) = session.scalars(select(models.Attempt))
        assert attempt.ended_at is not None
        attempt.started_at = attempt.ended_at - timedelta(seconds=27)
    assert time_left(lab, "past")["seconds"] == 20 + 7
    lab.submit(plain("next", runs=2, training={"epochs": 4}))
    assert time_left(lab, "next")["seconds"] == 2 * (40 + 7), "of the other experiment"


def test_paused_runs_are_counted_apart(lab: Lab) -> None:
    lab.submit(spec("one"))
    lab.pause_experiment("one")
    reply = time_left(lab, "one")
    assert (reply["runs"], reply["paused"]) == (3, 3)


def test_runs_that_follow_a_choice_of_settings_count(lab: Lab) -> None:
    lab.register(slots=1)
    lab.submit(spec("audit", methods=["ce", "dkd"], seeds=[0, 1], tune={"trials": 2}))
    labels = [run["label"] for run in lab.experiment("audit")["runs"]]
    assert labels == ["teacher of the trials", "ce #1", "dkd #1", "dkd #2"]
    teacher = lab.claim()
    lab.events(teacher, started(), metrics(2, 10, {"train/loss": 1.0}))  # 10 of 20 steps after 10 s
    reply = time_left(lab, "audit")
    assert (reply["runs"], reply["following"]) == (4, 5), "a teacher, and two methods with two seeds"
    assert reply["unknown"] == 3 + 4, "no student has been trained"
    assert reply["teacher_seconds"] == 10 + 20, "that of the trials, and then the one of the experiment"
    assert reply["seconds"] == 10 + 20
    lab.succeed(teacher)
    student = lab.claim()
    lab.events(student, started(), metrics(2, 20, {"train/loss": 1.0}))
    lab.succeed(student)
    reply = time_left(lab, "audit")
    known = sum(label.startswith(student["spec"]["method"]["name"]) for label in labels[1:]) - 1
    assert reply["seconds"] == 20 * known + 20 + 2 * 20, "trials, the teacher, and two seeds of the method"


def test_runs_without_a_teacher_train_while_others_wait_for_theirs(lab: Lab) -> None:
    lab.register(slots=1)
    lab.submit(spec("past", methods=["dkd", "ce"]))
    for _ in range(3):  # the teacher and two students take 20 s each
        claim = lab.claim()
        lab.events(claim, started(), metrics(2, 20, {"train/loss": 1.0}))
        lab.succeed(claim)
    lab.register("worker-two", slots=1)
    teacher = {"model": "resnet8", "training": {"epochs": 20}}
    lab.submit(spec("next", methods=["dkd", "ce"], teacher=teacher, seeds=[0, 1, 2]))
    reply = time_left(lab, "next")
    assert (reply["parallel"], reply["teacher_seconds"]) == (2, 200)
    assert reply["seconds"] == 200 + 2 * 20, "those of ce while the teacher trains, then three of dkd on two slots"


def test_runs_that_are_cancelled_take_no_time(lab: Lab) -> None:
    lab.register(slots=1)
    lab.submit(plain("one", runs=2))
    claim = lab.claim()
    lab.events(claim, started(), metrics(2, 5, {"train/loss": 1.0}))
    assert time_left(lab, "one")["seconds"] == 15 + 20
    lab.cancel(claim["run_id"])
    assert lab.run(claim["run_id"])["state"] == "cancelling"
    assert time_left(lab, "one")["seconds"] == 20


def test_run_that_is_started_again_continues_from_its_checkpoint(lab: Lab) -> None:
    lab.register(slots=1)
    lab.submit(plain("one"))
    claim = lab.claim()
    lab.events(claim, started(), metrics(2, 5, {"train/loss": 1.0}), checkpoint(3, 5))
    lab.events(claim, metrics(4, 15, {"train/loss": 1.0}))
    assert time_left(lab, "one")["seconds"] == 5
    lab.finish(claim, "failed", reason="the disk is full")
    lab.retry(claim["run_id"])
    assert time_left(lab, "one")["seconds"] == 15, "10 of the 15 steps are lost"


def test_a_run_that_will_be_paused_is_one_of_the_paused(lab: Lab) -> None:
    lab.register(slots=1)
    lab.submit(plain("one"))
    claim = lab.claim()
    lab.pause(claim["run_id"])
    assert lab.run(claim["run_id"])["state"] == "running"
    assert time_left(lab, "one")["paused"] == 1


def test_slots_beyond_the_quota_of_the_project_do_not_count(lab: Lab) -> None:
    lab.register(slots=8)
    lab.submit(plain("one", runs=6))
    assert time_left(lab, "one")["parallel"] == 6
    lab.admin.patch("/api/v1/projects/default/quota", json={"slots": 3}).raise_for_status()
    assert time_left(lab, "one")["parallel"] == 3
    lab.claim()
    assert time_left(lab, "one")["parallel"] == 3, "one trains, and two more may"
