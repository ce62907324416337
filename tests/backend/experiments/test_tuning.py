"""The backend trains the trials first, freezes the choice, and then trains the students with the settings chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from backend.comparisons import comparison, run_data
from backend.db import Database, models
from backend.experiments import planning
from backend.experiments.seed_planner import SeedPlanner
from backend.settings import Settings
from core.specs import parse_experiment
from tests.backend import rows
from tests.backend.lab import Lab

AUDIT: dict[str, Any] = {
    "name": "audit",
    "methods": ["ce", "kd", {"name": "dkd", "params": {"beta": 2.0}}],
    "seeds": [0, 1],
    "tune": {"trials": 3},
}


class Audit:
    """An experiment that chooses settings, whose runs end as a test says."""

    def __init__(self, database: Database, settings: Settings, **changes: Any) -> None:
        self.database = database
        self.nudges = 0
        self.planner = SeedPlanner(database, settings, self._nudge)
        self.id = rows.experiment(database, **AUDIT | changes)

    def _nudge(self) -> None:
        self.nudges += 1

    def labels(self, *, trial: bool) -> dict[str, list[str]]:
        """Return the ids of the runs by label: those of the trials, or the others."""
        link = models.ExperimentRun
        found: dict[str, list[str]] = {}
        with self.database.read() as session:
            for item in session.query(link).filter_by(experiment_id=self.id, trial=trial).order_by(link.position):
                found.setdefault(item.label, []).append(item.run_id)
        return found

    def finish_trials(self, score: Callable[[str], float | None], metric: str = "val/top1") -> None:
        for label, run_ids in self.labels(trial=True).items():
            for run_id in run_ids:
                if (value := score(label)) is None:
                    rows.change(self.database, run_id, state="failed", reason="the loss is NaN")
                else:
                    rows.succeed(self.database, run_id, [value - 5, value], (metric,))

    @property
    def row(self) -> models.Experiment:
        with self.database.read() as session:
            return session.get_one(models.Experiment, self.id)


def best(scores: Mapping[str, float]) -> Callable[[str], float]:
    return lambda label: scores.get(label, 50.0)


@pytest.fixture
def audit(database: Database, settings: Settings) -> Audit:
    return Audit(database, settings)


def test_it_begins_with_the_trials_on_held_out_images(audit: Audit, lab: Lab) -> None:
    assert list(audit.labels(trial=True)) == [
        *("teacher of the trials", "ce #1", "kd #1", "kd #2", "kd #3", "dkd #1", "dkd #2", "dkd #3")
    ]
    assert audit.labels(trial=False) == {}
    shown = lab.experiment(audit.id)
    assert (shown["state"], shown["choice"]) == ("active", None)
    assert all(run["trial"] for run in shown["runs"])
    for run in shown["runs"]:
        params = lab.run(run["id"])["spec"]["dataset"]["params"]
        assert params == {"val_fraction": 0.1, "val_seed": 0, "evaluate": "validation"}
    assert audit.planner.run_once() == 0  # nothing has ended


def test_the_students_follow_with_the_settings_that_were_best(audit: Audit, lab: Lab) -> None:
    trained = lab.run(audit.labels(trial=True)["dkd #2"][0])["spec"]["method"]["params"]
    audit.finish_trials(best({"dkd #2": 70.0}))
    assert audit.planner.run_once() == 1
    assert audit.nudges == 1
    finals = audit.labels(trial=False)
    assert {label: len(found) for label, found in finals.items()} == {"teacher": 1, "ce": 2, "kd": 2, "dkd": 2}
    spec = lab.run(finals["dkd"][0])["spec"]
    assert spec["method"]["params"] == trained
    assert spec["dataset"]["params"] == {}
    shown = lab.experiment(audit.id)
    assert shown["state"] == "active"
    assert "tune" not in shown["spec"]
    assert shown["spec"]["methods"][2]["params"] == trained
    choice = shown["choice"]
    assert [(item["label"], item["trial"], item["trials"]) for item in choice["methods"]] == [
        ("ce", 1, 1),
        ("kd", 1, 3),
        ("dkd", 2, 3),
    ]
    assert (choice["metric"], choice["images"], choice["error"]) == ("val/top1", 899, "")
    assert choice["hash"][:12] in choice["sentences"][0]
    assert audit.planner.run_once() == 0, "the choice is made once"


def test_the_trials_are_none_of_the_results(audit: Audit, lab: Lab) -> None:
    audit.finish_trials(best({}))
    audit.planner.run_once()
    for label, run_ids in audit.labels(trial=False).items():
        for run_id in run_ids:
            rows.succeed(audit.database, run_id, [80.0, 81.0 if label == "dkd" else 80.0])
    with audit.database.read() as session:
        sample = run_data.load(session, [audit.row])[audit.id]
        notes = comparison.chosen_settings(sample)
    assert [run.label for run in sample.students] == ["ce", "kd", "dkd"] * 2
    assert sample.headline == "test/top1"
    assert "held out of the training images" in notes[0]
    reply = lab.admin.get("/api/v1/comparisons", params={"experiment": audit.id}).json()
    assert [item["label"] for item in reply["groups"]] == ["ce", "kd", "dkd"]
    assert any("before the first test evaluation" in note for note in reply["notes"])


def test_a_run_that_has_seen_the_test_images_ends_the_choice(audit: Audit, lab: Lab) -> None:
    audit.finish_trials(best({}), "test/top1")
    assert audit.planner.run_once() == 1
    shown = lab.experiment(audit.id)
    assert "has seen the test images: it has reported test/top1" in shown["choice"]["error"]
    assert audit.labels(trial=False) == {}
    assert shown["state"] != "active"


def test_a_method_without_a_trial_that_succeeded_is_named_and_a_retry_chooses_again(audit: Audit, lab: Lab) -> None:
    audit.finish_trials(lambda label: None if label.startswith("kd") else 50.0)
    audit.planner.run_once()
    assert lab.experiment(audit.id)["choice"]["error"] == ("no trial of kd succeeded, so its settings cannot be chosen")
    lab.retry(audit.labels(trial=True)["kd #2"][0])
    assert lab.experiment(audit.id)["state"] == "active"
    rows.succeed(audit.database, audit.labels(trial=True)["kd #2"][0], [40.0], ("val/top1",))
    assert audit.planner.run_once() == 1
    assert lab.experiment(audit.id)["choice"]["methods"][1]["trial"] == 2


def test_cancelling_the_trials_ends_the_experiment(audit: Audit, lab: Lab) -> None:
    lab.cancel_experiment(audit.id)
    assert lab.experiment(audit.id)["state"] == "cancelled"
    assert audit.planner.run_once() == 0


def test_seeds_are_added_after_the_choice_until_it_is_decided(database: Database, settings: Settings, lab: Lab) -> None:
    seeds = {"until": "decided", "difference": 1.0, "most": 10}
    audit = Audit(database, settings, seeds=seeds)
    audit.finish_trials(best({}))
    audit.planner.run_once()
    assert audit.row.seeds_open is True
    assert {label: len(found) for label, found in audit.labels(trial=False).items()} == {
        "teacher": 1,
        "ce": 3,
        "kd": 3,
        "dkd": 3,
    }
    for label, run_ids in audit.labels(trial=False).items():
        for run_id in run_ids:
            rows.succeed(database, run_id, [80.0 if label == "ce" else 90.0])
    assert audit.planner.run_once() == 1
    assert len(audit.labels(trial=False)["kd"]) == 4


def test_a_preview_shows_the_trials_and_the_runs_that_follow(database: Database) -> None:
    spec = parse_experiment(rows.SPEC | AUDIT)
    with database.read() as session:
        found = planning.preview(session, spec, spec, {})
    assert [run.label for run in found.runs][:3] == ["teacher of the trials", "ce #1", "kd #1"]
    assert [run.label for run in found.runs if "#" not in run.label][1:] == ["teacher", *["ce", "kd", "dkd"] * 2]
