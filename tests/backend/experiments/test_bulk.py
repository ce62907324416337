"""Bulk submissions and sweeps: all or nothing, with the path of each problem."""

from __future__ import annotations

from typing import Any

import pytest

from tests.backend.lab import Json, Lab, plain, spec
from tests.waiting import until

BULK, SWEEPS = "/api/v1/experiments/bulk", "/api/v1/sweeps"


def base(**changes: Any) -> Json:
    made = spec("x", **changes)
    del made["name"]
    return made


def test_one_request_creates_a_thousand_runs(lab: Lab) -> None:
    body = {"experiments": [plain(f"number {index}", runs=10) for index in range(100)]}
    answer = lab.admin.post(BULK, json=body)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["runs"], len(made["items"])) == (1000, 100)
    assert made["items"][7]["name"] == "number 7"
    shown = lab.experiment(made["items"][7]["id"])
    assert [run["seed"] for run in shown["runs"]] == list(range(10))
    assert {run["state"] for run in shown["runs"]} == {"queued"}


def test_experiments_of_one_request_share_their_teacher(lab: Lab) -> None:
    body = {"experiments": [spec("a"), spec("b", priority=4), spec("c", teacher={"model": "resnet8", "seed": 1})]}
    made = lab.admin.post(BULK, json=body).json()
    teachers = [lab.experiment(item["id"])["runs"][0] for item in made["items"]]
    assert teachers[0]["id"] == teachers[1]["id"] != teachers[2]["id"]
    assert lab.run(teachers[0]["id"])["priority"] == 4
    assert made["runs"] == 2 + 6
    assert lab.states("b") == {"teacher": "queued", "dkd": "waiting", "kd": "waiting"}


@pytest.mark.parametrize(
    ("experiments", "path"),
    [
        ([plain("a"), plain("b", training={"epochs": 0})], "experiments.1.training.epochs"),
        ([plain("a"), plain("a")], "experiments.1.name"),
        ([plain("a"), plain("taken")], "experiments.1.name"),
        ([plain("a"), 3], "experiments.1"),
        ([], "experiments"),
        (None, "experiments"),
        ([plain(f"n{i}", runs=1000) for i in range(11)], "experiments"),
    ],
)
def test_one_invalid_spec_refuses_the_request(lab: Lab, experiments: Any, path: str) -> None:
    lab.submit(plain("taken"))
    answer = lab.admin.post(BULK, json={"experiments": experiments})
    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert [item["name"] for item in lab.experiments()] == ["taken"]


def test_duplicate_and_taken_names_have_different_messages(lab: Lab) -> None:
    lab.submit(plain("taken"))
    answer = lab.admin.post(BULK, json={"experiments": [plain("a"), plain("a"), plain("taken")]})
    assert [error["message"] for error in answer.json()["errors"]] == [
        "'a' is used twice in this request",
        "an experiment named 'taken' exists already",
    ]


def test_repeated_bulk_creates_nothing_new(lab: Lab) -> None:
    body = {"experiments": [plain("a"), plain("b")]}
    first, second = (lab.admin.post(BULK, json=body, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert len(lab.experiments()) == 2


def test_deleted_experiments_of_a_key_are_not_created_again(lab: Lab) -> None:
    lab.admin.post("/api/v1/experiments", json=plain("a"), headers={"Idempotency-Key": "k"})
    lab.cancel_experiment("a")
    assert lab.admin.delete("/api/v1/experiments/a").status_code == 204
    again = lab.admin.post("/api/v1/experiments", json=plain("a"), headers={"Idempotency-Key": "k"})
    assert again.status_code == 409
    assert lab.experiments() == []


def test_sweep_creates_experiments_with_a_teacher_per_seed(lab: Lab) -> None:
    body = {"name": "s", "experiment": base(), "grid": {"teacher.seed": "0..2", "methods.0.params.beta": [2, 8]}}
    shown = lab.admin.post(f"{SWEEPS}/preview", json=body)
    assert shown.status_code == 200, shown.text
    assert shown.json()["items"][1] == {
        "name": "s seed=0, beta=8",
        "runs": 3,
        "changes": {"teacher.seed": 0, "methods.0.params.beta": 8},
    }
    assert lab.experiments() == []
    made = lab.admin.post(SWEEPS, json=body).json()
    assert (len(made["items"]), made["runs"], shown.json()["runs"]) == (6, 15, 15)
    listed = lab.admin.get("/api/v1/experiments", params={"sweep": "s"}).json()["items"]
    assert [item["name"] for item in listed][::-1] == [item["name"] for item in made["items"]]
    assert len({lab.experiment(item["id"])["runs"][0]["id"] for item in made["items"]}) == 3


def test_sweep_preview_and_submission_refuse_the_same_specs(lab: Lab) -> None:
    body = {"name": "s", "experiment": base(), "grid": {"teacher.seed": "0..1"}}
    before = lab.admin.post(f"{SWEEPS}/preview", json=body).json()["warnings"]
    lab.submit(plain("s seed=1"))
    warned = lab.admin.post(f"{SWEEPS}/preview", json=body).json()["warnings"]
    assert warned == [{"path": "name", "message": "'s seed=1' is taken"}, *before]
    elsewhere = {"webhook": "https://elsewhere.example/x"}
    sweep = body | {"experiment": base() | elsewhere}
    for url, sent in ((f"{SWEEPS}/preview", sweep), ("/api/v1/experiments/preview", plain("new") | elsewhere)):
        answer = lab.admin.post(url, json=sent)
        assert answer.status_code == 422
        assert {error["path"] for error in answer.json()["errors"]} == {"webhook"}


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"grid": {"training.optimizer.lr": [0.1, -1]}}, "grid.training.optimizer.lr.1"),
        ({"grid": {"training.epochs": [1, 2]}, "max_runs": 5}, "max_runs"),
        ({"grid": {"training.epochs": "1..9999", "seeds": [[1], [2], [3]]}, "max_runs": 10000}, "max_runs"),
        ({}, ""),
    ],
)
def test_invalid_sweep_is_refused_with_its_path(lab: Lab, more: Json, path: str) -> None:
    answer = lab.admin.post(SWEEPS, json={"name": "s", "experiment": base()} | more)
    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert lab.experiments() == []


@pytest.mark.parametrize("url", ["/api/v1/experiments", BULK])
def test_submission_nudges_the_workers(lab: Lab, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    sent: list[int] = []
    lab.register()
    monkeypatch.setattr(lab.app.state.nudger, "send", sent.append)
    body = plain() if url != BULK else {"experiments": [plain()]}
    assert lab.admin.post(url, json=body).status_code == 201
    until(lambda: any(sent), "a nudge")
    assert {count for count in sent if count} == {1}
