"""Clones keep the teacher, adapt automatic labels, and explain why a teacher is new."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from backend.db import Database, models
from tests.backend import rows
from tests.backend.lab import Json, Lab, spec

EXPERIMENTS, SWEEPS = "/api/v1/experiments", "/api/v1/sweeps"
ALIGN = {"name": "dkd_align", "params": {"reduction": "sample", "epsilon": 6.0}}


def _clone(lab: Lab, key: str, **changes: Any) -> Json:
    wanted = {path.replace("__", "."): value for path, value in changes.items()}
    answer = lab.admin.post(f"{EXPERIMENTS}/{key}/clone", json={"changes": wanted})
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def _preview(lab: Lab, body: Json, path: str = "preview") -> Json:
    answer = lab.admin.post(f"{EXPERIMENTS}/{path}", json=body)
    assert answer.status_code == 200, answer.text
    reply: Json = answer.json()
    return reply


def _labels(reply: Json) -> list[str]:
    return [method["label"] for method in reply["spec"]["methods"]]


def _teacher(made: Json) -> str:
    return str(next(run["id"] for run in made["runs"] if run["role"] == "teacher"))


def test_automatic_label_follows_the_method_and_a_typed_one_stays(lab: Lab) -> None:
    lab.submit(spec("first", methods=["dkd", ALIGN, {**ALIGN, "label": "ours"}]))
    made = _clone(lab, "first", methods__1__params__reduction="log", methods__2__params__reduction="batch")
    assert _labels(made) == ["dkd", "dkd_align (log)", "ours"]
    assert {run["label"] for run in made["runs"]} == {"teacher", "dkd", "dkd_align (log)", "ours"}
    assert _labels(_clone(lab, "first", methods__0={"name": "kd"})) == ["kd", "dkd_align (sample)", "ours"]
    assert _labels(_clone(lab, "first", methods__1="nkd"))[1] == "nkd"
    assert _labels(_clone(lab, "first", methods__1__label="dkd_align sample"))[1] == "dkd_align sample"


def test_typed_label_with_another_reduction_is_a_warning(lab: Lab) -> None:
    lab.submit(spec("first", methods=["dkd", {**ALIGN, "label": "align (sample)"}]))
    wanted = {"changes": {"methods.1.params.reduction": "log"}}
    shown = _preview(lab, wanted, "first/clone/preview")
    made = _clone(lab, "first", methods__1__params__reduction="log")
    for reply in (shown, made, lab.experiment(made["id"])):
        assert [item["message"] for item in reply["warnings"] if item["path"] == "methods.1.label"] == [
            "the label 'align (sample)' says sample, and the reduction is log"
        ]


def test_clone_with_duplicate_labels_is_refused(lab: Lab) -> None:
    lab.submit(spec("first", methods=[ALIGN, {"name": "dkd_align", "params": {"reduction": "log", "epsilon": 1}}]))
    body = {"changes": {"methods.1.params.reduction": "sample"}}
    answer = lab.admin.post(f"{EXPERIMENTS}/first/clone", json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["path"] == "methods.1.label"
    assert "they differ in epsilon" in error["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {"training__epochs": 9},
        {"training__optimizer__lr": 0.2},
        {"training__batch_size": 32},
        {"training__augment": "none"},
        {"training__schedule__name": "constant"},
        {"training__speed__precision": "float32"},
        {"training": {"epochs": 9, "optimizer": {"name": "adamw", "lr": 0.001}}},
        {"seeds": "3..4"},
        {"seeds": "3..4", "training__epochs": 9},
    ],
)
def test_clone_with_another_training_keeps_its_teacher(lab: Lab, changes: dict[str, Any]) -> None:
    first = lab.submit(spec("first"))
    made = _clone(lab, "first", **changes)
    assert _teacher(made) == _teacher(first)
    again = _clone(lab, made["id"], training__epochs=11)
    assert _teacher(again) == _teacher(first), "a clone of the clone, too"


def test_clone_trains_another_teacher_on_request(lab: Lab) -> None:
    first = lab.submit(spec("first", training={"epochs": 2, "optimizer": {"lr": 0.3}}))
    followed = _clone(lab, "first", training__epochs=9, teacher__training=None)
    longer = _clone(lab, "first", training__epochs=9, teacher__training__epochs=4)
    seeded = _clone(lab, "first", training__epochs=9, teacher__seed=1)
    assert len({_teacher(made) for made in (first, followed, longer, seeded)}) == 4
    assert lab.run(_teacher(followed))["spec"]["training"]["epochs"] == 9
    training = lab.run(_teacher(longer))["spec"]["training"]
    assert (training["epochs"], training["optimizer"]["lr"]) == (4, 0.3), "other fields stay as they are"
    assert lab.run(_teacher(seeded))["spec"]["training"]["epochs"] == 2


def test_preview_names_the_teacher_or_why_a_new_one_is_trained(lab: Lab) -> None:
    none = _preview(lab, spec("x"))["teacher"]
    assert none["run_id"] is None
    assert "there is no teacher on digits yet" in none["sentence"]
    first = lab.submit(spec("first"))
    used = _preview(lab, spec("x", seeds=[5]))["teacher"]
    assert (used["run_id"], used["state"], used["differences"]) == (_teacher(first), "queued", [])
    assert _teacher(first) in used["sentence"]
    longer = _preview(lab, spec("x", training={"epochs": 9, "batch_size": 32}))["teacher"]
    assert (longer["run_id"], longer["nearest"], longer["epochs"]) == (None, _teacher(first), 9)
    assert longer["differences"] == [
        {"path": "training.epochs", "here": 9, "there": 2},
        {"path": "training.batch_size", "here": 32, "there": 64},
    ]
    assert "training.epochs (9 here, 2 there)" in longer["sentence"]
    assert "teacher.training" in longer["sentence"]
    explicit = spec("x", teacher={"model": "resnet8", "seed": 3, "training": {"epochs": 5}})
    assert [item["path"] for item in _preview(lab, explicit)["teacher"]["differences"]] == [
        "teacher.training.epochs",
        "teacher.seed",
    ]
    other = _preview(lab, spec("x", teacher={"model": "resnet20"}))["teacher"]
    assert "there is no resnet20 on digits yet" in other["sentence"]
    assert _preview(lab, spec("x", methods=["ce"]))["teacher"] is None
    lab.cancel_experiment("first")
    assert f"run {_teacher(first)}, was cancelled" in _preview(lab, spec("x"))["teacher"]["sentence"]


def test_clone_preview_creates_nothing_and_its_draft_keeps_the_teacher(lab: Lab) -> None:
    first = lab.submit(spec("first", methods=["dkd", ALIGN]))
    shown = _preview(lab, {"changes": {"training.epochs": 9}}, "first/clone/preview")
    assert shown["teacher"]["run_id"] == _teacher(first)
    assert (shown["spec"]["name"], len(lab.experiments())) == ("first (2)", 1)
    draft = shown["draft"]
    assert draft["teacher"]["training"]["epochs"] == 2
    assert all("label" not in method for method in draft["methods"])
    draft["training"]["epochs"] = 30
    draft["methods"][1]["params"]["reduction"] = "log"
    made = lab.submit(draft)
    assert _teacher(made) == _teacher(first)
    assert _labels(made) == ["dkd", "dkd_align (log)"]
    refused = lab.admin.post(f"{EXPERIMENTS}/first/clone/preview", json={"changes": {"training.epochs": 0}})
    assert [error["path"] for error in refused.json()["errors"]] == ["training.epochs"]
    assert lab.admin.post(f"{EXPERIMENTS}/none/clone/preview", json={}).status_code == 404


def test_pinned_teacher_is_the_same_run_as_an_implicit_one(lab: Lab) -> None:
    lab.submit(spec("first"))
    draft = _preview(lab, {}, "first/clone/preview")["draft"] | {"name": "more seeds", "seeds": [7]}
    lab.submit(draft)
    answer = lab.admin.get("/api/v1/comparisons", params={"experiment": ["first", "more seeds"]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["experiments"] == ["first", "more seeds"]


def test_repeated_run_uses_its_former_teacher(lab: Lab) -> None:
    first = lab.submit(spec("first"))
    student = next(run for run in first["runs"] if run["label"] == "dkd")
    repeat = lab.admin.get(f"/api/v1/exports/runs/{student['id']}").json()["repeat"]
    repeat["training"]["epochs"] = 9
    assert _teacher(lab.submit(repeat)) == _teacher(first)


def test_sweep_preview_counts_its_teachers(lab: Lab) -> None:
    experiment = {name: value for name, value in spec().items() if name != "name"}
    body = {"name": "s", "experiment": experiment, "grid": {"training.epochs": [3, 4, 5]}}

    def shown(**changes: Any) -> Json:
        answer = lab.admin.post(f"{SWEEPS}/preview", json=body | changes)
        assert answer.status_code == 200, answer.text
        reply: Json = answer.json()
        return reply

    one = shown()
    assert (one["teacher_count"], one["new_teachers"], len(one["teachers"])) == (1, 1, 1)
    assert one["teachers"][0]["epochs"] == 2, "as in the sweep's experiment"
    assert not any(item["path"] == "teacher.training" for item in one["warnings"])
    each = shown(experiment=experiment | {"training": {}})
    assert (each["teacher_count"], each["new_teachers"]) == (3, 3)
    (warning,) = [item["message"] for item in each["warnings"] if item["path"] == "teacher.training"]
    assert "3 different trainings need 3 teachers" in warning
    lab.submit(spec("first"))
    assert shown()["new_teachers"] == 0
    made = lab.admin.post(SWEEPS, json=body).json()
    assert made["runs"] == 1 + 3 * 2


def test_clone_of_a_sweeps_experiment_is_named_by_its_values(lab: Lab) -> None:
    experiment = {name: value for name, value in spec().items() if name != "name"}
    body = {"name": "s", "experiment": experiment, "grid": {"training.epochs": [3], "teacher.seed": [1]}}
    lab.admin.post(SWEEPS, json=body)
    assert _clone(lab, "s epochs=3, seed=1", training__epochs=9)["name"] == "s epochs=9, seed=1"
    assert _clone(lab, "s epochs=3, seed=1", training__epochs=9)["name"] == "s epochs=9, seed=1 (2)"
    assert _clone(lab, "s epochs=3, seed=1", seeds=[4])["name"] == "s epochs=3, seed=1 (2)"


def test_clone_has_the_current_tags(lab: Lab) -> None:
    lab.submit(spec("first", tags=["draft"]))
    lab.admin.patch(f"{EXPERIMENTS}/first", json={"tags": ["paper"]})
    assert _clone(lab, "first")["tags"] == ["paper"]


def test_wrong_label_of_an_old_experiment_is_a_warning_everywhere(database: Database, api: TestClient) -> None:
    key = rows.experiment(database, name="old", methods=["dkd", ALIGN], seeds=[0, 1])
    for (label, seed), run_id in rows.run_ids(database, key).items():
        rows.succeed(database, run_id, [50, 60, 70, 80.0 + seed + (label == "dkd")])
    log = {"name": "dkd_align", "label": "dkd_align (sample)"}
    with database.write() as session:
        old = session.get_one(models.Experiment, key)
        params = {**old.spec["methods"][1]["params"], "reduction": "log"}
        old.spec = {**old.spec, "methods": [old.spec["methods"][0], {**log, "params": params}]}
        for run in session.scalars(select(models.Run).where(models.Run.method == "dkd_align")):
            run.spec = {**run.spec, "method": {**log, "params": params}}
            run_id = run.id
    message = "the label 'dkd_align (sample)' is the automatic name of another method or reduction; this one is "
    for path in ("comparisons", "comparisons/overview", "comparisons/claims", "comparisons/table"):
        reply = api.get(f"/api/v1/{path}", params={"experiment": "old"}).json()
        assert any(message in note for note in reply["notes"]), path
    latex = api.get("/api/v1/comparisons/table", params={"experiment": "old", "format": "latex"}).text
    assert "is the automatic name of another method" in latex
    shown = api.get(f"{EXPERIMENTS}/old").json()
    assert any(item["path"] == "methods.1.label" and message in item["message"] for item in shown["warnings"])
    (warning,) = api.get(f"/api/v1/runs/{run_id}").json()["warnings"]
    assert message in warning["message"]


def test_combination_is_stored_shown_cloned_and_swept(lab: Lab) -> None:
    both = {"name": "at", "with": [{"name": "kd", "params": {"temperature": 2.0}}]}
    lab.submit(spec("first", methods=["kd", both]))
    made = _clone(lab, "first", methods__1__with__0__params__temperature=8.0)
    assert _labels(made) == ["kd", "AT + KD"]
    assert made["spec"]["methods"][1]["with"][0]["params"]["temperature"] == 8.0
    assert "ce_weight" not in made["spec"]["methods"][1]["with"][0]["params"]
    assert {(run["label"], run["method"]) for run in made["runs"]} >= {("kd", "kd"), ("AT + KD", "at+kd")}
    assert made["warnings"] == lab.experiment("first")["warnings"]
    other = _clone(lab, "first", methods__1__with=["dist"])
    assert _labels(other) == ["kd", "AT + DIST"]
    base = {key: value for key, value in spec(methods=["kd", both]).items() if key != "name"}
    sweep = {"name": "s", "experiment": base, "grid": {"methods.1.with.0.params.temperature": [2.0, 4.0]}}
    reply = lab.admin.post(SWEEPS, json=sweep)
    assert reply.status_code == 201, reply.text
    refused = lab.admin.post(EXPERIMENTS, json=spec("bad", methods=[{"name": "at", "with": ["kdd"]}]))
    assert refused.status_code == 422
    assert [problem["path"] for problem in refused.json()["errors"]] == ["methods.0.with.0.name"]
