"""Errors of detections by kind, and the AP that each kind costs (TIDE: Bolya et al. 2020, arXiv 2008.08115).

A detection that is not right has the first of these kinds that applies. IoU is with objects that count:

- localisation: its best IoU with an object of its class is between 0.1 and 0.5;
- classification: its IoU with an object of another class is at least 0.5;
- duplicate: its IoU with an object of its class that a better detection has taken is at least 0.5;
- background: its best IoU with any object is at most 0.1;
- both: all other detections. Box and class are inaccurate.

An object is missed if no detection takes it, and no localisation or classification error is about it. Which detections
are right is decided by COCO's rules, so that they are those of AP at IoU 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from core.catalog.detection_task import ERROR_KINDS
from core.items.average_precision import average_precisions
from core.items.boxes import Detections, GroundTruth, overlaps
from core.items.detection_table import KINDS
from core.items.matching import Matches, match

RIGHT_IOU, BACKGROUND_IOU = 0.5, 0.1

CODE = {name: code for code, name in enumerate(KINDS)}
"""The code of each kind of detection: its index in ``KINDS``."""


@dataclass(frozen=True)
class Judgement:
    """The kind of each detection of a split: right, or an error of some kind.

    Attributes:
        kind: (D,) uint8, an index into ``KINDS``.
        object: (D,) int64, the index of the object that the detection takes or that its error is about; −1 for none.
    """

    kind: NDArray[np.uint8]
    object: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which detections are right, (D,)."""
        right: NDArray[np.bool_] = self.kind == CODE["right"]
        return right

    def missed(self, truth: GroundTruth, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Return which objects are missed, (M,).

        Args:
            truth: The objects.
            chosen: (D,), which detections there are; None for all.
        """
        found = np.isin(self.kind, [CODE[kind] for kind in ("right", "localisation", "classification")])
        missed = ~truth.ignored
        missed[self.object[found if chosen is None else found & chosen]] = False
        return missed


def judge(detections: Detections, truth: GroundTruth) -> Judgement:
    """Return the kind of each detection, and the object that it takes or that its error is about."""
    matches = match(detections, truth, (RIGHT_IOU,))
    right, wrong, about = matches.right[0], matches.wrong[0], matches.object[0].copy()
    kind = np.full(len(detections), CODE["ignored"], np.uint8)
    kind[right] = CODE["right"]
    taken = np.zeros(len(truth), np.bool_)
    taken[about[right]] = True
    counted = np.flatnonzero(~truth.ignored)
    rows = np.flatnonzero(wrong)
    first_row, first_object = (
        np.searchsorted(images, np.arange(truth.images + 1))
        for images in (detections.image[rows], truth.image[counted])
    )
    for image in np.unique(detections.image[rows]).tolist():
        found = rows[first_row[image] : first_row[image + 1]]
        objects = counted[first_object[image] : first_object[image + 1]]
        kind[found], about[found] = _kinds_in_image(detections, found, truth, objects, taken)
    return Judgement(kind, about)


def _kinds_in_image(
    detections: Detections,
    found: NDArray[np.int64],
    truth: GroundTruth,
    objects: NDArray[np.int64],
    taken: NDArray[np.bool_],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the kinds of wrong detections in one image, and the objects that they are about."""
    if not len(objects):
        return np.full(len(found), CODE["background"], np.uint8), np.full(len(found), -1, np.int64)
    iou = overlaps(detections.boxes[found], truth.boxes[objects])
    same = detections.labels[found, None] == truth.labels[objects]
    candidates = {
        "localisation": np.where(same, iou, 0),
        "classification": np.where(same, 0, iou),
        "duplicate": np.where(same & taken[objects], iou, 0),
        "background": iou,
    }
    best = {name: values.max(1) for name, values in candidates.items()}
    applies = [
        (best["localisation"] >= BACKGROUND_IOU) & (best["localisation"] <= RIGHT_IOU),
        best["classification"] >= RIGHT_IOU,
        best["duplicate"] >= RIGHT_IOU,
        best["background"] <= BACKGROUND_IOU,
    ]
    kinds = np.select(applies, [CODE[name] for name in candidates], CODE["both"]).astype(np.uint8)
    nearest = [objects[values.argmax(1)] for values in candidates.values()]
    nearest[-1] = np.full(len(found), -1, np.int64)
    return kinds, np.select(applies, nearest, objects[iou.argmax(1)])


def ap_lost(detections: Detections, truth: GroundTruth, judgement: Judgement) -> dict[str, float]:
    """Return by kind of error how much higher AP at IoU 0.5 would be without the errors of this kind, in %.

    A localisation or classification error becomes right if its object is free and no better error of these two kinds is
    about it; other errors disappear, and missed objects are not counted. A class without objects has no AP here, while
    TIDE's own program counts it as 0.
    """
    ignored = judgement.kind == CODE["ignored"]
    about = np.where(judgement.right, judgement.object, -1)
    free = ~truth.ignored
    free[about[judgement.right]] = False

    def ap(
        about: NDArray[np.int64], ignored: NDArray[np.bool_], labels: NDArray[np.int64], counted: GroundTruth
    ) -> float:
        matches = Matches((RIGHT_IOU,), about[None], ignored[None])
        of_classes = average_precisions(replace(detections, labels=labels), counted, matches)[0]
        defined = of_classes[~np.isnan(of_classes)]
        return 100 * float(defined.mean()) if len(defined) else 0.0

    rows = np.flatnonzero(np.isin(judgement.kind, [CODE["localisation"], CODE["classification"]]))
    rows = rows[free[judgement.object[rows]]]
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    repaired = rows[np.unique(judgement.object[rows], return_index=True)[1]]
    base = ap(about, ignored, detections.labels, truth)
    lost = {}
    for name in ERROR_KINDS:
        errors = judgement.kind == CODE.get(name, len(KINDS))
        fixed_about, labels, counted = about, detections.labels, truth
        if name in ("localisation", "classification"):
            fixed = repaired[errors[repaired]]
            fixed_about, labels = about.copy(), labels.copy()
            fixed_about[fixed] = judgement.object[fixed]
            labels[fixed] = truth.labels[judgement.object[fixed]]
            errors[fixed] = False
        elif name == "missed":
            counted = replace(truth, ignored=truth.ignored | judgement.missed(truth))
        lost[name] = max(0.0, ap(fixed_about, ignored | errors, labels, counted) - base)
    return lost
