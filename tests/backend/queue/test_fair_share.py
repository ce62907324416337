"""The queue is shared out among its owners: in turn, by weight, without starvation, and priorities order own runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from backend.db import Database, now
from backend.db.models import SlotUsage
from backend.queue import fair_share
from backend.queue.fair_share import RUNNING_SECONDS, Standing, in_turn, used_seconds
from backend.queue.usage import WINDOW
from tests.backend.lab import Json, Lab, plain

if TYPE_CHECKING:
    from starlette.testclient import TestClient

Person = Callable[[str], "TestClient"]


@pytest.fixture(autouse=True)
def counted_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each claim read the used times."""
    monkeypatch.setattr(fair_share, "_KEPT_SECONDS", 0.0)


@pytest.fixture
def person(lab: Lab) -> Person:
    """Return a function that makes a client with a token of this name."""
    from starlette.testclient import TestClient

    def make(name: str) -> TestClient:
        made = lab.admin.post("/api/v1/tokens", json={"name": name, "scopes": ["submit"]}).json()
        return TestClient(lab.app, headers={"Authorization": f"Bearer {made['token']}"})

    return make


def submit(client: TestClient, name: str, runs: int, **changes: object) -> None:
    response = client.post("/api/v1/experiments", json=plain(name, runs, **changes))
    assert response.status_code == 201, response.text


def owner_of(lab: Lab, claim: Json) -> str:
    run = lab.run(claim["run_id"])
    owner: str = lab.experiment(run["experiment_id"])["submitted_by"]
    return owner


def used(database: Database, claim: Json, hours: float, *, ended: float = 0.0) -> None:
    """Change an attempt's times, so that it took some hours and ended some hours ago."""
    with database.write() as session:
        end = now(session) - timedelta(hours=ended)
        values = {"started_at": end - timedelta(hours=hours), "ended_at": end}
        session.execute(update(SlotUsage).where(SlotUsage.run_id == claim["run_id"]).values(**values))


@pytest.mark.parametrize(
    ("standings", "order"),
    [
        ({"b": Standing(), "a": Standing()}, ["a", "b"]),
        ({"a": Standing(used=10.0), "b": Standing(used=5.0)}, ["b", "a"]),
        ({"a": Standing(weight=3.0, used=10.0), "b": Standing(used=5.0)}, ["a", "b"]),
        ({"a": Standing(running=1), "b": Standing(used=RUNNING_SECONDS - 1)}, ["b", "a"]),
        ({"a": Standing(running=1), "b": Standing(used=RUNNING_SECONDS + 1)}, ["a", "b"]),
        ({"a": Standing(weight=2.0, running=2), "b": Standing(running=1)}, ["a", "b"]),
        ({}, []),
    ],
)
def test_least_used_per_weight_is_next(standings: dict[str, Standing], order: list[str]) -> None:
    assert in_turn(standings) == order


def test_slots_are_shared_although_one_submitted_first(lab: Lab, person: Person) -> None:
    lab.register(slots=6)
    submit(person("early"), "sweep", 20)
    submit(person("late"), "small", 20)
    assert Counter(owner_of(lab, lab.claim()) for _ in range(6)) == {"early": 3, "late": 3}


def test_weight_gives_a_larger_part(lab: Lab, person: Person) -> None:
    lab.register(slots=12)
    submit(person("one"), "first", 20)
    submit(person("two"), "second", 20)
    reply = lab.admin.post("/api/v1/shares", json={"owner": "two", "weight": 2})
    assert reply.status_code == 200
    assert {item["owner"]: item["weight"] for item in reply.json()["items"]} == {"one": 1.0, "two": 2.0}
    assert Counter(owner_of(lab, lab.claim()) for _ in range(12)) == {"one": 4, "two": 8}


def test_used_time_of_the_last_week_counts(lab: Lab, person: Person, database: Database) -> None:
    lab.register(slots=3)
    one, two = person("one"), person("two")
    submit(one, "first", 10)
    submit(two, "second", 10)
    claims = [lab.claim(), lab.claim()]
    of = {owner_of(lab, claim): claim for claim in claims}
    for claim in claims:
        lab.succeed(claim)
    used(database, of["one"], 5.0)
    used(database, of["two"], 9.0, ended=WINDOW.total_seconds() / 3600 - 2.0)  # of which two hours are in the window
    with database.read() as session:
        seconds = used_seconds(session.connection(), now(session))
    assert seconds == {"one": pytest.approx(5 * 3600, abs=60), "two": pytest.approx(2 * 3600, abs=60)}
    # 2 and 3 h for "two" are below 5 h; with a third slot it would be equal.
    assert [owner_of(lab, lab.claim()) for _ in range(3)] == ["two", "two", "two"]


def test_run_on_four_gpus_counts_four_times(lab: Lab, person: Person, database: Database) -> None:
    lab.register("gpu-node", device="gpu", slots=4, gpus=4)
    submit(person("one"), "large", 1, resources={"device": "gpu", "gpus": 4})
    claim = lab.claim("gpu-node", free_gpus=4)
    lab.succeed(claim, "gpu-node")
    used(database, claim, 1.0)
    with database.read() as session:
        assert used_seconds(session.connection(), now(session)) == {"one": pytest.approx(4 * 3600, abs=60)}


def test_priority_orders_own_runs_only(lab: Lab, person: Person) -> None:
    lab.register(slots=4)
    one, two = person("one"), person("two")
    submit(one, "usual", 2)
    submit(one, "urgent", 2, priority=9)
    submit(two, "other", 2)
    names = [lab.experiment(lab.run(lab.claim()["run_id"])["experiment_id"])["name"] for _ in range(4)]
    assert Counter(names) == {"urgent": 2, "other": 2}


def test_owner_without_a_run_for_this_worker_does_not_hold_up_others(lab: Lab, person: Person) -> None:
    lab.register(slots=4)
    submit(person("cpu"), "small", 2)
    submit(person("a-gpu"), "large", 2, resources={"device": "gpu"})
    assert [owner_of(lab, lab.claim()) for _ in range(2)] == ["cpu", "cpu"]
    assert lab.try_claim() is None


def test_seeds_that_are_added_later_have_the_owner_of_their_experiment(lab: Lab, person: Person) -> None:
    rule = {"until": "decided", "first": 2, "most": 4, "difference": 0.5}
    one = person("one")
    body = plain("campaign") | {"methods": ["ce", {"name": "ce", "label": "again"}], "seeds": rule}
    assert one.post("/api/v1/experiments", json=body).status_code == 201
    [item] = lab.admin.get("/api/v1/shares").json()["items"]
    assert (item["owner"], item["turn"]) == ("one", 1)
    assert item["queued"] >= 4


def test_list_shows_turns_and_use(lab: Lab, person: Person) -> None:
    lab.register(slots=3)
    submit(person("one"), "first", 2)
    submit(person("two"), "second", 1)
    lab.claim()
    items = lab.admin.get("/api/v1/shares").json()["items"]
    assert [(item["owner"], item["turn"], item["running"], item["queued"]) for item in items] == [
        ("two", 1, 0, 1),
        ("one", 2, 1, 1),
    ]
    lab.claim()
    items = lab.admin.get("/api/v1/shares").json()["items"]
    assert [(item["owner"], item["turn"], item["queued"]) for item in items] == [("one", 1, 1), ("two", None, 0)]


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        ({"owner": "nobody", "weight": 2}, 404, None),
        ({"owner": "one", "weight": 0}, 422, "weight"),
        ({"owner": "one", "weight": -1}, 422, "weight"),
        ({"owner": "one", "weight": 1e7}, 422, "weight"),
        ({"owner": "one"}, 422, "weight"),
    ],
)
def test_bad_weight_is_refused(lab: Lab, person: Person, body: Json, status: int, path: str | None) -> None:
    one = person("one")
    submit(one, "first", 1)
    reply = lab.admin.post("/api/v1/shares", json=body)
    assert reply.status_code == status
    assert [item["path"] for item in reply.json()["errors"]] == ([path] if path else [])
    assert one.post("/api/v1/shares", json={"owner": "one", "weight": 2}).status_code == 403
    assert lab.admin.get("/api/v1/shares").json()["items"][0]["weight"] == 1.0
