"""LDRLD against loops over the pairs of ranks."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.catalog.methods.ldrld import LDRLDParams
from core.distill.logits.ldrld import rank_weights
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.specs import MethodRef
from core.testing import MethodContract
from tests.core.methods.logit_suite import (
    AgainstOracle,
    Array,
    cross_entropies,
    distance_of_gradients,
    kl,
    random_rows,
)

_T, _D = 3.0, 4


def local(z: Array, v: Array, ranked: list[int]) -> float:
    """Return the mean over the pairs and the top classes, for a given ranking."""
    total, count = 0.0, 0
    for i in range(len(ranked)):
        for j in range(i + 1, len(ranked)):
            pair = [ranked[i], ranked[j]]
            weight = 2.0 / (1.5 + abs(i - j)) * math.exp(-0.05 * ((i + 1) + (j + 1)))
            total += weight * _T**2 * kl(v[pair] / _T, z[pair] / _T)
            count += 1
    return (total + _T**2 * kl(v[ranked] / _T, z[ranked] / _T)) / (count + 1)


def rest(z: Array, v: Array, ranked: list[int]) -> float:
    others = [index for index in range(len(z)) if index not in ranked]
    return _T**2 * kl(v[others] / _T, z[others] / _T)


def ranking(z: Array) -> list[int]:
    return sorted(range(len(z)), key=lambda index: -z[index])[:_D]


class TestLDRLD(AgainstOracle):
    name = "ldrld"
    params: ClassVar[dict[str, Any]] = {"depth": _D, "temperature": _T, "alpha": 5.0, "beta": 2.0}
    changes: ClassVar[dict[str, Any]] = {
        "alpha": 1.0,
        "beta": 1.0,
        "depth": 3,
        "temperature": 2.0,
        "ce_weight": 0.5,
        "rank_offset": 1.0,
        "rank_scale": 1.0,
        "rank_decay": 0.5,
        "align": {"align": "sample", "align_epsilon": 3.0},
    }
    elsewhere = frozenset({"align_epsilon", "align_epsilon_share", "align_decay", "align_log_floor"})

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        rows = [5.0 * local(a, b, ranking(a)) + 2.0 * rest(a, b, ranking(a)) for a, b in zip(z, v, strict=True)]
        return float(weight @ (cross_entropies(z, target) + np.array(rows)))


def loss(rows: Rows, **params: Any) -> LossTerms:
    return build_loss(MethodRef(name="ldrld", params=TestLDRLD.params | params))(rows, None)


@pytest.mark.parametrize("reduction", ["sample", "batch", "log"])
def test_alignment_is_the_distance_of_the_two_parts(reduction: str) -> None:
    z, v, target = random_rows(4, 7)
    weight = torch.tensor([1.0, 0.5, 2.0, 0.5], dtype=torch.float64)
    rows = Rows(z, v, target, weight)
    ranked = [ranking(row) for row in z.detach().numpy()]
    distance = distance_of_gradients(
        lambda x, row: local(x, v.numpy()[row], ranked[row]),
        lambda x, row: rest(x, v.numpy()[row], ranked[row]),
        z.detach().numpy(),
        (weight / weight.sum()).numpy(),
        reduction,
    )
    ours = loss(rows, align=reduction, align_epsilon=3.0)
    assert ours.total.item() == pytest.approx(loss(rows).total.item() - 3.0 * distance, rel=1e-7)

    def total(student: Tensor) -> Tensor:
        return loss(Rows(student, v, target, weight), align=reduction, align_epsilon=3.0).total

    assert torch.autograd.gradcheck(total, (z,), atol=1e-6)


def test_weights_fall_with_the_difference_and_the_sum_of_ranks() -> None:
    weights = rank_weights(LDRLDParams(depth=5), torch.zeros(1, dtype=torch.float64))
    assert torch.equal(weights, weights.T)
    assert not weights.diag().any()
    assert weights[0, 1] > weights[0, 2] > weights[0, 4]
    assert weights[0, 1] > weights[3, 4]
    assert weights[0, 1].item() == pytest.approx(2 * math.exp(-0.05 * 3) / 2.5)


def test_equal_networks_have_no_local_and_no_rest() -> None:
    z, _, target = random_rows(4, 9)
    terms = loss(Rows(z, z.detach(), target))
    for name in ("pairs", "top", "rest"):
        assert terms.values[name].item() == pytest.approx(0, abs=1e-14)


def test_too_few_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="leave no rest beside the student's top 4"):
        loss(Rows(*random_rows(3, 4)))


class TestContract(MethodContract):
    method: ClassVar[Any] = {"name": "ldrld", "params": {"depth": 3}}
