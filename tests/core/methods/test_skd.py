"""SKD against loops over pairs of rows, with NumPy's inverse of the covariance."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.catalog import METHODS
from core.catalog.methods import MethodContext
from core.catalog.methods.skd import SKDParams
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.specs import MethodRef
from core.testing import MethodContract
from tests.core.methods.logit_suite import AgainstOracle, Array, cross_entropies, kl, random_rows


def gram(logits: Array) -> Array:
    size = len(logits)
    cosines = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            lengths = math.sqrt(float((logits[i] ** 2).sum())) * math.sqrt(float((logits[j] ** 2).sum()))
            cosines[i, j] = float((logits[i] * logits[j]).sum()) / lengths
    return cosines


def direction(z: Array, v: Array, weight: Array, scale: float = 1.0) -> float:
    """Return the direction term; without weights, its Σ is ``numpy.cov``."""
    squares = float((weight**2).sum())
    difference = scale * (gram(z) - gram(v)) * np.sqrt(weight / squares)
    covariance = np.zeros_like(difference)
    if len(z) > 1:
        mean = weight @ difference
        for share, row in zip(weight, difference, strict=True):
            covariance += share * np.outer(row - mean, row - mean) / (1 - squares)
    inverse = np.linalg.inv(covariance + 0.1 * np.eye(len(z)))
    return float(sum(share * math.sqrt(row @ inverse @ row) for share, row in zip(weight, difference, strict=True)))


def instance(z: Array, v: Array, weight: Array) -> float:
    return float(sum(share * kl(b / 4, a / 4) for share, a, b in zip(weight, z, v, strict=True)))


class TestSKD(AgainstOracle):
    name = "skd"
    params: ClassVar[dict[str, Any]] = {"ce_weight": 0.5, "direction_weight": 2.0}
    changes: ClassVar[dict[str, Any]] = {
        "instance_weight": 2.0,
        "direction_weight": 1.0,
        "temperature": 2.0,
        "tikhonov": 1.0,
        "ce_weight": 0.0,
        "variant": "public_code",
    }

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        ce = float(weight @ cross_entropies(z, target))
        return 0.5 * ce + instance(z, v, weight) + 2 * direction(z, v, weight)


class TestPublicCode(AgainstOracle):
    name = "skd"
    params: ClassVar[dict[str, Any]] = {
        "variant": "public_code",
        "ce_weight": 0.1,
        "instance_weight": 0.9,
        "direction_weight": 0.9,
    }
    elsewhere = frozenset(TestSKD.changes)

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        rows, classes = z.shape
        ce = float(weight @ cross_entropies(z, target))
        kd = 16 * instance(z, v, weight) * math.ceil(rows / 2) / rows
        distance = direction(z, v, weight, 1 / classes) * math.ceil(classes / 2) / classes
        return float(0.1 * ce + 0.9 * (kd + distance))


def loss(z: torch.Tensor, v: torch.Tensor, target: torch.Tensor, **params: Any) -> LossTerms:
    return build_loss(MethodRef(name="skd", params=params))(Rows(z, v, target), None)


def test_covariance_without_weights_is_that_of_numpy() -> None:
    z, v, _ = (side.detach().numpy() for side in random_rows(6, 5))
    difference = gram(z) - gram(v)
    inverse = np.linalg.inv(np.cov(difference.T) + 0.1 * np.eye(6))
    expected = np.mean([math.sqrt(row @ inverse @ row) for row in difference])
    assert direction(z, v, np.full(6, 1 / 6)) == pytest.approx(expected)


def test_direction_does_not_change_with_the_scale_or_a_rotation_of_the_logits() -> None:
    z, v, target = random_rows(6, 5)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    plain = loss(z, v, target).values["direction"].item()
    scales = torch.rand(6, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
    assert loss(scales * z.detach() @ rotation, v, target).values["direction"].item() == pytest.approx(plain)
    assert loss(z, 3 * v @ rotation, target).values["direction"].item() == pytest.approx(plain)
    assert loss(z + 1, v, target).values["direction"].item() != pytest.approx(plain, rel=1e-3)


def test_equal_networks_have_no_distance_and_no_gradient() -> None:
    z, _, target = random_rows(6, 5)
    terms = loss(z, z.detach(), target)
    assert terms.values["direction"].item() == pytest.approx(0, abs=1e-12)
    assert (torch.autograd.grad(terms.total, z)[0].abs() < 1e-12).all()


def test_batch_of_one_has_no_direction() -> None:
    assert loss(*random_rows(1, 5)).values["direction"].item() == pytest.approx(0, abs=1e-12)


def test_loss_without_cross_entropy_gets_a_warning() -> None:
    warnings = METHODS["skd"].warnings
    assert warnings is not None
    context = MethodContext(epochs=10, batch_size=64, num_classes=10)
    [warning] = warnings(SKDParams(), context)
    assert warning.field == "params.ce_weight"
    assert not list(warnings(SKDParams(ce_weight=0.1), context))
    assert not list(warnings(SKDParams(variant="public_code"), context))


class TestContract(MethodContract):
    method: ClassVar[Any] = {"name": "skd", "params": {"ce_weight": 0.5}}
