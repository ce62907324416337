"""MLKD against plain loops over the formula, in float64."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.catalog.methods.mlkd import MLKDParams
from core.catalog.taps import STRONG_LOGITS
from core.distill.logits.mlkd import MLKD, Levels
from core.distill.objective import NetworkShape, Outputs, Setting, Step
from core.distill.rows import Rows
from core.testing import MethodContract

Array = NDArray[np.float64]
SIZE, CLASSES = 5, 4
WEIGHT = [1.0, 0.0, 2.0, 0.5, 1.0]


def softmax(row: Array) -> Array:
    exponentials = np.exp(row - row.max())
    result: Array = exponentials / exponentials.sum()
    return result


def standardised(row: Array) -> Array:
    result: Array = (row - row.mean()) / (row.std(ddof=1) + 1e-7)
    return result


def cross_entropy(z: Array, target: list[int], share: list[float]) -> float:
    return sum(w * -math.log(softmax(row)[t]) for w, row, t in zip(share, z, target, strict=True))


def levels(
    z: Array, v: Array, share: list[float], temperature: float, params: MLKDParams
) -> tuple[float, float, float]:
    """The three levels of one view at one temperature. Rows of share 0 are left out."""
    kept = [row for row, w in enumerate(share) if w]
    count = 1 / sum(w * w for w in share)  # the number of rows without weights
    inputs = [(standardised(z[i]), standardised(v[i])) if params.standardise else (z[i], v[i]) for i in kept]
    instance = 0.0
    for i, (a, b) in zip(kept, inputs, strict=True):
        p, q = softmax(a / temperature), softmax(b / temperature)
        kl = sum(float(y) * (math.log(y) - math.log(x)) for x, y in zip(p, q, strict=True))
        instance += share[i] * temperature**2 * kl
    p_all = {i: softmax(z[i] / temperature) for i in kept}
    q_all = {i: softmax(v[i] / temperature) for i in kept}
    batch = 0.0
    for i in kept:
        for j in kept:
            distance = float((p_all[i] * p_all[j]).sum() - (q_all[i] * q_all[j]).sum())
            batch += count * share[i] * share[j] * distance**2
    classes = 0.0
    for a in range(z.shape[1]):
        for b in range(z.shape[1]):
            terms = [share[i] * (p_all[i][a] * p_all[i][b] - q_all[i][a] * q_all[i][b]) for i in kept]
            classes += (count * float(sum(terms))) ** 2 / z.shape[1]
    return instance, batch, classes


def masked(values: list[float], share: list[float]) -> float:
    """The share of the values that are at most their median, where each value counts by its share."""
    reached, median = 0.0, math.inf
    for value, w in sorted(zip(values, share, strict=True)):
        reached += w
        if reached >= 0.5 - 1e-9:
            median = value
            break
    return sum(w for value, w in zip(values, share, strict=True) if value <= median)


def oracle(views: list[tuple[Array, Array]], target: list[int], weight: list[float], params: MLKDParams) -> float:
    share = [w / sum(weight) for w in weight]
    total = sum(params.ce_weight * cross_entropy(z, target, share) for z, _ in views)
    weights = params.instance_weight, params.batch_weight, params.class_weight
    temperatures = params.temperatures
    if params.variant == "paper":
        for z, v in views:
            for temperature in temperatures:
                found = levels(z, v, share, temperature, params)
                total += sum(w * level for w, level in zip(weights, found, strict=True))
        return total
    z, v = views[0]
    q = [softmax(row) for row in v]
    rows = masked([float(row.max()) for row in q], share)
    sums = [sum(w * float(row[c]) for w, row in zip(share, q, strict=True)) for c in range(z.shape[1])]
    classes = masked(sums, [1 / len(sums)] * len(sums))
    for number, temperature in enumerate(temperatures):
        instance, batch, of_classes = levels(z, v, share, temperature, params)
        total += weights[0] * rows * instance + weights[1] * rows * batch + weights[2] * classes * of_classes
        if len(views) > 1:
            seen = views[1] if number < 3 else views[0]
            total += weights[0] * levels(*seen, share, temperature, params)[0]
    return total


def problem(size: int = SIZE, classes: int = CLASSES) -> tuple[list[Tensor], list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(7)

    def sample(scale: float) -> Tensor:
        return scale * torch.randn(size, classes, generator=generator, dtype=torch.float64)

    students = [sample(1.0).requires_grad_() for _ in range(2)]
    return students, [sample(2.0) for _ in range(2)], torch.randint(classes, (size,), generator=generator)


def build(params: MLKDParams, classes: int = CLASSES) -> MLKD:
    shape = NetworkShape(classes)
    return MLKD(params, Setting(shape, shape, 100)).double()


def step_of(students: list[Tensor], teachers: list[Tensor], target: Tensor, weight: list[float] | None = None) -> Step:
    (z, strong_z), (v, strong_v) = students, teachers
    rows = Rows(z, v, target, None if weight is None else torch.tensor(weight, dtype=z.dtype))
    return Step(rows, Outputs(z, {STRONG_LOGITS: strong_z}), Outputs(v, {STRONG_LOGITS: strong_v}))


VARIANTS: list[dict[str, Any]] = [
    {},
    {"temperatures": (1.0, 2.5), "ce_weight": 0.3, "instance_weight": 0.5, "batch_weight": 2.0, "class_weight": 3.0},
    {"strong_view": False},
    {"standardise": True},
    {"variant": "public_code"},
    {"variant": "public_code", "standardise": True},
    {"variant": "public_code", "strong_view": False},
]


@pytest.mark.parametrize("values", VARIANTS)
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_value_and_gradient_are_those_of_the_oracle(values: dict[str, Any], weight: list[float] | None) -> None:
    params = MLKDParams(**values)
    students, teachers, target = problem()
    terms = build(params)(step_of(students, teachers, target, weight))
    views = [(z.detach().numpy(), v.numpy()) for z, v in zip(students, teachers, strict=True)]
    views = views[: 2 if params.strong_view else 1]
    labels, weights = target.tolist(), weight or [1.0] * SIZE
    assert terms.total.item() == pytest.approx(oracle(views, labels, weights, params), rel=1e-10)
    gradients = torch.autograd.grad(terms.total, students[: len(views)])
    step = 1e-6
    for view, row, column in ((0, 0, 0), (0, 2, 3), (1, 3, 1), (1, 4, labels[4])):
        if view >= len(views):
            continue
        found = []
        for sign in (1, -1):
            moved = [z.copy() for z, _ in views]
            moved[view][row, column] += sign * step
            found.append(oracle([(z, v) for z, (_, v) in zip(moved, views, strict=True)], labels, weights, params))
        slope = (found[0] - found[1]) / (2 * step)
        assert gradients[view][row, column].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_levels_are_the_formulas_of_matrices() -> None:
    (z, _), (v, _), target = problem(6, 5)
    found = Levels(Rows(z, v, target), torch.tensor([2.0], dtype=torch.float64))
    p, q = torch.softmax(z.detach() / 2, 1), torch.softmax(v / 2, 1)
    one = torch.ones(1, dtype=torch.float64)
    batch, classes = (found.level(name, one).value.item() for name in ("batch_level", "class_level"))
    assert batch == pytest.approx(((p @ p.T - q @ q.T) ** 2).sum().item() / 6, rel=1e-12)
    assert classes == pytest.approx(((p.T @ p - q.T @ q) ** 2).sum().item() / 5, rel=1e-12)


def test_levels_do_not_depend_on_a_shift_of_each_row() -> None:
    students, teachers, target = problem()
    shift = torch.arange(SIZE, dtype=torch.float64).unsqueeze(1)
    method = build(MLKDParams(ce_weight=0.0))
    own = method(step_of(students, teachers, target)).total
    moved = method(step_of([z + shift for z in students], [v - shift for v in teachers], target)).total
    assert moved.item() == pytest.approx(own.item(), rel=1e-10)


def test_equal_networks_have_no_distance() -> None:
    _, teachers, target = problem()
    students = [v.clone().requires_grad_() for v in teachers]
    terms = build(MLKDParams(ce_weight=0.0))(step_of(students, teachers, target))
    assert terms.total.item() == pytest.approx(0.0, abs=1e-12)
    assert all(float(g.abs().max()) < 1e-12 for g in torch.autograd.grad(terms.total, students))


def test_parts_are_the_weighted_terms() -> None:
    params = MLKDParams(instance_weight=2.0, batch_weight=3.0, class_weight=4.0, ce_weight=5.0)
    students, teachers, target = problem()
    terms = build(params)(step_of(students, teachers, target))
    weights = {"ce": 5.0, "instance_level": 2.0, "batch_level": 3.0, "class_level": 4.0}
    assert {name: part.item() / terms.values[name].item() for name, part in terms.parts.items()} == pytest.approx(
        weights
    )
    assert sum(part.item() for part in terms.parts.values()) == pytest.approx(terms.total.item())


@pytest.mark.parametrize("variant", ["paper", "public_code"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(variant: Any, dtype: torch.dtype) -> None:
    students, teachers, target = problem(16, 10)
    method = build(MLKDParams(variant=variant), 10).float()

    def total(kind: torch.dtype) -> float:
        return float(
            method(step_of([z.detach().to(kind) for z in students], [v.to(kind) for v in teachers], target)).total
        )

    assert total(dtype) == pytest.approx(total(torch.float32), rel=0.03)


@pytest.mark.parametrize("variant", ["paper", "public_code"])
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extreme_logits_and_a_batch_of_one_are_finite(variant: Any, scale: float) -> None:
    students, teachers, target = problem(1)
    leaves = [(scale * z.detach()).float().requires_grad_() for z in students]
    total = (
        build(MLKDParams(variant=variant))
        .float()(step_of(leaves, [-scale * v.float() for v in teachers], target))
        .total
    )
    assert total.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, leaves))


def test_public_code_needs_its_five_temperatures() -> None:
    with pytest.raises(ValueError, match="needs 5 temperatures, not 1"):
        MLKDParams(variant="public_code", temperatures=(4.0,))


class TestMLKD(MethodContract):
    method: ClassVar[Any] = {"name": "mlkd"}


class TestMLKDOfOneView(MethodContract):
    method: ClassVar[Any] = {"name": "mlkd", "params": {"strong_view": False, "temperatures": [2.0]}}


class TestMLKDOfThePublicCode(MethodContract):
    method: ClassVar[Any] = {"name": "mlkd", "params": {"variant": "public_code", "standardise": True}}
