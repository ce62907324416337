"""CTKD against plain loops over the formula, in float64."""

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
from core.catalog.methods.ctkd import CTKDParams
from core.distill.logits.ctkd import CTKD
from core.distill.objective import NetworkShape, Objective, Outputs, Setting, Step
from core.distill.rows import Rows
from core.testing import MethodContract

Array = NDArray[np.float64]
SIZE, CLASSES = 5, 6


def softmax(values: Array) -> Array:
    exponentials = np.exp(values - values.max())
    result: Array = exponentials / exponentials.sum()
    return result


def standardised(row: Array) -> Array:
    result: Array = (row - row.mean()) / (row.std(ddof=1) + 1e-7)
    return result


def oracle(
    z: Array, v: Array, target: list[int], weight: list[float], thetas: list[float], params: CTKDParams
) -> float:
    total = 0.0
    for row, w in enumerate(weight):
        share = w / sum(weight)
        temperature = params.initial_temperature + params.temperature_range / (1 + math.exp(-thetas[row]))
        a, b = (standardised(x[row]) if params.standardise else x[row] for x in (z, v))
        p, q = softmax(a / temperature), softmax(b / temperature)
        kl = sum(float(y) * (math.log(y) - math.log(x)) for x, y in zip(p, q, strict=True))
        ce = -math.log(softmax(z[row])[target[row]])
        total += share * (params.ce_weight * ce + params.kd_weight * temperature**2 * kl)
    return total


def problem(size: int = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    student = torch.randn(size, CLASSES, generator=generator, dtype=torch.float64)
    teacher = 3 * torch.randn(size, CLASSES, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher, torch.randint(CLASSES, (size,), generator=generator)


def build(params: CTKDParams) -> CTKD:
    torch.manual_seed(1)
    shape = NetworkShape(CLASSES)
    return CTKD(params, Setting(shape, shape, 100)).double()


def step_of(student: Tensor, teacher: Tensor, target: Tensor, weight: list[float] | None = None, **more: Any) -> Step:
    weights = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    return Step(Rows(student, teacher, target, weights), Outputs(student), Outputs(teacher), **more)


def thetas_of(method: CTKD, student: Tensor, teacher: Tensor) -> list[float]:
    if hasattr(method, "theta"):
        return [method.theta.item()] * len(student)
    theta: list[float] = method.layers(torch.cat((teacher, student.detach()), 1)).flatten().tolist()
    return theta


@pytest.mark.parametrize("module", ["global", "instance"])
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("weight", [None, [1.0, 0.0, 2.0, 0.5, 1.0]])
def test_value_and_gradient_are_those_of_the_oracle(module: Any, standardise: bool, weight: list[float] | None) -> None:
    params = CTKDParams(module=module, standardise=standardise, kd_weight=2.0, temperature_range=3.0, hidden=4)
    method = build(params)
    student, teacher, target = problem()
    total = method(step_of(student, teacher, target, weight)).total
    z, v, labels = student.detach().numpy(), teacher.numpy(), target.tolist()
    weights, thetas = weight or [1.0] * SIZE, thetas_of(method, student, teacher)
    assert total.item() == pytest.approx(oracle(z, v, labels, weights, thetas, params), rel=1e-10)
    (gradient,) = torch.autograd.grad(total, student)
    step = 1e-6
    for row, column in ((0, 0), (2, 3), (3, 5), (4, labels[4])):  # the temperatures are constants for the student
        moved = [z.copy(), z.copy()]
        moved[0][row, column] += step
        moved[1][row, column] -= step
        above, below = (oracle(each, v, labels, weights, thetas, params) for each in moved)
        assert gradient[row, column].item() == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize(("epoch", "reversal"), [(None, 1.0), (0, 0.5 * (1 - math.cos(math.pi / 10))), (4, 0.5)])
def test_gradient_of_theta_is_reversed(epoch: int | None, reversal: float, standardise: bool) -> None:
    params = CTKDParams(standardise=standardise, kd_weight=2.0)
    method, (student, teacher, target) = build(params), problem()
    weight = [1.0, 0.0, 2.0, 0.5, 1.0]
    (gradient,) = torch.autograd.grad(
        method(step_of(student, teacher, target, weight, epoch=epoch)).total, [method.theta]
    )
    z, v, step = student.detach().numpy(), teacher.numpy(), 1e-6
    above, below = (oracle(z, v, target.tolist(), weight, [1.0 + shift] * SIZE, params) for shift in (step, -step))
    assert gradient.item() == pytest.approx(-reversal * (above - below) / (2 * step), rel=1e-5)


def test_gradient_of_the_layers_raises_the_loss_of_each_sample() -> None:
    method, (student, teacher, target) = build(CTKDParams(module="instance", hidden=8)), problem()
    step = step_of(student, teacher, target)
    total = method(step).total
    gradients = torch.autograd.grad(total, list(method.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(method.parameters(), gradients, strict=True):
            parameter.sub_(1e-4 * gradient)  # what an optimiser does
    assert method(step).total.item() > total.item()


def test_lambda_grows_along_a_cosine_and_stays() -> None:
    params = CTKDParams(curriculum_epochs=4, lambda_min=0.5, lambda_max=2.5)
    expected = [0.5 + (1 - math.cos(math.pi * number / 4)) for number in (1, 2, 3, 4, 4)]
    assert [params.reversal(epoch) for epoch in range(5)] == pytest.approx(expected)
    assert params.reversal(None) == 2.5
    assert CTKDParams(curriculum_epochs=0).reversal(0) == 1.0


def test_without_a_range_it_is_kd() -> None:
    student, teacher, target = problem()
    method = build(CTKDParams(initial_temperature=4.0, temperature_range=0.0))
    terms = method(step_of(student, teacher, target))
    kd = METHODS["kd"].load()(Rows(student, teacher, target), METHODS["kd"].params(), None)
    assert terms.total.item() == pytest.approx(kd.total.item(), rel=1e-12)
    assert terms.values["temperature"].item() == 4.0


@pytest.mark.parametrize("module", ["global", "instance"])
def test_half_precision_is_near_float32(module: Any) -> None:
    student, teacher, target = problem(16)
    method = build(CTKDParams(module=module)).float()
    half = method(step_of(student.bfloat16(), teacher.bfloat16(), target)).total
    assert half.item() == pytest.approx(
        method(step_of(student.float(), teacher.float(), target)).total.item(), rel=0.03
    )


@pytest.mark.parametrize("module", ["global", "instance"])
def test_a_batch_of_one_is_finite(module: Any) -> None:
    student, teacher, target = problem(1)
    method: Objective = build(CTKDParams(module=module))
    total = method(step_of(1e4 * student, -1e4 * teacher, target)).total
    assert total.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, list(method.parameters())))


def test_short_curriculum_and_no_reversal_are_warned_about() -> None:
    warn = METHODS["ctkd"].warnings
    assert warn
    context = MethodContext(epochs=5, batch_size=64, num_classes=10)
    assert [w.field for w in warn(CTKDParams(), context)] == ["params.curriculum_epochs"]
    assert [w.field for w in warn(CTKDParams(curriculum_epochs=0, lambda_max=0), context)] == ["params.lambda_max"]
    assert METHODS["ctkd"].terms == ("ce", "kd"), "the temperature is no term that could have a share"


class TestCTKD(MethodContract):
    method: ClassVar[Any] = {"name": "ctkd", "params": {"curriculum_epochs": 1}}


class TestCTKDByInstance(MethodContract):
    method: ClassVar[Any] = {"name": "ctkd", "params": {"module": "instance", "curriculum_epochs": 1, "hidden": 4}}
    has_exact_gradient = False  # the temperature depends on the logits and is a constant for the student


class TestStandardisedCTKD(MethodContract):
    method: ClassVar[Any] = {"name": "ctkd", "params": {"standardise": True, "kd_weight": 9.0}}
