"""The table of DKD's paper on MS COCO: box AP, AP50 and AP75 of Faster R-CNN with a feature pyramid.

The figures were written down from memory of the table and not compared with the paper, so they are not confirmed. Those
of KD, FitNet and FGFI are not of its authors: they stand in the paper of ReviewKD (Chen et al., CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from core.papers.paper import TEACHER, PublishedNumber

SOURCE = "Zhao et al., CVPR 2022 (arXiv 2203.08679), COCO"
NOTE = (
    "AP75 of ReviewKD for ResNet-101 and ResNet-18 is below that of the student and may be a misprint of 39.00. KD, "
    "FitNet and FGFI are reprinted from ReviewKD's paper."
)
METRICS = ("test/ap", "test/ap50", "test/ap75")

_DATASET, _DETECTOR, _BACKBONE = "coco", "faster_rcnn", "backbone"
_OF_2017 = {
    "path": "",
    "train_annotations": "annotations/instances_train2017.json",
    "test_annotations": "annotations/instances_val2017.json",
}

_METHODS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "Teacher": (TEACHER, ()),
    "Student": ("ce", ()),
    "KD": ("kd", ()),
    "FitNet": ("fitnet", ()),
    "FGFI": ("", ()),
    "ReviewKD": ("reviewkd", ()),
    "DKD": ("dkd", ()),
    "DKD+ReviewKD": ("dkd", ("reviewkd",)),
}
"""Name in the catalog and methods that it is combined with, by the name in the table; none for FGFI."""

_Scores = tuple[float, float, float]

_VALUES: Mapping[tuple[str, str], tuple[_Scores, ...]] = {
    ("resnet101", "resnet18"): (
        (42.04, 62.48, 45.88),
        (33.26, 53.61, 35.26),
        (33.97, 54.66, 36.62),
        (34.13, 54.16, 36.71),
        (35.44, 55.51, 38.17),
        (36.75, 56.72, 34.00),
        (35.05, 56.60, 37.54),
        (37.01, 57.53, 39.85),
    ),
    ("resnet101", "resnet50"): (
        (42.04, 62.48, 45.88),
        (37.93, 58.84, 41.05),
        (38.35, 59.41, 41.71),
        (38.76, 59.62, 41.80),
        (39.44, 60.27, 43.04),
        (40.36, 60.97, 44.08),
        (39.25, 60.90, 42.73),
        (40.65, 61.51, 44.44),
    ),
    ("resnet50", "mobilenet_v2"): (
        (40.22, 61.02, 43.81),
        (29.47, 48.87, 30.90),
        (30.13, 50.28, 31.35),
        (30.20, 49.80, 31.69),
        (31.16, 50.68, 32.92),
        (33.71, 53.15, 36.13),
        (32.34, 53.77, 34.01),
        (34.35, 54.89, 36.61),
    ),
}
"""AP, AP50 and AP75 of each method, by the backbones of teacher and student."""


def numbers() -> Iterator[PublishedNumber]:
    """Yield the numbers of the table, pair by pair and metric by metric."""
    for (teacher, student), scores in _VALUES.items():
        for column, metric in enumerate(METRICS):
            for (printed, (method, combined)), values in zip(_METHODS.items(), scores, strict=True):
                yield PublishedNumber(
                    source=SOURCE,
                    dataset=_DATASET,
                    teacher=_DETECTOR,
                    student=_DETECTOR,
                    printed=printed,
                    value=values[column],
                    method=method,
                    params={} if method in ("", TEACHER, "ce") else {"standardise": False},
                    combined=combined,
                    dataset_params=_OF_2017,
                    metric=metric,
                    teacher_params={_BACKBONE: teacher},
                    student_params={_BACKBONE: student},
                    confirmed=False,
                )
