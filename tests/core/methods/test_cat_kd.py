"""CAT-KD: the loss against a formula, and class activation maps against those of rewritten networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.catalog.methods.cat_kd import CATKDParams
from core.distill.features.cat_kd import CATKD
from core.distill.objective import NetworkShape, ObjectiveError, Setting
from core.tasks.classification import models
from core.testing import MethodContract
from tests.core.methods.oracle import Values, assert_equals_oracle, lower_precision_ratio, random_step, shape, shares
from tests.core.methods.slow_layers import Array, cross_entropy, pool

WEIGHT = torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
CLASSES = 5


def objective(
    student: tuple[int, int] = (2, 2), teacher: tuple[int, int] = (2, 2), **params: Any
) -> tuple[CATKD, Setting]:
    torch.manual_seed(0)
    setting = Setting(shape(CLASSES, (3, *student)), shape(CLASSES, (4, *teacher)), samples=8)
    return CATKD(CATKDParams(**params), setting).double().train(), setting


def activation(maps: Array, classifier: Array, side: int, normalise: bool) -> Array:
    """Return the averaged class activation maps: first those of every position, then their averages."""
    batch, channels, height, width = maps.shape
    result = np.zeros((batch, CLASSES, height, width))
    for b, c, y, x in np.ndindex(*result.shape):
        result[b, c, y, x] = sum(classifier[c, d] * maps[b, d, y, x] for d in range(channels))
    result = pool(result, (side, side))
    if normalise:
        for b, c in np.ndindex(batch, CLASSES):
            result[b, c] /= np.sqrt(sum(result[b, c, y, x] ** 2 for y, x in np.ndindex(side, side)))
    return result


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(
    ("student", "teacher", "side"),
    [((2, 2), (2, 2), 2), ((3, 4), (2, 2), 2), ((2, 2), (5, 4), 2), ((3, 3), (3, 3), 1)],
)
def test_loss_equals_the_formula(
    student: tuple[int, int], teacher: tuple[int, int], side: int, normalise: bool, weight: Tensor | None
) -> None:
    params = {"ce_weight": 0.7, "weight": 3.0, "resolution": side, "normalise": normalise}
    method, setting = objective(student, teacher, **params)
    step = random_step(setting, weight=weight)
    assert setting.teacher is not None
    assert step.teacher is not None
    linear = setting.teacher.linear
    assert linear is not None
    target = activation(step.teacher.taps["last_map"].numpy(), linear.weight.detach().numpy(), side, normalise)

    def oracle(values: Values) -> float:
        share = shares(weight, 4)
        distances = (activation(values["last_map"], values["student 0"], side, normalise) - target) ** 2
        total = 0.7 * cross_entropy(values["logits"], step.rows.target.numpy(), share)
        for row, c, y, x in np.ndindex(*distances.shape):
            total += 3 * float(share[row] * distances[row, c, y, x]) / (CLASSES * side * side)
        return total

    assert_equals_oracle(method, step, oracle)


def test_mean_of_the_activation_maps_and_the_bias_are_the_logits() -> None:
    """The network that the authors rewrite, a 1×1 convolution and then pooling, is the same function."""
    torch.manual_seed(0)
    network = models.build("resnet8", num_classes=CLASSES, image_size=16).double().eval()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        maps = network.stages(images)["stage3"]
        convolution = nn.Conv2d(64, CLASSES, 1, bias=False).double()
        convolution.weight.copy_(network.linear.weight.view(CLASSES, 64, 1, 1))
        rewritten = convolution(maps)
        torch.testing.assert_close(rewritten.mean((2, 3)) + network.linear.bias, network(images))
    setting = Setting(
        NetworkShape(CLASSES, {"last_map": maps.shape[1:]}, network.linear, averaged=frozenset({"last_map"})),
        shape(CLASSES, (4, 4, 4)),
        8,
    )
    method = CATKD(CATKDParams(resolution=4), setting)
    np.testing.assert_allclose(
        method._activation(maps, *method.student_parameters()).detach().view(2, CLASSES, 4, 4), rewritten, rtol=1e-9
    )


def test_normalised_maps_do_not_depend_on_the_scale_of_the_teacher() -> None:
    method, setting = objective(normalise=True)
    step = random_step(setting)
    assert step.teacher is not None
    larger = replace(step.teacher, taps={"last_map": 3 * step.teacher.taps["last_map"]})
    one, three = (method(replace(step, teacher=teacher)).values["cat_kd"] for teacher in (step.teacher, larger))
    assert float(three) == pytest.approx(float(one), rel=1e-12)


def test_map_of_zeros_has_a_finite_gradient() -> None:
    method, setting = objective(normalise=True)
    step = random_step(setting)
    zeros = torch.zeros_like(step.student.taps["last_map"]).requires_grad_()
    method(replace(step, student=replace(step.student, taps={"last_map": zeros}))).total.backward()
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()


def test_batch_of_one_row_is_finite() -> None:
    method, setting = objective()
    total = method(random_step(setting, rows=1)).total
    total.backward()
    assert total.isfinite()


def test_taps_in_bfloat16_give_nearly_the_same_loss() -> None:
    method, setting = objective()
    assert lower_precision_ratio(method, random_step(setting)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_networks_with_other_layers_than_pooling_after_the_maps_are_refused(role: str) -> None:
    networks = {name: shape(CLASSES, (3, 2, 2)) for name in ("student", "teacher")}
    networks[role] = replace(networks[role], averaged=frozenset())
    expected = f"{role}_tap: the classifier of the {role} does not read the mean of 'last_map' over positions"
    with pytest.raises(ObjectiveError, match=expected):
        CATKD(CATKDParams(), Setting(networks["student"], networks["teacher"], 8))


def test_resolution_above_the_size_of_the_maps_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="resolution: 4 is greater than the maps of the student, 2×4"):
        objective((2, 4), (8, 8), resolution=4)


class TestCATKD(MethodContract):
    method = "cat_kd"


class TestNormalisedCATKD(MethodContract):
    method: ClassVar[Any] = {"name": "cat_kd", "params": {"normalise": True, "resolution": 2}}
    networks: ClassVar[Any] = ("wrn_16_1", {"name": "small_cnn", "params": {"width": 4}})
