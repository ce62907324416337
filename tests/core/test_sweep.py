"""Sweeps: the experiments that they expand to, and the path of every problem."""

from __future__ import annotations

from typing import Any

import pytest

from core.specs import SpecError, parse_experiment, parse_sweep, with_field
from core.specs.sweep import expand

BASE: dict[str, Any] = {
    "dataset": "digits",
    "teacher": {"model": "resnet8"},
    "student": {"model": "small_cnn"},
    "methods": ["kd", "dkd"],
    "seeds": "0..1",
    "training": {"epochs": 2},
}


def sweep(**more: Any) -> dict[str, Any]:
    return {"name": "s", "experiment": BASE} | more


def problems(data: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        expand(parse_sweep(data))
    return {problem.path: problem.message for problem in caught.value.problems}


def test_grid_is_every_combination_with_the_last_axis_fastest() -> None:
    grid = {"training.optimizer.lr": [0.1, 0.2], "methods.1.params.beta": [2, 4], "teacher.seed": "0..1"}
    specs = expand(parse_sweep(sweep(grid=grid)))
    assert [spec.name for spec in specs][:3] == [
        "s lr=0.1, beta=2, seed=0",
        "s lr=0.1, beta=2, seed=1",
        "s lr=0.1, beta=4, seed=0",
    ]
    assert len(specs) == 8
    assert [(s.training.optimizer.lr, s.methods[1].params["beta"], s.teacher and s.teacher.seed) for s in specs][
        -1
    ] == (
        0.2,
        4.0,
        1,
    )
    assert all(spec.seeds == (0, 1) for spec in specs)


def test_points_change_several_fields_and_combine_with_a_grid() -> None:
    points = [{"student.model": "small_cnn", "training.epochs": 2}, {"student.model": "resnet8", "training.epochs": 3}]
    specs = expand(parse_sweep(sweep(points=points, grid={"methods": [["kd"], ["dkd", "ce"]]})))
    varied = [(s.student.model.name, s.training.epochs, len(s.methods)) for s in specs]
    assert varied == [("small_cnn", 2, 1), ("resnet8", 3, 1), ("small_cnn", 2, 2), ("resnet8", 3, 2)]


def test_draws_are_seeded_and_extended_by_more_draws() -> None:
    random = {
        "training.optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True},
        "training.batch_size": {"low": 16, "high": 64, "integer": True},
        "student.model": {"choices": ["small_cnn", "resnet8"]},
    }

    def drawn(draws: int, seed: int = 0) -> list[tuple[float, int, str]]:
        specs = expand(parse_sweep(sweep(random=random, draws=draws, seed=seed)))
        return [(s.training.optimizer.lr, s.training.batch_size, s.student.model.name) for s in specs]

    few, many = drawn(5), drawn(200)
    assert many[:5] == few == drawn(5)
    assert drawn(5, seed=1) != few
    rates = [rate for rate, _, _ in many]
    assert all(1e-4 <= rate <= 1 for rate in rates)
    assert 70 < sum(rate < 1e-2 for rate in rates) < 130, "half of them below the middle of the logarithms"
    assert {size for _, size, _ in many} <= set(range(16, 65))
    assert {name for _, _, name in many} == {"small_cnn", "resnet8"}


def test_long_name_of_a_point_is_replaced_by_its_number() -> None:
    points = [{"notes": "x" * 200}, {"notes": "y" * 200}]
    assert [spec.name for spec in expand(parse_sweep(sweep(points=points)))] == ["s #1", "s #2"]


@pytest.mark.parametrize(
    ("more", "path", "message"),
    [
        ({"grid": {"training.optimizer.lr": [0.1, -1]}}, "grid.training.optimizer.lr.1", "greater than 0"),
        ({"grid": {"training": [{"epochs": 2}, {"epochs": 0}]}}, "grid.training.1.epochs", "greater than"),
        ({"grid": {"methods.1.params.beta": [2, "x"]}}, "grid.methods.1.params.beta.1", "number"),
        ({"grid": {"methods.7.label": ["x"]}}, "grid.methods.7.label.0", "no item of a list of 2"),
        ({"grid": {"teacher.seed": "4..0"}}, "grid.teacher.seed", "must not go down"),
        ({"grid": {"teacher.seed": 3}}, "grid.teacher.seed", "list of values"),
        ({"grid": {"teacher.seed": [0, 0]}}, "grid.teacher.seed", "twice"),
        ({"grid": {"name": ["a"]}}, "grid.name", "names its"),
        ({}, "", "nothing varies"),
        ({"random": {"training.epochs": {"choices": [1]}}}, "draws", "number of draws"),
        ({"random": {"training.epochs": {"low": 3}}, "draws": 1}, "random.training.epochs", "low and high"),
        (
            {"random": {"training.optimizer.lr": {"low": 0, "high": 1, "log": True}}, "draws": 1},
            "random.training.optimizer.lr.low",
            "above 0",
        ),
        ({"points": [{"training.epochs": 0}]}, "points.0.training.epochs", "greater than"),
        ({"grid": {"training.epochs": [1]}, "points": [{"training.epochs": 1}]}, "points.training.epochs", "already"),
        ({"grid": {"training.epochs": [1], "training": [{"epochs": 3}]}}, "grid.training", "contains training.epochs"),
        ({"grid": {"training": [{"epochs": 1}, {"epochs": 1.0}]}}, "grid.training", "twice"),
        (
            {"points": [{"teacher.seed": 1}, {"training": {"epochs": 1}, "training.epochs": 2}]},
            "points.training.epochs",
            "contains training",
        ),
        (
            {"grid": {"teacher.seed": [1]}, "points": [{"seeds": [1]}, {"teacher.seed": 1}]},
            "points.teacher.seed",
            "already",
        ),
        ({"points": [{"seeds": [1]}, {"name": "a"}]}, "points.name", "names its"),
        ({"grid": {"methods.0.label": ["a\x1b"]}}, "grid.methods.0.label.0", "U+001B"),
        ({"grid": {"training.epochs": [1]}, "name": "../a"}, "name", "means a folder"),
        ({"grid": {"training.optimizer.lr": [1, 1.0]}}, "grid.training.optimizer.lr", "given twice"),
        ({"grid": {"training.epochs": [1, 2]}, "experiment": BASE | {"colour": 1}}, "experiment.colour", "unknown"),
        ({"grid": {"training.epochs": [1, 2]}, "experiment": BASE | {"name": "n"}}, "experiment.name", "names its"),
        ({"grid": {"training.epochs": [1, 2]}, "max_runs": 9}, "max_runs", "2 experiments of 10 runs in all are more"),
        ({"grid": {"training.epochs": "1..5000", "teacher.seed": "0..5000"}}, "max_runs", "25005000 experiments"),
        ({"grids": {}}, "grids", "unknown"),
    ],
)
def test_problem_of_a_sweep_is_named_by_its_path(more: dict[str, Any], path: str, message: str) -> None:
    messages = problems(sweep() | more)
    assert path in messages
    assert message in messages[path]


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [("0..4", (0, 1, 2, 3, 4)), ({"from": 3, "to": 7, "step": 2}, (3, 5, 7)), ("7 .. 7", (7,)), ([1, 5], (1, 5))],
)
def test_seeds_may_be_a_range(seeds: Any, expected: tuple[int, ...]) -> None:
    spec = parse_experiment({"name": "x", **BASE, "seeds": seeds})
    assert spec.seeds == expected
    assert spec.model_dump(mode="json")["seeds"] == list(expected)


@pytest.mark.parametrize(
    "seeds", ["4..0", "0..2000", "0..1000000000000", {"from": 0, "to": "x"}, {"from": 0, "to": 4, "step": 0}, "0-4"]
)
def test_invalid_range_of_seeds_is_refused(seeds: Any) -> None:
    with pytest.raises(SpecError) as caught:
        parse_experiment({"name": "x", **BASE, "seeds": seeds})
    assert [problem.path for problem in caught.value.problems] == ["seeds"]


def test_with_field_changes_a_copy() -> None:
    assert with_field(BASE, "methods.0.params.temperature", 2)["methods"][0] == {
        "name": "kd",
        "params": {"temperature": 2},
    }
    assert BASE["methods"] == ["kd", "dkd"]


@pytest.mark.parametrize(
    ("grid", "field"),
    [
        ({"dataset": ["digits", "cifar10"]}, "dataset"),
        ({"methods": [["kd", "dkd"], ["kd", "ce"]]}, "methods"),
        ({"seeds.difference": [0.5, 1.0]}, "seeds.difference"),
    ],
)
def test_settings_without_pairs_cannot_race(grid: dict[str, Any], field: str) -> None:
    seeds = {"until": "decided", "difference": 0.5, "race": True}
    found = problems(sweep(experiment=BASE | {"seeds": seeds}, grid=grid))
    assert found == {"experiment.seeds.race": f"settings that differ in {field} cannot race"}
    expand(parse_sweep(sweep(experiment=BASE | {"seeds": seeds | {"race": False}}, grid=grid)))
    expand(parse_sweep(sweep(experiment=BASE | {"seeds": seeds}, grid={"training.optimizer.lr": [0.1, 0.2]})))
