"""FGD against loops: its masks, its attentions and its terms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.distill.features.fgd import GlobalContext, attentions, boxes_by_image, foreground
from core.distill.objective import ObjectiveError, Objects
from tests.core.methods.detection_problem import IMAGES, DetectionContract, DetectionProblem, detection_problem
from tests.core.methods.feature_problem import build
from tests.core.methods.slow_layers import convolve

Array = NDArray[np.float64]
STUDENT = {"p3": (3, 5, 7), "p4": (4, 3, 2)}
TEACHER = {"p3": (4, 5, 7), "p4": (4, 3, 2)}
WEIGHTS = {"foreground_weight": 2.0, "background_weight": 3.0, "attention_weight": 0.5, "global_weight": 0.1}
WEIGHT = torch.tensor([1.0, 0.0, 2.5, 0.5], dtype=torch.float64)


def problem(**params: Any) -> DetectionProblem:
    return detection_problem("fgd", {**WEIGHTS, "ce_weight": 0.0} | params, STUDENT, TEACHER, on_boxes=False)


def softmax(values: Array) -> Array:
    exponentials: Array = np.exp(values - values.max())
    result: Array = exponentials / exponentials.sum()
    return result


def attention(maps: Array, temperature: float) -> tuple[Array, Array]:
    """Return the attention to positions (H, W) and to channels (C,) of the map (C, H, W) of an image."""
    channels, height, width = maps.shape
    of_positions = np.array([[np.abs(maps[:, y, x]).mean() for x in range(width)] for y in range(height)])
    of_channels = np.array([np.abs(maps[c]).mean() for c in range(channels)])
    positions = height * width * softmax(of_positions.ravel() / temperature).reshape(height, width)
    return positions, channels * softmax(of_channels / temperature)


def masks(boxes: list[Array], height: int, width: int) -> tuple[Array, Array]:
    inside = np.zeros((height, width))
    for left, top, right, bottom in boxes:
        x1, y1, x2, y2 = (
            math.floor(left * width),
            math.floor(top * height),
            math.ceil(right * width),
            math.ceil(bottom * height),
        )
        for y in range(height):
            for x in range(width):
                if y1 <= y <= y2 and x1 <= x <= x2:
                    inside[y, x] = max(inside[y, x], 1 / ((y2 + 1 - y1) * (x2 + 1 - x1)))
    outside = (inside == 0).astype(float)
    return inside, outside / max(outside.sum(), 1)


def context(maps: Array, own: dict[str, Array]) -> Array:
    """Return what GCBlock adds to each channel of the map (C, H, W) of an image."""
    weights = softmax((own["weigh.weight"][0, :, 0, 0][:, None, None] * maps).sum(0) + own["weigh.bias"][0])
    pooled = (weights * maps).sum((1, 2))
    hidden = own["transform.0.weight"] @ pooled + own["transform.0.bias"]
    hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
    hidden = np.maximum(hidden * own["transform.1.weight"] + own["transform.1.bias"], 0)
    summand: Array = own["transform.3.weight"] @ hidden + own["transform.3.bias"]
    return summand


def oracle(tested: DetectionProblem, weight: torch.Tensor | None) -> dict[str, float]:
    step = tested.step
    assert step.teacher is not None
    assert step.objects is not None
    own = {name: value.numpy() for name, value in tested.objective.state_dict().items()}
    share = np.full(IMAGES, 1 / IMAGES) if weight is None else (weight / weight.sum()).numpy()
    boxes: list[list[Array]] = [[] for _ in range(IMAGES)]
    for image, box in zip(step.objects.image.tolist(), step.objects.boxes.numpy(), strict=True):
        boxes[image].append(box)
    terms = dict.fromkeys(("fgd_fg", "fgd_bg", "fgd_attention", "fgd_global"), 0.0)
    for number, name in enumerate(STUDENT):
        student, teacher = step.student.taps[name].detach().numpy(), step.teacher.taps[name].numpy()
        if f"adapters.{number}.weight" in own:
            student = convolve(student, own[f"adapters.{number}.weight"], own[f"adapters.{number}.bias"])
        for image in range(IMAGES):
            f, target = student[image], teacher[image]
            (s, a), (s_student, a_student) = attention(target, 0.5), attention(f, 0.5)
            inside, outside = masks(boxes[image], *f.shape[1:])
            shifts = []
            for side, maps in (("student", f), ("teacher", target)):
                prefix = f"{side}_context.{number}."
                block = {key.removeprefix(prefix): value for key, value in own.items() if key.startswith(prefix)}
                shifts.append(context(maps, block))
            attended = (f - target) ** 2 * s[None] * a[:, None, None]
            related = (f - target + (shifts[0] - shifts[1])[:, None, None]) ** 2
            terms["fgd_fg"] += share[image] * float((attended * inside).sum())
            terms["fgd_bg"] += share[image] * float((attended * outside).sum())
            distance = np.abs(a - a_student).sum() + np.abs(s - s_student).sum()
            terms["fgd_attention"] += share[image] * float(distance)
            terms["fgd_global"] += share[image] * float(related.sum())
    return terms


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
def test_terms_are_those_of_the_formula(weight: torch.Tensor | None) -> None:
    tested = problem() if weight is None else problem().with_weights(weight)
    terms, expected = tested.terms(), oracle(tested, weight)
    for name, value in expected.items():
        assert float(terms.values[name]) == pytest.approx(value, rel=1e-9), name
    weights = dict(zip(expected, WEIGHTS.values(), strict=True))
    assert terms.total.item() == pytest.approx(sum(weights[name] * value for name, value in expected.items()))


@pytest.mark.parametrize(
    ("boxes", "inside"),
    [
        ([(0.0, 0.0, 0.5, 0.5)], {(y, x): 1 / 9 for y in range(3) for x in range(3)}),
        ([(0.3, 0.6, 0.4, 0.65)], {(2, 1): 1 / 4, (2, 2): 1 / 4, (3, 1): 1 / 4, (3, 2): 1 / 4}),
        ([(0.9, 0.9, 1.0, 1.0)], {(3, 3): 1 / 4}),  # a part of the four cells that it covers is outside the map
        (
            [(0.0, 0.0, 1.0, 1.0), (0.3, 0.6, 0.4, 0.65)],
            {(y, x): 1 / 25 for y in range(4) for x in range(4)}
            | {(2, 1): 1 / 4, (2, 2): 1 / 4, (3, 1): 1 / 4, (3, 2): 1 / 4},
        ),
        ([], {}),
    ],
    ids=["edge between cells", "within a cell", "corner", "the smaller box counts", "no object"],
)
def test_mask_of_objects(boxes: list[tuple[float, ...]], inside: dict[tuple[int, int], float]) -> None:
    expected = torch.zeros(2, 4, 4)
    for place, value in inside.items():
        expected[1][place] = value
    found = foreground((torch.zeros(0, 4), torch.tensor(boxes).view(-1, 4)), (4, 4), torch.float32)
    torch.testing.assert_close(found, expected)


def test_boxes_belong_to_their_images_in_any_order() -> None:
    boxes = torch.arange(16.0).view(4, 4)
    objects = Objects(torch.tensor([2, 0, 2, 0]), boxes, torch.ones(4, dtype=torch.int64))
    found = boxes_by_image(objects, 4)
    assert [rows.tolist() for rows in found] == [boxes[[1, 3]].tolist(), [], boxes[[0, 2]].tolist(), []]


def test_attentions_have_the_mean_one_and_change_with_no_sign() -> None:
    maps = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    for attention_of, same in zip(attentions(maps, 0.5), attentions(-maps, 0.5), strict=True):
        torch.testing.assert_close(attention_of.flatten(1).mean(1), torch.ones(2, dtype=torch.float64))
        torch.testing.assert_close(attention_of, same)


def test_context_is_nothing_at_first() -> None:
    assert not GlobalContext(6)(torch.randn(2, 6, 3, 4)).any()


def test_student_with_the_teachers_maps_has_no_distance_of_maps() -> None:
    same = detection_problem("fgd", {}, TEACHER, TEACHER, on_boxes=False)
    teacher = same.step.teacher
    assert teacher is not None
    student = replace(same.step.student, taps={name: 1 * tap for name, tap in teacher.taps.items()})
    terms = replace(same, step=replace(same.step, student=student)).terms()
    assert [float(terms.values[name]) for name in ("fgd_fg", "fgd_bg", "fgd_attention")] == [0, 0, 0]


def test_sizes_of_maps_may_change_from_batch_to_batch() -> None:
    objective = problem().objective
    others = {"p3": (9, 4), "p4": (5, 2)}
    tested = detection_problem(
        "fgd",
        {},
        {name: (STUDENT[name][0], *size) for name, size in others.items()},
        {name: (TEACHER[name][0], *size) for name, size in others.items()},
        on_boxes=False,
    )
    assert replace(tested, objective=objective).terms().total.isfinite()


def test_maps_of_two_sizes_and_a_task_without_objects_are_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"student_taps: 'p3' gives \(3, 4, 4\), and teacher_taps: 'p3' \(3, 2, 2"):
        build("fgd", {}, {"p3": (3, 4, 4)}, {"p3": (3, 2, 2)})
    tested = problem()
    with pytest.raises(ObjectiveError, match="FGD reads the objects"):
        replace(tested, step=replace(tested.step, objects=None)).terms()


class TestFGD(DetectionContract):
    arguments: ClassVar[Any] = {
        "name": "fgd",
        "params": WEIGHTS,
        "student": STUDENT,
        "teacher": TEACHER,
        "on_boxes": False,
    }
