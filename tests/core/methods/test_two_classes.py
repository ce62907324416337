"""DKD on two classes: TCKD alone, because one non-target class has nothing to be compared with."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from core import methods
from core.distill.gradients import measure_gradients
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.specs import MethodRef, SpecError, parse_experiment
from core.testing import MethodContract
from tests.core.methods.logit_suite import (
    gradient_of,
    kl_of,
    log_softmax,
    numerical_gradient,
    random_rows,
)

ALONE: dict[str, Any] = {"beta": 0.0, "ramp_epochs": 0, "ce_weight": 0.0, "alpha": 1.5}


def test_value_and_gradient_are_those_of_the_formula() -> None:
    z, v, target = random_rows(5, 2)
    rows = Rows(z, v, target)
    terms = build_loss(MethodRef(name="dkd", params=ALONE))(rows, None)

    def oracle(student: np.ndarray[Any, np.dtype[np.float64]]) -> float:
        total = 0.0
        for a, b, t in zip(student, v.numpy(), target.tolist(), strict=True):
            p, q = (math.exp(log_softmax(side / 4)[t]) for side in (a, b))
            total += 16 * kl_of(np.array([q, 1 - q]), np.array([p, 1 - p]))
        return 1.5 * total / len(student)

    student = z.detach().numpy()
    assert terms.total.item() == pytest.approx(oracle(student), rel=1e-10)
    np.testing.assert_allclose(gradient_of(terms, z).reshape(-1), numerical_gradient(oracle, student), rtol=1e-6)
    assert terms.values["nckd"].item() == 0
    assert methods.tckd(z, v, target, 4.0).item() == pytest.approx(terms.values["tckd"].item())
    metrics = measure_gradients(terms, rows)
    assert math.isnan(metrics["grad/similarity"])
    assert metrics["grad/tckd_norm"] > 0


@pytest.mark.parametrize("mask", ["off", "static", "dynamic"])
def test_deepkd_has_the_same_terms(mask: str) -> None:
    rows = Rows(*random_rows(5, 2))
    totals = [
        build_loss(MethodRef(name=name, params=ALONE | own))(rows, 3).total.item()
        for name, own in (("dkd", {}), ("deepkd", {"mask": mask}))
    ]
    assert totals[0] == pytest.approx(totals[1], rel=1e-12)


def test_it_is_kd_on_two_classes() -> None:
    z, v, target = random_rows(5, 2)
    expected = methods.kd(z, v, target, ce_weight=0.0, kd_weight=1.5)
    assert methods.dkd(z, v, target, **ALONE).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_give_finite_values(dtype: torch.dtype) -> None:
    z, v, target = random_rows(8, 2, scale=1e4)
    student = z.detach().to(dtype).requires_grad_()
    loss = methods.dkd(student, v.to(dtype), target, **ALONE)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def experiment(**params: Any) -> dict[str, Any]:
    model = {"model": "small_cnn"}
    dataset = {"name": "synthetic", "params": {"num_classes": 2, "image_size": 8, "train_size": 64, "test_size": 32}}
    method = {"name": "dkd", "params": params}
    training = {"epochs": 1}
    return {
        "name": "two",
        "dataset": dataset,
        "teacher": model,
        "student": model,
        "methods": [method],
        "seeds": [0],
        "training": training,
    }


def test_spec_with_both_parts_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(SpecError) as refused:
        parse_experiment(experiment())
    [problem] = refused.value.problems
    assert problem.path == "methods.0"
    assert "needs at least 3 classes; synthetic has 2; with beta: 0 it is TCKD alone" in problem.message
    parse_experiment(experiment(beta=0.0))


def test_standardised_logits_of_two_classes_are_refused() -> None:
    """They are ±1/√2 whatever the network returns, so their gradient is zero."""
    with pytest.raises(SpecError) as refused:
        parse_experiment(experiment(beta=0.0, standardise=True))
    [problem] = refused.value.problems
    assert problem.path == "methods.0.params.standardise"
    assert "needs at least 3 classes" in problem.message


class TestContract(MethodContract):
    method: ClassVar[Any] = {"name": "dkd", "params": {"beta": 0.0, "ramp_epochs": 1}}

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls) -> dict[str, Any]:
        """The experiment of the tests, with two classes."""
        student = {"name": "small_cnn", "params": {"width": 4}}
        training = {"epochs": 2, "batch_size": 16, "optimizer": {"lr": 0.02}}
        teacher = {"model": "resnet8", "training": {"epochs": 1, "batch_size": 32}}
        changed = {"methods": [cls.method], "teacher": teacher, "student": {"model": student}, "training": training}
        return experiment() | changed
