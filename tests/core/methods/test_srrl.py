"""SRRL: the loss against a formula."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from core.catalog.methods.srrl import SRRLParams
from core.distill.features.srrl import SRRL
from core.distill.objective import NetworkShape, ObjectiveError, Setting
from core.testing import MethodContract
from tests.core.methods.oracle import Values, assert_equals_oracle, lower_precision_ratio, random_step, shape, shares
from tests.core.methods.slow_layers import batch_norm, convolve, cross_entropy, relu

WEIGHT = torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
TEACHER = 4  # features


def objective(student: tuple[int, ...] = (3, 2, 2), **params: Any) -> tuple[SRRL, Setting]:
    torch.manual_seed(0)
    teacher = replace(shape(5, (TEACHER, 1, 1)), taps={"features": torch.Size((TEACHER,))})
    network = replace(shape(5, (3, 2, 2)), taps={"tap": torch.Size(student)})
    setting = Setting(network, teacher, samples=8)
    method = SRRL(SRRLParams(**params), setting).double().train()
    for parameter in method.parameters():
        nn.init.normal_(parameter, std=0.7)
    return method, setting


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize("student", [(3, 2, 2), (3, 3, 1), (3,)], ids=["maps", "oblong", "vectors"])
def test_loss_equals_the_formula(student: tuple[int, ...], weight: Tensor | None) -> None:
    method, setting = objective(student, ce_weight=0.7, feature_weight=1.5, logit_weight=5.0)
    step = random_step(setting, weight=weight)
    assert setting.teacher is not None
    assert step.teacher is not None
    linear = setting.teacher.linear
    assert linear is not None
    classifier, bias = (parameter.detach().numpy() for parameter in (linear.weight, linear.bias))
    features, logits = step.teacher.taps["features"].numpy(), step.teacher.logits.numpy()

    def oracle(values: Values) -> float:
        share = shares(weight, 4)
        maps = values["tap"].reshape(4, student[0], *(student[1:] or (1, 1)))
        maps = convolve(maps, values["connector.0.weight"])
        maps = relu(batch_norm(maps, values["connector.1.weight"], values["connector.1.bias"], share))
        total = 0.7 * cross_entropy(values["logits"], step.rows.target.numpy(), share)
        for row, part in enumerate(share):
            pooled = maps[row].mean((1, 2))
            feature = sum((pooled[d] - features[row, d]) ** 2 for d in range(TEACHER)) / TEACHER
            outputs = [sum(classifier[c, d] * pooled[d] for d in range(TEACHER)) + bias[c] for c in range(5)]
            logit = sum((outputs[c] - logits[row, c]) ** 2 for c in range(5)) / 5
            total += part * (1.5 * feature + 5 * logit)
        return total

    assert_equals_oracle(method, step, oracle)


def test_connector_of_the_pooled_vector_is_not_that_of_the_map() -> None:
    """A layer with batch norm and ReLU does not change places with pooling: the two taps are two methods."""
    maps, setting = objective((3, 2, 2))
    vectors, vector_setting = objective((3,))
    vectors.load_state_dict(maps.state_dict())
    step = random_step(setting)
    pooled = replace(step.student, taps={"tap": step.student.taps["tap"].mean((2, 3))})
    assert vector_setting.student.taps["tap"] == torch.Size((3,))
    one, two = maps(step).values, vectors(replace(step, student=pooled)).values
    assert abs(float(one["srrl_features"]) - float(two["srrl_features"])) > 0.01


def test_batch_of_one_vector_is_finite() -> None:
    method, setting = objective((3,))
    total = method(random_step(setting, rows=1)).total
    total.backward()
    assert total.isfinite()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in method.parameters())
    assert all(buffer.isfinite().all() for buffer in method.buffers())


def test_taps_in_bfloat16_give_nearly_the_same_loss() -> None:
    method, setting = objective()
    assert lower_precision_ratio(method, random_step(setting)) == pytest.approx(1, abs=0.02)


def test_teacher_without_a_linear_layer_is_refused() -> None:
    teacher = NetworkShape(5, {"features": torch.Size((4,))})
    with pytest.raises(ObjectiveError, match="the teacher has no last linear layer, which this method needs"):
        SRRL(SRRLParams(), Setting(shape(5, (3, 2, 2)), teacher, 8))


def test_tokens_are_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"student_tap: 'tap' gives \(7, 3\), not maps or vectors"):
        objective((7, 3))


class TestSRRL(MethodContract):
    method = "srrl"


class TestSRRLOfVectors(MethodContract):
    method: ClassVar[Any] = {"name": "srrl", "params": {"student_tap": "features", "logit_weight": 5.0}}
