"""Submitting, previewing, listing and cancelling experiments."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from backend.db import Database, models
from backend.experiments import serializers
from tests.backend.lab import Lab, metrics, plain, spec, started


def test_experiment_creates_its_runs_teacher_first(lab: Lab) -> None:
    made = lab.submit(spec(seeds=[3, 4], tags=["demo"]))
    run_fields = [(run["label"], run["role"], run["seed"], run["state"]) for run in made["runs"]]
    assert run_fields == [
        ("teacher", "teacher", 0, "queued"),
        ("dkd", "student", 3, "waiting"),
        ("kd", "student", 3, "waiting"),
        ("dkd", "student", 4, "waiting"),
        ("kd", "student", 4, "waiting"),
    ]
    assert made["counts"] | {"queued": 1, "waiting": 4} == made["counts"]
    assert (made["state"], made["progress"], made["tags"]) == ("active", 0.0, ["demo"])
    assert made["methods"] == ["dkd", "kd"]
    assert made == lab.experiment(made["id"]) == lab.experiment("first")


def test_answer_to_a_submission_shows_what_is_stored(lab: Lab) -> None:
    lab.submit(spec())
    lab.register()
    claim = lab.claim()
    lab.events(claim, started(1), metrics(2, 10, {"test/top1": 0.5}))
    asked = {"device": "gpu", "gpus": 2, "labels": ["h200", "cellar"]}
    sharing = spec("sharing", tags=["b", "A", "a"], notes="why", priority=7, resources=asked)
    for body in (plain("alone"), sharing, plain("labelled", resources=asked), plain("large", notes="n" * 9000)):
        made = lab.submit(body)
        assert made == lab.experiment(made["id"])
    shared = lab.experiment("sharing")["runs"][0]
    assert (shared["worker"], shared["attempt"], shared["priority"]) == ("worker-one", 1, 7)
    assert shared["latest"]["test/top1"]["value"] == 0.5
    assert lab.experiment("sharing")["tags"] == ["A", "a", "b"]
    cloned = lab.admin.post("/api/v1/experiments/sharing/clone", json={"changes": {"training.epochs": 3}})
    assert cloned.status_code == 201
    assert cloned.json() == lab.experiment(cloned.json()["id"])


def test_student_without_a_teacher_is_queued(lab: Lab) -> None:
    made = lab.submit(spec(methods=["ce", "kd"]))
    assert lab.states(made["id"]) == {"teacher": "queued", "ce": "queued", "kd": "waiting"}


def test_run_shows_its_resolved_spec(lab: Lab) -> None:
    made = lab.submit(spec())
    run = lab.run(made["runs"][1]["id"])
    assert run["spec"]["method"]["params"]["beta"] == 8.0
    assert run["spec"]["teacher"] == lab.run(made["runs"][0]["id"])["fingerprint"]
    assert run["teacher_run_id"] == made["runs"][0]["id"]
    assert run["experiments"] == [made["id"]]
    assert made["runs"][0]["id"] in run["reason"], "a waiting run has a reason"


def test_taken_name_is_refused_and_creates_nothing(lab: Lab) -> None:
    lab.submit(spec("same"))
    again = lab.admin.post("/api/v1/experiments", json=plain("same", runs=3))
    assert again.status_code == 422
    assert again.headers["content-type"] == "application/problem+json"
    assert [error["path"] for error in again.json()["errors"]] == ["name"]
    assert len(lab.experiments()) == 1
    assert len(lab.admin.get("/api/v1/runs").json()["items"]) == 3


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (spec(methods=[{"name": "dkd", "params": {"alpha": -1}}]), "methods.0.params.alpha"),
        (spec(methods=["kd", {"name": "dkd", "params": {"temperature": 0}}]), "methods.1.params.temperature"),
        (spec(methods=["dkdd"]), "methods.0.name"),
        (spec(student={"model": "resnet9"}), "student.model.name"),
        (spec(dataset="digitz"), "dataset.name"),
        (spec(training={"epochs": 0}), "training.epochs"),
        (spec(seeds="one"), "seeds"),
        (spec(seeds=[1, 1]), "seeds"),
        (spec(teacher=None), "methods.0"),
        (spec(dataset={"name": "synthetic", "params": {"num_classes": 2}}), "methods.0"),
        (spec(dataset={"name": "synthetic", "params": {"image_size": 4}}), "teacher.model"),
        (spec(colour="red"), "colour"),
        (spec("null\0byte"), "name"),
        (spec(notes="\ud800"), "notes"),
        ([], ""),
        (None, ""),
        ("text", ""),
    ],
)
def test_invalid_spec_is_refused_with_the_path_of_the_field(lab: Lab, body: Any, path: str) -> None:
    for url in ("/api/v1/experiments", "/api/v1/experiments/preview"):
        response = lab.admin.post(url, content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert response.status_code == 422
        problem = response.json()
        assert problem["status"] == 422
        assert problem["title"]
        assert path in [error["path"] for error in problem["errors"]]
        assert problem["detail"]
    assert lab.experiments() == []
    assert lab.admin.get("/api/v1/runs").json()["items"] == []


def test_unknown_name_is_refused_with_suggestions(lab: Lab) -> None:
    response = lab.admin.post("/api/v1/experiments", json=spec(methods=["dkdd"]))
    assert "did you mean dkd" in response.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    "text", ["", "{", "name: yaml", '{"a": NaN}', "[" * 100_000, "\xff", '{"name": "a", "name": "b"}']
)
def test_invalid_json_is_refused(lab: Lab, text: str) -> None:
    response = lab.admin.post("/api/v1/experiments", content=text.encode("latin-1"))
    assert response.status_code == 422
    assert any(words in response.json()["detail"] for words in ("not JSON", "32 levels deep"))


def test_body_above_the_limit_is_refused(make_lab: Any) -> None:
    lab = make_lab(max_body_bytes=2048)
    announced = lab.admin.post("/api/v1/experiments", json=spec(notes="x" * 4000))
    streamed = lab.admin.post("/api/v1/experiments", content=iter([b'{"notes": "', b"x" * 4000, b'"}']))
    for response in (announced, streamed):
        assert response.status_code == 413
        assert response.headers["content-type"] == "application/problem+json"
    assert lab.admin.post("/api/v1/experiments", json=spec()).status_code == 201


def test_same_idempotency_key_returns_the_same_experiment(lab: Lab) -> None:
    first = lab.admin.post("/api/v1/experiments", json=spec(), headers={"Idempotency-Key": "k"})
    second = lab.admin.post("/api/v1/experiments", json=spec(), headers={"Idempotency-Key": "k"})
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] == second.json()["id"]
    assert len(lab.experiments()) == 1
    other = lab.admin.post("/api/v1/experiments", json=spec("other"), headers={"Idempotency-Key": "k"})
    assert other.status_code == 422
    assert len(lab.experiments()) == 1


def test_refused_request_does_not_consume_its_idempotency_key(lab: Lab) -> None:
    lab.submit(spec("taken"))
    refused = lab.admin.post("/api/v1/experiments", json=spec("taken"), headers={"Idempotency-Key": "k"})
    accepted = lab.admin.post("/api/v1/experiments", json=spec("free"), headers={"Idempotency-Key": "k"})
    assert (refused.status_code, accepted.status_code) == (422, 201)


def test_preview_creates_nothing_and_shows_a_shared_teacher(lab: Lab) -> None:
    def look(name: str) -> dict[str, Any]:
        response = lab.admin.post("/api/v1/experiments/preview", json=spec(name))
        assert response.status_code == 200
        body: dict[str, Any] = response.json()
        return body

    before = look("first")
    assert [(run["label"], run["shared"]) for run in before["runs"]] == [
        ("teacher", False),
        ("dkd", False),
        ("kd", False),
    ]
    assert "seeds" in [warning["path"] for warning in before["warnings"]]
    assert lab.experiments() == []
    lab.submit(spec("first"))
    after = look("first")
    assert after["runs"][0]["shared"] is True
    assert after["warnings"][0]["path"] == "name"
    assert "name" not in [warning["path"] for warning in look("second")["warnings"]]


def test_experiments_are_listed_newest_first_in_pages(lab: Lab) -> None:
    for index in range(5):
        lab.submit(plain(f"number {index}"))
    names: list[str] = []
    cursor: str | None = None
    pages = 0
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = lab.admin.get("/api/v1/experiments", params=params).json()
        names += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
        pages += 1
        if cursor is None:
            break
    assert names == [f"number {index}" for index in (4, 3, 2, 1, 0)]
    assert pages == 3
    assert lab.admin.get("/api/v1/experiments", params={"cursor": "nonsense"}).status_code == 422
    assert lab.admin.get("/api/v1/experiments", params={"limit": 0}).status_code == 422


def test_experiments_are_filtered_by_part_of_their_name(lab: Lab) -> None:
    for name in ("Digits one", "digits two", "100% other"):
        lab.submit(plain(name))
    for text, expected in (("DIGITS", 2), ("%", 1), ("_", 0)):
        page = lab.admin.get("/api/v1/experiments", params={"text": text}).json()
        assert len(page["items"]) == expected, text


def test_name_may_contain_a_slash(lab: Lab) -> None:
    made = lab.submit(plain("a/b c?"))
    assert lab.experiment("a%2Fb%20c%3F")["id"] == made["id"]
    assert lab.cancel_experiment("a%2Fb%20c%3F")["state"] == "cancelled"


def test_stored_spec_with_now_refused_texts_is_shown_and_trained(lab: Lab, database: Database) -> None:
    key = lab.submit(plain("old"))["id"]
    with database.write() as session:
        experiment = session.get_one(models.Experiment, key)
        labelled = [{**experiment.spec["methods"][0], "label": "a\x1b"}]
        experiment.spec = {**experiment.spec, "name": "..", "tags": ["a\x1b"], "methods": labelled}
        session.add(models.ExperimentTag(experiment_id=key, tag="a\x1b"))
        for run in session.scalars(select(models.Run)):
            run.spec = {**run.spec, "method": labelled[0]}
    shown = lab.experiment(key)
    assert shown["spec"]["tags"] == ["a\x1b"]
    assert not any("cannot read" in warning["message"] for warning in shown["warnings"])
    refused = lab.admin.post(f"/api/v1/experiments/{key}/clone", json={"name": "new"})
    assert {error["path"] for error in refused.json()["errors"]} == {"tags.0", "methods.0.label"}
    lab.register()
    assert lab.claim()["spec"]["method"]["label"] == "a\x1b"


def test_unknown_experiment_or_run_is_404(lab: Lab) -> None:
    requests = [
        ("GET", "/api/v1/experiments/none"),
        ("POST", "/api/v1/experiments/none/cancel"),
        ("GET", "/api/v1/runs/none"),
        ("POST", "/api/v1/runs/none/cancel"),
        ("POST", "/api/v1/runs/none/retry"),
        ("GET", "/api/v1/runs?experiment=none"),
        ("GET", "/api/v1/runs/%00"),
        ("GET", "/api/v1/experiments/%00"),
    ]
    for method, url in requests:
        response = lab.admin.request(method, url)
        assert response.status_code == 404, url
        assert response.json()["detail"]


def test_cancelling_an_experiment_cancels_unfinished_runs(lab: Lab) -> None:
    made = lab.submit(spec())
    assert lab.cancel_experiment(made["id"])["state"] == "cancelled"
    again = lab.cancel_experiment("first")
    assert set(lab.states("first").values()) == {"cancelled"}
    assert again["ended_at"] is not None


def test_runs_are_filtered(lab: Lab) -> None:
    first, second = lab.submit(spec("one")), lab.submit(plain("two", runs=2))

    def ids(**params: Any) -> set[str]:
        response = lab.admin.get("/api/v1/runs", params=params)
        assert response.status_code == 200, response.text
        return {run["id"] for run in response.json()["items"]}

    of_first, of_second = ({run["id"] for run in made["runs"]} for made in (first, second))
    assert ids() == of_first | of_second
    assert ids(experiment="two") == ids(experiment=second["id"]) == of_second
    assert ids(method="dkd") == {first["runs"][1]["id"]}
    assert ids(state="waiting") == {run["id"] for run in first["runs"][1:]}
    assert ids(state=["waiting", "queued"], experiment="one") == of_first
    assert lab.admin.get("/api/v1/runs", params={"state": "lost"}).status_code == 422


def test_runs_are_listed_in_pages(lab: Lab) -> None:
    made = lab.submit(plain(runs=5))
    listed_ids: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = lab.admin.get("/api/v1/runs", params=params).json()
        listed_ids += [run["id"] for run in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert listed_ids == [run["id"] for run in reversed(made["runs"])]


def test_run_that_ends_while_it_is_read_has_its_weights_with_its_state(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that waits for the end reads the weights directly afterwards."""
    lab.register()
    lab.submit(plain())
    claim = lab.claim()
    original = serializers.rows_of_runs

    def ends_meanwhile(*args: Any) -> Any:
        monkeypatch.setattr(serializers, "rows_of_runs", original)
        lab.succeed(claim)
        return original(*args)

    monkeypatch.setattr(serializers, "rows_of_runs", ends_meanwhile)
    read = lab.run(claim["run_id"])
    assert (read["state"] == "succeeded") <= bool(read["weights"])
    assert lab.run(claim["run_id"])["weights"]
