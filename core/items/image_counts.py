"""What a detector did in each test image of a run's table: counts by kind, above a score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.items.detection_table import ALL_KINDS, KINDS, SOURCES, DetectionTable

MISSED = "missed"

RESULT_KINDS = (*KINDS, MISSED)
"""Kinds of detections, and of objects that no detection is about."""

_FINDS = [KINDS.index(kind) for kind in ("right", "localisation", "classification")]


def missed_rows(table: DetectionTable, source: str, least_score: float = 0.0) -> NDArray[np.bool_]:
    """Return which rows are objects that a detector missed, (n,).

    An object is missed if no detection takes it, and no localisation or classification error is about it.

    Args:
        table: The objects and detections.
        source: ``student`` or ``teacher``.
        least_score: Detections with a lower score do not count.
    """
    missed: NDArray[np.bool_] = (table.source == 0) & (table.kind == ALL_KINDS.index("object"))
    finds = _above(table, source, least_score) & np.isin(table.kind, _FINDS) & (table.matched >= 0)
    missed[table.matched[finds]] = False
    return missed


def rows_of_kind(table: DetectionTable, source: str, kind: str, least_score: float = 0.0) -> NDArray[np.bool_]:
    """Return which rows are a detector's detections of a kind, or the objects that it missed, (n,).

    Args:
        table: The objects and detections.
        source: ``student`` or ``teacher``.
        kind: One of ``RESULT_KINDS``.
        least_score: Detections with a lower score do not count.
    """
    if kind == MISSED:
        return missed_rows(table, source, least_score)
    rows: NDArray[np.bool_] = _above(table, source, least_score) & (table.kind == KINDS.index(kind))
    return rows


def image_counts(table: DetectionTable, source: str, least_score: float = 0.0) -> NDArray[np.int64]:
    """Return how many results of each of ``RESULT_KINDS`` a detector has in each image, (images, kinds)."""
    return np.stack(
        [
            np.bincount(table.item[rows_of_kind(table, source, kind, least_score)], minlength=table.images)
            for kind in RESULT_KINDS
        ],
        axis=1,
    )


def _above(table: DetectionTable, source: str, least_score: float) -> NDArray[np.bool_]:
    # The comparison is made in float32, in which the scores are kept: 0.3 is above a score of 0.3.
    above: NDArray[np.bool_] = (table.source == SOURCES.index(source)) & (table.score >= np.float32(least_score))
    return above
