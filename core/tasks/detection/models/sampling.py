"""Sampling of anchors and proposals from random numbers that are a function of the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from core.tasks.detection.types import Draws


class DrawnSampler:
    """torchvision's ``BalancedPositiveNegativeSampler`` with random numbers of each candidate's position.

    The chosen candidates are those with the smallest numbers. So two runs whose candidates differ in some positions
    choose alike in the others, and the order of the images in a batch does not matter.

    Args:
        count: The number of candidates that are sampled in an image.
        positive_fraction: The greatest share of positive ones.
        draws: The random numbers of the step.
        purpose: What is sampled, such as ``"rpn"``.
    """

    def __init__(self, count: int, positive_fraction: float, draws: Draws, purpose: str) -> None:
        self.count, self.positive_fraction = count, positive_fraction
        self._draws, self._purpose = draws, purpose

    def __call__(self, matched: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return masks (n_i,) uint8 of the positive candidates that are chosen in each image, and of the negative ones.

        Args:
            matched: For each image (n_i,): 1 or more for a positive candidate, 0 for a negative one, -1 for one that is
                not sampled.
        """
        positive: list[Tensor] = []
        negative: list[Tensor] = []
        for image, labels in enumerate(matched):
            numbers = self._draws.uniform(image, self._purpose, len(labels))
            of_positive = _smallest(numbers, labels >= 1, int(self.count * self.positive_fraction))
            positive.append(of_positive)
            negative.append(_smallest(numbers, labels == 0, self.count - int(of_positive.sum())))
        return positive, negative


def _smallest(numbers: Tensor, among: Tensor, count: int) -> Tensor:
    """Return a mask of the ``count`` smallest numbers among some; of equal ones the first."""
    candidates = torch.where(among)[0]
    order = torch.sort(numbers[candidates], stable=True).indices[:count]
    chosen = torch.zeros_like(among, dtype=torch.uint8)
    chosen[candidates[order]] = 1
    return chosen


@contextmanager
def drawn(part: Any, draws: Draws, purpose: str) -> Iterator[None]:
    """Let a part of torchvision that samples candidates (``fg_bg_sampler``) draw from a step's random numbers.

    Args:
        part: A ``RegionProposalNetwork`` or ``RoIHeads``.
        draws: The random numbers of the step.
        purpose: What is sampled.
    """
    own = part.fg_bg_sampler
    part.fg_bg_sampler = DrawnSampler(own.batch_size_per_image, own.positive_fraction, draws, purpose)
    try:
        yield
    finally:
        part.fg_bg_sampler = own
