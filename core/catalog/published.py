"""Numbers that others have published for a setting of the table, to stand beside one's own. Free of torch.

Each is read as it was printed. What it is a mean of, and of which epoch, is said where the source says it: a best test
epoch is chosen by the test images and lies above the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DKD_PAPER = "Zhao et al., CVPR 2022 (arXiv 2203.08679)"
AUTHOR_2025 = "author's table of 2025, one run a cell"


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        dataset, teacher, student: names in the catalog.
        params: parameters that the data set must have for the row to be meant.
        values: test accuracy in %, by the method's name; "teacher" is the teacher's own.
        repeats: runs that each method's number is a mean of, where that is known.
        epoch: of which epoch, where that is known.
    """

    source: str
    dataset: str
    teacher: str
    student: str
    values: Mapping[str, float]
    params: Mapping[str, Any] = field(default_factory=dict)
    repeats: Mapping[str, int] = field(default_factory=dict)
    epoch: Mapping[str, Literal["last", "oracle"]] = field(default_factory=dict)


def _cifar(teacher: str, student: str, top1: float, ce: float, kd: float, dkd: float) -> PublishedRow:
    return PublishedRow(
        DKD_PAPER,
        "cifar100",
        teacher,
        student,
        {"teacher": top1, "ce": ce, "kd": kd, "dkd": dkd},
        params={"image_size": 32},
        repeats={"dkd": 5},
        epoch={"dkd": "oracle"},
    )


def _imagenet(teacher: str, student: str, kd: float, dkd: float) -> PublishedRow:
    return PublishedRow(DKD_PAPER, "imagenet", teacher, student, {"kd": kd, "dkd": dkd})


def _author(dataset: str, teacher: str, student: str, align: float, dkd: float) -> PublishedRow:
    values = {"dkd_align": align, "dkd": dkd}
    one = dict.fromkeys(values, 1)
    return PublishedRow(AUTHOR_2025, dataset, teacher, student, values, params={"image_size": 224}, repeats=one)


_VIT = "timm:vit_small_patch16_224"
_SHUFFLENET = "shufflenet_v2_x1_0"

PUBLISHED: tuple[PublishedRow, ...] = (
    _cifar("resnet56", "resnet20", 72.34, 69.06, 70.66, 71.97),
    _cifar("resnet110", "resnet32", 74.31, 71.14, 73.08, 74.11),
    _cifar("resnet32x4", "resnet8x4", 79.42, 72.50, 73.33, 76.32),
    _cifar("wrn_40_2", "wrn_16_2", 75.61, 73.26, 74.92, 76.24),
    _cifar("wrn_40_2", "wrn_40_1", 75.61, 71.98, 73.54, 74.81),
    _cifar("vgg13", "vgg8", 74.64, 70.36, 72.98, 74.68),
    _cifar("resnet32x4", "shufflenet_v1", 79.42, 70.50, 74.07, 76.45),
    _cifar("wrn_40_2", "shufflenet_v1", 75.61, 70.50, 74.83, 76.70),
    _cifar("vgg13", "mobilenet_v2_half", 74.64, 64.60, 67.37, 69.71),
    _cifar("resnet50_cifar", "mobilenet_v2_half", 79.34, 64.60, 67.35, 70.35),
    _cifar("resnet32x4", "shufflenet_v2", 79.42, 71.82, 74.45, 77.07),
    _imagenet("resnet34", "resnet18", 71.03, 71.70),
    _imagenet("resnet50", "mobilenet_v1", 70.50, 72.05),
    _author("cifar100", "resnet50", "resnet18", 62.01, 61.07),
    _author("cifar100", _VIT, "resnet18", 58.64, 57.31),
    _author("cifar100", "resnet18", "resnet18", 62.35, 61.53),
    _author("cifar100", "resnet50", "resnet50", 53.39, 54.31),
    _author("cifar100", "resnet101", "resnet101", 55.94, 48.99),
    # These two are printed the other way round; the larger network is taken for the teacher, as in every other row.
    _author("cifar100", "resnet50", _SHUFFLENET, 55.49, 56.48),
    _author("cifar100", _VIT, _SHUFFLENET, 55.56, 55.84),
    _author("imagenet", "resnet50", "resnet18", 48.42, 45.48),
    _author("imagenet", "resnet50", _SHUFFLENET, 44.90, 45.59),
    _author("imagenet", _VIT, "resnet18", 41.81, 41.57),
    _author("imagenet", _VIT, _SHUFFLENET, 39.74, 39.42),
    _author("imagenet", "resnet101", "resnet101", 30.49, 0.50),
    _author("imagenet", "resnet50", "resnet50", 48.09, 48.06),
    _author("imagenet", "resnet18", "resnet18", 48.29, 46.40),
)


def published_for(dataset: str, params: Mapping[str, Any], teacher: str, student: str) -> list[PublishedRow]:
    """The published rows of this setting. A parameter that the data set does not have is not asked about."""
    return [
        row
        for row in PUBLISHED
        if (row.dataset, row.teacher, row.student) == (dataset, teacher, student)
        and all(params.get(name, value) == value for name, value in row.params.items())
    ]
