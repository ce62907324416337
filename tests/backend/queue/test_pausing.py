"""Pausing and resuming runs in every state."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.backend.concurrently import concurrently
from tests.backend.lab import Json, Lab, checkpoint, plain, spec, started


@pytest.fixture
def claim(lab: Lab) -> Json:
    """Claim a run of worker-one, which the test pauses."""
    lab.register()
    lab.submit(plain())
    claim = lab.claim()
    lab.events(claim, started(1), checkpoint(2, 10))
    paused = lab.pause(claim["run_id"])
    assert (paused["state"], paused["pausing"]) == ("running", True)
    return claim


def return_run(lab: Lab, claim: Json) -> str:
    lab.finish(claim, "interrupted", reason="it was paused", fault=False)
    state: str = lab.run(claim["run_id"])["state"]
    return state


def test_queued_run_is_paused_and_resumed(lab: Lab) -> None:
    lab.register()
    lab.submit(plain(runs=2))
    assert lab.pause_experiment("plain")["counts"]["paused"] == 2
    assert lab.try_claim() is None
    assert lab.heartbeat()["eligible"] == 0
    assert lab.pause_experiment("plain") == lab.experiment("plain"), "a repetition changes nothing"
    assert lab.resume_experiment("plain")["counts"]["queued"] == 2
    assert lab.resume_experiment("plain")["counts"]["queued"] == 2
    assert lab.claim()


def test_archived_work_starts_only_after_it_is_unarchived(lab: Lab) -> None:
    """Lists do not show it, so that it would train unseen."""
    lab.register()
    made = lab.submit(plain(runs=2))
    failed = lab.claim()
    lab.finish(failed, "failed", reason="the disk is full")
    [paused] = [run["id"] for run in made["runs"] if run["id"] != failed["run_id"]]
    lab.pause(paused)
    lab.admin.post("/api/v1/experiments/plain/archive").raise_for_status()
    for path in (f"runs/{failed['run_id']}/retry", f"runs/{paused}/resume", "experiments/plain/resume"):
        answer = lab.admin.post(f"/api/v1/{path}")
        assert answer.status_code == 409
        assert answer.json()["detail"] == "the experiment plain is archived; unarchive it first"
    assert [run["archived"] for run in lab.experiment("plain")["runs"]] == [True, True]
    lab.admin.post("/api/v1/experiments/plain/unarchive").raise_for_status()
    assert lab.retry(failed["run_id"])["state"] == "queued"
    assert lab.resume(paused)["state"] == "queued"
    assert lab.run(paused)["archived"] is False


def test_running_run_is_paused_with_its_checkpoint(lab: Lab, claim: Json) -> None:
    [order] = lab.heartbeat(claim)["orders"]
    assert (order["order"], order["pause"]) == ("continue", True)
    assert return_run(lab, claim) == "paused"
    assert lab.try_claim() is None
    resumed = lab.resume(claim["run_id"])
    assert (resumed["state"], resumed["reason"]) == ("queued", "")
    again = lab.claim()
    assert (again["attempt"], again["checkpoint"]["path"]) == (2, f"{claim['folder']}/checkpoint.pt")


def test_run_resumed_before_its_worker_stopped_it_is_queued(lab: Lab, claim: Json) -> None:
    assert lab.resume(claim["run_id"])["pausing"] is False
    [order] = lab.heartbeat(claim)["orders"]
    assert order["pause"] is False
    assert return_run(lab, claim) == "queued", "the worker had received the order before"


def test_run_that_ends_before_it_is_paused_stays_ended(lab: Lab, claim: Json) -> None:
    lab.succeed(claim)
    run = lab.run(claim["run_id"])
    assert (run["state"], run["pausing"]) == ("succeeded", False)
    assert lab.pause(claim["run_id"])["state"] == "succeeded"
    assert lab.resume(claim["run_id"])["state"] == "succeeded"


def test_cancel_takes_precedence_over_pause(lab: Lab, claim: Json) -> None:
    assert lab.cancel(claim["run_id"])["state"] == "cancelling"
    lab.pause(claim["run_id"])
    [order] = lab.heartbeat(claim)["orders"]
    assert (order["order"], order["pause"]) == ("cancel", False)
    assert return_run(lab, claim) == "cancelled"


def test_paused_run_can_be_cancelled(lab: Lab, claim: Json) -> None:
    return_run(lab, claim)
    assert lab.cancel(claim["run_id"])["state"] == "cancelled"
    assert lab.resume(claim["run_id"])["state"] == "cancelled"


@pytest.mark.parametrize("how", ["interrupted", "lost"])
def test_run_lost_while_pausing_is_paused(lab: Lab, claim: Json, how: str) -> None:
    if how == "lost":
        lab.register()  # the worker was restarted
    else:
        lab.finish(claim, "interrupted", reason="killed")
    assert lab.run(claim["run_id"])["state"] == "paused"


def test_paused_teacher_continues_for_other_students(lab: Lab) -> None:
    lab.register()
    lab.submit(spec("first"))
    lab.submit(spec("second"))
    lab.pause_experiment("first")
    assert lab.states("first") == {"teacher": "queued", "dkd": "paused", "kd": "paused"}
    lab.pause_experiment("second")
    assert lab.states("second") == {"teacher": "paused", "dkd": "paused", "kd": "paused"}
    lab.submit(spec("third"))
    assert lab.states("third") == {"teacher": "queued", "dkd": "waiting", "kd": "waiting"}
    lab.pause_experiment("third")
    student = lab.experiment("second")["runs"][1]["id"]
    assert lab.resume(student)["state"] == "waiting"
    assert lab.states("second")["teacher"] == "queued"
    lab.succeed(lab.claim())
    assert lab.states("first") == {"teacher": "succeeded", "dkd": "paused", "kd": "paused"}
    lab.resume_experiment("first")
    assert lab.states("first") == {"teacher": "succeeded", "dkd": "queued", "kd": "queued"}


def test_paused_student_fails_and_is_retried_with_its_teacher(lab: Lab) -> None:
    lab.register()
    made = lab.submit(spec())
    lab.pause(made["runs"][1]["id"])
    lab.finish(lab.claim(), "failed", reason="loss is NaN")
    assert set(lab.states("first").values()) == {"failed"}
    lab.retry(made["runs"][0]["id"])
    assert lab.states("first") == {"teacher": "queued", "dkd": "waiting", "kd": "waiting"}


def test_concurrent_pause_claim_and_resume_lose_no_run(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(retry_delay_seconds=0)
    lab.submit(plain(runs=6))
    for index in range(3):
        lab.register(f"worker-{index}")

    def work(one: Lab, index: int) -> None:
        for _ in range(4):
            if index == 3:
                one.pause_experiment("plain")
                one.resume_experiment("plain")
            elif claim := one.try_claim(f"worker-{index}"):
                one.finish(claim, "interrupted", f"worker-{index}", fault=False)

    concurrently(lab, 4, work)
    lab.resume_experiment("plain")
    assert lab.experiment("plain")["counts"]["queued"] == 6


def test_priority_determines_the_next_run(lab: Lab) -> None:
    lab.register()
    first, second = (lab.submit(plain(name))["runs"][0]["id"] for name in ("one", "two"))
    assert lab.priority(second, 7)["priority"] == 7
    lab.pause(first)
    assert lab.priority(first, 8)["state"] == "paused", "even while it is paused"
    assert lab.claim()["run_id"] == second
    lab.resume(first)
    claim = lab.claim()
    assert claim["run_id"] == first
    lab.succeed(claim)
    assert lab.admin.post(f"/api/v1/runs/{first}/priority", json={"priority": 1}).status_code == 409
    for body in ({"priority": 101}, {"priority": "high"}, {}, {"priority": 1, "more": 1}):
        assert lab.admin.post("/api/v1/experiments/two/priority", json=body).status_code == 422
