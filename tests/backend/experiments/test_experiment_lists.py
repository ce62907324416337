"""Filters, sorting and pages of lists; cloning, tags, notes and archiving; deletion."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from backend.db import Database, models
from backend.settings import Settings
from tests.backend import rows
from tests.backend.concurrently import concurrently
from tests.backend.lab import Json, Lab, metrics, plain, spec, started

EXPERIMENTS, RUNS = "/api/v1/experiments", "/api/v1/runs"


def names(lab: Lab, **query: Any) -> list[str]:
    answer = lab.admin.get(EXPERIMENTS, params=query)
    assert answer.status_code == 200, answer.text
    return [item["name"] for item in answer.json()["items"]]


def labels(lab: Lab, **query: Any) -> set[tuple[str, str]]:
    answer = lab.admin.get(RUNS, params=query)
    assert answer.status_code == 200, answer.text
    return {(run["experiment"], run["label"]) for run in answer.json()["items"]}


def test_filters_of_runs_and_experiments(lab: Lab) -> None:
    lab.submit(spec("one", tags=["paper", "old"], student={"model": "resnet8"}))
    lab.submit(spec("two", tags=["paper"], methods=["kd"], dataset={"name": "synthetic", "params": {"num_classes": 4}}))
    lab.submit(plain("three"))
    lab.cancel_experiment("three")
    assert names(lab, tag="paper") == ["two", "one"]
    assert names(lab, tag=["paper", "old"]) == ["one"]
    assert names(lab, method="dkd") == ["one"]
    assert names(lab, method=["dkd", "kd"], dataset="synthetic") == ["two"]
    assert names(lab, model="resnet8") == ["two", "one"]
    assert names(lab, state="cancelled") == ["three"]
    assert names(lab, state=["active", "cancelled"]) == ["three", "two", "one"]
    assert names(lab, state="finished") == []
    assert names(lab, text="O") == ["two", "one"]
    assert names(lab, submitted_by="admin", sort="name") == ["one", "three", "two"]
    assert names(lab, submitted_by="nobody") == []
    assert labels(lab, tag="old") == {("one", "teacher"), ("one", "dkd"), ("one", "kd")}
    assert labels(lab, dataset="synthetic", role="student") == {("two", "kd")}
    assert labels(lab, model="resnet8", role="student") == {("one", "dkd"), ("one", "kd")}
    assert labels(lab, text="thr") == {("three", "ce")}
    assert labels(lab, state="cancelled", method="ce") == {("three", "ce")}


def test_a_method_is_found_in_combinations(lab: Lab) -> None:
    lab.submit(spec("both", methods=[{"name": "at", "with": ["kd"]}, "dkd"]))
    lab.submit(spec("alone", methods=["kd", "sd_kd"]))
    assert names(lab, method="kd") == ["alone", "both"]
    assert names(lab, method="at") == ["both"]
    assert labels(lab, method="kd") == {("both", "AT + KD"), ("alone", "kd")}
    assert labels(lab, method="at+kd") == {("both", "AT + KD")}
    assert labels(lab, method="k") == set()
    assert labels(lab, method="%") == set()


def test_time_filters_accept_times_with_and_without_a_zone(lab: Lab) -> None:
    lab.submit(plain("one"))
    now = datetime.now(UTC)
    early, late = now - timedelta(hours=1), now + timedelta(hours=1)
    assert names(lab, created_after=early.isoformat(), created_before=late.isoformat()) == ["one"]
    assert names(lab, created_after=late.replace(tzinfo=None).isoformat()) == []
    assert labels(lab, created_before=early.isoformat()) == set()


@pytest.mark.parametrize(
    ("url", "field"),
    [
        (f"{RUNS}?created_after=yesterday", "created_after"),
        (f"{RUNS}?created_after=0001-01-01T00:00:00%2B10:00", "created_after"),
        (f"{RUNS}?sort=colour", "sort"),
        (f"{RUNS}?archived=maybe", "archived"),
        (f"{EXPERIMENTS}?state=running", "state.0"),
        (f"{RUNS}?methd=kd", "methd"),
        (f"{RUNS}?cursor=bm9uZQ", "cursor"),
    ],
)
def test_invalid_filter_is_refused_with_its_name(lab: Lab, url: str, field: str) -> None:
    answer = lab.admin.get(url)
    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("sort", ["created", "-created", "started", "-ended", "priority", "-headline", "-top1", "top1"])
def test_pages_of_every_order_contain_each_run_once_during_insertions(lab: Lab, database: Database, sort: str) -> None:
    first = lab.submit(plain("first", runs=3, priority=2))
    second = lab.submit(plain("second", runs=3, priority=1))
    known = [run["id"] for run in (*first["runs"], *second["runs"])]
    rows.succeed(database, known[0], [70.0])
    rows.succeed(database, known[4], [90.0])
    items: list[Json] = []
    cursor: str | None = None
    while True:
        query: dict[str, str | int] = {"sort": sort, "limit": 2}
        if cursor:
            query["cursor"] = cursor
        answer = lab.admin.get(RUNS, params=query)
        assert answer.status_code == 200, answer.text
        items += answer.json()["items"]
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            break
        if len(items) == 2:
            lab.submit(plain("meanwhile"))
    seen = [run["id"] for run in items if run["id"] in known]
    assert sorted(seen) == sorted(known), "each once, despite an insertion in between"
    if sort in ("-headline", "-top1"):
        assert seen[:2] == [known[4], known[0]]
    if sort == "priority":
        assert [run["priority"] for run in items if run["id"] in known] == [1, 1, 1, 2, 2, 2]
    other = lab.admin.get(RUNS, params={"limit": 2, "sort": sort}).json()["next_cursor"]
    wrong = "created" if sort != "created" else "-created"
    assert lab.admin.get(RUNS, params={"sort": wrong, "cursor": other}).status_code == 422


def test_tags_and_notes_change_without_the_spec(lab: Lab) -> None:
    made = lab.submit(plain("one", tags=["a"], notes="first"))
    answer = lab.admin.patch(f"{EXPERIMENTS}/one", json={"tags": ["c", "b", "c"]})
    assert (answer.json()["tags"], answer.json()["notes"]) == (["b", "c"], "first")
    assert lab.admin.patch(f"{EXPERIMENTS}/one", json={"notes": "second"}).json()["notes"] == "second"
    assert lab.experiment("one")["spec"] == made["spec"]
    for body, path in (({"tags": ["a b"]}, "tags.0"), ({"note": ""}, "note"), ({"notes": "\0"}, "notes")):
        answer = lab.admin.patch(f"{EXPERIMENTS}/one", json=body)
        assert answer.status_code == 422
        assert [error["path"] for error in answer.json()["errors"]] == [path]


def test_archived_experiments_are_listed_only_on_request(lab: Lab) -> None:
    lab.submit(plain("kept"))
    lab.submit(plain("put/away"))
    for _ in range(2):
        assert lab.admin.post(f"{EXPERIMENTS}/put%2Faway/archive").json()["archived_at"]
    assert names(lab) == ["kept"]
    assert names(lab, archived="only") == ["put/away"]
    assert names(lab, archived="include") == ["put/away", "kept"]
    assert labels(lab) == {("kept", "ce")}
    assert labels(lab, experiment="put/away") == {("put/away", "ce")}
    assert labels(lab, archived="only") == {("put/away", "ce")}
    assert lab.admin.post(f"{EXPERIMENTS}/put%2Faway/unarchive").json()["archived_at"] is None
    assert names(lab) == ["put/away", "kept"]


def test_clone_has_changed_fields_and_shares_the_teacher(lab: Lab) -> None:
    first = lab.submit(spec("first", notes="why"))
    answer = lab.admin.post(
        f"{EXPERIMENTS}/first/clone", json={"changes": {"seeds": "5..6", "methods.0.params.beta": 3}}
    )
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["name"], made["notes"], made["submitted_by"]) == ("first (2)", "why", "admin")
    assert made["spec"]["seeds"] == [5, 6]
    assert made["spec"]["methods"][0]["params"]["beta"] == 3.0
    assert made["runs"][0]["id"] == first["runs"][0]["id"]
    assert lab.admin.post(f"{EXPERIMENTS}/first/clone", json={}).json()["name"] == "first (3)"
    assert lab.admin.post(f"{EXPERIMENTS}/first/clone", json={"name": "mine"}).json()["name"] == "mine"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"changes": {"training.epochs": 0}}, "training.epochs"),
        ({"changes": {"methods.9.label": "x"}}, "changes.methods.9.label"),
        ({"changes": {"colour": 1}}, "colour"),
        ({"changes": {"notes": "\0"}}, "changes.notes"),
        ({"name": "first"}, "name"),
        ({"names": "x"}, "names"),
    ],
)
def test_invalid_clone_is_refused_with_its_path(lab: Lab, body: Json, path: str) -> None:
    lab.submit(spec("first"))
    answer = lab.admin.post(f"{EXPERIMENTS}/first/clone", json=body)
    assert answer.status_code == 422
    assert path in [error["path"] for error in answer.json()["errors"]]
    assert len(lab.experiments()) == 1


def test_experiment_is_deleted_with_runs_and_files(lab: Lab, database: Database, settings: Settings) -> None:
    lab.register()
    made = lab.submit(plain("one", tags=["a"]))
    claim = lab.claim()
    lab.events(claim, started(), metrics(2, 10, {"test/top1": 50.0}))
    folder = Path(settings.artifacts, claim["folder"])
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"x")
    assert lab.admin.delete(f"{EXPERIMENTS}/one").status_code == 409, "it is running"
    lab.succeed(claim)
    assert lab.admin.delete(f"{EXPERIMENTS}/one").status_code == 204
    assert lab.admin.delete(f"{EXPERIMENTS}/one").status_code == 404
    assert lab.admin.get(f"{RUNS}/{made['runs'][0]['id']}").status_code == 404
    with database.read() as session:
        for table in (models.Run, models.MetricPoint, models.Attempt, models.ExperimentTag, models.ExperimentRun):
            assert session.scalar(select(func.count()).select_from(table)) == 0
    assert not folder.parent.exists()


def test_deletion_keeps_a_teacher_of_another_experiment(lab: Lab) -> None:
    lab.register()
    first, second = lab.submit(spec("first")), lab.submit(spec("second"))
    teacher = first["runs"][0]["id"]
    lab.cancel_experiment("first")
    assert lab.admin.delete(f"{EXPERIMENTS}/first").status_code == 204, "the unfinished teacher is shared"
    remaining = lab.run(teacher)
    assert (remaining["experiment"], remaining["experiments"]) == ("second", [second["id"]])
    lab.succeed(lab.claim())
    answer = lab.admin.delete(f"{RUNS}/{teacher}")
    assert answer.status_code == 409
    assert "students use this teacher" in answer.json()["detail"]
    lab.cancel_experiment("second")
    student = second["runs"][1]["id"]
    assert lab.admin.delete(f"{RUNS}/{student}").status_code == 204
    assert student not in [run["id"] for run in lab.experiment("second")["runs"]]
    assert lab.admin.delete(f"{EXPERIMENTS}/second").status_code == 204
    assert lab.admin.get(f"{RUNS}/{teacher}").status_code == 404


def test_unfinished_run_is_not_deleted(lab: Lab) -> None:
    made = lab.submit(plain())
    assert lab.admin.delete(f"{RUNS}/{made['runs'][0]['id']}").status_code == 409
    assert lab.admin.delete(f"{RUNS}/none").status_code == 404


def test_list_returns_the_total_on_request(lab: Lab) -> None:
    made = [lab.submit(plain(name, runs=2)) for name in ("one", "two")]
    page = lab.admin.get(RUNS, params={"limit": 3, "count": True}).json()
    assert (len(page["items"]), page["total"]) == (3, 4)
    second = lab.admin.get(RUNS, params={"limit": 3, "count": True, "cursor": page["next_cursor"]}).json()
    assert (len(second["items"]), second["total"]) == (1, 4)
    assert lab.admin.get(RUNS, params={"limit": 3}).json()["total"] is None
    assert lab.admin.get(RUNS, params={"count": True, "experiment": "one"}).json()["total"] == 2
    assert lab.admin.get(EXPERIMENTS, params={"count": True, "text": "tw"}).json()["total"] == 1
    lab.admin.post(f"{EXPERIMENTS}/one/archive")
    assert lab.admin.get(RUNS, params={"count": True}).json()["total"] == 2
    wanted = [made[1]["runs"][1]["id"], made[0]["runs"][0]["id"], "of nothing"]
    remaining = lab.admin.get(RUNS, params={"id": wanted, "archived": "include"}).json()
    assert [run["id"] for run in remaining["items"]] == wanted[:2]


def test_invisible_characters_are_refused_in_tags_and_notes(lab: Lab) -> None:
    lab.submit(plain())
    for change, path in (({"tags": ["a", "b\u200b"]}, "tags.1"), ({"notes": "red\x1b[31m"}, "notes")):
        answer = lab.admin.patch("/api/v1/experiments/plain", json=change)
        assert answer.status_code == 422
        assert [item["path"] for item in answer.json()["errors"]] == [path]
    assert lab.admin.patch("/api/v1/experiments/plain", json={"notes": "two\nlines"}).status_code == 200


def test_concurrently_added_tags_are_all_stored(lab: Lab) -> None:
    lab.submit(plain(tags=["old"]))
    address = "/api/v1/experiments/plain"
    answers = concurrently(
        lab, 6, lambda one, index: one.admin.patch(address, json={"add_tags": ["abcdef"[index]]}).status_code
    )
    assert answers == [200] * 6
    assert lab.experiment("plain")["tags"] == ["a", "b", "c", "d", "e", "f", "old"]
    changed = lab.admin.patch(address, json={"add_tags": ["new"], "remove_tags": ["old", "a", "never"]}).json()
    assert changed["tags"] == ["b", "c", "d", "e", "f", "new"]
    many = lab.admin.patch(address, json={"add_tags": [f"t{number}" for number in range(15)]})
    assert many.status_code == 422
    assert [item["path"] for item in many.json()["errors"]] == ["add_tags"]
