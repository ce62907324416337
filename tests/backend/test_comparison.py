"""Comparisons of methods: from the measurements of runs to the statements that they support."""

from __future__ import annotations

import math
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from backend import comparisons
from backend.comparisons import statistics
from backend.db import Database, models
from core.protocol.comparisons import Comparison
from tests.backend import rows
from tests.backend.finished_experiments import METHODS, THREE, compare, finished


def test_methods_are_summarized_over_seeds(database: Database, api: TestClient) -> None:
    comparison = compare(api, finished(database, THREE))
    assert (comparison.experiment, comparison.baseline, comparison.metric, comparison.unit) == (
        "rows",
        "kd",
        "test/top1",
        "%",
    )
    assert comparison.test_size == 899
    assert comparison.resolution == pytest.approx(100 / 899)
    assert comparison.complete
    assert comparison.condition == "one teacher (seed 0)"
    kd, dkd = comparison.groups
    assert (kd.label, kd.method, kd.n, kd.mean, kd.sd, kd.missing) == ("kd", "kd", 3, 82.0, 2.0, [])
    assert kd.se == pytest.approx(2 / math.sqrt(3))
    assert (dkd.label, dkd.method, dkd.values) == ("DKD", "dkd", {0: 81.0, 1: 83.5, 2: 86.0})


def test_methods_are_paired_with_the_baseline(database: Database, api: TestClient) -> None:
    experiment = finished(database, THREE)
    (paired,) = compare(api, experiment).paired
    assert (paired.label, paired.baseline, paired.seeds, paired.n) == ("DKD", "kd", [0, 1, 2], 3)
    assert (paired.mean_difference, paired.sd) == (1.5, 0.5)
    assert paired.interval == statistics.summarize([1.0, 1.5, 2.0]).interval
    assert (paired.sign_flip_p, paired.smallest_p) == (0.25, 0.25)
    assert paired.correlation == pytest.approx(1.0)
    assert paired.welch_interval == statistics.welch_interval([81.0, 83.5, 86.0], [80.0, 82.0, 84.0])
    assert paired.sentence == (
        "The interval +0.26 to +2.74 percentage points, of this comparison alone, excludes zero, but 3 pairs cannot "
        "show p < 0.25, so this does not show which is better."
    )
    (turned,) = compare(api, experiment, baseline="DKD").paired
    assert (turned.label, turned.baseline, turned.mean_difference) == ("kd", "DKD", -1.5)


def test_convergence_to_a_share_of_the_teacher(database: Database, api: TestClient) -> None:
    # 95 % of the teacher's last 90 % (not of its best 91 %) is 85.5 %: only DKD's seed 2 reaches it, after epoch 3.
    comparison = compare(api, finished(database, THREE))
    assert comparison.teacher_top1 == 90.0
    assert comparison.target == pytest.approx(85.5)
    kd, dkd = (group.convergence for group in comparison.groups)
    assert kd is not None
    assert dkd is not None
    assert (kd.reached, kd.of, kd.median_epochs, kd.max_epochs) == (0, 3, None, 4)
    assert (dkd.reached, dkd.of, dkd.median_epochs) == (1, 3, None)
    easier = compare(api, comparison.experiment, target_share=0.9)  # 81 %
    kd, dkd = (group.convergence for group in easier.groups)
    assert kd is not None
    assert dkd is not None
    assert (kd.reached, kd.median_epochs) == (2, 3.0)
    assert (dkd.reached, dkd.median_epochs) == (3, 3.0)


def test_comparison_of_unfinished_runs_is_incomplete(database: Database, api: TestClient) -> None:
    some = {("kd", 0): 80.0, ("kd", 1): 82.0, ("DKD", 1): 83.5}
    comparison = compare(api, finished(database, some))
    assert not comparison.complete
    kd, dkd = comparison.groups
    assert (kd.n, kd.missing) == (2, [2])
    assert (dkd.n, dkd.missing, dkd.sd, dkd.interval) == (1, [0, 2], None, None)
    (paired,) = comparison.paired
    assert (paired.seeds, paired.mean_difference, paired.interval) == ([1], 1.5, None)
    assert "1 pair" in paired.sentence


def test_new_experiment_has_nothing_to_compare(database: Database, api: TestClient) -> None:
    comparison = compare(api, rows.experiment(database))
    assert not comparison.complete
    assert (comparison.test_size, comparison.resolution, comparison.teacher_top1, comparison.target) == (
        0,
        None,
        None,
        None,
    )
    assert [(group.n, group.mean, group.convergence, group.missing) for group in comparison.groups] == [
        (0, None, None, [0, 1, 2])
    ] * 2
    assert comparison.paired[0].n == 0
    assert "nothing to compare" in comparison.paired[0].sentence


def test_a_run_that_failed_or_diverged_is_missing_but_counts_as_never_reached(
    database: Database, api: TestClient
) -> None:
    experiment = finished(database, {key: value for key, value in THREE.items() if key[1] < 1})
    ids = rows.run_ids(database, experiment)
    rows.succeed(database, ids["kd", 1], [80, 88, 88, math.nan])  # reached the target before it diverged
    rows.insert_records(database, ids["kd", 2], rows.metrics(10, {"test/top1": 10.0}, epoch=1))
    rows.change(database, ids["kd", 2], state="failed")
    rows.change(database, ids["DKD", 1], state="failed")  # without a measurement, its convergence is unknown
    rows.insert_records(database, ids["DKD", 2], rows.metrics(10, {"test/top1": 10.0}, epoch=1))
    rows.change(database, ids["DKD", 2], state="cancelled")
    comparison = compare(api, experiment)
    assert comparison.complete
    kd, dkd = comparison.groups
    assert (kd.values, kd.missing, dkd.missing) == ({0: 80.0}, [1, 2], [1, 2])
    assert kd.convergence is not None
    assert dkd.convergence is not None
    assert (kd.convergence.reached, kd.convergence.of) == (1, 3)
    assert (dkd.convergence.reached, dkd.convergence.of) == (0, 1)


def test_comparison_of_other_metrics_uses_their_better_side(database: Database, api: TestClient) -> None:
    seeds = list(range(6))
    last = {(label, seed): 80.0 + seed for label in ("kd", "DKD") for seed in seeds}
    experiment = finished(database, last, seeds=seeds)
    ids = rows.run_ids(database, experiment)
    for seed in seeds:
        losses = {"test/loss": 1.0 + 0.01 * seed, "train/loss": 2.0 + 0.01 * seed}
        rows.insert_records(database, ids["kd", seed], rows.metrics(40, losses | {"mine": 1.0}, epoch=4))
        rows.insert_records(
            database, ids["DKD", seed], rows.metrics(40, {"test/loss": 0.5, "train/loss": 0.5, "mine": 1.0}, epoch=4)
        )
    loss = compare(api, experiment, metric="test/loss")
    assert (loss.unit, loss.groups[1].mean) == ("nats", 0.5)
    assert "DKD is better than kd" in loss.paired[0].sentence
    assert loss.groups[1].convergence is not None  # convergence is always about the accuracy
    minimised = compare(
        api, experiment, metric="train/loss"
    )  # each method minimises its own loss, so that neither side is better
    assert minimised.better is None
    assert "DKD is lower than kd" in minimised.paired[0].sentence
    assert compare(api, experiment, metric="mine").paired[0].mean_difference == 0


def test_pairs_trained_with_different_settings_are_named(database: Database, api: TestClient) -> None:
    experiment = finished(database, THREE)
    ids = rows.run_ids(database, experiment)
    for (label, seed), run_id in ids.items():
        same = {"precision": "float32", "platform": f"machine {run_id}"}
        rows.change(database, run_id, environment=same | {"threads": "4" if (label, seed) == ("DKD", 1) else "2"})
    (paired,) = compare(api, experiment).paired
    assert paired.sentence.endswith("1 of 3 pairs were trained with different settings: threads.")


def test_several_comparisons_are_corrected_by_holm(database: Database, api: TestClient) -> None:
    methods = ["kd", "dkd", {"name": "dkd", "label": "B", "params": {"beta": 4.0}}]
    seeds = list(range(6))
    last = {
        (label, seed): 80.0 + seed + 0.1 * (seed % 2) * (label != "kd")
        for label in ("kd", "dkd", "B")
        for seed in seeds
    }
    comparison = compare(api, finished(database, last, methods=methods, seeds=seeds))
    assert comparison.tests == 2
    for paired in comparison.paired:
        assert "6 pairs cannot show p < 0.062 after Holm over the 2 comparisons of this report" in paired.sentence
        assert f"p of this comparison alone: {paired.sign_flip_p:.2g}" in paired.sentence
    fewer = compare(api, finished(database, last, methods=methods, seeds=seeds[:5], name="fewer"))
    assert all("5 pairs cannot show p < 0.0625" in paired.sentence for paired in fewer.paired)


def test_comparison_without_a_teacher_has_no_convergence(database: Database, api: TestClient) -> None:
    experiment = rows.experiment(database, teacher=None, methods=["ce"])
    for run_id in rows.run_ids(database, experiment).values():
        rows.succeed(database, run_id, [50.0, 60.0])
    comparison = compare(api, experiment)
    assert (comparison.condition, comparison.target, comparison.paired) == ("training without a teacher", None, [])
    assert comparison.groups[0].convergence is None
    assert (comparison.groups[0].sd, comparison.groups[0].interval) == (0.0, None)


def test_two_experiments_share_a_teacher(database: Database, api: TestClient) -> None:
    finished(database, THREE)
    second = rows.experiment(
        database, name="second", training={"epochs": 5}, teacher=rows.SPEC["teacher"] | {"training": {"epochs": 4}}
    )
    assert compare(api, second).teacher_top1 == 90.0


@pytest.mark.parametrize(
    ("query", "path", "words"),
    [
        ({"baseline": "dkd"}, "baseline", "it has kd, DKD"),
        ({"metric": "test/top"}, "metric", "test/top1"),
        ({"metric": "\0"}, "metric", "not text"),
        ({"target_share": 0}, "target_share", ""),
    ],
)
def test_unknown_baseline_or_metric_is_refused(
    database: Database, api: TestClient, query: dict[str, Any], path: str, words: str
) -> None:
    rows.experiment(database, methods=METHODS)
    answer = api.get("/api/v1/comparisons", params={"experiment": "rows", **query})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == path
    assert words in answer.json()["detail"]


def test_unknown_experiment_is_a_404(api: TestClient) -> None:
    answer = api.get("/api/v1/comparisons", params={"experiment": "nobody"})
    assert answer.status_code == 404
    assert "'nobody'" in answer.json()["detail"]


def test_number_of_queries_does_not_depend_on_the_number_of_seeds(database: Database) -> None:
    counts = []
    for number, seeds in enumerate(([0], list(range(20)))):
        last = {(label, seed): 80.0 + seed for label in ("kd", "DKD") for seed in seeds}
        experiment = finished(database, last, seeds=seeds, name=f"with {number}")
        statements: list[str] = []
        with database.read() as session:
            stored = session.get_one(models.Experiment, experiment)
            event.listen(database.engine, "before_cursor_execute", lambda *call, to=statements: to.append(call[2]))
            comparisons.compare(session, [stored])
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 12


def test_the_epoch_is_chosen_by_validation_or_by_the_test_images(database: Database, api: TestClient) -> None:
    experiment = rows.experiment(database, methods=METHODS, seeds=[0, 1])
    test, val = [50.0, 70.0, 65.0, 60.0], [55.0, 60.0, 72.0, 72.0]
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        up = 2.0 * (label == "DKD") + seed
        points = [
            rows.metrics(10 * epoch, {"test/top1": top1 + up, "val/top1": validation}, epoch=epoch)
            for epoch, (top1, validation) in enumerate(zip(test, val, strict=True), 1)
        ]
        rows.insert_records(database, run_id, *points, rows.metrics(40, {"collapse/nc1": 0.5}, epoch=4))
        rows.change(database, run_id, state="succeeded", test_size=899)
    last = compare(api, experiment)
    assert (last.epoch, last.groups[0].values) == ("last", {0: 60.0, 1: 61.0})
    best = compare(api, experiment, which="best_val")  # epoch 3: the first of the two that are equal
    assert (best.epoch, best.groups[0].values) == ("best_val", {0: 65.0, 1: 66.0})
    assert best.groups[0].runs[0].epoch == 3
    assert any("best validation result" in note for note in best.notes)
    oracle = compare(api, experiment, which="oracle")
    assert (oracle.epoch, oracle.groups[0].values) == ("oracle", {0: 70.0, 1: 71.0})
    (pair,) = oracle.paired
    assert (pair.mean_difference, pair.interval, pair.sign_flip_p, pair.welch_interval) == (2.0, None, None, None)
    assert "not tested" in pair.sentence
    late = compare(api, experiment, which="best_val", metric="collapse/nc1")
    assert late.groups[0].n == 0
    assert late.groups[0].runs[0].reason == "not measured at epoch 3, the run's best epoch by val/top1"


def test_without_a_validation_split_no_epoch_is_chosen_by_it(database: Database, api: TestClient) -> None:
    experiment = finished(database, THREE)
    answer = api.get("/api/v1/comparisons", params={"experiment": experiment, "which": "best_val"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "which"
    assert "val_fraction" in answer.json()["detail"]


def test_missing_pairs_name_the_method_without_a_value(database: Database, api: TestClient) -> None:
    experiment = finished(database, {key: value for key, value in THREE.items() if key not in (("kd", 1), ("DKD", 2))})
    ids = rows.run_ids(database, experiment)
    rows.change(database, ids["kd", 1], state="failed", reason="out of memory")
    (pair,) = compare(api, experiment).paired
    assert pair.seeds == [0]
    assert [(item.seed, item.label, item.run_id, item.state, item.reason) for item in pair.missing] == [
        (1, "kd", ids["kd", 1], "failed", "failed: out of memory"),
        (2, "DKD", ids["DKD", 2], "waiting", "waiting, not ended yet"),
    ]


def test_machines_and_settings_for_speed_are_distinguished(database: Database, api: TestClient) -> None:
    experiment = finished(database, THREE)
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        is_dkd = label == "DKD"
        environment = {
            "precision": "bfloat16" if is_dkd and seed == 0 else "float32",
            "torch": "2.14.0" if is_dkd and seed > 0 else "2.13.0",
            "packages": f"of {run_id}",
        }
        # A method without a teacher does not record this setting, which is not a difference.
        rows.change(database, run_id, environment=environment | ({"teacher_logits": "kept"} if is_dkd else {}))
    (pair,) = compare(api, experiment).paired
    assert [(item.setting, item.kind, item.seeds, item.values) for item in pair.unlike] == [
        ("precision", "speed", [0], "bfloat16 against float32"),
        ("torch", "machine", [1, 2], "2.14.0 against 2.13.0"),
    ]
    assert "1 of 3 pairs were trained with different settings: precision." in pair.sentence
    assert "2 of 3 pairs were trained on different machines or versions: torch." in pair.sentence


def test_seeds_for_a_difference_from_four_pairs_on(database: Database, api: TestClient) -> None:
    def last(seeds: int) -> dict[tuple[str, int], float]:
        return {
            (label, seed): 80.0 + seed + (0.3 + 0.2 * seed) * (label == "DKD")
            for label in ("kd", "DKD")
            for seed in range(seeds)
        }

    four = finished(database, last(4), seeds=[0, 1, 2, 3], name="four")
    (pair,) = compare(api, four, difference=0.5).paired
    assert pair.needed is not None
    assert pair.needed.low < (pair.needed.high or 0)
    assert f"between {pair.needed.low} and {pair.needed.high} seeds in total" in pair.sentence
    (silent,) = compare(api, four).paired
    assert silent.needed is None
    (few,) = compare(api, finished(database, last(3), name="three"), difference=0.5).paired
    assert few.needed is None
    assert "at least 4" in few.sentence


def test_more_seeds_in_another_experiment_are_the_same_comparison(database: Database, api: TestClient) -> None:
    first = finished(database, THREE, name="first")
    more = rows.experiment(database, name="more", methods=METHODS, seeds=[2, 3])
    for (label, seed), run_id in rows.run_ids(database, more).items():
        if label != "teacher":
            rows.succeed(database, run_id, [50, 60, 70, 85.0 + (label == "DKD") + seed])
    comparison = Comparison.model_validate(api.get("/api/v1/comparisons", params={"experiment": [first, more]}).json())
    kd = comparison.groups[0]
    assert kd.values == {0: 80.0, 1: 82.0, 2: 84.0, 3: 88.0}  # of the two runs of seed 2 the first counts
    assert {run.experiment for run in kd.runs} == {"first", "more"}
    assert any("2 run(s) repeat a seed" in note for note in comparison.notes)


def test_experiments_that_differ_in_more_than_seeds_are_refused(database: Database, api: TestClient) -> None:
    first = finished(database, THREE, name="first")
    others = {
        "training": rows.experiment(database, name="longer", methods=METHODS, training={"epochs": 5}),
        "the parameters of DKD": rows.experiment(
            database, name="other", methods=["kd", {"name": "dkd", "label": "DKD", "params": {"beta": 3.0}}]
        ),
    }
    for field, other in others.items():
        answer = api.get("/api/v1/comparisons", params={"experiment": [first, other]})
        assert answer.status_code == 422
        assert field in answer.json()["detail"]


def test_convergence_by_time_gpu_area_and_pairs(database: Database, api: TestClient) -> None:
    experiment = finished(database, {})
    ids = rows.run_ids(database, experiment)
    curves = {
        ("kd", 0): [70.0, 80.0, 86.0, 86.0],
        ("kd", 1): [70.0, 86.0, 86.0, 86.0],
        ("kd", 2): [60.0, 70.0, 80.0, 82.0],
        ("DKD", 0): [80.0, 86.0, 86.0, 86.0],
        ("DKD", 1): [86.0, 86.0, 87.0, 88.0],
        ("DKD", 2): [60.0, 70.0, 86.0, 86.0],
    }
    for key, curve in curves.items():
        rows.succeed(database, ids[key], curve)
    comparison = compare(api, experiment)  # 95 % of 90 is 85.5
    kd, dkd = (group.convergence for group in comparison.groups)
    assert kd is not None
    assert dkd is not None
    assert (kd.reached, kd.of, kd.median_epochs) == (2, 3, 3.0)
    assert kd.median_seconds == pytest.approx(0.3)
    assert kd.median_gpu_seconds is None  # no device is recorded
    assert kd.area == pytest.approx((81.3333 + 83.3333 + 73.6667) / 3, abs=0.01)
    (pair,) = comparison.paired
    assert pair.convergence is not None
    assert (pair.convergence.earlier, pair.convergence.later, pair.convergence.equal) == (3, 0, 0)
    assert (pair.convergence.sign_p, pair.convergence.both_reached) == (0.25, 2)
    assert pair.convergence.speed_up == pytest.approx(2.5 / 1.5)  # seed 2 of kd never reached it
    absolute = compare(api, experiment, target=80.0)
    assert (absolute.target, absolute.absolute_target) == (80.0, True)
    assert absolute.groups[0].convergence is not None
    assert (absolute.groups[0].convergence.reached, absolute.groups[0].convergence.median_epochs) == (3, 2.0)


def test_runs_that_did_not_succeed_are_listed_with_convergence(database: Database, api: TestClient) -> None:
    experiment = finished(database, {key: value for key, value in THREE.items() if key[1] == 0})
    ids = rows.run_ids(database, experiment)
    rows.insert_records(database, ids["kd", 1], rows.metrics(10, {"test/top1": 10.0}, epoch=1))
    rows.change(database, ids["kd", 1], state="failed", reason="NaN")
    rows.change(database, ids["kd", 2], state="cancelled")
    convergence = compare(api, experiment).groups[0].convergence
    assert convergence is not None
    assert [(item.seed, item.state, item.reason, item.counted) for item in convergence.not_succeeded] == [
        (1, "failed", "NaN", True),
        (2, "cancelled", "", False),
    ]
