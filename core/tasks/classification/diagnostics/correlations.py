"""Correlations of the logits of each two classes over the test images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def correlations(logits: Tensor) -> NDArray[np.float16]:
    """Return Pearson's correlation of each two columns, (C·(C−1)/2,): the part above the diagonal, row by row.

    Zhao et al. 2022 (arXiv 2203.08679, figure 3) draw the difference of this matrix between student and teacher.

    Args:
        logits: (N, C).

    Returns:
        NaN where a column does not vary.
    """
    values = logits.float()
    values = values - values.mean(0)
    values /= values.norm(dim=0)
    matrix = values.T @ values
    rows, columns = torch.triu_indices(logits.shape[1], logits.shape[1], 1)
    upper = matrix.cpu()[rows, columns].clamp(-1, 1).half().numpy()
    found: NDArray[np.float16] = upper
    return found
