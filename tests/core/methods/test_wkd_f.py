"""WKD-F: the loss against a formula."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.catalog.methods.wkd_f import WKDFParams, decay
from core.distill.features.wkd_f import WKDF
from core.distill.objective import ObjectiveError, Setting
from core.specs import SpecError, parse_experiment
from core.testing import MethodContract, _spec
from tests.core.methods.oracle import Values, assert_equals_oracle, lower_precision_ratio, random_step, shape, shares
from tests.core.methods.slow_layers import Array, batch_norm, convolve, cross_entropy, relu

WEIGHT = torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
STUDENT, TEACHER = 3, 2


def objective(
    student: tuple[int, int] = (4, 4), teacher: tuple[int, int] = (4, 4), **params: Any
) -> tuple[WKDF, Setting]:
    torch.manual_seed(0)
    networks = shape(5, (STUDENT, *student), "stage3"), shape(5, (TEACHER, *teacher), "stage4")
    setting = Setting(*networks, samples=8)
    method = WKDF(WKDFParams(**params), setting).double().train()
    for parameter in method.parameters():
        nn.init.normal_(parameter, std=0.7)
    return method, setting


def distance(one: Array, two: Array, grid: int) -> Array:
    """Return the distances of the rows, the mean over the parts of the grid."""
    batch, channels, height, width = one.shape
    totals = np.zeros(batch)
    for row, c, y, x in np.ndindex(batch, channels, grid, grid):
        statistics = []
        for maps in (one, two):
            rows = range(math.floor(y * height / grid), math.ceil((y + 1) * height / grid))
            columns = range(math.floor(x * width / grid), math.ceil((x + 1) * width / grid))
            values = [maps[row, c, i, j] for i in rows for j in columns]
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
            statistics.append((mean, math.sqrt(variance + 1e-5)))
        (mean, deviation), (target_mean, target_deviation) = statistics
        totals[row] += (3 * (mean - target_mean) ** 2 + (deviation - target_deviation) ** 2) / grid**2
    return totals


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize(("size", "grid"), [((4, 4), 1), ((4, 4), 2), ((5, 3), 2)])
def test_loss_equals_the_formula(size: tuple[int, int], grid: int, weight: Tensor | None) -> None:
    method, setting = objective(size, size, ce_weight=0.7, weight=0.5, mean_ratio=3.0, grid=grid)
    step = random_step(setting, weight=weight)
    assert step.teacher is not None
    target = step.teacher.taps["stage4"].numpy()

    def oracle(values: Values) -> float:
        share = shares(weight, 4)
        maps = convolve(values["stage3"], values["projector.weight"], values["projector.bias"])
        maps = relu(batch_norm(maps, values["norm.weight"], values["norm.bias"], share))
        distances = distance(maps, target, grid)
        ce = cross_entropy(values["logits"], step.rows.target.numpy(), share)
        return 0.7 * ce + 0.5 * sum(float(part * row) for part, row in zip(share, distances, strict=True))

    assert_equals_oracle(method, step, oracle)


@pytest.mark.parametrize(
    ("student", "teacher", "options"),
    [((8, 8), (4, 4), {"padding": 1, "stride": 2}), ((5, 6), (4, 4), {})],
    ids=["twice the size", "larger"],
)
def test_larger_maps_pass_a_convolution_to_the_size_of_the_teachers(
    student: tuple[int, int], teacher: tuple[int, int], options: dict[str, int]
) -> None:
    method, setting = objective(student, teacher, mean_ratio=3.0)
    step = random_step(setting, rows=2)
    maps = step.student.taps["stage3"].detach()
    weight, bias = (method.get_parameter(f"projector.{part}").detach().numpy() for part in ("weight", "bias"))
    expected = convolve(maps.numpy(), weight, bias, **options)
    assert expected.shape == (2, TEACHER, *teacher)
    np.testing.assert_allclose(method.projector(maps).detach().numpy(), expected, rtol=1e-9)
    assert method(step).total.isfinite()


def test_maps_of_half_the_size_pass_a_transposed_convolution() -> None:
    method, setting = objective((2, 2), (4, 4))
    step = random_step(setting)
    assert isinstance(method.projector, nn.ConvTranspose2d)
    assert method.projector(step.student.taps["stage3"]).shape == (4, TEACHER, 4, 4)
    assert method(step).total.isfinite()


def test_equal_gaussians_have_no_distance() -> None:
    """Positions in another order have the same mean and deviation."""
    method, setting = objective(grid=1)
    step = random_step(setting)
    assert step.teacher is not None
    maps = step.teacher.taps["stage4"]
    moved = maps.flatten(2)[:, :, torch.randperm(16)].view_as(maps)
    for one, two in zip(method._gaussians(maps), method._gaussians(moved), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(("start", "epoch", "factor"), [
    (150, 0, 1.0), (150, 149, 1.0), (150, 194, 0.5), (150, 239, 0.0), (150, 300, 0.0), (None, 239, 1.0),
])  # fmt: skip
def test_weight_falls_by_half_a_cosine(start: int | None, epoch: int, factor: float) -> None:
    assert decay(WKDFParams(decay_start=start, decay_end=240), epoch) == pytest.approx(factor, abs=1e-12)


def test_schedule_multiplies_the_term_alone() -> None:
    method, setting = objective()
    parts = [method(random_step(setting, epoch=epoch)).parts for epoch in (0, 194)]
    assert float(parts[1]["wkd_f"].detach()) == pytest.approx(0.5 * float(parts[0]["wkd_f"].detach()))
    assert float(parts[1]["ce"].detach()) == float(parts[0]["ce"].detach())


def test_batch_of_one_row_is_finite() -> None:
    method, setting = objective((1, 2), (1, 2))
    step = random_step(setting, rows=1)
    total = method(step).total
    total.backward()
    assert total.isfinite()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in method.parameters())


def test_constant_maps_have_a_finite_gradient() -> None:
    method, setting = objective()
    step = random_step(setting)
    constant = torch.ones_like(step.student.taps["stage3"]).requires_grad_()
    method(replace(step, student=replace(step.student, taps={"stage3": constant}))).total.backward()
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


def test_taps_in_bfloat16_give_nearly_the_same_loss() -> None:
    method, setting = objective()
    assert lower_precision_ratio(method, random_step(setting)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("size", "grid"), [((2, 2), 2), ((1, 1), 1), ((4, 4), 5)])
def test_part_of_one_position_is_refused(size: tuple[int, int], grid: int) -> None:
    with pytest.raises(ObjectiveError, match="have a single position, which has no standard deviation"):
        objective(size, size, grid=grid)


def test_maps_that_are_too_small_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="the student's maps of 3×3 are smaller than the teacher's maps of 4×4"):
        objective((3, 3), (4, 4))


def test_decay_that_ends_before_it_begins_is_refused_at_submission() -> None:
    networks: Any = ("resnet8", {"name": "small_cnn"})
    with pytest.raises(SpecError, match="decay_end must be greater than decay_start"):
        parse_experiment(_spec({"name": "wkd_f", "params": {"decay_start": 300}}, networks))


class TestWKDF(MethodContract):
    method = "wkd_f"


class TestWKDFWithAGrid(MethodContract):
    method: ClassVar[Any] = {"name": "wkd_f", "params": {"grid": 2, "decay_start": None}}
    networks: ClassVar[Any] = (
        {"name": "small_cnn", "params": {"width": 2}},
        {"name": "small_cnn", "params": {"width": 4}},
    )
