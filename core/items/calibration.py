"""How well the scores of detections agree with how many of them are right, by bins of the score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.items.detection_table import KINDS, SOURCES, DetectionTable

BINS = 15
"""Number of bins of equal width."""


def bins_of(scores: NDArray[np.float64], bins: int = BINS) -> NDArray[np.int64]:
    """Return the index of each score's bin, (n,). A bin includes its upper end, and the first one also 0."""
    indices: NDArray[np.int64] = np.clip(np.ceil(scores * bins) - 1, 0, bins - 1).astype(np.int64)
    return indices


def score_bins(table: DetectionTable, source: str) -> list[tuple[int, float, int]]:
    """Return by bin of the score the number of detections, their summed score, and how many of them are right.

    Detections that count neither as right nor as false are left out, as in ``calibration/detection_ece``.

    Args:
        table: The objects and detections.
        source: ``student`` or ``teacher``.
    """
    rows = (table.source == SOURCES.index(source)) & (table.kind != KINDS.index("ignored"))
    scores = table.score[rows].astype(np.float64)
    bin_of, right = bins_of(scores), table.kind[rows] == KINDS.index("right")
    counts, sums = np.bincount(bin_of, minlength=BINS), np.bincount(bin_of, scores, minlength=BINS)
    return list(zip(counts.tolist(), sums.tolist(), np.bincount(bin_of[right], minlength=BINS).tolist(), strict=True))
