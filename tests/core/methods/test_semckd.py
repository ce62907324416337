"""SemCKD against an oracle, and what depends on the places of a batch."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from core.distill.features.semckd import SemCKD
from core.distill.objective import NetworkShape, Objective, ObjectiveError, Setting
from core.testing import Inputs, MethodContract, value_and_gradients
from tests.core.methods.feature_problem import (
    FeatureProblem,
    Numbers,
    assert_equals_oracle,
    assert_finite_for_one_row,
    assert_near_in_16_bits,
    build,
    cross_entropy,
    feature_problem,
    kd,
)
from tests.core.methods.slow_layers import Array, batch_norm, convolve, pool_to_smaller, relu

STUDENT = {"stage1": (2, 3, 3), "stage2": (3, 2, 2)}
TEACHER = {"stage1": (2, 4, 4), "stage2": (1, 2, 2), "stage3": (2, 2, 2)}
PLACES = 6
WEIGHT = torch.tensor([1.0, 0.0, 2.5, 0.5], dtype=torch.float64)


def problem(rows: int = 4, **params: Any) -> FeatureProblem:
    chosen = {"weight": 3.0, "ce_weight": 0.5, "kd_weight": 0.4, "temperature": 2.0} | params
    return feature_problem("semckd", chosen, STUDENT, TEACHER, rows=rows, batch_size=PLACES)


def embedded(numbers: Numbers, kind: str, number: int, maps: Array) -> Array:
    own = numbers.own
    flat = [row.ravel() for row in maps]
    present = [row for row, share in zip(flat, numbers.share, strict=True) if share > 0]
    result = []
    for row in flat:
        places = np.zeros(PLACES)
        for place, other in enumerate(present[:PLACES]):
            places[place] = float(row @ other)
        hidden = relu(own[f"{kind}.{number}.0.weight"] @ places + own[f"{kind}.{number}.0.bias"])
        vector = own[f"{kind}.{number}.2.weight"] @ hidden + own[f"{kind}.{number}.2.bias"]
        result.append(vector / np.linalg.norm(vector))
    return np.asarray(result)


def projected(numbers: Numbers, number: int, maps: Array) -> Array:
    own = {key.removeprefix(f"projections.{number}."): value for key, value in numbers.own.items()}
    for layer, padding in ((0, 0), (1, 1)):
        maps = convolve(maps, own[f"{layer}.0.weight"], padding=padding)
        maps = relu(batch_norm(maps, own[f"{layer}.1.weight"], own[f"{layer}.1.bias"], numbers.share))
    return convolve(maps, own["2.weight"])


def semckd(numbers: Numbers) -> float:
    students, teachers = list(numbers.taps.values()), list(numbers.teacher_taps.values())
    queries = [embedded(numbers, "queries", i, maps) for i, maps in enumerate(students)]
    keys = [embedded(numbers, "keys", j, maps) for j, maps in enumerate(teachers)]
    rows = np.zeros(len(numbers.share))
    for i, student in enumerate(students):
        distances = []
        for j, teacher in enumerate(teachers):
            own, other = pool_to_smaller(student, teacher)
            mapped = projected(numbers, i * len(teachers) + j, own)
            distances.append(((mapped - other) ** 2).mean((1, 2, 3)))
        for row in range(len(rows)):
            scores = np.exp([float(queries[i][row] @ key[row]) for key in keys])
            attention = scores / scores.sum()
            rows[row] += sum(a * d[row] for a, d in zip(attention, distances, strict=True)) / len(students)
    return numbers.mean([float(row) for row in rows])


def oracle(numbers: Numbers) -> float:
    return 0.5 * cross_entropy(numbers) + 0.4 * kd(numbers, 2.0) + 3 * semckd(numbers)


@pytest.mark.parametrize("rows", [4, 8], ids=["fewer than places", "more than places"])
def test_loss_and_gradient_are_those_of_the_formula(rows: int) -> None:
    assert_equals_oracle(problem(rows), oracle)


def test_weighted_rows() -> None:
    assert_equals_oracle(problem(), oracle, weight=WEIGHT)


def test_attention_of_each_stage_of_the_student_adds_up_to_1() -> None:
    tested = problem()
    assert isinstance(tested.objective, SemCKD)
    rows, students, teachers = tested.step().rows, tested.student.taps.values(), tested.teacher.taps.values()
    attention = tested.objective._attention(rows, list(students), list(teachers))
    assert attention.shape == (4, 2, 3)
    torch.testing.assert_close(attention.sum(2), torch.ones(4, 2, dtype=torch.float64))


def test_without_kd_it_is_not_computed() -> None:
    assert "kd" not in problem(kd_weight=0.0).terms().values


def test_one_row_and_16_bits() -> None:
    assert_finite_for_one_row(problem())
    assert_near_in_16_bits(problem())


class TestBadInput:
    def test_features_are_refused(self) -> None:
        with pytest.raises(ObjectiveError, match="student_taps: 'features' gives"):
            build("semckd", {}, {"features": (4,)}, TEACHER)

    def test_unknown_batch_size_is_refused(self) -> None:
        shape = NetworkShape(3, {"stage1": torch.Size((2, 2, 2))})
        from core.catalog.methods.semckd import SemCKDParams

        with pytest.raises(ObjectiveError, match="batch size"):
            SemCKD(SemCKDParams(), Setting(shape, shape, 10))


class TestSemCKD(MethodContract):
    method: ClassVar[Any] = {"name": "semckd", "params": {"weight": 4.0}}

    def test_order_of_the_rows_does_not_matter(self, problem: tuple[Objective, Inputs]) -> None:
        """The perceptron of queries and keys reads places of the batch, so it does, as in the paper."""
        objective, inputs = problem
        order = torch.tensor([1, 0, 2, 3, 4, 5, 6])
        value, gradients = value_and_gradients(objective, inputs)
        permuted_value, permuted = value_and_gradients(objective, inputs.select(order))
        assert float(permuted_value) != pytest.approx(float(value), rel=1e-9)
        assert float(permuted_value) == pytest.approx(float(value), rel=0.05)
        torch.testing.assert_close(permuted["logits"], gradients["logits"][order])
