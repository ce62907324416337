"""The calibration of detections (D-ECE: Küppers et al. 2020, arXiv 2004.13546)."""

from __future__ import annotations

import numpy as np

from core.items.boxes import Detections
from core.items.calibration import BINS, bins_of
from core.items.detection_table import LEAST_SCORE
from core.tasks.detection.metrics.errors import CODE, Judgement


def detection_calibration_error(detections: Detections, judgement: Judgement, bins: int = BINS) -> float:
    """Return Σ_b n_b/N · |precision(b) − mean score(b)| in %, over bins of the score of equal width; NaN for none.

    A detection is right by COCO's rules at IoU 0.5. Those that count neither as right nor as false are left out, and
    those with a score below ``LEAST_SCORE``: there are many, of few use, and a detector's threshold decides how many.
    """
    kept = (detections.scores >= LEAST_SCORE) & (judgement.kind != CODE["ignored"])
    score = detections.scores[kept].astype(np.float64)
    if not len(score):
        return float("nan")
    # n_b·|precision − score| is the magnitude of the summed gaps.
    gaps = np.bincount(bins_of(score, bins), judgement.right[kept] - score)
    return 100 * float(np.abs(gaps).sum()) / len(score)
