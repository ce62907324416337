"""What each test image got from a network and from its teacher: counts, and the detections themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.catalog.detection_task import ERROR_KINDS
from core.items.boxes import Detections, GroundTruth
from core.items.detection_table import DetectionTable, detection_table
from core.items.table import ITEM
from core.tasks.detection.metrics.agreement import CONFIDENT, agreeing, confident
from core.tasks.detection.metrics.errors import CODE, Judgement
from core.tasks.detection.metrics.report import Judged, summary


def image_columns(student: Judged, truth: GroundTruth, teacher: Judged | None = None) -> dict[str, NDArray[Any]]:
    """Return counts per test image, (N,), in the smallest types that hold them.

    Detections are those with a score of at least 0.5 that do not fall on an ignored object.

    - ``item``: the index of the image. ``objects``: its objects that count.
    - ``detections``, ``right``: detections, and those that are right at IoU 0.5.
    - ``classification``, ``localisation``, ``both``, ``duplicate``, ``background``: wrong detections by kind.
    - ``missed``: objects that are missed.
    - ``teacher_detections`` …: the same of the teacher. ``agreed``: detections that agree with one of the teacher's.
    """
    counts = {"objects": np.bincount(truth.image[~truth.ignored], minlength=truth.images)}
    counts |= _counts(student.detections, student.judgement, truth)
    if teacher:
        teacher_counts = _counts(teacher.detections, teacher.judgement, truth)
        counts |= {f"teacher_{name}": values for name, values in teacher_counts.items()}
        ours, theirs = confident(student.detections), confident(teacher.detections)
        counts["agreed"] = np.bincount(ours.image[agreeing(ours, theirs) >= 0], minlength=truth.images)
    counts = {ITEM: np.arange(truth.images)} | counts
    return {name: values.astype(np.min_scalar_type(int(values.max(initial=0)))) for name, values in counts.items()}


def _counts(detections: Detections, judgement: Judgement, truth: GroundTruth) -> dict[str, NDArray[np.int64]]:
    there = detections.scores >= CONFIDENT

    def count_by_image(image: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(image, minlength=truth.images)

    counted = there & (judgement.kind != CODE["ignored"])
    counts = {"detections": count_by_image(detections.image[counted])}
    counts["right"] = count_by_image(detections.image[there & judgement.right])
    for kind in ERROR_KINDS:
        if kind == "missed":
            counts[kind] = count_by_image(truth.image[judgement.missed(truth, there)])
        else:
            counts[kind] = count_by_image(detections.image[there & (judgement.kind == CODE[kind])])
    return counts


def image_detections(student: Judged, truth: GroundTruth, teacher: Judged | None = None) -> DetectionTable:
    """Return the objects and detections of the test images; what identifies the run is not set."""
    sources = {"student": student} | ({"teacher": teacher} if teacher else {})
    table = {name: (of.detections, of.judgement.kind, of.judgement.object) for name, of in sources.items()}
    return detection_table(truth, table, {name: summary(of, truth) for name, of in sources.items()})
