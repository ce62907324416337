"""ABKD against the divergence's definition with loops, in its general form and at its limits."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from core import methods
from core.catalog.methods.abkd import ABKDParams
from core.distill.logits.abkd import alpha_beta_divergence
from core.distill.rows import Rows
from core.testing import MethodContract
from tests.core.methods.logit_suite import (
    AgainstOracle,
    Array,
    cross_entropies,
    log_softmax,
    random_rows,
    standardised,
)


def divergence(z: Array, v: Array, alpha: float, beta: float, temperature: float = 4.0) -> float:
    """Return D of one row from its definition, or from that of its limit."""
    total = 0.0
    for a, b in zip(log_softmax(v / temperature), log_softmax(z / temperature), strict=True):
        q, p = math.exp(a), math.exp(b)
        if alpha == 0 and beta == 0:
            total += 0.5 * (a - b) ** 2
        elif beta == 0:
            total += (q**alpha * math.log(q**alpha / p**alpha) - q**alpha + p**alpha) / alpha**2
        elif alpha == 0:
            total += (p**beta * math.log(p**beta / q**beta) - p**beta + q**beta) / beta**2
        elif alpha + beta == 0:
            total += (math.log(p**alpha / q**alpha) + q**alpha / p**alpha - 1) / alpha**2
        else:
            c = alpha + beta
            total -= (q**alpha * p**beta - alpha / c * q**c - beta / c * p**c) / (alpha * beta)
    return total


class _ABKD(AgainstOracle):
    name = "abkd"
    exponents: ClassVar[tuple[float, float]]

    @classmethod
    def of_rows(cls, z: Array, v: Array) -> Array:
        return np.array([divergence(a, b, *cls.exponents) for a, b in zip(z, v, strict=True)])

    elsewhere = frozenset(ABKDParams.model_fields)


class TestABKD(_ABKD):
    exponents = (0.8, 0.3)
    changes: ClassVar[dict[str, Any]] = {
        "alpha": 0.5,
        "beta": 0.5,
        "temperature": 2.0,
        "kd_weight": 1.0,
        "ce_weight": 0.5,
        "standardise": True,
    }
    elsewhere = frozenset({"variant"})

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        return float(weight @ (cross_entropies(z, target) + 32 * TestABKD.of_rows(z, v)))


class TestStandardised(_ABKD):
    exponents = (0.9, 0.3)
    params: ClassVar[dict[str, Any]] = {"alpha": 0.9, "beta": 0.3, "standardise": True}

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        rows = TestStandardised.of_rows(standardised(z), standardised(v))
        return float(weight @ (cross_entropies(z, target) + 32 * rows))


class TestBetaZero(_ABKD):
    exponents = (0.7, 0.0)
    params: ClassVar[dict[str, Any]] = {"alpha": 0.7, "beta": 0.0}
    changes: ClassVar[dict[str, Any]] = {"variant": "public_code"}

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        return float(weight @ (cross_entropies(z, target) + 32 * TestBetaZero.of_rows(z, v)))


class TestAlphaZero(_ABKD):
    exponents = (0.0, 0.7)
    params: ClassVar[dict[str, Any]] = {"alpha": 0.0, "beta": 0.7}
    changes: ClassVar[dict[str, Any]] = {"variant": "public_code"}

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        return float(weight @ (cross_entropies(z, target) + 32 * TestAlphaZero.of_rows(z, v)))


class TestBothZero(_ABKD):
    exponents = (0.0, 0.0)
    params: ClassVar[dict[str, Any]] = {"alpha": 0.0, "beta": 0.0}

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        return float(weight @ (cross_entropies(z, target) + 32 * TestBothZero.of_rows(z, v)))


def value(alpha: float, beta: float, variant: str = "paper") -> float:
    z, v, target = random_rows(5, 7)
    params = ABKDParams(alpha=alpha, beta=beta, variant=variant)
    return alpha_beta_divergence(Rows(z, v, target), params).value.item()


def of_loops(alpha: float, beta: float) -> float:
    z, v, _ = random_rows(5, 7)
    return float(np.mean([divergence(a, b, alpha, beta) for a, b in zip(z.detach().numpy(), v.numpy(), strict=True)]))


@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.5, -0.5), (-0.5, 0.5), (1.3, -0.3), (-0.5, 1.2), (1.0, 1.0), (2.0, 0.5)]
)
def test_other_exponents_are_those_of_the_definition(alpha: float, beta: float) -> None:
    assert value(alpha, beta) == pytest.approx(of_loops(alpha, beta), rel=1e-9)
    z, v, target = random_rows(3, 5)
    params = {"alpha": alpha, "beta": beta, "ce_weight": 0.0}
    assert torch.autograd.gradcheck(lambda x: methods.abkd(x, v, target, **params), (z,), atol=1e-6)


def test_kl_and_reverse_kl_are_limits() -> None:
    z, v, target = random_rows(5, 7)
    p, q = (side / 4 for side in (z, v))
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    forward = (log_q.exp() * (log_q - log_p)).sum(1).mean().item()
    reverse = (log_p.exp() * (log_p - log_q)).sum(1).mean().item()
    assert value(1.0, 0.0) == pytest.approx(forward, rel=1e-12)
    assert value(0.0, 1.0) == pytest.approx(reverse, rel=1e-12)
    assert methods.kd(z, v, target, ce_weight=0.0, kd_weight=1 / 16).item() == pytest.approx(forward, rel=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.0), (0.0, 0.7), (0.5, -0.5), (0.0, 0.0)])
def test_values_near_a_limit_are_near_its_value(alpha: float, beta: float) -> None:
    near = value(alpha + 1e-3, beta + 1.1e-3)
    assert near == pytest.approx(value(alpha, beta), rel=2e-2)


def test_half_and_half_is_four_times_the_hellinger_distance_squared() -> None:
    z, v, _ = random_rows(5, 7)
    p, q = ((side / 4).softmax(1) for side in (z, v))
    assert value(0.5, 0.5) == pytest.approx(2 * (q.sqrt() - p.sqrt()).square().sum(1).mean().item(), rel=1e-12)
    assert value(1.0, 1.0) == pytest.approx((q - p).square().sum(1).mean().item() / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("alpha", "beta", "factor"), [(0.7, 0.0, 0.7), (0.0, 0.6, 0.6), (0.5, -0.5, 0.5), (0.8, 0.3, 1.0), (1.0, 0.0, 1.0)]
)
def test_public_code_leaves_out_a_division_at_the_limits(alpha: float, beta: float, factor: float) -> None:
    assert value(alpha, beta, "public_code") == pytest.approx(factor * value(alpha, beta), rel=1e-12)


@pytest.mark.parametrize("params", [{"alpha": 1e-4}, {"beta": -1e-5}, {"alpha": 0.5, "beta": -0.4999}])
def test_exponents_without_digits_are_refused(params: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="give 0 for the limit"):
        ABKDParams(**params)


def test_sum_that_is_zero_but_for_rounding_is_the_limit() -> None:
    assert 0.1 + 0.2 - 0.3 != 0
    assert value(0.3, -(0.1 + 0.2)) == pytest.approx(value(0.3, -0.3), rel=1e-9)


class TestContract(MethodContract):
    method: ClassVar[Any] = "abkd"
