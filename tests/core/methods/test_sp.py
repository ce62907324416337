"""SP against the formula with plain loops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from core.testing import MethodContract
from tests.core.methods.tapped import (
    Array,
    assert_follows,
    assert_sixteen_bits,
    build,
    random_taps,
    step_of,
    term_and_gradients,
)

STUDENT = {"stage2": (2, 2, 2)}
TEACHER = {"stage3": (3, 3, 2)}


def _similarities(vectors: Array) -> Array:
    count = len(vectors)
    similarities = np.zeros((count, count))
    for i in range(count):
        row = [float((vectors[i] * vectors[k]).sum()) for k in range(count)]
        norm = math.sqrt(sum(value**2 for value in row))
        for j in range(count):
            similarities[i, j] = row[j] / norm
    return similarities


def oracle(student: Mapping[str, Array], teacher: Mapping[str, Array]) -> float:
    (s,), (t,) = student.values(), teacher.values()
    s, t = _similarities(s.reshape(len(s), -1)), _similarities(t.reshape(len(t), -1))
    every = range(len(s))
    return sum(float(s[i, j] - t[i, j]) ** 2 for i in every for j in every) / len(s) ** 2


def test_value_and_gradient_are_those_of_the_formula() -> None:
    student, teacher = random_taps(4, STUDENT, 1), random_taps(4, TEACHER, 2)
    assert_follows(build("sp", STUDENT, TEACHER), "sp", student, teacher, lambda taps: oracle(taps, teacher))


def test_whole_numbers_as_weights_are_repeated_rows_but_for_one_division_by_their_number() -> None:
    """Where copies have 1/N = 1/Σ n, weights have Σ n² / (Σ n)²."""
    times = [2, 0, 1, 3]
    student, teacher = random_taps(4, STUDENT, 1), random_taps(4, TEACHER, 2)
    teacher["stage3"][1] = np.nan
    value, _ = term_and_gradients(build("sp", STUDENT, TEACHER), step_of(student, teacher, times), "sp")
    own, other = ({name: np.repeat(tap, times, 0) for name, tap in taps.items()} for taps in (student, teacher))
    assert value == pytest.approx(oracle(own, other) * 6 * 14 / 36)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_rotation_and_scale_of_the_features_do_not_matter(scale: float) -> None:
    objective = build("sp", STUDENT, TEACHER)
    student, teacher = random_taps(4, STUDENT, 1), random_taps(4, TEACHER, 2)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((8, 8)))
    rotated = {"stage2": scale * (student["stage2"].reshape(4, 8) @ rotation).reshape(4, 2, 2, 2)}
    value, gradients = term_and_gradients(objective, step_of(student, teacher), "sp")
    other, turned = term_and_gradients(objective, step_of(rotated, teacher), "sp")
    assert other == pytest.approx(value)
    expected = gradients["stage2"].reshape(4, 8) @ rotation / scale
    np.testing.assert_allclose(turned["stage2"].reshape(4, 8), expected, rtol=1e-8, atol=1e-14)


def test_row_of_zeros_gives_finite_gradients() -> None:
    student, teacher = random_taps(3, STUDENT, 1), random_taps(3, TEACHER, 2)
    student["stage2"][1] = 0
    value, gradients = term_and_gradients(build("sp", STUDENT, TEACHER), step_of(student, teacher), "sp")
    assert np.isfinite(value)
    assert np.isfinite(gradients["stage2"]).all()


@pytest.mark.parametrize("weight", [None, [2.0], [0.0]])
def test_batch_of_one_has_no_distance(weight: Any) -> None:
    student, teacher = random_taps(1, STUDENT, 1), random_taps(1, TEACHER, 2)
    value, gradients = term_and_gradients(build("sp", STUDENT, TEACHER), step_of(student, teacher, weight), "sp")
    assert value == pytest.approx(0, abs=1e-15)
    assert np.isfinite(gradients["stage2"]).all()


def test_sixteen_bits_are_near_float32() -> None:
    assert_sixteen_bits(build("sp", STUDENT, TEACHER), "sp", random_taps(4, STUDENT, 1), random_taps(4, TEACHER, 2))


def test_maps_of_one_network_can_be_compared_with_vectors_of_the_other() -> None:
    student, teacher = random_taps(4, {"features": (5,)}, 1), random_taps(4, TEACHER, 2)
    objective = build("sp", {"features": (5,)}, TEACHER)
    assert_follows(objective, "sp", student, teacher, lambda taps: oracle(taps, teacher))


class TestSP(MethodContract):
    method = "sp"
