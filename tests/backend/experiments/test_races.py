"""Sweeps whose settings race: a setting that is surely worse than another one gets no more seeds."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.db import Database, models
from backend.settings import Settings
from tests.backend import rows
from tests.backend.campaigns import Campaign, noise, sweep
from tests.backend.finished_experiments import compare
from tests.backend.lab import Lab

SEEDS: dict[str, Any] = {"until": "decided", "difference": 0.1, "most": 12, "race": True}
GRID = {"training.optimizer.lr": [0.01, 0.05, 0.08]}
WORSE = "race lr=0.01"


def nothing_decides(name: str, label: str, seed: int) -> float:
    """Return values whose methods cannot be told apart within an experiment, and whose settings clearly differ."""
    alternating = 0.0 if label == "kd" else 1.0 if seed % 2 else -1.0
    return (70.0 if name == WORSE else 80.0) + alternating + noise(f"{name} {label}", seed, 0.05)


def grow(campaigns: list[Campaign], failed: set[tuple[str, str, int]] = frozenset()) -> None:  # type: ignore[assignment]
    """Finish the runs of all experiments and add seeds until nothing is left to do."""
    for _ in range(40):
        for campaign in campaigns:
            name = campaign.name
            campaign.finish(
                lambda label, seed, name=name: (
                    None  # type: ignore[misc]
                    if (name, label, seed) in failed
                    else nothing_decides(name, label, seed)
                )
            )
        if not campaigns[0].planner.run_once():
            return
    raise AssertionError("it does not end")


@pytest.fixture
def campaigns(database: Database, settings: Settings) -> list[Campaign]:
    return sweep(database, settings, GRID, seeds=SEEDS)


def test_a_setting_that_is_surely_worse_gets_no_more_seeds(campaigns: list[Campaign], api: TestClient) -> None:
    grow(campaigns)
    worse, *others = campaigns
    assert worse.seeds()["dkd"] == worse.seeds()["kd"] == list(range(8))
    assert [len(other.seeds()["dkd"]) for other in others] == [12, 12]
    assert not any(campaign.is_open for campaign in campaigns)
    (item,) = worse.report().comparisons
    assert (item.verdict, item.outrun) == ("undecided", "race lr=0.05")
    assert item.sentence.endswith("dkd gets no more seeds here: it is surely better in race lr=0.05.")
    assert [look.seeds for look in item.looks] == list(range(3, 9))
    assert item.missing == []
    assert worse.report().note == "16 of at most 24 runs were trained: 8 were not needed."
    assert all(other.report().comparisons[0].outrun == "" for other in others)
    comparison = compare(api, worse.id)
    assert comparison.complete
    assert "surely better in race lr=0.05" in comparison.paired[0].sentence
    assert comparison.paired[0].missing == []


def test_without_a_race_every_setting_gets_its_seeds(database: Database, settings: Settings) -> None:
    campaigns = sweep(database, settings, GRID, seeds=SEEDS | {"race": False})
    grow(campaigns)
    assert [len(campaign.seeds()["dkd"]) for campaign in campaigns] == [12, 12, 12]
    assert campaigns[0].verdicts() == {"dkd": "cannot tell"}


def test_another_sweep_of_the_same_name_is_not_raced_against(
    database: Database, settings: Settings, campaigns: list[Campaign]
) -> None:
    with database.write() as session:
        session.get_one(models.Experiment, campaigns[0].id).sweep = "another"
    grow(campaigns)
    assert len(campaigns[0].seeds()["dkd"]) == 12


def test_runs_that_failed_or_were_cancelled_are_no_pairs(campaigns: list[Campaign], lab: Lab) -> None:
    failed = {(WORSE, "dkd", 2), (WORSE, "dkd", 5)}
    lab.cancel(campaigns[0].runs()["dkd", 0])
    grow(campaigns, failed)
    (item,) = campaigns[0].report().comparisons
    assert [missing.seed for missing in item.missing] == [0, 2, 5]
    # The exact test still needs eight pairs.
    assert (item.looks[-1].seeds, item.looks[-1].n) == (11, 8)
    assert len(campaigns[0].seeds()["dkd"]) == 11


def test_a_setting_is_not_compared_over_seeds_that_have_not_ended(campaigns: list[Campaign]) -> None:
    worse, *others = campaigns
    for _ in range(10):
        for campaign in (worse, others[0]):
            name = campaign.name
            campaign.finish(lambda label, seed, name=name: nothing_decides(name, label, seed))  # type: ignore[misc]
        worse.planner.run_once()
        if len(worse.seeds()["dkd"]) == 8:
            break
    for (label, seed), run_id in others[0].runs().items():
        if (label, seed) == ("kd", 0):
            rows.change(worse.database, run_id, state="running")
    worse.finish(lambda label, seed: nothing_decides(WORSE, label, seed))
    assert worse.planner.run_once() == 1
    assert len(worse.seeds()["dkd"]) == 9


def test_runs_of_other_images_are_no_rivals(campaigns: list[Campaign]) -> None:
    def trained_on(campaign: Campaign, images: str) -> None:
        for run_id in campaign.unfinished().values():
            rows.change(campaign.database, run_id, environment={"images": images})

    for _ in range(40):
        for campaign in campaigns:
            trained_on(campaign, "a" * 64 if campaign is campaigns[0] else "b" * 64)
            name = campaign.name
            campaign.finish(lambda label, seed, name=name: nothing_decides(name, label, seed))  # type: ignore[misc]
        if not campaigns[0].planner.run_once():
            break
    assert len(campaigns[0].seeds()["dkd"]) == 12


def test_a_sweep_races_over_http(lab: Lab, database: Database, settings: Settings) -> None:
    base = {name: value for name, value in rows.SPEC.items() if name != "name"}
    reply = lab.admin.post("/api/v1/sweeps", json={"name": "race", "experiment": base | {"seeds": SEEDS}, "grid": GRID})
    assert reply.status_code == 201
    campaigns = [Campaign(database, settings, item["id"]) for item in reply.json()["items"]]
    grow(campaigns)
    assert [len(campaign.seeds()["dkd"]) for campaign in campaigns] == [8, 12, 12]
