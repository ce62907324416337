from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.catalog.methods.crd import CRDParams
from core.distill.features.crd import CRD
from core.distill.objective import NetworkShape, ObjectiveError, Outputs, Setting, Step
from core.distill.rows import Rows
from core.specs import ExperimentSpec, SpecError, parse_experiment
from core.testing import MethodContract

Array = NDArray[np.float64]

CLASSES, SAMPLES, STUDENT, TEACHER = 4, 30, 6, 9
PARAMS = CRDParams(weight=0.6, ce_weight=0.3, negatives=12, dimensions=5, temperature=0.3, momentum=0.25)


def setting(labels: Tensor | None = None, **taps: torch.Size) -> Setting:
    labels = torch.arange(SAMPLES) % CLASSES if labels is None else labels
    return Setting(
        NetworkShape(CLASSES, {"features": torch.Size([STUDENT])} | taps),
        NetworkShape(CLASSES, {"features": torch.Size([TEACHER])} | taps),
        len(labels),
        labels,
    )


def crd(params: CRDParams = PARAMS, seed: int = 0, labels: Tensor | None = None) -> CRD:
    torch.manual_seed(seed)
    return CRD(params, setting(labels)).double()


def step(index: list[int], seed: int = 0, weight: list[float] | None = None) -> Step:
    generator = torch.Generator().manual_seed(seed)

    def sample(width: int) -> Tensor:
        return torch.randn(SAMPLES, width, generator=generator, dtype=torch.float64)[index]

    numbers = torch.tensor(index)
    student = Outputs(sample(CLASSES).requires_grad_(), {"features": sample(STUDENT).requires_grad_()})
    teacher = Outputs(sample(CLASSES), {"features": sample(TEACHER)})
    weights = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    rows = Rows(student.logits, teacher.logits, numbers % CLASSES, weights)
    return Step(rows, student, teacher, numbers)


def embedded(layer: nn.Linear, vector: Array) -> Array:
    out = layer.weight.detach().numpy() @ vector + layer.bias.detach().numpy()
    result: Array = out / np.sqrt((out**2).sum())
    return result


class Oracle:
    """The formula with loops over rows and negatives; it shares only the draw of negatives with the code."""

    def __init__(self, objective: CRD) -> None:
        self.layers = (objective.student_layer, objective.teacher_layer)
        self.memories = [m.clone().numpy() for m in (objective.student_memory, objective.teacher_memory)]
        self.labels, self.params = objective.labels.numpy(), PARAMS
        self.z: list[float] | None = None

    def negatives(self, order: list[int], sample: int) -> list[int]:
        found = [other for other in order if self.labels[other] != self.labels[sample]]
        return found[: self.params.negatives]

    def loss(self, order: list[int], taken: Step, features: Array | None = None) -> float:
        assert taken.index is not None
        assert taken.teacher is not None
        p, n = self.params, len(self.labels)
        inputs = (
            taken.student.taps["features"].detach().numpy() if features is None else features,
            taken.teacher.taps["features"].numpy(),
        )
        index = taken.index.tolist()
        vectors = [[embedded(layer, row) for row in rows] for layer, rows in zip(self.layers, inputs, strict=True)]
        products = [
            [
                [math.exp(vectors[side][row] @ memory[j] / p.temperature) for j in (i, *self.negatives(order, i))]
                for row, i in enumerate(index)
            ]
            for side, memory in ((0, self.memories[1]), (1, self.memories[0]))
        ]
        weights = taken.rows.weight.tolist() if taken.rows.weight is not None else [1.0] * len(index)
        if self.z is None:
            means = [[sum(row) / len(row) for row in rows] for rows in products]
            self.z = [
                n * sum(w * m for w, m in zip(weights, row_means, strict=True)) / sum(weights) for row_means in means
            ]
        noise, total = p.negatives / n, 0.0
        for rows, z in zip(products, self.z, strict=True):
            for weight, (positive, *others) in zip(weights, rows, strict=True):
                value = -math.log(positive / z / (positive / z + noise))
                value -= sum(math.log(noise / (other / z + noise)) for other in others)
                total += weight * value / sum(weights)
        if features is None:
            for side in (0, 1):
                for row, sample in enumerate(index):
                    if weights[row]:
                        new = p.momentum * self.memories[side][sample] + (1 - p.momentum) * vectors[side][row]
                        self.memories[side][sample] = new / np.sqrt((new**2).sum())
        return total


def test_three_steps_equal_a_slow_oracle() -> None:
    """The first step sets Z, and the third meets samples again whose memories two steps have changed."""
    objective = crd()
    oracle = Oracle(objective)
    for number, index in enumerate(([3, 11, 20, 7], [1, 2, 29], [11, 3, 0, 5])):
        order = objective._candidates().tolist()
        assert len(set(order)) == len(order)
        taken = step(index, seed=number)
        terms = objective(taken)
        before = [memory.copy() for memory in oracle.memories]
        assert float(terms.parts["ce"].detach()) == pytest.approx(0.3 * float(terms.values["ce"]))
        assert float(terms.total.detach()) == pytest.approx(sum(float(part.detach()) for part in terms.parts.values()))
        assert float(terms.values["crd"]) == pytest.approx(oracle.loss(order, taken), rel=1e-10)
        after = oracle.memories
        for memory, expected in zip((objective.student_memory, objective.teacher_memory), after, strict=True):
            np.testing.assert_allclose(memory.numpy(), expected, rtol=1e-10)
        gradient = torch.autograd.grad(terms.parts["crd"], taken.student.taps["features"])[0].numpy()
        oracle.memories = before
        features, h = taken.student.taps["features"].detach().numpy().copy(), 1e-5
        for row, column in np.ndindex(*features.shape):
            sides = []
            for move in (h, -h):
                moved = features.copy()
                moved[row, column] += move
                sides.append(oracle.loss(order, taken, moved))
            assert gradient[row, column] == pytest.approx(PARAMS.weight * (sides[0] - sides[1]) / (2 * h), abs=1e-7)
        oracle.memories = after


def test_each_sample_has_k_negatives_of_other_classes() -> None:
    labels = torch.tensor([0] * 20 + [1] * 12 + [2] * 8)
    objective = crd(CRDParams(negatives=20, dimensions=3), labels=labels)
    for _ in range(3):
        order = objective._candidates()
        others = labels[order] != torch.arange(3).unsqueeze(1)
        assert (others.sum(1) >= 20).all()
        objective.steps += 1


def test_negatives_are_uniform_and_differ_from_step_to_step() -> None:
    objective = crd(CRDParams(negatives=4, dimensions=2))
    counts = torch.zeros(SAMPLES)
    steps = 3000
    for _ in range(steps):
        order = objective._candidates()
        counts[order[:6]] += 1
        objective.steps += 1
    expected = steps * 6 / SAMPLES
    assert float(((counts - expected) ** 2).sum() / expected) < 60  # χ² with 29 degrees of freedom, p < 0.001


def test_row_of_weight_zero_changes_no_memory_whatever_it_holds() -> None:
    whole, part = crd(), crd()
    taken = step([3, 11, 20], weight=[1.0, 0.0, 2.0])
    with torch.no_grad():
        taken.student.taps["features"][1] = torch.nan
    kept = step([3, 20], weight=[1.0, 2.0])
    terms = whole(taken)
    assert float(terms.values["crd"]) == pytest.approx(float(part(kept).values["crd"]), rel=1e-12)
    gradient = torch.autograd.grad(terms.parts["crd"], taken.student.taps["features"])[0]
    assert gradient.isfinite().all()
    assert not gradient[1].any()
    for name in ("student_memory", "teacher_memory"):
        torch.testing.assert_close(whole.get_buffer(name), part.get_buffer(name), rtol=1e-12, atol=0)


def test_first_batch_without_weight_leaves_the_normaliser_to_the_next() -> None:
    objective = crd()
    terms = objective(step([3, 11], weight=[0.0, 0.0]))
    assert float(terms.total.detach()) == 0
    assert not objective.normalisers.any()
    objective(step([3, 11]))
    assert objective.normalisers.all()


def test_batch_of_one_is_finite_and_z_stays_that_of_the_first_batch() -> None:
    objective = crd()
    objective(step([4]))
    first = objective.normalisers.clone()
    terms = objective(step([5], seed=1))
    terms.total.backward()
    assert terms.total.isfinite()
    assert torch.equal(objective.normalisers, first)


def test_teacher_layer_learns_from_the_students_memory_alone() -> None:
    objective = crd()
    taken = step([3, 11, 20])
    terms = objective(taken)
    layer = torch.autograd.grad(terms.parts["crd"], objective.teacher_layer.weight, retain_graph=True)[0]
    assert layer.any()
    objective = crd()
    with torch.no_grad():
        objective.student_memory.zero_()
    layer = torch.autograd.grad(objective(taken).parts["crd"], objective.teacher_layer.weight)[0]
    assert not layer.any()


def test_state_continues_bit_for_bit() -> None:
    whole = crd()
    whole(step([3, 11]))
    resumed = crd(seed=5)
    resumed.load_state_dict(whole.state_dict())
    assert "labels" not in whole.state_dict()
    one, two = whole(step([11, 9], seed=1)), resumed(step([11, 9], seed=1))
    assert torch.equal(one.total, two.total)
    assert torch.equal(whole.student_memory, resumed.student_memory)


def test_16_bit_features_are_near_those_in_float32() -> None:
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        objective = crd().float()
        taken = step([3, 11, 20])
        student = Outputs(taken.student.logits.to(dtype), {"features": taken.student.taps["features"].to(dtype)})
        assert taken.teacher is not None
        teacher = Outputs(taken.teacher.logits.to(dtype), {"features": taken.teacher.taps["features"].to(dtype)})
        rows = Rows(student.logits, teacher.logits, taken.rows.target)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            losses.append(float(objective(Step(rows, student, teacher, taken.index)).values["crd"]))
    assert math.isfinite(losses[1])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


class TestBadInput:
    def experiment(self, params: dict[str, Any], augment: Any = "standard", **dataset: Any) -> ExperimentSpec:
        return parse_experiment(
            {
                "name": "memory",
                "dataset": {"name": "synthetic", "params": {"num_classes": 5, "image_size": 8, "train_size": 100}},
                "teacher": {"model": "small_cnn"},
                "student": {"model": "small_cnn"},
                "methods": ["kd", {"name": "crd", "params": params}],
                "seeds": [0],
                "training": {"epochs": 1, "augment": augment},
            }
            | dataset
        )

    def test_more_negatives_than_other_classes_have_are_refused_with_the_path(self) -> None:
        self.experiment({"negatives": 80})
        with pytest.raises(SpecError) as refused:
            self.experiment({"negatives": 81})
        (problem,) = refused.value.problems
        assert problem.path == "methods.1.params.negatives"
        assert "81 negatives are more than the 80 training images of other classes" in problem.message

    def test_validation_split_counts_as_absent(self) -> None:
        params = {"num_classes": 5, "image_size": 8, "train_size": 100, "val_fraction": 0.2}
        self.experiment({"negatives": 64}, dataset={"name": "synthetic", "params": params})
        with pytest.raises(SpecError):
            self.experiment({"negatives": 65}, dataset={"name": "synthetic", "params": params})

    def test_unknown_data_set_is_left_to_the_worker(self) -> None:
        self.experiment({}, dataset={"name": "folder", "params": {"path": "images", "image_size": 8}})

    def test_mixtures_are_refused_with_the_path(self) -> None:
        with pytest.raises(SpecError) as refused:
            self.experiment({"negatives": 8}, augment=["standard", "mixup"])
        (problem,) = refused.value.problems
        assert problem.path == "methods.1"
        assert "remove mixup from training.augment" in problem.message

    def test_largest_class_decides_before_the_first_step(self) -> None:
        labels = torch.tensor([0] * 20 + [1] * 5)
        with pytest.raises(ObjectiveError, match="6 negatives are more than the 5 training images of other classes"):
            crd(CRDParams(negatives=6), labels=labels)

    def test_maps_are_refused_with_the_parameter(self) -> None:
        shapes = {"stage2": torch.Size([8, 4, 4])}
        with pytest.raises(ObjectiveError, match=r"teacher_tap gives maps of \(8, 4, 4\)"):
            CRD(CRDParams(negatives=8, teacher_tap="stage2"), setting(None, **shapes))

    def test_samples_without_a_class_are_refused(self) -> None:
        with pytest.raises(ObjectiveError, match="no single class"):
            CRD(PARAMS, Setting(setting().student, setting().teacher, SAMPLES))


class TestCRD(MethodContract):
    method: ClassVar[Any] = {"name": "crd", "params": {"negatives": 20, "dimensions": 8}}
