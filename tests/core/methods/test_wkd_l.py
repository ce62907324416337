"""WKD-L against Sinkhorn's algorithm with loops over one row's matrix without its target."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.catalog.methods.wkd_l import WKDLParams
from core.catalog.registry import Params
from core.catalog.taps import FEATURES
from core.distill.logits.wkd_l import WKDL, class_cka, decay, linear_cka
from core.distill.loss import Loss
from core.distill.objective import NetworkShape, ObjectiveError, Outputs, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.specs import MethodRef, parse_experiment
from core.specs.warnings import warnings_of
from core.testing import MethodContract
from tests.core.methods.logit_suite import AgainstOracle, Array, cross_entropies, log_softmax

CLASSES = 7


def setting(classes: int = CLASSES, samples: int = 30, width: int = 4) -> Setting:
    """Return a setting whose teacher has random features, and a classifier on them."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(samples, width, generator=generator)
    linear = nn.Linear(width, classes)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(classes, width, generator=generator))
    labels = torch.arange(samples) % classes
    shape = NetworkShape(classes, {}, linear)

    def teacher_outputs(names: Any, index: Tensor) -> Outputs:
        taps = {FEATURES: features[index]} if tuple(names) == (FEATURES,) else {}
        return Outputs(linear(features[index]).detach(), taps)

    return Setting(shape, shape, samples, labels, teacher_outputs=teacher_outputs)


def sinkhorn(p: Array, q: Array, cost: Array, entropy: float, iterations: int) -> float:
    """Return Σ π·c of Sinkhorn's plan, with one number at a time."""
    size = len(p)
    kernel = [[math.exp(-cost[i, j] / entropy) for j in range(size)] for i in range(size)]
    u, v = [1 / size] * size, [0.0] * size
    for _ in range(iterations):
        v = [q[j] / (sum(kernel[i][j] * u[i] for i in range(size)) + 1e-8) for j in range(size)]
        u = [p[i] / (sum(kernel[i][j] * v[j] for j in range(size)) + 1e-8) for i in range(size)]
    return float(sum(u[i] * kernel[i][j] * v[j] * cost[i, j] for i in range(size) for j in range(size)))


def row_loss(z: Array, v: Array, target: int, cost: Array, temperature: float = 3.0) -> float:
    soft = -math.exp(log_softmax(v)[target]) * log_softmax(z)[target]
    sides = [np.exp(log_softmax(np.delete(side, target) / temperature)) for side in (z, v)]
    rest = np.delete(np.delete(cost, target, 0), target, 1)
    return float(soft + 20 * sinkhorn(sides[0], sides[1], rest, 0.1, 5))


class TestWKDL(AgainstOracle):
    name = "wkd_l"
    params: ClassVar[dict[str, Any]] = {
        "transport_weight": 20.0,
        "temperature": 3.0,
        "entropy": 0.1,
        "iterations": 5,
        "ce_weight": 0.5,
        "sharpness": 2.0,
    }
    changes: ClassVar[dict[str, Any]] = {
        "transport_weight": 1.0,
        "temperature": 2.0,
        "ce_weight": 0.0,
        "cost": "classifier",
        "cost_samples": 2,
        "sharpness": 1.0,
        "entropy": 0.5,
        "iterations": 1,
        "decay_start": {"decay_start": 1, "decay_end": 8},
        "decay_end": {"decay_start": 0, "decay_end": 8},
    }

    @classmethod
    def loss(cls, **changes: Any) -> Loss:
        params = MethodRef(name=cls.name, params=cls.params | changes).parsed_params

        def loss(rows: Rows, epoch: int | None) -> LossTerms:
            objective = WKDL(_typed(params), setting(rows.student.shape[1]))
            if rows.student.dtype == torch.float64:
                objective.double()
            terms: LossTerms = objective(Step(rows, Outputs(rows.student), Outputs(rows.student), None, epoch))
            return terms

        return loss

    by_class = False  # a cost belongs to two classes

    @classmethod
    def terms_on_meta(cls, rows: Rows) -> LossTerms:
        objective = WKDL(WKDLParams(**cls.params), setting()).to("meta")
        return objective._loss(rows, None)

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        cost = WKDL(WKDLParams(**TestWKDL.params), setting()).cost.double().numpy()
        rows = [row_loss(a, b, int(t), cost) for a, b, t in zip(z, v, target, strict=True)]
        return float(weight @ (0.5 * cross_entropies(z, target) + np.array(rows)))


def _typed(params: Params) -> WKDLParams:
    assert isinstance(params, WKDLParams)
    return params


def cka(a: Array, b: Array) -> float:
    a, b = a - a.mean(0), b - b.mean(0)
    return float(((a.T @ b) ** 2).sum() / math.sqrt(((a.T @ a) ** 2).sum() * ((b.T @ b) ** 2).sum()))


def test_cka_is_that_of_the_definition() -> None:
    features = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    ours = linear_cka(features).numpy()
    arrays = features.double().numpy()
    for i in range(4):
        for j in range(4):
            assert ours[i, j] == pytest.approx(1.0 if i == j else cka(arrays[i], arrays[j]))


def test_cka_does_not_change_with_scale_shift_and_rotation() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 6, 3, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    torch.testing.assert_close(linear_cka(3 * features @ rotation + 5), linear_cka(features), rtol=1e-5, atol=1e-6)


def test_class_without_variance_is_like_no_other() -> None:
    features = torch.ones(3, 4, 2)
    features[0] = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(linear_cka(features), torch.eye(3, dtype=torch.float64))


def test_features_are_those_of_the_first_samples_of_each_class() -> None:
    given = setting()
    assert given.labels is not None
    assert given.teacher_outputs is not None
    ours = class_cka(given, WKDLParams(cost_samples=3))
    every = given.teacher_outputs((FEATURES,), torch.arange(30)).taps[FEATURES].double().numpy()
    first = [every[(given.labels == label).nonzero().flatten()[:3].numpy()] for label in range(CLASSES)]
    assert ours[1, 4].item() == pytest.approx(cka(first[1], first[4]))


def test_cost_of_the_classifier_is_one_minus_its_cosines() -> None:
    given = setting()
    assert given.teacher is not None
    assert given.teacher.linear is not None
    cost = WKDL(WKDLParams(cost="classifier", sharpness=2.0), given).cost
    w = given.teacher.linear.weight.detach()
    cosine = torch.nn.functional.cosine_similarity(w[1], w[4], dim=0)
    assert cost[1, 4].item() == pytest.approx(1 - math.exp(-2 * (1 - cosine)), rel=1e-5)
    assert cost.diag().abs().max() < 1e-6


def test_moving_to_a_similar_class_costs_less() -> None:
    objective = WKDL(WKDLParams(temperature=1.0), setting(5))
    cost = torch.ones(5, 5) - torch.eye(5)
    cost[1, 2] = cost[2, 1] = 0.2
    objective.cost = cost
    v = torch.tensor([[9.0, 8.0, 0.0, 0.0, 0.0]])
    values = []
    for near in (2, 3):
        z = torch.zeros(1, 5)
        z[0, 0], z[0, near] = 9.0, 8.0
        rows = Rows(z.requires_grad_(), v, torch.tensor([0]))
        values.append(objective(Step(rows, Outputs(z), Outputs(v))).values["transport"].item())
    assert values[0] < values[1]


@pytest.mark.parametrize(("epoch", "expected"), [(None, 1.0), (0, 1.0), (149, 1.0), (194, 0.5), (239, 0.0), (300, 0.0)])
def test_weight_falls_along_a_cosine(epoch: int | None, expected: float) -> None:
    assert decay(WKDLParams(), epoch) == pytest.approx(expected, abs=1e-12)
    assert decay(WKDLParams(decay_end=0), epoch) == 1.0


def test_spec_whose_distance_ends_early_gets_a_warning() -> None:
    model = {"model": "small_cnn"}
    spec = {"name": "s", "dataset": "digits", "teacher": model, "student": model, "seeds": [0, 1, 2]}
    method = {"name": "wkd_l", "params": {"decay_start": 3, "decay_end": 6}}
    parsed = parse_experiment(spec | {"methods": [method], "training": {"epochs": 8}})
    [problem] = [problem for problem in warnings_of(parsed) if problem.path.startswith("methods")]
    assert problem.path == "methods.0.params.decay_end"
    assert "no weight in the last 2 of 8 epochs" in problem.message


def test_decay_that_ends_before_its_start_is_refused() -> None:
    with pytest.raises(ValueError, match="decay_end 100 is not after decay_start 150"):
        WKDLParams(decay_end=100)


@pytest.mark.parametrize(
    ("change", "cost", "reason"),
    [
        ({"labels": None}, "features", "features of the teacher are not to be had here"),
        ({"labels": torch.zeros(30, dtype=torch.long)}, "logits", "a class has fewer than two training samples"),
        ({"teacher": NetworkShape(CLASSES)}, "classifier", "the teacher has no last linear layer"),
    ],
)
def test_teacher_without_what_the_cost_needs_is_refused(change: dict[str, Any], cost: str, reason: str) -> None:
    given = setting()
    with pytest.raises(ObjectiveError, match=reason):
        WKDL(WKDLParams.model_validate({"cost": cost}), Setting(**(vars(given) | change)))


class TestContract(MethodContract):
    method: ClassVar[Any] = "wkd_l"


class TestContractWithShare(MethodContract):
    method: ClassVar[Any] = {"name": "wkd_l", "params": {"cost": "logits"}, "shares": {"transport": 0.3}}
    has_exact_gradient = False
