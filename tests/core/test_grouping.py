"""Which runs may share a process."""

from __future__ import annotations

from typing import Any

import pytest

from core.specs import RunSpec, parse_experiment
from core.specs.grouping import group_key


def _runs(**changes: Any) -> list[RunSpec]:
    training = {"epochs": 2} | changes.pop("training", {})
    spec = {
        "name": "groups",
        "dataset": "digits",
        "teacher": {"model": "resnet20", "training": {"epochs": 2}},
        "student": {"model": "small_cnn"},
        "methods": ["kd", "dkd"],
        "seeds": [0, 1],
        "training": training,
    }
    return [run.spec for run in parse_experiment(spec | changes).plan() if run.spec.role == "student"]


def test_methods_and_seeds_of_an_experiment_are_one_group() -> None:
    runs = _runs()
    # Each seed has a teacher of its own by default.
    by_teacher = {run.teacher: {group_key(other) for other in runs if other.teacher == run.teacher} for run in runs}
    assert [len(keys) for keys in by_teacher.values()] == [1] * len(by_teacher)
    same_teacher = runs[0].model_copy(update={"seed": 5, "data_seed": 6})
    assert group_key(same_teacher) == group_key(runs[0])
    assert len(group_key(runs[0])) == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": {"name": "digits", "params": {"val_fraction": 0.1}}},
        {"teacher": {"model": "resnet20", "training": {"epochs": 3}}},
        {"training": {"batch_size": 32}},
        {"training": {"augment": "none"}},
        {"training": {"speed": {"deterministic": True}}},
    ],
)
def test_what_a_process_has_once_or_runs_share_tells_groups_apart(changes: dict[str, Any]) -> None:
    assert group_key(_runs(**changes)[0]) != group_key(_runs()[0])


def test_what_is_the_runs_own_does_not() -> None:
    others: list[dict[str, Any]] = [
        {"student": {"model": "resnet20"}},
        {"training": {"epochs": 3}},
        {"training": {"optimizer": {"lr": 0.2}}},
    ]
    assert {group_key(_runs(**other)[0]) for other in others} == {group_key(_runs()[0])}
