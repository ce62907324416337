"""Published numbers: the tables of public repositories, their sources, and the methods that they are numbers of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from core.catalog import DATASETS, METHODS, METRICS, MODELS
from core.papers import (
    PUBLISHED_NUMBERS,
    TEACHER,
    PublishedNumber,
    cifar100_tables,
    coco_table,
    published_for,
    source_notes,
)

TABLES = list(cifar100_tables.numbers())


def test_the_tables_have_632_numbers_of_known_networks_and_sources() -> None:
    assert len(TABLES) == 632
    assert {number.source for number in TABLES} == set(cifar100_tables.SOURCES)
    assert set(source_notes()) == {*cifar100_tables.SOURCES, coco_table.SOURCE}
    assert {number.teacher for number in TABLES} | {number.student for number in TABLES} <= {
        entry.name for entry in MODELS
    }
    assert all(number.dataset in DATASETS for number in TABLES)
    assert all(50 < number.value < 80 for number in TABLES)
    printed = Counter((number.source, number.printed, number.teacher, number.student) for number in TABLES)
    assert max(printed.values()) == 1, "one number per source, method and pair"


@pytest.mark.parametrize(
    ("source", "printed", "teacher", "student", "value", "epoch", "runs"),
    [
        ("RepDistiller README", "CRD", "resnet32x4", "resnet8x4", 75.51, "last", None),
        ("mdistiller README", "DKD", "wrn_40_2", "wrn_16_2", 76.23, "oracle", 5),
        ("mdistiller README", "KD+DOT", "vgg13", "vgg8", 73.77, None, None),
        ("logit-standardization-KD README", "MLKD+LS", "resnet50_cifar", "mobilenet_v2_half", 71.19, "oracle", None),
        ("logit-standardization-KD README", "MLKD", "resnet56", "resnet20", 72.19, None, None),
        ("NORM README", "NORM+KD", "resnet32x4", "shufflenet_v2", 78.32, None, None),
        ("DIST_KD README", "DIST", "resnet50_cifar", "mobilenet_v2_half", 68.66, None, None),
        ("WKD repository", "WKD-L", "wrn_40_2", "shufflenet_v1", 76.72, None, None),
    ],
)
def test_numbers_are_as_printed(
    source: str, printed: str, teacher: str, student: str, value: float, epoch: str | None, runs: int | None
) -> None:
    [found] = [
        number
        for number in TABLES
        if (number.source, number.printed, number.teacher, number.student) == (source, printed, teacher, student)
    ]
    assert (found.value, found.epoch, found.runs) == (value, epoch, runs)


def test_a_reprinted_number_is_one_number_of_its_first_source() -> None:
    [kd] = [number for number in published_for("cifar100", {}, "resnet56", "resnet20") if number.printed == "KD"]
    assert kd.source == "RepDistiller README"
    assert set(kd.reprinted) == {
        "Zhao et al., CVPR 2022 (arXiv 2203.08679)",
        "logit-standardization-KD README",
        "NORM README",
    }
    [crd] = [number for number in published_for("cifar100", {}, "vgg13", "vgg8") if number.printed == "CRD"]
    assert (crd.value, crd.reprinted) == (73.94, ("NORM README",))


def test_a_method_on_other_boxes_than_the_students_has_no_published_number() -> None:
    number = PublishedNumber("table", "coco", "teacher", "student", "DKD", 35.05, method="dkd")
    assert number.is_of({"name": "dkd", "params": {}})
    assert not number.is_of({"name": "dkd", "params": {}, "regions": {"boxes": "fixed", "background": "all"}})


def test_numbers_of_other_image_sizes_are_left_out() -> None:
    assert published_for("cifar100", {"image_size": 224}, "resnet56", "resnet20") == []


def number(printed: str) -> PublishedNumber:
    return next(item for item in TABLES if item.printed == printed)


def choice(name: str, params: Mapping[str, Any] | None = None, *, beside: Sequence[Any] = ()) -> dict[str, Any]:
    return {"name": name, "params": params or {}} | ({"with": beside} if beside else {})


def test_a_number_belongs_to_a_method_with_its_parameters_and_combination() -> None:
    assert number("KD").is_of(choice("kd", {"standardise": False, "temperature": 2.0}))
    assert not number("KD").is_of(choice("kd", {"standardise": True}))
    assert number("KD+LS").is_of(choice("kd", {"standardise": True}))
    assert number("CTKD").is_of(choice("ctkd")), "a method without the parameter"
    assert not number("NORM").is_of(choice("norm", beside=["kd"]))
    assert number("NORM+KD").is_of(choice("norm", beside=[{"name": "kd", "params": {}}]))
    assert not number("NORM+KD").is_of(choice("norm", beside=["crd"]))
    assert not number("DistPro").is_of(choice("")), "it is in no catalog"


def test_numbers_name_methods_of_the_catalog() -> None:
    named = {name for number in PUBLISHED_NUMBERS for name in (number.method, *number.combined)} - {"", TEACHER}
    assert named <= {entry.name for entry in METHODS}


COCO = {"path": "", "train_annotations": "annotations/instances_train2017.json"}


def on_coco(teacher: str, student: str, **params: Any) -> list[PublishedNumber]:
    backbones = ({"backbone": teacher}, {"backbone": student})
    return published_for("coco", COCO | params, "faster_rcnn", "faster_rcnn", *backbones)


def test_numbers_of_detectors_belong_to_a_pair_of_backbones_and_are_unconfirmed() -> None:
    numbers = on_coco("resnet101", "resnet18")
    assert len(numbers) == 24, "eight rows of three metrics"
    found = {(number.printed, number.metric): number.value for number in numbers}
    assert found["DKD", "test/ap"] == 35.05
    assert found["DKD+ReviewKD", "test/ap50"] == 57.53
    assert found["Teacher", "test/ap75"] == 45.88
    assert not any(number.confirmed or number.epoch or number.runs for number in numbers)
    assert {number.value for number in on_coco("resnet50", "mobilenet_v2")}.isdisjoint(found.values())
    assert on_coco("resnet50", "resnet18") == []


def test_a_teacher_of_two_pairs_has_its_number_in_both() -> None:
    for student in ("resnet18", "resnet50"):
        [teacher] = [
            number
            for number in on_coco("resnet101", student)
            if number.method == TEACHER and number.metric == "test/ap"
        ]
        assert (teacher.value, teacher.reprinted) == (42.04, ())


def test_other_data_in_the_layout_of_coco_has_no_published_numbers() -> None:
    assert on_coco("resnet101", "resnet18", path="helmets") == []


def test_a_combination_is_the_same_in_either_order() -> None:
    both = next(number for number in on_coco("resnet101", "resnet18") if number.printed == "DKD+ReviewKD")
    assert both.is_of(choice("reviewkd", beside=[{"name": "dkd", "params": {"standardise": False}}]))
    assert both.is_of(choice("dkd", beside=["reviewkd"]))
    assert not both.is_of(choice("reviewkd", beside=[{"name": "dkd", "params": {"standardise": True}}]))
    assert not both.is_of(choice("dkd"))


def test_numbers_are_of_metrics_of_the_catalog() -> None:
    assert {number.metric for number in PUBLISHED_NUMBERS} <= set(METRICS)
