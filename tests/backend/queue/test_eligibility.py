"""Eligibility by device, GPUs and labels; GPU reservations for large runs; draining workers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from backend.db import Database, now
from backend.db.models import Run, Worker
from tests.backend.concurrently import concurrently
from tests.backend.lab import Json, Lab, plain, spec


def gpus(name: str, count: int, **more: Any) -> Json:
    return plain(name, resources={"device": "gpu", "gpus": count}, **more)


@pytest.fixture
def age_queue(database: Database) -> Callable[[], None]:
    """Set the queueing time of all runs one hour back."""

    def wait() -> None:
        with database.write() as session:
            session.execute(update(Run).values(queued_at=now(session) - timedelta(hours=1)))

    return wait


def test_repeated_claim_gets_the_same_run(lab: Lab) -> None:
    lab.register(slots=2)
    lab.submit(plain(runs=2))
    first = lab.claim(key="key-number-one")
    assert lab.claim(key="key-number-one") == first
    assert lab.claim(key="key-number-two")["run_id"] != first["run_id"]
    lab.cancel(first["run_id"])
    assert lab.claim(key="key-number-one") == first, "the heartbeat's reply orders the cancel"
    lab.finish(first, "cancelled")
    lab.submit(plain("more"))
    assert lab.try_claim(key="key-number-one") is None, "a late copy of a claim gets no run"
    lab.register("worker-two")
    assert lab.claim("worker-two", key="key-number-one")["run_id"] != first["run_id"]


def test_concurrent_repeats_of_a_claim_get_one_run(lab: Lab) -> None:
    lab.register()
    lab.submit(plain(runs=5))
    claims = concurrently(lab, 5, lambda one, _: one.claim(key="the-same-key"))
    assert len({claim["run_id"] for claim in claims}) == 1
    assert lab.experiment("plain")["counts"]["running"] == 1


def test_run_is_claimed_only_by_a_worker_with_all_its_labels(lab: Lab) -> None:
    lab.register("plain-worker")
    lab.register("near-worker", labels=["h200x", "big", "cell"])
    lab.register("right-worker", labels=["h200", "a", "big"])
    made = lab.submit(plain(resources={"labels": ["big", "h200"]}))
    for worker in ("plain-worker", "near-worker"):
        assert lab.try_claim(worker) is None
        assert lab.heartbeat(worker_id=worker)["eligible"] == 0
    assert lab.heartbeat(worker_id="right-worker")["eligible"] == 1
    assert lab.claim("right-worker")["run_id"] == made["runs"][0]["id"]


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        ({"device": "gpu", "gpus": 4}, "waits for a worker with 4 GPUs; none is online"),
        ({"device": "gpu", "labels": ["h200"]}, "waits for a GPU worker labelled h200; none is online"),
        ({"labels": ["b", "a"]}, "waits for a worker labelled a, b; none is online"),
        ({"device": "cpu"}, ""),
        ({"device": "any", "gpus": 2}, ""),
    ],
)
def test_run_that_no_worker_can_run_has_a_reason(lab: Lab, resources: Json, text: str) -> None:
    lab.register("cpu-worker", labels=["a"])
    lab.register("gpu-worker", device="gpu", slots=2, gpus=2)
    run_id = lab.submit(plain(resources=resources))["runs"][0]["id"]
    assert lab.run(run_id)["reason"] == text
    assert lab.experiment("plain")["runs"][0]["reason"] == text


def test_cpu_worker_has_no_gpus(lab: Lab) -> None:
    answer = lab.admin.post("/api/v1/experiments", json=plain(resources={"device": "cpu", "gpus": 2}))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "resources.gpus"


def test_run_over_several_gpus_waits_until_they_are_free(lab: Lab) -> None:
    lab.register(device="gpu", slots=2, gpus=2)
    lab.submit(gpus("large", 2, priority=1))
    lab.submit(gpus("small", 1, runs=2))
    small = lab.claim(free_gpus=1)
    assert small["gpus"] == 1
    assert lab.try_claim(free_gpus=0) is None
    lab.succeed(small)
    assert lab.claim(free_gpus=2)["gpus"] == 2


def test_large_run_gets_gpus_reserved_after_a_while(lab: Lab, age_queue: Any) -> None:
    """On four GPUs that small runs keep busy, neither of two large runs may starve."""
    lab.register(device="gpu", slots=4, gpus=4)
    lab.submit(gpus("small", 1, runs=20))
    running = [lab.claim(free_gpus=4 - used) for used in range(4)]
    large = [lab.submit(gpus(name, 3))["runs"][0]["id"] for name in ("large", "second")]
    lab.succeed(running.pop())
    running.append(lab.claim(free_gpus=1))
    assert running[-1]["gpus"] == 1, "it has not waited long yet"
    age_queue()
    for free in (1, 2):
        lab.succeed(running.pop())
        assert lab.try_claim(free_gpus=free) is None, "reserved for the large run"
        assert lab.workers()[0]["reserved_for"] == large[0]
    lab.succeed(running.pop())
    used = lab.claim(free_gpus=3)
    assert used["run_id"] == large[0]
    assert lab.try_claim(free_gpus=0) is None
    lab.succeed(used)
    age_queue()
    assert lab.claim(free_gpus=3)["run_id"] != large[0]


def test_two_large_runs_do_not_each_reserve_a_part(lab: Lab, age_queue: Any) -> None:
    for worker in ("worker-a1", "worker-b1"):
        lab.register(worker, device="gpu", slots=2, gpus=2)
    lab.submit(gpus("small", 1, runs=3))
    small = {worker: lab.claim(worker, free_gpus=2) for worker in ("worker-a1", "worker-b1")}
    ids = [lab.submit(gpus(name, 2))["runs"][0]["id"] for name in ("one", "two")]
    age_queue()
    assert lab.try_claim("worker-a1", free_gpus=1) is None
    assert lab.try_claim("worker-b1", free_gpus=1) is None
    assert {worker["reserved_for"] for worker in lab.workers()} == set(ids), "one worker per run"
    for worker, claim in small.items():
        lab.succeed(claim, worker)
        taken = lab.claim(worker, free_gpus=2)
        assert taken["run_id"] in ids
    assert all(worker["reserved_for"] is None for worker in lab.workers())


def test_higher_priority_goes_before_a_reservation(lab: Lab, age_queue: Any) -> None:
    lab.register(device="gpu", slots=2, gpus=2)
    lab.submit(gpus("small", 1))
    lab.claim(free_gpus=2)
    lab.submit(gpus("large", 2))
    age_queue()
    assert lab.try_claim(free_gpus=1) is None
    urgent = lab.submit(gpus("urgent", 1, priority=5))["runs"][0]["id"]
    assert lab.claim(free_gpus=1)["run_id"] == urgent


@pytest.mark.parametrize("how", ["cancel", "pause", "foreign", "drain"])
def test_no_reservation_for_a_run_that_cannot_start(lab: Lab, age_queue: Any, how: str) -> None:
    lab.register(device="gpu", slots=2, gpus=2)
    lab.submit(gpus("small", 1, runs=2))
    lab.claim(free_gpus=2)
    large = lab.submit(gpus("large", 2, priority=1))["runs"][0]["id"]
    age_queue()
    assert lab.try_claim(free_gpus=1) is None
    usable = 2
    if how == "foreign":
        usable = 1  # another program uses the other GPU now
    elif how == "drain":
        lab.drain("worker-one")
        lab.drain("worker-one", draining=False)
        lab.pause(large)
    else:
        {"cancel": lab.cancel, "pause": lab.pause}[how](large)
    assert lab.claim(free_gpus=1, usable_gpus=usable)["gpus"] == 1
    assert lab.workers()[0]["reserved_for"] is None


def test_shared_teacher_has_the_requirements_of_both_experiments(lab: Lab) -> None:
    body = spec(methods=["kd"])
    lab.submit(body | {"name": "a", "resources": {"device": "gpu", "gpus": 4, "labels": ["h200", "cellar"]}})
    lab.submit(body | {"name": "b", "resources": {"device": "gpu", "gpus": 2, "labels": ["cellar"]}})
    lab.register(device="gpu", slots=2, gpus=2, labels=["cellar"])
    assert lab.claim(free_gpus=2)["spec"]["role"] == "teacher"


def test_draining_worker_claims_nothing(lab: Lab) -> None:
    lab.register(name="box")
    lab.submit(plain(runs=2))
    claim = lab.claim()
    assert lab.drain("box")["draining"] is True
    assert lab.drain("box")["draining"] is True
    assert lab.try_claim() is None
    assert lab.heartbeat(claim)["eligible"] == 0
    assert lab.orders(claim) == ["continue"], "its run continues"
    lab.succeed(claim)
    lab.register(name="box")
    assert lab.try_claim() is None, "even after a restart"
    queued = next(run for run in lab.experiment("plain")["runs"] if run["state"] == "queued")
    assert queued["reason"] == "waits for a worker; all that are online are draining"
    assert lab.drain("worker-one", draining=False)["draining"] is False
    assert lab.claim()
    assert lab.admin.post("/api/v1/workers/nobody/drain").status_code == 404


def test_drain_by_name_chooses_the_online_worker(lab: Lab, database: Database) -> None:
    lab.register("worker-old", name="box")
    with database.write() as session:
        session.execute(update(Worker).values(state="offline"))
    lab.register("worker-new", name="box")
    lab.drain("box")
    assert {worker["id"]: worker["draining"] for worker in lab.workers()} == {"worker-old": False, "worker-new": True}
    with database.write() as session:
        session.execute(update(Worker).values(state="offline"))
    refused = lab.admin.post("/api/v1/workers/box/drain")
    assert refused.status_code == 409
    assert "worker-old" in refused.json()["detail"]


def test_worker_reports_are_shown(lab: Lab) -> None:
    lab.register(device="gpu", slots=2, gpus=2, labels=["b", "a"])
    lab.submit(gpus("large", 2))
    claim = lab.claim(free_gpus=2)
    gpu = {"index": 0, "name": "H200", "use": 93.0, "memory_used": 5, "memory_total": 10, "foreign": 1}
    body = {"holding": [], "gpus": [gpu], "problems": ["the disk is full"]}
    assert lab.worker.post("/api/v1/worker/worker-one/heartbeat", json=body).status_code == 200
    [worker] = lab.workers()
    assert (worker["gpus"], worker["problems"], worker["labels"]) == ([gpu], ["the disk is full"], ["a", "b"])
    assert (worker["slots"], worker["busy"], worker["running"]) == (2, 2, [claim["run_id"]])
    assert (worker["runs"][0]["experiment"], worker["runs"][0]["gpus"]) == ("large", 2)
