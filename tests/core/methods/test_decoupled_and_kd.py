"""CE, KD, DKD, DKD-Align, DKD-Divergence, DIST, NKD and RLD against plain loops over their formulas."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.catalog import METHODS
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.specs import MethodRef
from tests.core.methods.logit_suite import (
    AgainstOracle,
    Array,
    cross_entropies,
    distance_of_gradients,
    kl,
    kl_of,
    log_softmax,
    random_rows,
    standardised,
)

Labels = NDArray[np.int64]


def softmax(row: Array) -> Array:
    return np.asarray(np.exp(log_softmax(row)))


def tckd(z: Array, v: Array, t: int, temperature: float) -> float:
    p, q = float(softmax(z / temperature)[t]), float(softmax(v / temperature)[t])
    return temperature**2 * kl_of(np.array([q, 1 - q]), np.array([p, 1 - p]))


def nckd(z: Array, v: Array, t: int, temperature: float) -> float:
    return temperature**2 * kl(np.delete(v, t) / temperature, np.delete(z, t) / temperature)


def weighted_sum(weight: Array, values: list[float]) -> float:
    return sum(float(w) * value for w, value in zip(weight, values, strict=True))


def ce(z: Array, target: Labels, weight: Array) -> float:
    return weighted_sum(weight, cross_entropies(z, target).tolist())


def dkd(z: Array, v: Array, target: Labels, weight: Array, alpha: float, beta: float, temperature: float) -> float:
    rows = [
        alpha * tckd(a, b, int(t), temperature) + beta * nckd(a, b, int(t), temperature)
        for a, b, t in zip(z, v, target, strict=True)
    ]
    return weighted_sum(weight, rows)


def pearson(first: Array, second: Array, weight: Array) -> float:
    """The correlation of two lists of numbers, each of which has a weight; the sum of the weights is 1."""
    means = [sum(float(w) * float(x) for w, x in zip(weight, side, strict=True)) for side in (first, second)]
    covariance = [[0.0, 0.0], [0.0, 0.0]]
    for w, *pair in zip(weight, first, second, strict=True):
        centred = [float(x) - mean for x, mean in zip(pair, means, strict=True)]
        for i in range(2):
            for j in range(2):
                covariance[i][j] += float(w) * centred[i] * centred[j]
    return covariance[0][1] / math.sqrt(covariance[0][0] * covariance[1][1])


class _Plain(AgainstOracle):
    """Whether each parameter has an effect is tested in tests/core/test_methods.py."""

    def __init_subclass__(cls) -> None:
        cls.elsewhere = frozenset(METHODS[cls.name].params.model_fields)


class TestCE(_Plain):
    name = "ce"

    @staticmethod
    def oracle(z: Array, v: Array, target: Labels, weight: Array) -> float:
        return ce(z, target, weight)


class TestKD(_Plain):
    name = "kd"
    params: ClassVar[dict[str, Any]] = {"temperature": 3.0, "ce_weight": 0.3, "kd_weight": 1.7}

    @staticmethod
    def oracle(z: Array, v: Array, target: Labels, weight: Array) -> float:
        rows = [9 * kl(b / 3, a / 3) for a, b in zip(z, v, strict=True)]
        return 0.3 * ce(z, target, weight) + 1.7 * weighted_sum(weight, rows)


class TestStandardisedKD(_Plain):
    name = "kd"
    params: ClassVar[dict[str, Any]] = {"temperature": 2.0, "kd_weight": 9.0, "standardise": True}

    @staticmethod
    def oracle(z: Array, v: Array, target: Labels, weight: Array) -> float:
        rows = [4 * kl(b / 2, a / 2) for a, b in zip(standardised(z), standardised(v), strict=True)]
        return 0.1 * ce(z, target, weight) + 9 * weighted_sum(weight, rows)


class TestDKD(_Plain):
    name = "dkd"
    params: ClassVar[dict[str, Any]] = {
        "temperature": 3.0,
        "ce_weight": 0.5,
        "alpha": 1.5,
        "beta": 6.0,
        "ramp_epochs": 0,
    }

    @staticmethod
    def oracle(z: Array, v: Array, target: Labels, weight: Array) -> float:
        return 0.5 * ce(z, target, weight) + dkd(z, v, target, weight, 1.5, 6.0, 3.0)


def align_oracle(z: Array, v: Array, target: Labels, weight: Array, reduction: str, epsilon: float) -> float:
    distance = distance_of_gradients(
        lambda x, row: tckd(x, v[row], int(target[row]), 3.0),
        lambda x, row: nckd(x, v[row], int(target[row]), 3.0),
        z,
        weight,
        reduction,
    )
    return ce(z, target, weight) + dkd(z, v, target, weight, 1.0, 6.0, 3.0) - epsilon * distance


class TestDKDAlignSample(_Plain):
    name = "dkd_align"
    params: ClassVar[dict[str, Any]] = {
        "temperature": 3.0,
        "beta": 6.0,
        "ramp_epochs": 0,
        "reduction": "sample",
        "epsilon": 3.0,
    }
    value_tolerance = 1e-7
    gradient_tolerance = 1e-4  # of differences of differences

    @staticmethod
    def oracle(z: Array, v: Array, target: Labels, weight: Array) -> float:
        return align_oracle(z, v, target, weight, "sample", 3.0)


class TestDKDAlignBatch(TestDKDAlignSample):
    params: ClassVar[dict[str, Any]] = TestDKDAlignSample.params | {"reduction": "batch", "epsilon": 60.0}

    @staticmethod
    def oracle(z: Array, v: Array, target: Labels, weight: Array) -> float:
        return align_oracle(z, v, target, weight, "batch", 60.0)


class TestDKDAlignLog(TestDKDAlignSample):
    params: ClassVar[dict[str, Any]] = TestDKDAlignSample.params | {"reduction": "log", "epsilon": 2.0}

    @staticmethod
    def oracle(z: Array, v: Array, target: Labels, weight: Array) -> float:
        return align_oracle(z, v, target, weight, "log", 2.0)


class TestDKDDivergence(_Plain):
    name = "dkd_divergence"
    params: ClassVar[dict[str, Any]] = {
        "temperature": 3.0,
        "ce_weight": 0.5,
        "alpha": 0.5,
        "beta": 2.0,
        "ramp_epochs": 0,
        "mu": 4.0,
        "epsilon": 5.0,
    }

    @staticmethod
    def oracle(z: Array, v: Array, target: Labels, weight: Array) -> float:
        rows = []
        for a, b, t in zip(z, v, target, strict=True):
            p, q = softmax(a / 3), softmax(b / 3)
            relative = [((p[k] - p[t]) - (q[k] - q[t])) ** 2 for k in range(len(p))]
            rows.append(4 * float(p[t] - q[t]) ** 2 + 5 * float(sum(relative)) / len(p))
        plain = 0.5 * ce(z, target, weight) + dkd(z, v, target, weight, 0.5, 2.0, 3.0)
        return plain + weighted_sum(weight, rows)


class TestDIST(_Plain):
    name = "dist"
    params: ClassVar[dict[str, Any]] = {"temperature": 3.0, "ce_weight": 0.5, "beta": 1.5, "gamma": 2.5}

    @staticmethod
    def oracle(z: Array, v: Array, target: Labels, weight: Array) -> float:
        p, q = (np.array([softmax(row / 3) for row in side]) for side in (z, v))
        classes = p.shape[1]
        equal = np.full(classes, 1 / classes)
        inter = weighted_sum(weight, [pearson(a, b, equal) for a, b in zip(p, q, strict=True)])
        intra = sum(pearson(p[:, k], q[:, k], weight) for k in range(classes)) / classes
        return 0.5 * ce(z, target, weight) + float(9 * (1.5 * (1 - inter) + 2.5 * (1 - intra)))


class TestNKD(_Plain):
    name = "nkd"
    params: ClassVar[dict[str, Any]] = {"temperature": 2.0, "ce_weight": 0.5, "gamma": 1.5}

    @staticmethod
    def oracle(z: Array, v: Array, target: Labels, weight: Array) -> float:
        rows = []
        for a, b, t in zip(z, v, target, strict=True):
            log_p, q = log_softmax(np.delete(a, t) / 2), softmax(np.delete(b, t) / 2)
            others = -sum(float(x) * float(y) for x, y in zip(q, log_p, strict=True))
            rows.append(-float(softmax(b)[t] * log_softmax(a)[t]) + 1.5 * 4 * others)
        return 0.5 * ce(z, target, weight) + weighted_sum(weight, rows)


class TestRLD(_Plain):
    name = "rld"
    params: ClassVar[dict[str, Any]] = {
        "temperature": 2.0,
        "confidence_temperature": 3.0,
        "ce_weight": 0.5,
        "alpha": 1.5,
        "beta": 4.0,
        "ramp_epochs": 0,
    }

    @staticmethod
    def oracle(z: Array, v: Array, target: Labels, weight: Array) -> float:
        rows = []
        for a, b, t in zip(z, v, target, strict=True):
            p, q = float(softmax(a / 3)[t]), float(softmax(b / 3).max())
            confidence = 9 * kl_of(np.array([q, 1 - q]), np.array([p, 1 - p]))
            below = [k for k in range(len(b)) if b[k] < b[t]]
            correlation = 4 * kl(b[below] / 2, a[below] / 2) if below else 0.0
            rows.append(1.5 * confidence + 4 * correlation)
        return 0.5 * ce(z, target, weight) + weighted_sum(weight, rows)


@pytest.mark.parametrize(("name", "same_for_all"), [("inter", False), ("intra", True)])
def test_affine_maps_of_the_teachers_probabilities_do_not_matter_to_dist(name: str, same_for_all: bool) -> None:
    """A mixture with the uniform distribution is an affine map that keeps the sum: (1 − s)·q + s/C.

    Over the classes of a sample each sample may have a map of its own, over the samples of a class all have the same.
    """
    z, v, target = random_rows(6, 7)
    share = torch.full((6, 1), 0.4) if same_for_all else torch.linspace(0.1, 0.8, 6).unsqueeze(1)
    q = (v / 4).softmax(1)
    mixed = 4 * ((1 - share.double()) * q + share.double() / 7).log() + torch.arange(6.0).unsqueeze(1)
    loss = build_loss(MethodRef(name="dist", params={"temperature": 4.0}))
    before, after = (loss(Rows(z, teacher, target), None) for teacher in (v, mixed))
    assert after.values[name].item() == pytest.approx(before.values[name].item(), rel=1e-10)
    assert torch.allclose(after.gradients[name], before.gradients[name], rtol=1e-8, atol=1e-13)
    other = {"inter": "intra", "intra": "inter"}[name]
    if not same_for_all:
        assert after.values[other].item() != pytest.approx(before.values[other].item(), rel=1e-3)
