"""Sweeps with their results: the fields that vary, and the mean of each setting."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.db import Database
from backend.experiments import planning
from backend.experiments.sweeps import varied_fields
from core.protocol.sweeps import Sweep
from core.specs import parse_sweep
from core.specs.sweep import expand
from tests.backend import rows
from tests.backend.finished_experiments import compare

BASE: dict[str, Any] = {
    "dataset": "digits",
    "student": {"model": "small_cnn"},
    "methods": ["ce"],
    "seeds": [0, 1],
    "training": {"epochs": 2},
}


def submit(database: Database, name: str = "search", **changes: Any) -> list[str]:
    parsed = parse_sweep({"name": name, "experiment": BASE, "grid": {"training.optimizer.lr": [0.01, 0.1]}} | changes)
    with database.write() as session:
        specs = [("", spec) for spec in expand(parsed)]
        created = planning.create(session.connection(), specs, submitted_by="", sweep=name)
        return [item.id for item in created]


def read(api: TestClient, name: str = "search") -> Sweep:
    answer = api.get(f"/api/v1/sweeps/{name}")
    assert answer.status_code == 200, answer.text
    return Sweep.model_validate(answer.json())


def test_settings_that_are_measured_on_held_out_images_are_judged_by_them(database: Database, api: TestClient) -> None:
    held_out = {"name": "digits", "params": {"val_fraction": 0.2, "evaluate": "validation"}}
    low, _ = submit(database, experiment=BASE | {"dataset": held_out})
    rows.succeed(database, rows.run_ids(database, low)["ce", 0], [10, 80.0], ("val/top1",))
    sweep = read(api)
    assert (sweep.metric, sweep.title) == ("val/top1", "Validation accuracy")
    assert sweep.settings[0].results[0].values == {0: 80.0}


def test_settings_that_race_are_said_to_have_other_numbers_of_seeds(database: Database, api: TestClient) -> None:
    until = {"until": "decided", "difference": 0.5}
    submit(
        database, "plain", experiment=BASE | {"methods": ["ce", "kd"], "seeds": until, "teacher": {"model": "resnet8"}}
    )
    racing = BASE | {"methods": ["ce", "kd"], "seeds": until | {"race": True}, "teacher": {"model": "resnet8"}}
    submit(database, "racing", experiment=racing)
    assert read(api, "plain").notes == []
    assert "The settings race" in " ".join(read(api, "racing").notes)


def test_settings_have_their_values_and_results(database: Database, api: TestClient) -> None:
    low, high = submit(database)
    runs = rows.run_ids(database, low)
    rows.succeed(database, runs["ce", 0], [10, 80.0])
    rows.succeed(database, runs["ce", 1], [10, 84.0])
    sweep = read(api)
    assert [(field.path, field.values) for field in sweep.fields] == [("training.optimizer.lr", [0.01, 0.1])]
    assert (sweep.metric, sweep.unit, sweep.better, sweep.dataset) == ("test/top1", "%", "higher", "digits")
    first, second = sweep.settings
    assert (first.experiment_id, second.experiment_id) == (low, high)
    assert (first.values, second.values) == ({"training.optimizer.lr": 0.01}, {"training.optimizer.lr": 0.1})
    [result] = first.results
    assert (result.label, result.planned, result.n, result.mean, result.values) == (
        "ce",
        2,
        2,
        82.0,
        {0: 80.0, 1: 84.0},
    )
    assert result.sd == pytest.approx(8**0.5)
    assert (second.results[0].n, second.results[0].mean) == (0, None)
    assert (first.state, second.state) == ("finished", "active")


def test_sweeps_are_listed_newest_first(database: Database, api: TestClient) -> None:
    assert api.get("/api/v1/sweeps").json() == {"items": []}
    submit(database, "first")
    submit(database, "second/with slash")
    items = api.get("/api/v1/sweeps").json()["items"]
    assert {(item["name"], item["experiments"]) for item in items} == {("first", 2), ("second/with slash", 2)}
    assert read(api, "second/with slash").total == 2
    assert api.get("/api/v1/sweeps/nothing").status_code == 404


def test_varied_method_is_one_field_with_its_labels() -> None:
    def spec(method: dict[str, Any], lr: float) -> dict[str, Any]:
        return {
            "name": str(lr),
            "methods": [{"name": "ce", "label": "ce", "params": {}}, method],
            "training": {"lr": lr},
        }

    fields, values = varied_fields(
        [
            spec({"name": "kd", "label": "kd", "params": {"temperature": 4}}, 0.1),
            spec({"name": "dkd", "label": "dkd", "params": {"alpha": 1, "beta": 8}}, 0.1),
        ]
    )
    assert [(field.path, field.values) for field in fields] == [("methods.1", ["kd", "dkd"])]
    assert values == [{"methods.1": "kd"}, {"methods.1": "dkd"}]


def test_varied_parameter_of_a_method_keeps_its_path_and_labels_do_not_count() -> None:
    def spec(beta: float) -> dict[str, Any]:
        return {"methods": [{"name": "dkd", "label": f"dkd {beta}", "params": {"beta": beta}}], "seeds": [0]}

    fields, values = varied_fields([spec(1.0), spec(8.0), spec(1.0)])
    assert [(field.path, field.values) for field in fields] == [("methods.0.params.beta", [1.0, 8.0])]
    assert [item["methods.0.params.beta"] for item in values] == [1.0, 8.0, 1.0]


def test_settings_are_compared_in_pairs_by_seed(database: Database, api: TestClient) -> None:
    low, high = submit(database, experiment=BASE | {"seeds": [0, 1, 2]})
    for key, values in ((low, (80.0, 82.0, 84.0)), (high, (81.0, 83.5, 86.0))):
        for seed, value in enumerate(values):
            rows.succeed(database, rows.run_ids(database, key)["ce", seed], [10, value])
    refused = api.get("/api/v1/comparisons", params={"experiment": [low, high]})
    assert refused.status_code == 422
    comparison = compare(api, [low, high], settings=True)  # type: ignore[arg-type]
    names = [group.label for group in comparison.groups]
    assert names == ["ce · search lr=0.01", "ce · search lr=0.1"]
    [pair] = comparison.paired
    assert (pair.n, pair.mean_difference, pair.baseline) == (3, 1.5, names[0])
    assert "differ in training" in comparison.notes[0]
    turned = compare(api, [high, low], settings=True, baseline="ce")  # type: ignore[arg-type]
    assert turned.baseline == names[1]


def test_settings_on_other_data_are_refused(database: Database, api: TestClient) -> None:
    one = rows.experiment(database, name="one", teacher=None, methods=["ce"])
    other = rows.experiment(database, name="other", teacher=None, methods=["ce"], dataset="synthetic")
    answer = api.get("/api/v1/comparisons", params={"experiment": [one, other], "settings": True})
    assert answer.status_code == 422
    assert "different data" in answer.json()["detail"]
