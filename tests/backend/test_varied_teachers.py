"""Comparisons over several teachers: a teacher, not a run, is the unit of inference."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from fastapi.testclient import TestClient

from backend.comparisons import convergence, statistics
from backend.db import Database
from core.protocol.comparisons import Comparison, PaperClaims, RunConvergence
from tests.backend import rows

METHODS = ["kd", {"name": "dkd", "label": "DKD"}]


def _compared(api: TestClient, experiments: Sequence[str]) -> Comparison:
    answer = api.get("/api/v1/comparisons", params={"experiment": experiments})
    assert answer.status_code == 200, answer.text
    return Comparison.model_validate(answer.json())


def _under_teachers(database: Database, gains: dict[int, list[float]]) -> list[str]:
    """Create one experiment per teacher seed, with seeds 0, 1 …, in which DKD has these gains over kd."""
    made = []
    for teacher, values in gains.items():
        last = {
            (label, seed): 80.0 + 2 * teacher + seed + gain * (label == "DKD")
            for seed, gain in enumerate(values)
            for label in ("kd", "DKD")
        }
        experiment = rows.experiment(
            database,
            name=f"teacher {teacher}",
            methods=METHODS,
            seeds=list(range(len(values))),
            teacher={"model": "resnet8", "seed": teacher},
        )
        for key, run_id in rows.run_ids(database, experiment).items():
            value = 90 - 5 * teacher if key[0] == "teacher" else last[key]
            rows.succeed(database, run_id, [50, 60, value, value])
        made.append(experiment)
    return made


def test_pairs_are_averaged_by_teacher_if_teachers_differ(database: Database, api: TestClient) -> None:
    experiments = _under_teachers(database, {0: [1.0, 1.2], 1: [2.0, 2.2], 2: [0.3, 0.5]})
    comparison = _compared(api, experiments)
    assert (len(comparison.experiments), comparison.condition) == (3, "3 teachers (seeds 0, 1, 2)")
    (pair,) = comparison.paired
    assert (pair.n, pair.units, pair.unit, pair.smallest_p) == (6, 3, "teacher", 0.25)
    expected = statistics.summarize([1.1, 2.1, 0.4]).interval
    assert pair.interval is not None
    assert expected is not None
    assert (pair.interval.low, pair.interval.high) == pytest.approx((expected.low, expected.high))
    assert [(item.teacher_seed, item.n, round(item.mean_difference, 6)) for item in pair.teachers] == [
        (0, 2, 1.1),
        (1, 2, 2.1),
        (2, 2, 0.4),
    ]
    # Like the interval and p, it is computed from the teachers' means.
    assert pair.correlation == pytest.approx(statistics.correlation([80.5, 82.5, 84.5], [81.6, 84.6, 84.9]))
    assert "3 teachers cannot show p < 0.25" in pair.sentence
    assert (comparison.groups[0].n, comparison.groups[0].units, comparison.groups[0].values) == (6, 3, {})
    assert any("a teacher is the unit" in note for note in comparison.notes)
    (alone,) = _compared(api, experiments[:1]).paired
    assert (alone.n, alone.unit, alone.teachers) == (2, "seed", [])


def test_table_notes_that_few_teachers_cannot_show_a_difference(database: Database, api: TestClient) -> None:
    experiments = _under_teachers(database, {0: [1.0, 1.2], 1: [2.0, 2.2], 2: [0.3, 0.5]})
    answer = api.get("/api/v1/comparisons/table", params={"experiment": experiments})
    assert answer.status_code == 200, answer.text
    assert any("3 pairs or teachers cannot show p < 0.25" in note for note in answer.json()["notes"])


def test_missing_seeds_are_queued_for_each_teacher(database: Database, api: TestClient) -> None:
    experiments = _under_teachers(database, {0: [1.0, 1.2], 1: [2.0, 2.2]})
    answer = api.get("/api/v1/comparisons/table", params={"experiment": experiments, "seed": [0, 1, 2]})
    [row] = answer.json()["rows"]
    names = [re.search(r'name="([^"]*)"', command) for command in row["commands"]]
    assert [name and name[1] for name in names] == ["teacher 0 teacher 0 seeds 2", "teacher 0 teacher 1 seeds 2"]
    assert ["teacher.seed=1" in command for command in row["commands"]] == [False, True]


def test_each_teacher_sets_its_own_target(database: Database, api: TestClient) -> None:
    experiments = _under_teachers(database, {0: [1.0], 1: [2.0], 2: [0.3]})
    assert _compared(api, experiments).target_words == "76.00 to 85.50 % (95 % of each teacher's)"
    assert _compared(api, experiments[:1]).target_words == "85.50 %"


def _reached(epochs: dict[tuple[str, int], float | None]) -> dict[tuple[str, int], RunConvergence]:
    return {
        key: RunConvergence(
            run_id="", seed=key[1], target=80.0, epochs=value, seconds=None, gpu_seconds=None, area=None
        )
        for key, value in epochs.items()
    }


def test_earlier_and_later_are_counted_by_teacher() -> None:
    """Six pairs of two teachers are two values, so that p cannot be below 0.5."""
    base = _reached({(teacher, seed): 10.0 for teacher in ("a", "b") for seed in range(3)})
    method = _reached({(teacher, seed): 5.0 for teacher in ("a", "b") for seed in range(3)})
    paired = convergence.compare(method, base)
    assert paired is not None
    assert (paired.n, paired.earlier, paired.units, paired.units_earlier, paired.sign_p) == (6, 6, 2, 2, 0.5)
    # With teacher b, more pairs are later than earlier.
    method |= _reached({("b", 1): None, ("b", 2): 20.0})
    mixed = convergence.compare(method, base)
    assert mixed is not None
    assert (mixed.earlier, mixed.later, mixed.units_earlier, mixed.units_later, mixed.sign_p) == (4, 2, 1, 1, 1.0)
    alone = convergence.compare(*(_reached({("a", seed): epochs for seed in range(3)}) for epochs in (5.0, 10.0)))
    assert alone is not None
    assert (alone.units, alone.sign_p) == (3, 0.25)


def test_a_claim_about_speed_is_judged_by_teachers(database: Database, api: TestClient) -> None:
    made = []
    for teacher in range(2):
        experiment = rows.experiment(
            database,
            name=f"teacher {teacher}",
            methods=["dkd", {"name": "dkd_align", "label": "align", "params": {"reduction": "log", "epsilon": 6.0}}],
            seeds=[0, 1, 2, 3],
            teacher={"model": "resnet8", "seed": teacher},
        )
        for (label, _), run_id in rows.run_ids(database, experiment).items():
            rows.succeed(database, run_id, [60, 88, 88, 88] if label == "align" else [60, 80, 88, 88])
        made.append(experiment)
    answer = api.get("/api/v1/comparisons/claims", params={"experiment": made, "target": 85})
    [claim] = [item for item in PaperClaims.model_validate(answer.json()).claims if item.number == 4]
    assert (claim.verdict, claim.n, claim.p) == ("cannot tell", 8, 0.5)
    assert "earlier in 8" in claim.reason
    assert "of 2 teachers, earlier with 2, later with 0" in claim.reason
    assert "2 teachers cannot show p < 0.5" in claim.reason
