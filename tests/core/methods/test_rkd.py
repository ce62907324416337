"""RKD against the formula with plain loops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from core.distill.features import rkd
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

STUDENT = {"features": (3,)}
TEACHER = {"features": (6,)}
TERMS = ["rkd_distance", "rkd_angle"]


def _huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def _distances(vectors: Array) -> Array:
    count = len(vectors)
    d = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            d[i, j] = math.sqrt(((vectors[i] - vectors[j]) ** 2).sum())
    positive = [value for value in d.flatten() if value > 0]
    return d / (sum(positive) / len(positive)) if positive else d


def _cosine(x: Array, vertex: Array, y: Array) -> float:
    first, second = x - vertex, y - vertex
    norms = math.sqrt((first**2).sum()) * math.sqrt((second**2).sum())
    return float((first * second).sum()) / norms if norms else 0.0


def oracle(student: Mapping[str, Array], teacher: Mapping[str, Array], term: str) -> float:
    s, t = student["features"], teacher["features"]
    every = range(len(s))
    if term == "rkd_distance":
        d, e = _distances(s), _distances(t)
        return sum(_huber(d[i, j] - e[i, j]) for i in every for j in every) / len(s) ** 2
    total = sum(
        _huber(_cosine(s[i], s[j], s[k]) - _cosine(t[i], t[j], t[k])) for i in every for j in every for k in every
    )
    return total / len(s) ** 3


@pytest.mark.parametrize("term", TERMS)
def test_value_and_gradient_are_those_of_the_formula(term: str) -> None:
    student, teacher = random_taps(5, STUDENT, 1), random_taps(5, TEACHER, 2)
    student["features"] *= 3.0
    objective = build("rkd", STUDENT, TEACHER)
    assert_follows(objective, term, student, teacher, lambda taps: oracle(taps, teacher, term))


@pytest.mark.parametrize("term", TERMS)
def test_angles_are_computed_in_parts(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = random_taps(7, STUDENT, 1), random_taps(7, TEACHER, 2)
    objective = build("rkd", STUDENT, TEACHER)
    value, gradients = term_and_gradients(objective, step_of(student, teacher), term)
    monkeypatch.setattr(rkd, "_TRIPLES_AT_ONCE", {True: 100})
    other, in_parts = term_and_gradients(objective, step_of(student, teacher), term)
    assert other == pytest.approx(value)
    np.testing.assert_allclose(in_parts["features"], gradients["features"], rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("term", TERMS)
def test_whole_numbers_as_weights_are_repeated_rows(term: str) -> None:
    times = [2, 0, 1, 3]
    student, teacher = random_taps(4, STUDENT, 1), random_taps(4, TEACHER, 2)
    teacher["features"][1] = np.nan
    value, _ = term_and_gradients(build("rkd", STUDENT, TEACHER), step_of(student, teacher, times), term)
    own, other = ({name: np.repeat(tap, times, 0) for name, tap in taps.items()} for taps in (student, teacher))
    assert value == pytest.approx(oracle(own, other, term))


@pytest.mark.parametrize("term", TERMS)
def test_rotation_scale_and_shift_of_the_features_do_not_matter(term: str) -> None:
    objective = build("rkd", STUDENT, TEACHER)
    student, teacher = random_taps(5, STUDENT, 1), random_taps(5, TEACHER, 2)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))
    value, gradients = term_and_gradients(objective, step_of(student, teacher), term)
    moved = {"features": 5.0 * student["features"] @ rotation + 100.0}
    other, turned = term_and_gradients(objective, step_of(moved, teacher), term)
    assert other == pytest.approx(value)
    np.testing.assert_allclose(5.0 * turned["features"], gradients["features"] @ rotation, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("term", TERMS)
def test_samples_that_coincide_have_no_distance_and_no_gradient_between_them(term: str) -> None:
    student, teacher = random_taps(4, STUDENT, 1), random_taps(4, TEACHER, 2)
    student["features"][2] = student["features"][0]
    value, gradients = term_and_gradients(build("rkd", STUDENT, TEACHER), step_of(student, teacher), term)
    assert value == pytest.approx(oracle(student, teacher, term))
    assert np.isfinite(gradients["features"]).all()
    assert np.abs(gradients["features"]).max() < 10


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize(("rows", "weight"), [(1, None), (1, [2.0]), (2, [0.0, 0.0]), (3, [0.0, 1.0, 0.0])])
def test_single_samples_have_no_relations(term: str, rows: int, weight: Any) -> None:
    student, teacher = random_taps(rows, STUDENT, 1), random_taps(rows, TEACHER, 2)
    value, gradients = term_and_gradients(build("rkd", STUDENT, TEACHER), step_of(student, teacher, weight), term)
    assert value == 0
    assert not gradients["features"].any()


def test_features_that_are_all_equal_give_finite_gradients() -> None:
    student, teacher = {"features": np.ones((4, 3))}, random_taps(4, TEACHER, 2)
    for term in TERMS:
        value, gradients = term_and_gradients(build("rkd", STUDENT, TEACHER), step_of(student, teacher), term)
        assert np.isfinite(value)
        assert not gradients["features"].any()


@pytest.mark.parametrize("term", TERMS)
def test_sixteen_bits_are_near_float32(term: str) -> None:
    objective = build("rkd", STUDENT, TEACHER)
    assert_sixteen_bits(objective, term, random_taps(5, STUDENT, 1), random_taps(5, TEACHER, 2))


def test_maps_are_read_as_vectors() -> None:
    student, teacher = random_taps(4, {"stage1": (2, 2, 2)}, 1), random_taps(4, TEACHER, 2)
    objective = build("rkd", {"stage1": (2, 2, 2)}, TEACHER, student_tap="stage1")

    def flat(taps: Mapping[str, Array]) -> float:
        return oracle({"features": taps["stage1"].reshape(4, 8)}, teacher, "rkd_angle")

    assert_follows(objective, "rkd_angle", student, teacher, flat)


class TestRKD(MethodContract):
    method = "rkd"
