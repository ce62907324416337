"""Scenes with few boxes, written by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.items.boxes import Detections, GroundTruth, areas

Box = tuple[float, float, float, float]

CLASSES = ("cat", "dog", "bird")


def found(*rows: tuple[int, int, float, Box]) -> Detections:
    """Return detections of rows (image, label, score, box)."""
    image, labels, scores, boxes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(
        np.array(image, np.int64),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(scores, np.float32),
    )


def objects(
    *rows: tuple[int, int, Box], images: int, difficult: Sequence[int] = (), crowd: Sequence[int] = ()
) -> GroundTruth:
    """Return objects of rows (image, label, box); ``difficult`` and ``crowd`` are numbers of rows."""
    image, labels, boxes = zip(*rows, strict=True) if rows else ((), (), ())
    numbers = np.arange(len(rows))
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return GroundTruth(
        np.array(image, np.int64),
        corners,
        np.array(labels, np.int64),
        np.isin(numbers, [*difficult, *crowd]),
        areas(corners).astype(np.float32),
        images,
        CLASSES,
        np.arange(images, dtype=np.int64),
        np.isin(numbers, crowd),
        tuple(f"{number}.jpg" for number in range(images)),
        np.tile(np.array([200, 300], np.int64), (images, 1)),
    )


A: Box = (0, 0, 10, 10)
A_SHIFTED: Box = (0, 0, 10, 13)  # IoU with A: 10/13
A_HALF: Box = (0, 0, 10, 40)  # IoU with A: 1/4
B: Box = (100, 100, 140, 140)
FAR: Box = (200, 0, 220, 20)
