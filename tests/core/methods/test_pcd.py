"""PCD against plain loops over the formula, in float64."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.catalog import METHODS
from core.catalog.methods import MethodContext
from core.catalog.methods.pcd import PCDParams
from core.distill.logits.pcd import pcd_loss, staged_divergence
from core.distill.rows import Rows
from core.testing import MethodContract

Array = NDArray[np.float64]


def softmax(values: Array) -> Array:
    exponentials = np.exp(values - values.max())
    result: Array = exponentials / exponentials.sum()
    return result


def divergence(q: Array, p: Array) -> float:
    return sum(float(b) * (math.log(b) - math.log(a)) for a, b in zip(p, q, strict=True))


def cosine(a: Array, b: Array) -> float:
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def standardised(row: Array) -> Array:
    result: Array = (row - row.mean()) / (row.std(ddof=1) + 1e-7)
    return result


def cross_entropy(z: Array, target: int) -> float:
    return -math.log(softmax(z)[target])


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
                total += (1 - cosine(q, p)) * temperature**2 * divergence(q, p)
    return total


def oracle(z: Array, v: Array, target: list[int], weight: list[float], params: PCDParams) -> float:
    shares = [w / sum(weight) for w in weight]
    inputs = [(standardised(a), standardised(b)) if params.standardise else (a, b) for a, b in zip(z, v, strict=True)]
    ce = sum(share * cross_entropy(row, label) for share, row, label in zip(shares, z, target, strict=True))
    temperature = params.temperature
    if params.variant == "paper":
        rows = [weighted_term(a, b, temperature, params.stages) for a, b in inputs]
        term = sum(share * row for share, row in zip(shares, rows, strict=True))
    else:
        pairs = [(softmax(a / temperature), softmax(b / temperature)) for a, b in inputs]
        mean_kl = sum(share * divergence(q, p) for share, (p, q) in zip(shares, pairs, strict=True))
        factor = sum(share * (1 - cosine(q, np.log(p))) for share, (p, q) in zip(shares, pairs, strict=True))
        term = 2 * params.stages * factor * temperature**2 * mean_kl
    return params.ce_weight * ce + params.alpha * term


def problem(size: int = 5, classes: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(size, classes, generator=generator, dtype=torch.float64)
    teacher = 2 * torch.randn(size, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher, torch.randint(classes, (size,), generator=generator)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"stages": 5, "temperature": 2.0, "alpha": 0.5, "ce_weight": 0.3},
    {"stages": 1},
    {"standardise": True},
    {"variant": "public_code"},
    {"variant": "public_code", "standardise": True, "stages": 2},
]


@pytest.mark.parametrize("values", VARIANTS)
@pytest.mark.parametrize("weight", [None, [1.0, 0.0, 2.0, 0.5, 1.0]])
def test_value_and_gradient_are_those_of_the_oracle(values: dict[str, Any], weight: list[float] | None) -> None:
    params = PCDParams(**values)
    student, teacher, target = problem()
    rows = Rows(student, teacher, target, None if weight is None else torch.tensor(weight, dtype=torch.float64))
    total = pcd_loss(rows, params, None).total
    z, v, labels = student.detach().numpy(), teacher.numpy(), target.tolist()
    weights = weight or [1.0] * len(labels)
    assert total.item() == pytest.approx(oracle(z, v, labels, weights, params), rel=1e-10)
    (gradient,) = torch.autograd.grad(total, student)
    step = 1e-6
    for row, column in ((0, 0), (2, 3), (3, 6), (4, labels[4])):
        moved = [z.copy(), z.copy()]
        for values_of, sign in zip(moved, (1, -1), strict=True):
            values_of[row, column] += sign * step
        above, below = (oracle(each, v, labels, weights, params) for each in moved)
        assert gradient[row, column].item() == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-7)


def test_one_stage_is_kd_weighted_by_the_cosine() -> None:
    student, teacher, target = problem()
    term = staged_divergence(Rows(student, teacher, target), 4.0, 1)
    p, q = (torch.softmax(logits.detach() / 4, 1) for logits in (student, teacher))
    kl = 16 * (q * (q / p).log()).sum(1)
    assert term.value.item() == pytest.approx(float((2 * (1 - torch.cosine_similarity(q, p)) * kl).mean()), rel=1e-10)


def test_equal_networks_have_no_distance() -> None:
    _, teacher, target = problem()
    student = teacher.clone().requires_grad_()
    terms = pcd_loss(Rows(student, teacher, target), PCDParams(ce_weight=0.0), None)
    (gradient,) = torch.autograd.grad(terms.total, student)
    assert float(terms.values["pcd"]) == pytest.approx(0.0, abs=1e-12)
    assert float(gradient.abs().max()) == pytest.approx(0.0, abs=1e-12)


def test_shifts_of_a_row_change_nothing_if_the_ranking_stays() -> None:
    student, teacher, target = problem()
    shifted = student.detach() + 3.0
    own, other = (staged_divergence(Rows(z, teacher + s, target), 4.0, 3) for z, s in ((student, 0.0), (shifted, 3.0)))
    assert other.value.item() == pytest.approx(own.value.item(), rel=1e-10)


def test_term_grows_over_the_ramp() -> None:
    student, teacher, target = problem()
    rows, params = Rows(student, teacher, target), PCDParams(ramp_epochs=4, ce_weight=0.0)
    totals = [pcd_loss(rows, params, epoch).total.item() for epoch in (0, 1, 3, 9)]
    assert [total / totals[-1] for total in totals] == pytest.approx([0.25, 0.5, 1.0, 1.0])


@pytest.mark.parametrize("variant", ["paper", "public_code"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(variant: Any, dtype: torch.dtype) -> None:
    student, teacher, target = problem(16, 20)
    params = PCDParams(variant=variant)
    half = pcd_loss(Rows(student.to(dtype), teacher.to(dtype), target), params, None).total
    full = pcd_loss(Rows(student.float(), teacher.float(), target), params, None).total
    assert half.item() == pytest.approx(full.item(), rel=0.03)


@pytest.mark.parametrize("variant", ["paper", "public_code"])
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extreme_logits_and_a_batch_of_one_are_finite(variant: Any, scale: float) -> None:
    student, teacher, target = problem(1, 7)
    logits = (scale * student.detach()).float().requires_grad_()
    total = pcd_loss(Rows(logits, (-scale * teacher).float(), target), PCDParams(variant=variant), None).total
    (gradient,) = torch.autograd.grad(total, logits)
    assert total.isfinite()
    assert gradient.isfinite().all()


def test_more_stages_than_classes_are_refused_and_groups_of_one_class_warned_about() -> None:
    student, teacher, target = problem(4, 5)
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
