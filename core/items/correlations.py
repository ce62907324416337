"""Correlations of a network's logits over the test images, in memory.

The difference between a student's and its teacher's matrix is the figure of Zhao et al. 2022 (DKD, arXiv 2203.08679,
figure 3), after Tian et al. 2020 (CRD).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CORRELATIONS_NAME = "correlations.parquet"

MOST_CLASSES = 1_000
"""Number of classes up to which a run keeps its correlations; they then take 2 MB."""


@dataclass(frozen=True)
class Correlations:
    """Pearson's correlations between the logits of each two classes over the test images of one run.

    Attributes:
        networks: (C·(C−1)/2,) float16 by network (``student``, ``teacher``): the part above the diagonal, row by row.
            NaN where the logits of a class do not vary.
        images: What identifies the data, see ``core.events.IMAGES_KEY``.
        fingerprint: Fingerprint of the run's spec.
        classes: Class names in the order of the class numbers; empty if they are unknown.
    """

    networks: Mapping[str, NDArray[np.float16]]
    images: str = ""
    fingerprint: str = ""
    classes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Return the number of classes."""
        pairs = len(next(iter(self.networks.values())))
        return (1 + math.isqrt(1 + 8 * pairs)) // 2

    def matrix(self, network: str) -> NDArray[np.float64]:
        """Return the matrix of a network, (C, C), with ones on the diagonal."""
        full = np.eye(self.size)
        rows, columns = np.triu_indices(self.size, 1)
        full[rows, columns] = full[columns, rows] = self.networks[network]
        return full
