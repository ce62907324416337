"""The calibration of detections (D-ECE: Küppers et al. 2020, arXiv 2004.13546)."""

from __future__ import annotations

import numpy as np

from core.items.boxes import Detections
from core.tasks.detection.metrics.errors import CODE, Judgement

BINS = 15
LEAST_SCORE = 0.05
"""Detections below it are left out: there are many, of few use, and a detector's threshold decides how many."""


def detection_calibration_error(detections: Detections, judgement: Judgement, bins: int = BINS) -> float:
    """Return Σ_b n_b/N · |precision(b) − mean score(b)| in %, over bins of the score of equal width; NaN for none.

    A detection is right by COCO's rules at IoU 0.5. Those that count neither as right nor as false are left out.
    """
    kept = (detections.scores >= LEAST_SCORE) & (judgement.kind != CODE["ignored"])
    score = detections.scores[kept].astype(np.float64)
    if not len(score):
        return float("nan")
    bin_of = np.clip(np.ceil(score * bins) - 1, 0, bins - 1).astype(np.int64)
    # n_b·|precision − score| is the magnitude of the summed gaps.
    gaps = np.bincount(bin_of, judgement.right[kept] - score)
    return 100 * float(np.abs(gaps).sum()) / len(score)
