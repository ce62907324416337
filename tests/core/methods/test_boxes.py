"""The methods on boxes against loops, and where they count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from core.distill.objective import ObjectiveError
from core.specs import SpecError, parse_experiment
from tests.core.methods.detection_problem import DetectionContract, DetectionProblem, detection_problem

WEIGHT = torch.tensor([1.0, 3.0, 0.5, 2.0, 1.0, 0.25, 4.0, 1.5], dtype=torch.float64)


def problem(name: str, **params: Any) -> DetectionProblem:
    return detection_problem(name, {"weight": 2.0, "ce_weight": 0.0} | params, {}, {}, on_boxes=True)


def numbers(tested: DetectionProblem) -> tuple[Any, ...]:
    step = tested.step
    assert step.teacher is not None
    tensors = (step.student.offsets, step.teacher.offsets, step.offset_target, step.rows.target)
    return tuple(tensor.detach().numpy() for tensor in tensors if tensor is not None)


def mean(values: list[float], target: Any, weight: Tensor | None, over: str) -> float:
    w = np.ones(len(values)) if weight is None else weight.numpy()
    total = counted = 0.0
    for value, label, of_row in zip(values, target, w, strict=True):
        if label > 0:
            total += of_row * value
        if label > 0 or over == "rows":
            counted += of_row
    return total / counted


@pytest.mark.parametrize("over", ["foreground", "rows"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
def test_l1_is_that_of_the_formula(weight: Tensor | None, over: str) -> None:
    tested = problem("box_l1", beta=0.5, mean_over=over)
    if weight is not None:
        tested = tested.with_weights(weight)
    student, teacher, _, target = numbers(tested)
    values = []
    for row, label in enumerate(target):
        distance = 0.0
        for k in range(4):
            x = abs(student[row, label, k] - teacher[row, label, k])
            distance += x * x / (2 * 0.5) if x < 0.5 else x - 0.5 / 2
        values.append(distance)
    expected = 2 * mean(values, target, weight, over)
    assert tested.terms().total.item() == pytest.approx(expected)


@pytest.mark.parametrize("over", ["foreground", "rows"])
@pytest.mark.parametrize("margin", [0.0, 3.0])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
def test_bounded_is_that_of_the_formula(weight: Tensor | None, margin: float, over: str) -> None:
    tested = problem("box_bounded", margin=margin, mean_over=over)
    if weight is not None:
        tested = tested.with_weights(weight)
    student, teacher, boxes, target = numbers(tested)
    values, counted = [], 0
    for row, label in enumerate(target):
        own = sum((student[row, label, k] - boxes[row, k]) ** 2 for k in range(4))
        other = sum((teacher[row, label, k] - boxes[row, k]) ** 2 for k in range(4))
        values.append(own if own + margin > other else 0.0)
        counted += own + margin > other and label > 0
    expected = 2 * mean(values, target, weight, over)
    assert tested.terms().total.item() == pytest.approx(expected)
    assert 0 < counted < (target > 0).sum() or margin > 0


@pytest.mark.parametrize(("excess", "margin", "counts"), [(0.1, 0.0, True), (-0.1, 0.0, False), (-0.1, 0.2, True)])
def test_a_box_counts_until_it_is_better_than_the_teachers_by_the_margin(
    excess: float, margin: float, counts: bool
) -> None:
    tested = problem("box_bounded", margin=margin)
    step = tested.step
    assert step.teacher is not None
    assert step.offset_target is not None
    error = torch.zeros_like(step.offset_target)
    error[:, 0] = 1.0
    teacher = (step.offset_target + error).unsqueeze(1).expand(-1, 3, -1)
    student = (step.offset_target + error * (1 + excess) ** 0.5).unsqueeze(1).expand(-1, 3, -1)
    given = replace(
        step, student=replace(step.student, offsets=student), teacher=replace(step.teacher, offsets=teacher)
    )
    foreground = float((step.rows.target > 0).double().mean())
    value = float(replace(tested, step=given).terms().values["box_bounded"])
    assert value == pytest.approx((1 + excess) * foreground if counts else 0.0)


def test_only_the_labelled_class_of_objects_has_a_gradient() -> None:
    for name in ("box_l1", "box_bounded"):
        tested = problem(name, **({"margin": 100.0} if name == "box_bounded" else {}))
        gradient, target = tested.gradients()["offsets"], tested.step.rows.target
        for row, label in enumerate(target.tolist()):
            moved = gradient[row].abs().sum(1) > 0
            assert moved.tolist() == [number == label and label > 0 for number in range(3)]


def test_student_that_moves_boxes_as_the_teacher_has_no_distance() -> None:
    tested = problem("box_l1")
    assert tested.step.teacher is not None
    student = replace(tested.step.student, offsets=tested.step.teacher.offsets)
    same = replace(tested, step=replace(tested.step, student=student))
    assert same.terms().total.item() == 0


@pytest.mark.parametrize("name", ["box_l1", "box_bounded"])
def test_rows_that_are_no_boxes_are_refused(name: str) -> None:
    tested = problem(name)
    student = replace(tested.step.student, offsets=None)
    with pytest.raises(ObjectiveError, match="reads the offsets of boxes"):
        replace(tested, step=replace(tested.step, student=student)).terms()


def test_boxes_without_objects_are_refused() -> None:
    tested = problem("box_bounded")
    with pytest.raises(ObjectiveError, match="reads the boxes of objects"):
        replace(tested, step=replace(tested.step, offset_target=None)).terms()


@pytest.mark.parametrize("name", ["box_l1", "box_bounded", "fgd"])
def test_classification_is_refused_at_submission(name: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_experiment(
            {
                "name": "boxes",
                "dataset": "digits",
                "teacher": {"model": "resnet8"},
                "student": {"model": "resnet8"},
                "methods": [{"name": "kd", "with": [name]}],
                "seeds": [0],
                "training": {"epochs": 1},
            }
        )
    (problem_found,) = refused.value.problems
    assert problem_found.path == "methods.0.with.0"
    assert f"{name} is for detection; digits is a data set of classification" in problem_found.message


class TestBoxL1(DetectionContract):
    arguments: ClassVar[Any] = {
        "name": "box_l1",
        "params": {"weight": 2.0},
        "student": {},
        "teacher": {},
        "on_boxes": True,
    }


class TestBoundedBoxes(DetectionContract):
    arguments: ClassVar[Any] = {
        "name": "box_bounded",
        "params": {"margin": 0.5},
        "student": {},
        "teacher": {},
        "on_boxes": True,
    }
