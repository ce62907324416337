"""Agreement of a student with its teacher: of the classes of regions, and of the final detections."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.catalog.detection_task import SIZES
from core.items.boxes import Detections, GroundTruth, areas, size_of
from core.items.matching import match

CONFIDENT = 0.5
"""Score from which on a detection counts as what a network says of an image."""


def confident(detections: Detections) -> Detections:
    """Return the detections that count as what a network says of an image."""
    return detections.part(detections.scores >= CONFIDENT)


def region_agreement(
    student: NDArray[np.floating],
    teacher: NDArray[np.floating],
    labels: NDArray[np.int64],
    area: NDArray[np.floating],
) -> dict[str, float]:
    """Return in how many regions student and teacher give the largest logit to the same class, in %.

    Names are ``fidelity/regions``, and with a suffix for the regions of objects (``_foreground``; by size ``_small`` …)
    and of background (``_background``). A kind of regions that there are none of is left out.

    Args:
        student: (R, C), logits.
        teacher: (R, C), logits in the same regions.
        labels: (R,), 0 for background.
        area: (R,), areas of the regions in pixels of the original images.
    """
    same = student.argmax(1) == teacher.argmax(1)
    objects = labels > 0
    kinds = {"": np.ones_like(objects), "_foreground": objects, "_background": ~objects}
    kinds |= {f"_{name}": objects & (size_of(area) == number) for number, name in enumerate(SIZES)}
    return {f"fidelity/regions{name}": 100 * float(same[kind].mean()) for name, kind in kinds.items() if kind.any()}


def detection_agreement(student: Detections, teacher: Detections) -> dict[str, float]:
    """Return the F1 of the student's detections with the teacher's as the truth, in %.

    Detections with a score of at least 0.5 are matched in the order of the student's scores, within a class and at an
    IoU of at least 0.5. F1 is the number of matched detections of both by that of all detections of both. By size
    (``fidelity/detections_small`` …) each counts in the size of its own box. A size without detections is left out.
    """
    ours, theirs = confident(student), confident(teacher)
    partner = agreeing(ours, theirs)
    matched = np.zeros(len(theirs), np.bool_)
    matched[partner[partner >= 0]] = True
    agree = np.concatenate([partner >= 0, matched])
    size = np.concatenate([size_of(areas(ours.boxes)), size_of(areas(theirs.boxes))])
    kinds = {"": np.ones_like(agree)} | {f"_{name}": size == number for number, name in enumerate(SIZES)}
    return {f"fidelity/detections{name}": 100 * float(agree[kind].mean()) for name, kind in kinds.items() if kind.any()}


def agreeing(student: Detections, teacher: Detections) -> NDArray[np.int64]:
    """Return which detection of the teacher each of the student's agrees with, −1 for none."""
    images = 1 + max((int(found.image[-1]) for found in (student, teacher) if len(found)), default=-1)
    as_truth = GroundTruth(
        teacher.image,
        teacher.boxes,
        teacher.labels,
        np.zeros(len(teacher), np.bool_),
        areas(teacher.boxes).astype(np.float32),
        images,
        (),
        np.arange(images),
    )
    partner: NDArray[np.int64] = match(student, as_truth, (0.5,)).object[0]
    return partner
