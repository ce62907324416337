"""PCD against plain loops over the formula, in float64."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.catalog import METHODS
from core.catalog.methods import MethodContext
from core.catalog.methods.pcd import PCDParams
from core.distill.logits.pcd import pcd_loss, staged_divergence
from core.distill.rows import Rows
from core.testing import MethodContract
from tests.core.methods.logit_suite import (
    AgainstOracle,
    Array,
    cross_entropies,
    kl_of,
    log_softmax,
    random_rows,
    standardised,
)


def cosine(a: Array, b: Array) -> float:
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def softmax(row: Array) -> Array:
    return np.exp(log_softmax(row))


def weighted_term(z: Array, v: Array, temperature: float, stages: int) -> float:
    """PCD's term of one row."""
    order = sorted(range(len(z)), key=lambda k: -abs(v[k] - z[k]))
    total = 0.0
    for direction in (range(stages, 0, -1), range(1, stages + 1)):
        for count in direction:
            size = len(z) // count
            for group in range(count):
                end = len(z) if group == count - 1 else (group + 1) * size
                members = order[group * size : end]
                p, q = softmax(z[members] / temperature), softmax(v[members] / temperature)
                total += (1 - cosine(q, p)) * temperature**2 * kl_of(q, p)
    return total


def staged(z: Array, v: Array, weight: Array, temperature: float = 4.0, stages: int = 3) -> float:
    return float(sum(w * weighted_term(a, b, temperature, stages) for w, a, b in zip(weight, z, v, strict=True)))


class TestPCDOfThePaper(AgainstOracle):
    name = "pcd"
    params: ClassVar[dict[str, Any]] = {"ramp_epochs": 0, "alpha": 0.5, "ce_weight": 0.3}
    changes: ClassVar[dict[str, Any]] = {
        "alpha": 2.0,
        "stages": 2,
        "temperature": 2.0,
        "ce_weight": 0.5,
        "ramp_epochs": 30,
        "standardise": True,
        "variant": "public_code",
    }

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        return 0.3 * float(weight @ cross_entropies(z, target)) + 0.5 * staged(z, v, weight)


class TestStandardisedPCD(AgainstOracle):
    name = "pcd"
    params: ClassVar[dict[str, Any]] = {"ramp_epochs": 0, "standardise": True, "stages": 5, "temperature": 2.0}
    elsewhere = frozenset(TestPCDOfThePaper.changes)

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        term = staged(standardised(z), standardised(v), weight, 2.0, 5)
        return float(weight @ cross_entropies(z, target)) + term


class TestPCDOfTheCode(AgainstOracle):
    name = "pcd"
    params: ClassVar[dict[str, Any]] = {"ramp_epochs": 0, "variant": "public_code", "stages": 2}
    elsewhere = frozenset(TestPCDOfThePaper.changes)

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        pairs = [(softmax(a / 4), softmax(b / 4)) for a, b in zip(z, v, strict=True)]
        divergence = sum(w * kl_of(q, p) for w, (p, q) in zip(weight, pairs, strict=True))
        factor = sum(w * (1 - cosine(q, np.log(p))) for w, (p, q) in zip(weight, pairs, strict=True))
        return float(weight @ cross_entropies(z, target) + 2 * 2 * factor * 16 * divergence)


def test_one_stage_is_kd_weighted_by_the_cosine() -> None:
    student, teacher, target = random_rows(5, 7)
    term = staged_divergence(Rows(student, teacher, target), 4.0, 1)
    p, q = (torch.softmax(logits.detach() / 4, 1) for logits in (student, teacher))
    kl = 16 * (q * (q / p).log()).sum(1)
    assert term.value.item() == pytest.approx(float((2 * (1 - torch.cosine_similarity(q, p)) * kl).mean()), rel=1e-10)


def test_equal_networks_have_no_distance() -> None:
    _, teacher, target = random_rows(5, 7)
    student = teacher.clone().requires_grad_()
    terms = pcd_loss(Rows(student, teacher, target), PCDParams(ce_weight=0.0), None)
    (gradient,) = torch.autograd.grad(terms.total, student)
    assert float(terms.values["pcd"]) == pytest.approx(0.0, abs=1e-12)
    assert float(gradient.abs().max()) == pytest.approx(0.0, abs=1e-12)


def test_shifts_of_a_row_change_nothing_if_the_ranking_stays() -> None:
    student, teacher, target = random_rows(5, 7)
    shifted = student.detach() + 3.0
    own, other = (staged_divergence(Rows(z, teacher + s, target), 4.0, 3) for z, s in ((student, 0.0), (shifted, 3.0)))
    assert other.value.item() == pytest.approx(own.value.item(), rel=1e-10)


def test_term_grows_over_the_ramp() -> None:
    student, teacher, target = random_rows(5, 7)
    rows, params = Rows(student, teacher, target), PCDParams(ramp_epochs=4, ce_weight=0.0)
    totals = [pcd_loss(rows, params, epoch).total.item() for epoch in (0, 1, 3, 9)]
    assert [total / totals[-1] for total in totals] == pytest.approx([0.25, 0.5, 1.0, 1.0])


def test_more_stages_than_classes_are_refused_and_groups_of_one_class_warned_about() -> None:
    student, teacher, target = random_rows(4, 5)
    with pytest.raises(ValueError, match="5 classes cannot be divided into 6 groups"):
        pcd_loss(Rows(student, teacher, target), PCDParams(stages=6), None)
    entry, context = METHODS["pcd"], MethodContext(epochs=240, batch_size=64, num_classes=5)
    assert entry.warnings
    assert entry.problems
    assert [p.field for p in entry.problems(PCDParams(stages=6), context)] == ["params.stages"]
    assert not list(entry.problems(PCDParams(stages=5), context))
    assert not list(entry.problems(PCDParams(stages=6, variant="public_code"), context))
    assert ["one class" in w.message for w in entry.warnings(PCDParams(stages=3), context)] == [True]
    assert not list(entry.warnings(PCDParams(stages=2), context))


class TestPCD(MethodContract):
    method: ClassVar[Any] = {"name": "pcd", "params": {"ramp_epochs": 1}}


class TestPCDOfThePublicCode(MethodContract):
    method: ClassVar[Any] = {"name": "pcd", "params": {"ramp_epochs": 1, "variant": "public_code"}}
