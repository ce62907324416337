"""Methods side by side: from what runs measured to what may be said of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from backend import comparisons, statistics
from backend.db import Database, models
from core.wire.public import Comparison
from tests.backend import rows

METHODS = ["kd", {"name": "dkd", "label": "DKD"}]


def _compare(api: TestClient, experiment: str, **query: Any) -> Comparison:
    answer = api.get("/api/v1/comparisons", params={"experiment": experiment, **query})
    assert answer.status_code == 200, answer.text
    return Comparison.model_validate(answer.json())


def _finished(database: Database, last: dict[tuple[str, int], float], **changes: Any) -> str:
    """An experiment whose teacher reached 90 % and whose named students ended at these accuracies."""
    experiment = rows.experiment(database, **{"methods": METHODS} | changes)
    for key, run_id in rows.run_ids(database, experiment).items():
        if key == ("teacher", 0):
            rows.succeed(database, run_id, [50, 80, 91, 90])
        elif key in last:
            value = last[key]
            rows.succeed(database, run_id, [value - 30, value - 4, value, value])
    return experiment


THREE = {("kd", 0): 80.0, ("kd", 1): 82.0, ("kd", 2): 84.0, ("DKD", 0): 81.0, ("DKD", 1): 83.5, ("DKD", 2): 86.0}


def test_methods_over_seeds(database: Database, api: TestClient) -> None:
    found = _compare(api, _finished(database, THREE))
    assert (found.experiment, found.baseline, found.metric, found.unit) == ("rows", "kd", "test/top1", "%")
    assert (found.test_size, found.resolution) == (899, pytest.approx(100 / 899))
    assert found.complete
    assert found.condition == "one teacher (seed 0)"
    kd, dkd = found.groups
    assert (kd.label, kd.method, kd.n, kd.mean, kd.sd, kd.missing) == ("kd", "kd", 3, 82.0, 2.0, [])
    assert kd.se == pytest.approx(2 / math.sqrt(3))
    assert (dkd.label, dkd.method, dkd.values) == ("DKD", "dkd", {0: 81.0, 1: 83.5, 2: 86.0})


def test_pairs_against_the_baseline(database: Database, api: TestClient) -> None:
    experiment = _finished(database, THREE)
    (paired,) = _compare(api, experiment).paired
    assert (paired.label, paired.baseline, paired.seeds, paired.n) == ("DKD", "kd", [0, 1, 2], 3)
    assert (paired.mean_difference, paired.sd) == (1.5, 0.5)
    assert paired.interval == statistics.summarize([1.0, 1.5, 2.0]).interval
    assert (paired.sign_flip_p, paired.smallest_p, paired.correlation) == (0.25, 0.25, pytest.approx(1.0))
    assert paired.welch_interval == statistics.welch_interval([81.0, 83.5, 86.0], [80.0, 82.0, 84.0])
    assert paired.sentence == (
        "The interval +0.3 to +2.7 percentage points excludes zero: DKD is better than kd if the differences are "
        "normally distributed. Without that assumption 3 pairs cannot show p < 0.25, so it is not confirmed."
    )
    (turned,) = _compare(api, experiment, baseline="DKD").paired
    assert (turned.label, turned.baseline, turned.mean_difference) == ("kd", "DKD", -1.5)


def test_convergence_to_a_share_of_the_teacher(database: Database, api: TestClient) -> None:
    # 95 % of the teacher's last 90 % (not of its best 91 %) is 85.5 %: only DKD's seed 2 gets there, after epoch 3.
    found = _compare(api, _finished(database, THREE))
    assert (found.teacher_top1, found.target) == (90.0, pytest.approx(85.5))
    kd, dkd = (group.convergence for group in found.groups)
    assert kd is not None
    assert dkd is not None
    assert (kd.reached, kd.of, kd.median_epochs, kd.max_epochs) == (0, 3, None, 4)
    assert (dkd.reached, dkd.of, dkd.median_epochs) == (1, 3, None)
    easier = _compare(api, found.experiment, target_share=0.9)  # 81 %
    kd, dkd = (group.convergence for group in easier.groups)
    assert kd is not None
    assert dkd is not None
    assert (kd.reached, kd.median_epochs) == (2, 3.0)
    assert (dkd.reached, dkd.median_epochs) == (3, 3.0)


def test_before_everything_has_ended(database: Database, api: TestClient) -> None:
    some = {("kd", 0): 80.0, ("kd", 1): 82.0, ("DKD", 1): 83.5}
    found = _compare(api, _finished(database, some))
    assert not found.complete
    kd, dkd = found.groups
    assert (kd.n, kd.missing) == (2, [2])
    assert (dkd.n, dkd.missing, dkd.sd, dkd.interval) == (1, [0, 2], None, None)
    (paired,) = found.paired
    assert (paired.seeds, paired.mean_difference, paired.interval) == ([1], 1.5, None)
    assert "1 pair" in paired.sentence


def test_of_a_new_experiment(database: Database, api: TestClient) -> None:
    found = _compare(api, rows.experiment(database))
    assert not found.complete
    assert (found.test_size, found.resolution, found.teacher_top1, found.target) == (0, None, None, None)
    assert [(group.n, group.mean, group.convergence, group.missing) for group in found.groups] == [
        (0, None, None, [0, 1, 2])
    ] * 2
    assert found.paired[0].n == 0
    assert "nothing to compare" in found.paired[0].sentence


def test_a_run_that_failed_or_diverged_is_missing_but_counts_as_never_reached(
    database: Database, api: TestClient
) -> None:
    experiment = _finished(database, {key: value for key, value in THREE.items() if key[1] < 1})
    ids = rows.run_ids(database, experiment)
    rows.succeed(database, ids["kd", 1], [80, 88, 88, math.nan])  # reached the target before it diverged
    rows.take(database, ids["kd", 2], rows.metrics(10, epoch=1, test__top1=10.0))
    rows.change(database, ids["kd", 2], state="failed")
    rows.change(database, ids["DKD", 1], state="failed")  # never measured anything: says nothing about convergence
    rows.take(database, ids["DKD", 2], rows.metrics(10, epoch=1, test__top1=10.0))
    rows.change(database, ids["DKD", 2], state="cancelled")
    found = _compare(api, experiment)
    assert found.complete
    kd, dkd = found.groups
    assert (kd.values, kd.missing, dkd.missing) == ({0: 80.0}, [1, 2], [1, 2])
    assert kd.convergence is not None
    assert dkd.convergence is not None
    assert (kd.convergence.reached, kd.convergence.of) == (1, 3)
    assert (dkd.convergence.reached, dkd.convergence.of) == (0, 1)


def test_other_metrics(database: Database, api: TestClient) -> None:
    experiment = _finished(database, THREE)
    ids = rows.run_ids(database, experiment)
    for seed in range(3):
        rows.take(database, ids["kd", seed], rows.metrics(40, epoch=4, test__loss=1.0 + 0.01 * seed, mine=1.0))
        rows.take(database, ids["DKD", seed], rows.metrics(40, epoch=4, test__loss=0.5, mine=1.0))
    loss = _compare(api, experiment, metric="test/loss")
    assert (loss.unit, loss.groups[1].mean) == ("nats", 0.5)
    assert "DKD is better than kd" in loss.paired[0].sentence
    assert loss.groups[1].convergence is not None  # stays about the accuracy
    assert _compare(api, experiment, metric="mine").paired[0].mean_difference == 0


def test_pairs_trained_with_different_settings_are_named(database: Database, api: TestClient) -> None:
    experiment = _finished(database, THREE)
    ids = rows.run_ids(database, experiment)
    for (label, seed), run_id in ids.items():
        same = {"precision": "float32", "platform": f"machine {run_id}"}
        rows.change(database, run_id, environment=same | {"threads": "4" if (label, seed) == ("DKD", 1) else "2"})
    (paired,) = _compare(api, experiment).paired
    assert paired.sentence.endswith("1 of 3 pairs were trained with different settings: threads.")


def test_several_comparisons_that_could_show_something_say_so(database: Database, api: TestClient) -> None:
    methods = ["kd", "dkd", {"name": "dkd", "label": "B", "params": {"beta": 4.0}}]
    seeds = list(range(6))
    last = {
        (label, seed): 80.0 + seed + 0.1 * (seed % 2) * (label != "kd")
        for label in ("kd", "dkd", "B")
        for seed in seeds
    }
    found = _compare(api, _finished(database, last, methods=methods, seeds=seeds))
    assert all("not adjusted for the 2 comparisons" in paired.sentence for paired in found.paired)
    fewer = _compare(api, _finished(database, last, methods=methods, seeds=seeds[:5], name="fewer"))
    assert not any("adjusted" in paired.sentence for paired in fewer.paired)


def test_without_a_teacher(database: Database, api: TestClient) -> None:
    experiment = rows.experiment(database, teacher=None, methods=["ce"])
    for run_id in rows.run_ids(database, experiment).values():
        rows.succeed(database, run_id, [50.0, 60.0])
    found = _compare(api, experiment)
    assert (found.condition, found.target, found.paired) == ("training without a teacher", None, [])
    assert found.groups[0].convergence is None
    assert (found.groups[0].sd, found.groups[0].interval) == (0.0, None)


def test_two_experiments_share_a_teacher(database: Database, api: TestClient) -> None:
    _finished(database, THREE)
    second = rows.experiment(
        database, name="second", training={"epochs": 5}, teacher=rows.SPEC["teacher"] | {"training": {"epochs": 4}}
    )
    assert _compare(api, second).teacher_top1 == 90.0


@pytest.mark.parametrize(
    ("query", "path", "words"),
    [
        ({"baseline": "dkd"}, "baseline", "it has kd, DKD"),
        ({"metric": "test/top"}, "metric", "test/top1"),
        ({"metric": "\0"}, "metric", "unknown metric"),
        ({"target_share": 0}, "target_share", ""),
    ],
)
def test_what_the_experiment_does_not_have_is_refused(
    database: Database, api: TestClient, query: dict[str, Any], path: str, words: str
) -> None:
    rows.experiment(database, methods=METHODS)
    answer = api.get("/api/v1/comparisons", params={"experiment": "rows", **query})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == path
    assert words in answer.json()["detail"]


def test_of_an_unknown_experiment(api: TestClient) -> None:
    answer = api.get("/api/v1/comparisons", params={"experiment": "nobody"})
    assert answer.status_code == 404
    assert "'nobody'" in answer.json()["detail"]


def test_asks_the_database_equally_often_for_one_seed_and_for_many(database: Database) -> None:
    counts = []
    for number, seeds in enumerate(([0], list(range(20)))):
        last = {(label, seed): 80.0 + seed for label in ("kd", "DKD") for seed in seeds}
        experiment = _finished(database, last, seeds=seeds, name=f"with {number}")
        statements: list[str] = []
        with database.read() as session:
            found = session.get_one(models.Experiment, experiment)
            event.listen(database.engine, "before_cursor_execute", lambda *call, to=statements: to.append(call[2]))
            comparisons.build(session, [found])
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 6
