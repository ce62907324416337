"""Seeds are added until every comparison is decided, and neither failures nor replicas change the decision."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, text

from backend.db import Database, models, now
from backend.experiments.seed_planner import SeedPlanner, _take
from backend.queue import lifecycle
from backend.settings import Settings
from tests.backend import rows
from tests.backend.campaigns import Campaign, clear_and_noisy, noise
from tests.backend.lab import Lab


@pytest.fixture
def campaign(database: Database, settings: Settings) -> Campaign:
    return Campaign(database, settings)


def test_a_decided_method_gets_no_more_seeds_and_the_others_go_on_to_the_most(campaign: Campaign) -> None:
    assert campaign.seeds() == {"teacher": [0], "kd": [0, 1, 2], "clear": [0, 1, 2], "noisy": [0, 1, 2]}
    campaign.grow(clear_and_noisy)
    seeds = campaign.seeds()
    assert seeds["kd"] == seeds["noisy"] == list(range(10))
    assert seeds["clear"] == list(range(8))  # the fewest with which the exact test over two comparisons can reject
    report = campaign.report()
    assert campaign.verdicts() == {"clear": "better", "noisy": "cannot tell"}
    assert (report.open, report.seeds, report.runs, report.most_runs) == (False, 10, 28, 30)
    assert "2 were not needed" in report.note
    clear, noisy = report.comparisons
    assert (clear.seeds, noisy.seeds) == (8, 10)
    assert [look.seeds for look in noisy.looks] == list(range(3, 11))
    assert clear.looks[-1].low is not None
    assert clear.looks[-1].low > 0
    assert "clear is better than kd: after 8 of at most 10 seeds" in clear.sentence
    assert "10 seeds cannot tell" in noisy.sentence


def test_it_stops_as_soon_as_everything_is_decided(campaign: Campaign) -> None:
    campaign.grow(lambda label, seed: {"kd": 80.0, "clear": 90.0, "noisy": 70.0}[label] + noise(label, seed))
    assert campaign.verdicts() == {"clear": "better", "noisy": "worse"}
    assert campaign.seeds()["kd"] == list(range(8))
    assert campaign.is_open is False


def test_methods_that_hardly_differ_are_decided_too(campaign: Campaign) -> None:
    campaign.grow(lambda label, seed: 80.0 + noise(label, seed))
    assert campaign.verdicts() == {"clear": "no difference", "noisy": "no difference"}
    assert "do not differ by 1 percentage points or more" in campaign.report().comparisons[0].sentence


def test_nothing_is_added_before_every_run_of_a_seed_has_ended(campaign: Campaign) -> None:
    runs = campaign.runs()
    for (label, seed), run_id in runs.items():
        if (label, seed) not in (("teacher", 0), ("noisy", 2)):
            rows.succeed(campaign.database, run_id, [80.0 + noise(label, seed)])
    for state in ("queued", "running", "paused", "cancelling"):
        rows.change(campaign.database, runs["noisy", 2], state=state)
        assert campaign.planner.run_once() == 0
    assert campaign.report().seeds == 2
    assert all(not item.looks for item in campaign.report().comparisons)  # a look needs all of the first seeds
    rows.succeed(campaign.database, runs["noisy", 2], [80.0])
    assert campaign.planner.run_once() == 1
    assert set(campaign.unfinished()) == {("kd", 3), ("clear", 3), ("noisy", 3)}
    assert campaign.nudges == 1
    assert campaign.planner.run_once() == 0, "a repeated pass adds nothing"


def test_new_runs_have_the_teacher_the_priority_and_the_place_of_the_others(campaign: Campaign, lab: Lab) -> None:
    lab.priority_of_experiment(campaign.id, 7)
    campaign.finish(clear_and_noisy)
    campaign.planner.run_once()
    added = [run for run in lab.experiment(campaign.id)["runs"] if run["seed"] == 3]
    assert [run["label"] for run in added] == ["kd", "clear", "noisy"]
    assert lab.experiment(campaign.id)["runs"][-3:] == added
    for run in added:
        assert (run["teacher_run_id"], run["priority"], run["state"]) == (campaign.teacher, 7, "queued")
    assert lab.run(added[0]["id"])["spec"]["data_seed"] == 3


def test_a_failed_run_is_named_and_a_retry_fills_its_place(campaign: Campaign, lab: Lab) -> None:
    campaign.grow(lambda label, seed: None if (label, seed) == ("clear", 4) else clear_and_noisy(label, seed))
    clear, noisy = campaign.report().comparisons
    assert (clear.verdict, clear.seeds, clear.looks[-1].n) == ("better", 8, 7)
    assert [(item.seed, item.label, item.reason) for item in clear.missing] == [(4, "clear", "failed: the loss is NaN")]
    assert noisy.missing == []
    lab.retry(campaign.runs()["clear", 4])
    assert campaign.is_open is True
    assert lab.experiment(campaign.id)["state"] == "active"
    campaign.grow(clear_and_noisy)
    clear, _ = campaign.report().comparisons
    assert (clear.verdict, clear.seeds, clear.missing) == ("better", 8, [])
    assert campaign.is_open is False
    assert campaign.seeds()["clear"] == list(range(8)), "no run is made twice"


def test_a_run_without_a_finite_result_is_a_missing_pair(campaign: Campaign) -> None:
    campaign.finish(lambda label, seed: float("nan") if (label, seed) == ("clear", 1) else clear_and_noisy(label, seed))
    clear, _ = campaign.report().comparisons
    assert [(item.seed, item.label) for item in clear.missing] == [(1, "clear")]
    assert clear.looks[0].n == 2


def test_a_failing_baseline_does_not_use_up_all_seeds(campaign: Campaign, lab: Lab) -> None:
    campaign.grow(lambda label, seed: None if label == "kd" else clear_and_noisy(label, seed))
    assert campaign.seeds()["kd"] == [0, 1, 2]
    assert campaign.is_open is False
    assert campaign.verdicts() == {"clear": "undecided", "noisy": "undecided"}
    assert "the last 2 gave no pair" in campaign.report().note
    assert lab.experiment(campaign.id)["state"] == "failed"


def test_a_failed_teacher_ends_it(database: Database, settings: Settings, lab: Lab) -> None:
    experiment = Campaign(database, settings)
    rows.change(database, experiment.teacher, state="failed", reason="the loss is NaN")
    experiment.finish(clear_and_noisy)
    experiment.planner.run_once()
    assert experiment.is_open is False
    assert experiment.unfinished() == {}


def test_a_cancelled_experiment_gets_no_more_seeds_until_a_retry(campaign: Campaign, lab: Lab) -> None:
    campaign.finish(clear_and_noisy)
    campaign.planner.run_once()
    lab.cancel_experiment(campaign.id)
    assert campaign.planner.run_once() == 0
    assert campaign.is_open is False
    assert campaign.unfinished() == {}
    assert lab.experiment(campaign.id)["state"] == "cancelled"
    assert "was cancelled" in campaign.report().note
    lab.retry(campaign.runs()["kd", 3])
    campaign.grow(clear_and_noisy)
    # The other two runs of that seed stay cancelled: their pairs are missing.
    assert [(item.seed, item.label) for item in campaign.report().comparisons[1].missing] == [(3, "noisy")]
    assert campaign.verdicts() == {"clear": "better", "noisy": "cannot tell"}


def test_one_cancelled_run_is_a_missing_pair(campaign: Campaign, lab: Lab) -> None:
    lab.cancel(campaign.runs()["noisy", 0])
    campaign.grow(clear_and_noisy)
    clear, noisy = campaign.report().comparisons
    assert (clear.verdict, clear.missing) == ("better", [])
    assert [(item.seed, item.reason) for item in noisy.missing] == [(0, "cancelled")]


def test_a_paused_experiment_waits(campaign: Campaign, lab: Lab) -> None:
    campaign.finish(clear_and_noisy)
    campaign.planner.run_once()
    lab.pause_experiment(campaign.id)
    assert campaign.planner.run_once() == 0
    assert set(campaign.unfinished()) == {("kd", 3), ("clear", 3), ("noisy", 3)}
    lab.resume_experiment(campaign.id)
    campaign.grow(clear_and_noisy)
    assert campaign.verdicts()["clear"] == "better"


def test_a_step_of_another_replica_is_not_taken_twice(campaign: Campaign, settings: Settings) -> None:
    campaign.finish(clear_and_noisy)
    other = SeedPlanner(campaign.database, settings, lambda: None)
    with campaign.database.read() as session:
        stale = other._next_step(session, campaign.id)
    assert stale is not None
    assert campaign.planner.run_once() == 1
    before = campaign.runs()
    with campaign.database.write() as session:
        assert not _take(session, campaign.id, stale)
    assert campaign.runs() == before


def test_replicas_at_the_same_time_add_one_group(campaign: Campaign, settings: Settings) -> None:
    campaign.finish(clear_and_noisy)
    databases = [Database(campaign.database.url) for _ in range(4)]
    try:
        planners = [SeedPlanner(database, settings, lambda: None) for database in databases]
        with ThreadPoolExecutor(4) as pool:
            changed = list(pool.map(lambda planner: planner.run_once(), planners))
    finally:
        for database in databases:
            database.dispose()
    assert sum(changed) == 1
    assert set(campaign.unfinished()) == {("kd", 3), ("clear", 3), ("noisy", 3)}


def test_between_two_groups_the_experiment_is_active(campaign: Campaign, lab: Lab) -> None:
    campaign.finish(clear_and_noisy)

    def listed(state: str) -> list[str]:
        answer = lab.admin.get("/api/v1/experiments", params={"state": state}).json()
        return [item["id"] for item in answer["items"]]

    assert lab.experiment(campaign.id)["state"] == "active"
    assert (listed("active"), listed("finished")) == ([campaign.id], [])
    campaign.grow(clear_and_noisy)
    assert lab.experiment(campaign.id)["state"] == "finished"
    assert (listed("active"), listed("finished")) == ([], [campaign.id])


def test_a_spec_that_cannot_be_read_is_left_alone(campaign: Campaign) -> None:
    campaign.finish(clear_and_noisy)
    with campaign.database.write() as session:
        experiment = session.get_one(models.Experiment, campaign.id)
        experiment.spec = experiment.spec | {"methods": [{"name": "of_a_plugin", "label": "kd"}]}
    assert campaign.planner.run_once() == 0
    assert campaign.is_open is True


def test_experiments_with_listed_seeds_are_not_looked_at(database: Database, settings: Settings) -> None:
    experiment = Campaign(database, settings, seeds=[0, 1])
    assert experiment.is_open is None
    experiment.grow(clear_and_noisy)
    assert experiment.seeds()["kd"] == [0, 1]
    with database.write() as session:
        lifecycle.cancel_experiment(session, experiment.id, now(session))
    assert experiment.is_open is None


def test_open_experiments_are_found_by_an_index(database: Database) -> None:
    query = str(select(models.Experiment.id).where(models.Experiment.seeds_open.is_(True)).compile(database.engine))
    with database.engine.connect() as connection:
        if not database.is_sqlite:
            # PostgreSQL reads a table of a few rows whole, whatever its indexes are.
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = connection.execute(text(f"{'EXPLAIN QUERY PLAN' if database.is_sqlite else 'EXPLAIN'} {query}")).all()
    assert "ix_experiments_open" in str(plan)
