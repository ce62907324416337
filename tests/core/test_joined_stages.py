"""Submission refuses layers that a method cannot compare, and nothing else."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from core.catalog import METHODS, MODELS
from core.catalog.taps import expand, split_suffix
from core.distill.objective import NetworkShape, ObjectiveError, Setting
from core.specs import SpecError, parse_experiment

SIZE = 32
NETWORKS = ["resnet20", "resnet8x4", "wrn_40_2", "vgg8", "shufflenet_v1", "mobilenet_v2_half"]
METHODS_WITH_PARAMS: list[tuple[str, dict[str, Any]]] = [
    ("ab", {"init_epochs": 1}),
    ("fitnet", {}),
    ("fitnet", {"variant": "public_code"}),
    ("fitnet", {"student_tap": "stage1", "teacher_tap": "stage3"}),
    ("fitnet", {"student_tap": "stage3", "teacher_tap": "stage1", "variant": "public_code"}),
    ("fsp", {}),
    ("kdsvd", {}),
    ("kdsvd", {"variant": "public_code"}),
    ("mgd", {}),
    ("wkd_f", {}),
    ("wkd_f", {"student_tap": "stage3", "teacher_tap": "stage1"}),
]


def problems_at_submission(name: str, params: dict[str, Any], student: str, teacher: str) -> list[str]:
    spec = {
        "name": "n",
        "dataset": "cifar100",
        "teacher": {"model": teacher},
        "student": {"model": student},
        "methods": [{"name": name, "params": params}],
        "seeds": [0],
        "training": {"epochs": 300},
    }
    try:
        parse_experiment(spec)
    except SpecError as error:
        return [f"{problem.path}: {problem.message}" for problem in error.problems]
    return []


def shape_of(model: str, taps: tuple[str, ...]) -> NetworkShape:
    entry, sizes = MODELS[model], {}
    for tap in expand(taps, entry.taps):
        known = entry.tap_shapes[split_suffix(tap)[0]]
        sizes[tap] = torch.Size([known.channels, SIZE // known.stride, SIZE // known.stride])
    return NetworkShape(100, sizes)


@pytest.mark.parametrize(("name", "params"), METHODS_WITH_PARAMS)
def test_submission_refuses_what_the_method_refuses(name: str, params: dict[str, Any]) -> None:
    entry = METHODS[name]
    parsed = entry.params(**params)
    taps = entry.taps_of(parsed)
    for student, teacher in product(NETWORKS, NETWORKS):
        setting = Setting(shape_of(student, taps.student), shape_of(teacher, taps.teacher), 64)
        refused = False
        with torch.device("meta"):
            try:
                entry.load()(parsed, setting)
            except ObjectiveError:
                refused = True
        found = problems_at_submission(name, params, student, teacher)
        assert bool(found) == refused, (student, teacher, found)


def test_problem_names_the_parameter_and_both_layers() -> None:
    assert problems_at_submission("fsp", {}, "wrn_40_1", "wrn_40_2") == [
        "methods.0.params.student_taps: fsp: stage1 has 16 channels in the student and stage1 has 32 channels in the "
        "teacher; this method needs equal numbers"
    ]
    assert problems_at_submission("mgd", {}, "shufflenet_v1", "resnet8x4") == [
        "methods.0.params.student_tap: mgd: stage3 has maps of 1/8 of the side of the image in the student and stage3 "
        "has maps of 1/4 of the side of the image in the teacher; this method needs maps of one size"
    ]


@pytest.mark.parametrize("name", [entry.name for entry in METHODS if entry.layers == "maps"])
def test_vectors_are_refused_where_maps_are_read(name: str) -> None:
    fields = METHODS[name].params.model_fields
    params: dict[str, Any] = {"init_epochs": 1} if name in ("ab", "ft") else {}
    for role in ("student", "teacher"):
        field = next((field for field in (f"{role}_tap", f"{role}_taps") if field in fields), None)
        if field is None:  # the method chooses the layer itself
            continue
        given = params | {field: "features" if field.endswith("tap") else ["features"]}
        found = problems_at_submission(name, given, "resnet20", "resnet56")
        expected = f"methods.0.params.{field}: {name}: 'features' gives vectors, and it needs maps: name a stage"
        assert expected in found
        assert problems_at_submission(name, given, "timm:resnet18", "timm:resnet34") != []


@pytest.mark.parametrize("tap", ["stage3", "last_stage", "last_map"])
def test_maps_are_refused_where_vectors_are_read(tap: str) -> None:
    assert problems_at_submission("crd", {"teacher_tap": tap}, "resnet20", "resnet56") == [
        f"methods.0.params.teacher_tap: crd: {tap!r} gives maps, and it needs vectors, such as 'features'"
    ]
    assert problems_at_submission("crd", {"teacher_tap": "layers.stage1"}, "resnet20", "resnet56") == []


@pytest.mark.parametrize("name", ["fsp", "kdsvd"])
def test_one_stage_is_refused_where_stages_are_compared_with_each_other(name: str) -> None:
    assert problems_at_submission(name, {"teacher_taps": ["last_stage"]}, "resnet20", "resnet56") == [
        f"methods.0.params.teacher_taps: {name} compares at least 2 stages with each other, and here is 1 of the "
        "teacher resnet56"
    ]
    found = problems_at_submission(name, {}, "small_cnn", "resnet56")
    assert [text.partition(":")[0] for text in found] == ["methods.0.params.student_taps"]


def test_margins_need_the_map_before_the_activation() -> None:
    assert problems_at_submission("ofd", {"teacher_taps": ["stage2", "stage3"]}, "resnet20", "resnet56") == [
        "methods.0.params.teacher_taps: OFD takes its margins from the batch norm before the activation; write "
        "'stage2:preact'"
    ]


def test_layers_that_the_catalog_does_not_know_are_left_to_the_worker() -> None:
    taps = {"student_tap": "layers.stage1.0", "teacher_tap": "layers.stage3.0"}
    assert problems_at_submission("mgd", taps, "resnet20", "resnet8x4") == []
    assert problems_at_submission("fsp", {}, "timm:resnet18", "resnet8x4") == []
