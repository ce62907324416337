"""NORM: the loss against a formula, and the folded network against the student with the layers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from core.catalog.methods.norm import NORMParams
from core.distill.features.norm import NORM, schedule_factor
from core.distill.objective import ObjectiveError, Setting
from core.events import JOURNAL_NAME, Finished, Metrics, Started, read_journal
from core.settings import TrainingSettings
from core.specs import ExperimentSpec, parse_experiment
from core.tasks.classification import models
from core.testing import MethodContract
from core.train import TeacherSource, run_training
from tests.core.methods.oracle import Values, assert_equals_oracle, lower_precision_ratio, random_step, shape, shares
from tests.core.methods.slow_layers import batch_norm, convolve, cross_entropy

WEIGHT = torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
STUDENT, TEACHER, COPIES = 3, 2, 3
Variant = Literal["paper", "public_code"]


def objective(
    student: tuple[int, int] = (2, 2), teacher: tuple[int, int] = (2, 2), **params: Any
) -> tuple[NORM, Setting]:
    torch.manual_seed(0)
    setting = Setting(shape(5, (STUDENT, *student)), shape(5, (TEACHER, *teacher), "stage3"), samples=8)
    method = NORM(NORMParams(copies=COPIES, **params), setting).double().train()
    for parameter in method.parameters():
        nn.init.normal_(parameter, std=0.7)
    return method, setting


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize("variant", ["paper", "public_code"])
@pytest.mark.parametrize(("student", "teacher"), [((2, 2), (2, 2)), ((2, 2), (4, 6)), ((4, 4), (2, 2))])
def test_loss_equals_the_formula(
    student: tuple[int, int], teacher: tuple[int, int], variant: Variant, weight: Tensor | None
) -> None:
    method, setting = objective(student, teacher, ce_weight=0.7, weight=1.5, variant=variant)
    step = random_step(setting, weight=weight, epoch=10)
    assert step.teacher is not None
    target = step.teacher.taps["stage3"].numpy()
    height, width = min(student[0], teacher[0]), min(student[1], teacher[1])

    def greatest(maps: Any) -> Any:
        """Max pooling to (height, width)."""
        rows, columns = maps.shape[2] // height, maps.shape[3] // width
        result = np.zeros((*maps.shape[:2], height, width))
        for b, c, y, x in np.ndindex(*result.shape):
            result[b, c, y, x] = maps[b, c, y * rows : (y + 1) * rows, x * columns : (x + 1) * columns].max()
        return result

    def oracle(values: Values) -> float:
        share, maps = shares(weight, 4), values["last_map"]
        layers = {name.removeprefix("transform."): value for name, value in values.items()}
        expanded = convolve(maps, layers["expand.weight"])
        expanded = batch_norm(expanded, layers["expand_norm.weight"], layers["expand_norm.bias"], share)
        back = convolve(expanded, layers["contract.weight"])
        back = maps + batch_norm(back, layers["contract_norm.weight"], layers["contract_norm.bias"], share)
        logits = back.mean((2, 3)) @ values["student 0"].T + values["student 1"]
        if variant == "public_code":
            centred = logits - logits.mean(1, keepdims=True)
            logits = 2.5 * centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-7)
        total = 0.7 * cross_entropy(logits, step.rows.target.numpy(), share)
        expanded, smaller = greatest(expanded), greatest(target)
        for row, copy in np.ndindex(4, COPIES):
            part = expanded[row, copy * TEACHER : (copy + 1) * TEACHER]
            total += 0.5 * 1.5 * share[row] * ((part - smaller[row]) ** 2).mean()  # 0.5: epoch 10
        return float(total)

    assert_equals_oracle(method, step, oracle)


def test_logits_of_the_step_are_those_of_the_layers() -> None:
    method, setting = objective(variant="public_code")
    step = random_step(setting)
    one = method(step).logits
    method._params = NORMParams(copies=COPIES)
    torch.testing.assert_close(one, method(step).logits)  # the scale of the cross-entropy is not in them
    assert not torch.allclose(one, step.student.logits)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cifar", {0: 0.1, 9: 0.1, 10: 0.5, 20: 1, 179: 1, 180: 0.5, 210: 0.1, 300: 0.1, None: 1}),
        ("imagenet", {0: 0.1, 5: 0.5, 15: 0.9, 59: 0.9, 60: 0.5, 80: 0.1, None: 0.9}),
        ("constant", {0: 1, 100: 1, None: 1}),
    ],
)
def test_factor_of_an_epoch(schedule: str, expected: dict[int | None, float]) -> None:
    assert {epoch: schedule_factor(schedule, epoch) for epoch in expected} == expected


def test_batch_of_one_row_and_one_position_is_finite() -> None:
    method, setting = objective((1, 1), (1, 1))
    total = method(random_step(setting, rows=1)).total
    total.backward()
    assert total.isfinite()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in method.parameters())
    assert all(buffer.isfinite().all() for buffer in method.buffers())


def test_taps_in_bfloat16_give_nearly_the_same_loss() -> None:
    method, setting = objective()
    assert lower_precision_ratio(method, random_step(setting)) == pytest.approx(1, abs=0.02)


def test_folded_network_gives_the_logits_of_the_layers() -> None:
    torch.manual_seed(0)
    student = models.build("resnet8", num_classes=5, image_size=16).double().eval()
    teacher = shape(5, (TEACHER, 4, 4), "stage3")
    network = replace(shape(5, (64, 4, 4)), linear=student.linear)
    method = NORM(NORMParams(copies=COPIES), Setting(network, teacher, 8)).double()
    for name, tensor in [*method.named_parameters(), *method.named_buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(tensor.data, 0.5 if name.endswith("running_var") else -0.5, 1.5)
    exported = method.exported(student)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    method.eval()
    with torch.no_grad():
        maps = student.stages(images)["stage3"]
        _, transformed = method.transform(maps, None)
        expected = student.linear(transformed.mean((2, 3)))
        folded = method.folded(exported).eval()
        torch.testing.assert_close(folded(images), expected, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(student(images), expected)
    assert folded.state_dict().keys() == student.state_dict().keys()
    assert torch.equal(folded.get_parameter("stem.0.weight"), student.get_parameter("stem.0.weight"))
    assert folded.get_parameter("stem.0.weight") is not student.get_parameter("stem.0.weight")


def test_maps_whose_sides_are_no_multiples_are_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"teacher_tap: the sides of its maps, 3×4, are no multiples of those of"):
        objective((2, 2), (3, 4))


def test_classifier_without_a_bias_is_refused() -> None:
    network = replace(shape(5, (3, 2, 2)), linear=nn.Linear(3, 5, bias=False))
    with pytest.raises(ObjectiveError, match="the classifier of the student has no bias"):
        NORM(NORMParams(), Setting(network, shape(5, (2, 2, 2)), 8))


class TestNORM(MethodContract):
    method = "norm"


class TestNORMWithKD(MethodContract):
    method: ClassVar[Any] = {"name": "norm", "params": {"copies": 2}, "with": ["kd"]}


class TestNORMOfThePublicCode(MethodContract):
    method: ClassVar[Any] = {"name": "norm", "params": {"variant": "public_code", "copies": 2}}
    networks: ClassVar[Any] = ("wrn_16_1", {"name": "small_cnn", "params": {"width": 4}})


# A whole training


def experiment() -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "norm",
            "dataset": {
                "name": "synthetic",
                "params": {"num_classes": 5, "image_size": 8, "train_size": 96, "test_size": 60},
            },
            "teacher": {"model": "resnet8", "training": {"epochs": 1, "batch_size": 32}},
            "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
            "methods": [{"name": "norm", "params": {"copies": 2, "schedule": "constant"}}],
            "seeds": [0],
            "training": {"epochs": 3, "batch_size": 16, "optimizer": {"lr": 0.1}, "ema": 0.9},
        }
    )


def test_folded_network_is_evaluated_saved_and_counted(tmp_path: Path) -> None:
    teacher, student = experiment().plan()
    settings = TrainingSettings(cache_dir=tmp_path / "cache", threads=1, data_dir=tmp_path)
    assert run_training(teacher.spec, tmp_path / "teacher", settings=settings) == "finished"
    source = TeacherSource(teacher.spec, tmp_path / "teacher" / "weights.safetensors")
    assert run_training(student.spec, tmp_path / "student", source, settings=settings) == "finished"
    events = [record.event for record in read_journal(tmp_path / "student" / JOURNAL_NAME)]
    (started,) = (event for event in events if isinstance(event, Started))
    (finished,) = (event for event in events if isinstance(event, Finished))
    plain = models.build("small_cnn", num_classes=5, image_size=8, width=4)
    assert started.parameters == sum(parameter.numel() for parameter in plain.parameters())
    expanded = 2 * 64  # copies · channels of resnet8
    assert started.environment["method_parameters"] == str(2 * 8 * expanded + 2 * expanded + 2 * 8)
    assert load_file(tmp_path / "student" / "weights.safetensors").keys() == plain.state_dict().keys()
    metrics = [event.values for event in events if isinstance(event, Metrics)]
    assert metrics[-1]["test_ema/loss"] != metrics[-1]["test/loss"]
    assert math.isfinite(metrics[-1]["test_ema/loss"])

    weights = {"model": {"name": "small_cnn", "params": {"width": 4}}, "weights": "student/weights.safetensors"}
    again = parse_experiment(experiment().model_dump(mode="json") | {"teacher": weights, "methods": ["kd"]}).plan()[0]
    assert run_training(again.spec, tmp_path / "again", settings=settings) == "finished"
    (loaded,) = (
        record.event for record in read_journal(tmp_path / "again" / JOURNAL_NAME) if isinstance(record.event, Finished)
    )
    for name in ("test/top1", "test/loss", "calibration/ece"):
        assert loaded.summary[name] == finished.summary[name], name
