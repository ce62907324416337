"""The measurements of a detector after each epoch and at the end of a training. They need its detections alone.

Results are numbers by metric name, as listed in ``core.catalog.detection_task``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from core.catalog.detection_task import AP_OF_CLASS, AP_OF_CLASS_TEACHER
from core.items.boxes import Detections, GroundTruth
from core.tasks.detection.metrics.agreement import detection_agreement
from core.tasks.detection.metrics.calibration import detection_calibration_error
from core.tasks.detection.metrics.coco import CocoScores, coco_scores
from core.tasks.detection.metrics.errors import Judgement, ap_lost, judge

MOST_CLASSES = 100
"""Data sets with more classes have no metric for each of them. The detections that a run keeps have their AP."""

_MAIN = ("ap", "ap50", "ap75")


@dataclass(frozen=True)
class Judged:
    """The detections of a network on a split, and what is computed of them once.

    Attributes:
        detections: What it found.
        scores: AP and AR.
        judgement: What each detection is.
    """

    detections: Detections
    scores: CocoScores
    judgement: Judgement


def judged(detections: Detections, truth: GroundTruth) -> Judged:
    """Return detections with their scores and with what each of them is."""
    return Judged(detections, coco_scores(detections, truth), judge(detections, truth))


def report(student: Judged, truth: GroundTruth, teacher: Judged | None = None) -> dict[str, float]:
    """Measure a network on the test split after an epoch.

    ``test/ap`` … are measured by COCO's protocol; ``ap_class/NAME`` is AP of a class. There are the calibration error
    of the detections, and with a teacher the agreement with what it found, which never changes.

    Args:
        student: What the network found.
        truth: The objects.
        teacher: What the teacher found.
    """
    values = {f"test/{name}": value for name, value in student.scores.overall.items()}
    values |= _of_classes(AP_OF_CLASS, student.scores, truth)
    values["calibration/detection_ece"] = detection_calibration_error(student.detections, student.judgement)
    if teacher:
        values |= detection_agreement(student.detections, teacher.detections)
    return values


def validation_report(detections: Detections, truth: GroundTruth) -> dict[str, float]:
    """Return AP on the validation split."""
    scores = coco_scores(detections, truth).overall
    return {f"val/{name}": scores[name] for name in _MAIN}


def final_report(student: Judged, truth: GroundTruth, teacher: Judged | None = None) -> dict[str, float]:
    """Measure a finished network: AP lost to each kind of error, and all that is known of its teacher.

    Args:
        student: What the network found on the test split.
        truth: The objects of the test split.
        teacher: What the teacher found.
    """
    values = _errors("", student, truth)
    if teacher:
        values |= {f"test/{name}_teacher": teacher.scores.overall[name] for name in _MAIN}
        values |= _of_classes(AP_OF_CLASS_TEACHER, teacher.scores, truth)
        error = detection_calibration_error(teacher.detections, teacher.judgement)
        values["calibration/detection_ece_teacher"] = error
        values |= _errors("_teacher", teacher, truth)
    return values


def summary(found: Judged, truth: GroundTruth) -> dict[str, float]:
    """Return the scores that a file of detections has of them: AP, AR, AP of every class, and AP lost by kind."""
    values = dict(found.scores.overall)
    values |= {f"{AP_OF_CLASS}{name}": value for name, value in found.scores.by_class.items()}
    values |= _errors("", found, truth)
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _errors(suffix: str, found: Judged, truth: GroundTruth) -> dict[str, float]:
    lost: Mapping[str, float] = ap_lost(found.detections, truth, found.judgement)
    return {f"errors/{kind}{suffix}": value for kind, value in lost.items()}


def _of_classes(family: str, scores: CocoScores, truth: GroundTruth) -> dict[str, float]:
    if len(truth.classes) > MOST_CLASSES:
        return {}
    # A metric's name is one line of bounded length.
    return {f"{family}{' '.join(name.split())[:150]}": value for name, value in scores.by_class.items()}
