"""Which detections match which objects, by the rules of COCO's evaluation. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.items.boxes import Detections, GroundTruth, overlaps

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""IoU thresholds of COCO's AP."""

MOST_DETECTIONS = 100
"""Detections of a class in an image that COCO's evaluation reads."""


@dataclass(frozen=True)
class Matches:
    """What each detection matches.

    Attributes:
        thresholds: The T IoU thresholds.
        object: (T, D) int64, the index of the object that a detection matches; −1 for none.
        ignored: (T, D) bool, whether a detection counts neither as right nor as false: what it matches is ignored, or
            it is not among the best of its class in its image.
    """

    thresholds: tuple[float, ...]
    object: NDArray[np.int64]
    ignored: NDArray[np.bool_]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which detections match an object that counts, (T, D)."""
        return (self.object >= 0) & ~self.ignored

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Which detections count as false, (T, D)."""
        return (self.object < 0) & ~self.ignored


def match(detections: Detections, truth: GroundTruth, thresholds: Sequence[float] = THRESHOLDS) -> Matches:
    """Match the detections with objects of their class.

    In the order of their scores, each takes the object with the largest IoU among those that no better one has taken.
    It takes an ignored object only if there is no other at this threshold. A crowd can be taken any number of times.
    An ignored object that is no crowd is taken once, as in COCO, while VOC's own program lets it be taken any number of
    times.

    Args:
        detections: The detections.
        truth: The objects.
        thresholds: The IoU thresholds.
    """
    levels = np.minimum(np.asarray(thresholds, np.float64), 1 - 1e-10)
    taken = np.full((len(levels), len(detections)), -1, np.int64)
    ignored = np.zeros(taken.shape, np.bool_)
    crowds = truth.crowds
    for found, there in _groups(detections, truth):
        ignored[:, found[MOST_DETECTIONS:]] = True
        if not len(there):
            continue
        best = found[:MOST_DETECTIONS]
        objects = there[np.argsort(truth.ignored[there], kind="stable")]
        crowd, skipped = crowds[objects], truth.ignored[objects]
        iou = overlaps(detections.boxes[best], truth.boxes[objects], crowd)
        free = np.ones((len(levels), len(objects)), np.bool_)
        for row in np.flatnonzero(iou.max(1) >= levels.min()):
            candidates = free & (iou[row] >= levels[:, None])
            counted = candidates & ~skipped
            candidates = np.where(counted.any(1, keepdims=True), counted, candidates)
            # If overlaps are equal, the last object is taken, as in pycocotools.
            chosen = len(objects) - 1 - np.where(candidates, iou[row], -1.0)[:, ::-1].argmax(1)
            at = np.flatnonzero(candidates.any(1))
            chosen = chosen[at]
            taken[at, best[row]] = objects[chosen]
            ignored[at, best[row]] = skipped[chosen]
            free[at, chosen] = crowd[chosen]
    return Matches(tuple(thresholds), taken, ignored)


def _groups(detections: Detections, truth: GroundTruth) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the detections, best first, and the objects of each image and class that has detections."""
    classes = 1 + max(int(labels.max(initial=0)) for labels in (detections.labels, truth.labels))
    found = detections.image * classes + detections.labels
    there = truth.image * classes + truth.labels
    order = np.lexsort((-detections.scores, found))
    objects = np.argsort(there, kind="stable")
    keys, starts = np.unique(found[order], return_index=True)
    ends = np.append(starts, len(order))[1:]
    first, last = (np.searchsorted(there[objects], keys, "left"), np.searchsorted(there[objects], keys, "right"))
    for start, end, begin, stop in np.stack([starts, ends, first, last], 1).tolist():
        yield order[start:end], objects[begin:stop]
