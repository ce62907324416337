"""Calibration error and negative log-likelihood."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15  # as in Guo et al. 2017 and most later papers


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = BINS) -> Tensor:
    """Return the expected calibration error in %: Σ_b n_b/N · |accuracy(b) − confidence(b)|.

    Guo et al. 2017, arXiv 1706.04599, equation 3.

    The confidence is the largest probability. The bins have equal width: (0, 1/bins], (1/bins, 2/bins] ….

    Args:
        logits: (N, C).
        labels: (N,).
        bins: number of bins, at least 1.
    """
    confidence, classes = F.softmax(logits.double(), 1).max(1)
    gap = (classes == labels).double() - confidence
    bin_of = (torch.ceil(confidence * bins) - 1).nan_to_num().clamp(0, bins - 1).long()
    # n_b·|accuracy − confidence| is the magnitude of the summed gaps. If one gap is NaN, the error is NaN.
    sums = torch.zeros(bins, dtype=gap.dtype, device=gap.device).index_add_(0, bin_of, gap)
    return 100 * sums.abs().sum() / len(labels)


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean −log p of the true class at T = 1, in nats, for logits (N, C) and labels (N,)."""
    return F.cross_entropy(logits.float(), labels)
