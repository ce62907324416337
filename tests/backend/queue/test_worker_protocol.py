"""The worker protocol: claims, leases, reports and outcomes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, get_args

import pytest
from sqlalchemy import select

from backend.db import Database
from backend.db.models import Experiment, Run
from core.protocol.public import RunState
from tests.backend.concurrently import concurrently
from tests.backend.conftest import TestClient
from tests.backend.lab import Json, Lab, checkpoint, log, metrics, plain, spec, started


@pytest.fixture
def claim(lab: Lab) -> Json:
    """Claim a run as worker-one."""
    lab.register()
    lab.submit(plain())
    return lab.claim()


def test_claim_starts_an_attempt_with_its_own_folder(lab: Lab, claim: Json) -> None:
    assert claim["attempt"] == 1
    assert claim["folder"] == f"runs/{claim['run_id']}/attempt-1"
    assert claim["checkpoint"] is None
    assert claim["teacher"] is None
    run = lab.run(claim["run_id"])
    assert (run["state"], run["worker"], run["attempt"]) == ("running", "worker-one", 1)
    assert run["spec"] == claim["spec"]
    assert [(attempt["number"], attempt["host"], attempt["outcome"]) for attempt in run["attempts"]] == [
        (1, "node", "")
    ]
    assert lab.try_claim() is None, "a run is claimed once"


def test_claim_has_the_plain_fields_that_a_worker_reads(lab: Lab) -> None:
    lab.register()
    lab.submit(spec(methods=["dkd"]))
    teacher = lab.claim()
    assert (teacher["label"], teacher["role"], teacher["needs_teacher"]) == ("teacher", "teacher", False)
    lab.succeed(teacher)
    student = lab.claim()
    assert (student["label"], student["role"], student["needs_teacher"]) == ("dkd", "student", True)
    assert student["weights_source"] == ""


def test_claim_prefers_higher_priority_then_age(lab: Lab) -> None:
    lab.register()
    old = lab.submit(plain("old", runs=2))
    urgent = lab.submit(plain("urgent", priority=3))
    expected = [urgent["runs"][0], *old["runs"]]
    assert [lab.claim()["run_id"] for _ in expected] == [run["id"] for run in expected]


def test_run_is_claimed_only_by_a_worker_with_its_device(lab: Lab) -> None:
    lab.register("cpu-worker")
    lab.register("gpu-worker", device="gpu")
    gpu = lab.submit(plain("gpu", resources={"device": "gpu"}))
    cpu = lab.submit(plain("cpu", resources={"device": "cpu"}))
    assert lab.heartbeat(worker_id="cpu-worker")["eligible"] == 1
    assert lab.claim("cpu-worker")["run_id"] == cpu["runs"][0]["id"]
    assert lab.try_claim("cpu-worker") is None
    assert lab.claim("gpu-worker")["run_id"] == gpu["runs"][0]["id"]


def test_concurrent_claims_never_get_the_same_run(lab: Lab) -> None:
    lab.submit(plain(runs=10))
    for index in range(8):
        lab.register(f"worker-{index}")

    def take_two(one: Lab, index: int) -> list[str]:
        claims = [one.try_claim(f"worker-{index}") for _ in range(2)]
        return [claim["run_id"] for claim in claims if claim]

    claimed = [run_id for claims in concurrently(lab, 8, take_two) for run_id in claims]
    assert len(claimed) == len(set(claimed)) == 10
    running = lab.admin.get("/api/v1/runs", params={"state": "running"}).json()["items"]
    assert {run["id"] for run in running} == set(claimed)
    assert {run["attempt"] for run in running} == {1}


def test_unregistered_worker_gets_404(lab: Lab) -> None:
    for path, body in (("claim", None), ("heartbeat", {"holding": []})):
        assert lab.worker.post(f"/api/v1/worker/never-seen/{path}", json=body).status_code == 404


def test_reports_update_the_run(lab: Lab, claim: Json) -> None:
    seq = lab.events(claim, started(1), metrics(2, 5, {"test/top1": 50.0, "train/loss": "NaN"}), log(3, "hello\0"))
    assert seq == 3
    run = lab.run(claim["run_id"])
    assert (run["step"], run["total_steps"], run["epoch"], run["total_epochs"]) == (5, 20, 0.5, 2)
    assert (run["train_size"], run["test_size"], run["parameters"]) == (898, 899, 1234)
    assert run["environment"] == {"torch": "2.14.0"}
    assert run["latest"]["test/top1"] == {"value": 50.0, "step": 5, "epoch": 0.5}
    assert run["latest"]["train/loss"]["value"] == "NaN"
    assert run["attempts"][0]["device"] == "cpu"
    assert lab.experiment("plain")["progress"] == pytest.approx(0.25)


def test_repeated_events_change_nothing(lab: Lab, claim: Json) -> None:
    records = [started(1), metrics(2, 1, {"train/loss": 1.0}), log(3, "once")]
    assert lab.events(claim, *records) == 3
    before = lab.admin.get(f"/api/v1/runs/{claim['run_id']}/metrics").json()
    assert lab.events(claim, *records) == 3
    assert lab.events(claim, *records, metrics(4, 2, {"train/loss": 0.5})) == 4
    after = lab.admin.get(f"/api/v1/runs/{claim['run_id']}/metrics").json()
    assert (before["series"][0]["step"], after["series"][0]["step"]) == ([1], [1, 2])
    logs = lab.admin.get(f"/api/v1/runs/{claim['run_id']}/logs").json()["lines"]
    assert [line["message"] for line in logs] == ["once"]


def test_events_after_a_gap_are_not_stored(lab: Lab, claim: Json) -> None:
    assert lab.events(claim, started(1), metrics(3, 9, {"train/loss": 1.0})) == 1
    assert lab.run(claim["run_id"])["step"] == 0
    assert lab.events(claim, metrics(3, 9, {"train/loss": 1.0}), metrics(2, 8, {"train/loss": 1.0})) == 3
    assert lab.run(claim["run_id"])["step"] == 9


def test_reports_of_an_old_attempt_are_refused(lab: Lab, claim: Json) -> None:
    lab.events(claim, started(1))
    lab.register("worker-one")  # a restarted worker returns its run
    new = lab.claim()
    assert (new["run_id"], new["attempt"]) == (claim["run_id"], 2)
    before = lab.run(claim["run_id"])
    assert lab.post_events(claim, metrics(2, 19, {"train/loss": 0.0})).status_code == 409
    assert lab.post_finish(claim, "failed", reason="old").status_code == 409
    weights = {"path": f"{claim['folder']}/weights.safetensors", "sha256": "b" * 64}
    assert lab.post_finish(claim, "succeeded", weights=weights).status_code == 409
    assert lab.orders(claim) == ["lost"]
    assert lab.run(claim["run_id"]) == before
    assert lab.events(new, started(1)) == 1


def test_reports_of_another_worker_are_refused(lab: Lab, claim: Json) -> None:
    lab.register("worker-two")
    assert lab.post_events(claim, started(1), worker_id="worker-two").status_code == 409
    assert lab.post_finish(claim, "failed", "worker-two").status_code == 409
    assert lab.orders(claim, worker_id="worker-two") == ["lost"]
    assert lab.orders(claim) == ["continue"]


def test_missing_run_is_lost(lab: Lab) -> None:
    lab.register()
    ghost = {"run_id": "none", "attempt": 1}
    assert lab.orders(ghost) == ["lost"]
    assert lab.post_events(ghost, started(1)).status_code == 404
    assert lab.post_finish(ghost, "failed").status_code == 404


def test_invalid_report_is_refused_with_a_reason(lab: Lab, claim: Json) -> None:
    """Reports of events get the same errors as other requests."""
    address = f"/api/v1/worker/worker-one/runs/{claim['run_id']}/events"
    body = {"attempt": 1, "records": [started(1)]}

    def refused(client: TestClient, address: str = address, **sent: Any) -> tuple[int, list[str]]:
        answer = client.post(address, **({"json": body} | sent))
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, [item["path"] for item in answer.json().get("errors", [])]

    assert refused(lab.worker, headers={"Authorization": "Basic d29ya2VyOg=="}) == (401, [])
    assert refused(lab.admin) == (403, [])
    assert refused(lab.worker, address.replace("worker-one", "worker_one")) == (404, [])
    assert refused(lab.worker, address.replace(claim["run_id"], "x" * 65)) == (404, [])
    assert refused(lab.worker, f"{address}?atempt=1") == (422, ["atempt"])
    assert refused(lab.worker, json={"attempt": "first"}) == (422, ["attempt", "records"])
    assert refused(lab.worker, json=None, content=b"{") == (422, ["body"])
    assert lab.events(claim, started(1)) == 1


@pytest.mark.parametrize("more", [{}, {"items": "items.parquet"}, {"items": None}])
def test_end_of_a_training_is_accepted_with_and_without_items(lab: Lab, claim: Json, more: Json) -> None:
    event = {"type": "finished", "weights": "weights.safetensors", "sha256": "b" * 64, "summary": {}} | more
    assert lab.events(claim, started(1), {"seq": 2, "time": 3.0, "event": event}) == 2


def test_repeated_finish_changes_nothing(lab: Lab, claim: Json) -> None:
    lab.events(claim, started(1), metrics(2, 20, {"test/top1": 90.0}))
    lab.succeed(claim)
    before = lab.run(claim["run_id"])
    assert (before["state"], before["epoch"]) == ("succeeded", 2.0)
    assert before["weights"] == f"{claim['folder']}/weights.safetensors"
    assert before["attempts"][0]["outcome"] == "succeeded"
    lab.succeed(claim)
    assert lab.run(claim["run_id"]) == before
    assert lab.post_finish(claim, "failed", reason="no").status_code == 409
    assert lab.post_events(claim, metrics(3, 21, {"test/top1": 1.0})).status_code == 409
    assert lab.run(claim["run_id"]) == before
    assert lab.experiment("plain")["state"] == "finished"
    assert lab.experiment("plain")["progress"] == 1.0


@pytest.mark.parametrize(
    "weights",
    [
        None,
        {"path": "runs/other/attempt-1/weights.safetensors", "sha256": "a" * 64},
        {"path": "{folder}/../attempt-2/weights.safetensors", "sha256": "a" * 64},
        {"path": "{folder}/", "sha256": "a" * 64},
        {"path": "/etc/passwd", "sha256": "a" * 64},
        {"path": "{folder}/weights.safetensors", "sha256": ""},
    ],
)
def test_success_requires_weights_in_the_attempts_folder(lab: Lab, claim: Json, weights: Json | None) -> None:
    if weights:
        weights = weights | {"path": weights["path"].format(folder=claim["folder"])}
    response = lab.post_finish(claim, "succeeded", weights=weights)
    assert response.status_code == 422
    assert lab.run(claim["run_id"])["state"] == "running"


def test_failed_run_shows_its_reason_and_last_lines(lab: Lab, claim: Json) -> None:
    lab.finish(claim, "failed", reason="CUDA out of memory", log_tail=["a", "b\0"])
    run = lab.run(claim["run_id"])
    assert (run["state"], run["reason"], run["log_tail"]) == ("failed", "CUDA out of memory", ["a", "b\\x00"])
    assert run["ended_at"] is not None
    assert run["attempts"][0]["reason"] == "CUDA out of memory"
    assert lab.experiment("plain")["state"] == "failed"


def test_interrupted_run_is_requeued_with_its_checkpoint(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(retry_delay_seconds=0)
    lab.register()
    lab.submit(plain())
    first = lab.claim()
    lab.events(first, started(1), checkpoint(2, 10))
    lab.finish(first, "interrupted", reason="the worker is shutting down")
    run = lab.run(first["run_id"])
    assert (run["state"], run["reason"]) == ("queued", "the worker is shutting down")
    assert run["step"] == 0
    second = lab.claim()
    assert (second["run_id"], second["attempt"]) == (first["run_id"], 2)
    assert second["checkpoint"]["path"] == f"{first['folder']}/checkpoint.pt"
    # A resumed attempt repeats the journal, with the checkpoint in the old attempt's folder.
    lab.events(second, started(1), checkpoint(2, 10), started(3, start_step=10))
    assert lab.run(first["run_id"])["step"] == 10
    lab.finish(second, "interrupted")
    assert lab.claim()["checkpoint"]["path"] == f"{first['folder']}/checkpoint.pt"


def test_latest_values_are_those_of_the_current_attempt(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(retry_delay_seconds=0)
    lab.register()
    lab.submit(plain())
    first = lab.claim()
    run_id = first["run_id"]
    lab.events(first, started(1), metrics(2, 5, {"test/top1": 50.0}), checkpoint(3, 5))
    lab.events(first, metrics(4, 10, {"test/top1": 80.0}), metrics(5, 15, {"test/top1": 90.0, "train/loss": 0.1}))
    lab.finish(first, "interrupted")
    second = lab.claim()
    lab.events(second, started(1), metrics(2, 5, {"test/top1": 50.0}), checkpoint(3, 5), started(4, start_step=5))
    run = lab.run(run_id)
    assert run["latest"] == {"test/top1": {"value": 50.0, "step": 5, "epoch": 0.5}}, "no loss has been reported yet"
    series = lab.admin.get(f"/api/v1/runs/{run_id}/metrics").json()["series"]
    assert {one["name"]: one["step"] for one in series} == {"test/top1": [5, 10, 15], "train/loss": [15]}
    lab.events(second, metrics(5, 10, {"test/top1": 79.0, "train/loss": "NaN"}))
    latest = lab.run(run_id)["latest"]
    assert (latest["test/top1"]["value"], latest["train/loss"]) == (79.0, {"value": "NaN", "step": 10, "epoch": 1.0})
    lab.events(second, metrics(6, 15, {"test/top1": 91.0}))
    assert lab.run(run_id)["latest"]["test/top1"]["value"] == 91.0


def test_checkpoint_outside_the_attempts_folder_is_refused(lab: Lab, claim: Json) -> None:
    for path in ("../x.pt", "/x.pt", ""):
        assert lab.post_events(claim, checkpoint(1, 5, path)).status_code == 422
    assert lab.events(claim, checkpoint(1, 5)) == 1


def test_interruptions_without_progress_are_limited(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(max_attempts=3, retry_delay_seconds=0)
    lab.register()
    run_id = lab.submit(plain())["runs"][0]["id"]
    for attempt in range(3):
        claim = lab.claim()
        lab.events(claim, log(1, f"attempt {attempt}"))
        lab.finish(claim, "interrupted", reason="killed by signal 9")
    run = lab.run(run_id)
    assert run["log_tail"] == ["attempt 0", "attempt 1", "attempt 2"]
    assert run["state"] == "failed"
    assert "killed by signal 9" in run["reason"]
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["interrupted"] * 3
    lab.retry(run_id)
    lab.finish(lab.claim(), "interrupted", reason="again")
    assert lab.run(run_id)["state"] == "queued", "a retry by a person resets the count"


def test_attempt_with_a_new_checkpoint_resets_the_fault_count(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(max_attempts=2, retry_delay_seconds=0)
    lab.register()
    run_id = lab.submit(plain())["runs"][0]["id"]
    for step in (1, 2, 3):
        claim = lab.claim()
        lab.events(claim, checkpoint(1, step))
        lab.finish(claim, "interrupted")
    assert lab.run(run_id)["state"] == "queued"


def test_shutdown_of_a_worker_counts_no_fault(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(max_attempts=2)
    lab.register()
    lab.submit(plain())
    for _ in range(4):
        lab.finish(lab.claim(), "interrupted", reason="the worker is shutting down", fault=False)


def test_run_that_was_lost_trains_alone_until_its_next_checkpoint(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(retry_delay_seconds=0)
    lab.register()
    lab.submit(plain())
    first = lab.claim()
    assert first["group"]
    lab.events(first, checkpoint(1, 5))
    lab.finish(first, "interrupted", reason="the group process ended")
    lost = lab.claim()
    assert lost["group"] == ""
    lab.events(lost, checkpoint(1, 5), checkpoint(2, 10))
    lab.finish(lost, "interrupted", reason="the worker is shutting down", fault=False)
    assert lab.claim()["group"] == first["group"]


def test_delay_doubles_with_each_interruption(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(retry_delay_seconds=1000, max_retry_delay_seconds=1000)
    lab.register()
    lab.submit(plain())
    lab.finish(lab.claim(), "interrupted")
    assert lab.try_claim() is None
    assert lab.heartbeat()["eligible"] == 0


def test_cancel_in_every_state(lab: Lab) -> None:
    lab.register()
    made = lab.submit(spec())
    teacher, waiting = made["runs"][0]["id"], made["runs"][1]["id"]
    assert lab.cancel(waiting)["state"] == "cancelled"
    assert lab.cancel(made["runs"][2]["id"])["state"] == "cancelled"
    claim = lab.claim()
    assert lab.cancel(teacher)["state"] == "cancelling"
    assert lab.cancel(teacher)["state"] == "cancelling"
    assert lab.orders(claim) == ["cancel"]
    assert lab.events(claim, started(1), log(2, "told to stop")) == 2, "its last events are still accepted"
    lab.finish(claim, "cancelled")
    ended = lab.run(teacher)
    assert ended["state"] == "cancelled"
    assert lab.cancel(teacher) == ended
    assert lab.orders(claim) == ["lost"]


def run_in_state(lab: Lab, state: str) -> str:
    """Return the id of a run in that state."""
    lab.register()
    run_id: str = lab.submit(spec() if state == "waiting" else plain())["runs"][-1]["id"]
    if state == "paused":
        lab.pause(run_id)
    elif state in ("running", "cancelling", "succeeded", "failed", "cancelled"):
        claim = lab.claim()
        if state in ("cancelling", "cancelled"):
            lab.cancel(run_id)
        if state == "succeeded":
            lab.succeed(claim)
        elif state in ("failed", "cancelled"):
            lab.finish(claim, state, reason="after the order")
    assert lab.run(run_id)["state"] == state
    return run_id


@pytest.mark.parametrize("state", get_args(RunState))
def test_cancel_is_idempotent_in_every_state(lab: Lab, state: str) -> None:
    run_id = run_in_state(lab, state)
    first = lab.cancel(run_id)
    ends = {"running": "cancelling", "cancelling": "cancelling", "succeeded": "succeeded", "failed": "failed"}
    assert first["state"] == ends.get(state, "cancelled")
    assert lab.cancel(run_id) == first
    claim = lab.try_claim()
    assert claim is None or claim["run_id"] != run_id


@pytest.mark.parametrize(
    ("outcome", "state"), [("succeeded", "succeeded"), ("failed", "cancelled"), ("interrupted", "cancelled")]
)
def test_run_that_ends_while_being_cancelled(lab: Lab, claim: Json, outcome: str, state: str) -> None:
    lab.cancel(claim["run_id"])
    if outcome == "succeeded":
        lab.succeed(claim)
    else:
        lab.finish(claim, outcome)
    assert lab.run(claim["run_id"])["state"] == state
    assert lab.try_claim() is None


def test_retry_is_idempotent(lab: Lab, claim: Json) -> None:
    run_id = claim["run_id"]
    assert lab.retry(run_id)["state"] == "running", "nothing changes"
    lab.finish(claim, "failed", reason="broken")
    first = lab.retry(run_id)
    assert (first["state"], first["reason"], first["ended_at"], first["log_tail"]) == ("queued", "", None, [])
    assert lab.retry(run_id) == first
    again = lab.claim()
    assert (again["run_id"], again["attempt"]) == (run_id, 2)
    lab.cancel(run_id)
    assert lab.admin.post(f"/api/v1/runs/{run_id}/retry").status_code == 409, "not while it is being cancelled"
    lab.finish(again, "cancelled")
    assert lab.retry(run_id)["state"] == "queued"
    lab.succeed(lab.claim())
    assert lab.admin.post(f"/api/v1/runs/{run_id}/retry").status_code == 409


def test_restarted_worker_returns_its_runs(lab: Lab) -> None:
    lab.register(slots=2)
    lab.submit(plain(runs=2))
    returned, cancelled = lab.claim(), lab.claim()
    lab.cancel(cancelled["run_id"])
    lab.register(slots=2)
    run = lab.run(returned["run_id"])
    assert (run["state"], run["attempts"][0]["outcome"]) == ("queued", "lost")
    assert "restarted" in run["reason"]
    assert lab.run(cancelled["run_id"])["state"] == "cancelled"
    assert lab.claim()["attempt"] == 2


def test_name_of_an_online_worker_is_not_used_twice(lab: Lab) -> None:
    lab.register("worker-one", name="node")
    lab.register("worker-two", name="node")
    lab.register("worker-one", name="node")
    lab.submit(plain(runs=2))
    names = {lab.run(lab.claim(worker)["run_id"])["worker"] for worker in ("worker-one", "worker-two")}
    assert len(names) == 2
    assert "node" in names


def test_heartbeat_renews_the_lease(lab: Lab, claim: Json, read_lease: Callable[[str], datetime]) -> None:
    before = read_lease(claim["run_id"])
    assert lab.orders(claim) == ["continue"]
    assert read_lease(claim["run_id"]) > before


@pytest.mark.parametrize(
    "changes",
    [{"worker_id": "short"}, {"worker_id": "with space"}, {"slots": 0}, {"device": "tpu"}, {"name": ""}],
)
def test_invalid_registration_is_refused(lab: Lab, changes: dict[str, Any]) -> None:
    body = {"worker_id": "worker-one", "name": "w", "host": "h", "slots": 1, "device": "cpu"} | changes
    response = lab.worker.post("/api/v1/worker/register", json=body)
    assert response.status_code == 422
    assert [error["path"] for error in response.json()["errors"]] == list(changes)


def test_run_with_an_unreadable_spec_does_not_block_the_queue(lab: Lab, forget_model: Callable[[str], None]) -> None:
    lab.register()
    lab.submit(plain("plugin"))
    lab.submit(plain("fine"))
    forget_model("plugin")
    assert lab.claim()["run_id"] == lab.experiment("fine")["runs"][0]["id"]
    runs = lab.admin.get("/api/v1/runs", params={"state": "failed"}).json()["items"]
    assert [run["experiment"] for run in runs] == ["plugin"]
    assert "unknown model" in runs[0]["reason"]


@pytest.fixture
def read_lease(database: Database) -> Callable[[str], datetime]:
    """Return the end of a run's lease, which the API does not show."""

    def read(run_id: str) -> datetime:
        with database.read() as session:
            lease_end = session.get_one(Run, run_id).lease_expires_at
        assert lease_end is not None
        return lease_end

    return read


@pytest.fixture
def forget_model(database: Database) -> Callable[[str], None]:
    """Change the stored specs of an experiment's runs to a model that the catalog does not have."""

    def forget(name: str) -> None:
        with database.write() as session:
            query = select(Run).join(Experiment, Experiment.id == Run.experiment_id).where(Experiment.name == name)
            for run in session.scalars(query):
                run.spec = run.spec | {"model": {"name": "gone", "params": {}}}

    return forget
