"""Mixtures of two images of a batch with both labels: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).

The weight λ of an image is drawn for each sample, not for each batch, so that it is a function of the sample.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from core.catalog.augmentations import CutMixParams, MixupParams
from core.tasks.classification.data.augmentations.erasing import inside_boxes
from core.tasks.classification.data.augmentations.pipeline import Table
from core.tasks.hashing import hashed_randint

_QUANTILES = 4096
ONE = 2**16
"""λ = 1 as an integer. λ is a multiple of 1/65536: as a float it is exact, on every device."""


@functools.lru_cache(maxsize=8)
def beta_quantiles(alpha: float) -> NDArray[np.int64]:
    """Return evenly spaced quantiles of Beta(α, α) times ``ONE``, as integers."""
    lam = betaincinv(alpha, alpha, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)
    quantiles: NDArray[np.int64] = np.rint(ONE * lam).astype(np.int64)
    return quantiles


def _draw_lam(alpha: float, size: int, data_seed: int, epoch: int, purpose: str) -> NDArray[np.int64]:
    """Return (size,): λ times ``ONE`` for each sample."""
    return beta_quantiles(alpha)[hashed_randint(_QUANTILES, size, data_seed, epoch, purpose)]


class Mixup:
    """Averages of two images."""

    def __init__(self, params: MixupParams) -> None:
        self._alpha = params.alpha

    def table(self, size: int, side: int, data_seed: int, epoch: int) -> Table:
        """Return (size, 1): λ times ``ONE``."""
        return _draw_lam(self._alpha, size, data_seed, epoch, "mixup")[:, None]

    def weights(self, rows: Table, side: int) -> NDArray[np.float32]:
        """Return (B,): λ."""
        return (rows[:, 0] / ONE).astype(np.float32)

    def mix(self, images: Tensor, partners: Tensor, rows: Table, weights: Tensor) -> Tensor:
        """Return λ·image + (1 − λ)·partner."""
        lam = weights.view(-1, 1, 1, 1)
        return images * lam + partners * (1 - lam)  # two products and a sum round alike on CPU and GPU


class CutMix:
    """Images with a rectangle of another one."""

    def __init__(self, params: CutMixParams) -> None:
        self._alpha = params.alpha

    def table(self, size: int, side: int, data_seed: int, epoch: int) -> Table:
        """Return (size, 4): top, left, height and width of the rectangle that comes from the partner.

        It has the share 1 − λ of the image and its centre anywhere; what is beyond the border is cut off.
        """
        lam = _draw_lam(self._alpha, size, data_seed, epoch, "cutmix")
        # One root and one division have the same IEEE result on every machine.
        length = np.rint(side * np.sqrt((ONE - lam) / ONE)).astype(np.int64)
        table = np.empty((size, 4), dtype=np.int64)
        for column, purpose in enumerate(("cutmix top", "cutmix left")):
            first = hashed_randint(side, size, data_seed, epoch, purpose) - length // 2
            last = np.minimum(first + length, side)
            table[:, column] = np.maximum(first, 0)
            table[:, 2 + column] = np.maximum(last - table[:, column], 0)
        return table

    def weights(self, rows: Table, side: int) -> NDArray[np.float32]:
        """Return (B,): λ, the share of the image that is left of it."""
        return (1 - rows[:, 2] * rows[:, 3] / side**2).astype(np.float32)

    def mix(self, images: Tensor, partners: Tensor, rows: Table, weights: Tensor) -> Tensor:
        """Return the images with their rectangles from the partners."""
        return partners.where(inside_boxes(rows, images.shape[-1], images.device), images)
