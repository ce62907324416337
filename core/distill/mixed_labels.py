"""Two labels a row, for images that are mixtures of two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MixedLabels:
    """The labels of mixtures.

    Attributes:
        target: (R,), the label of a row's own image.
        partner_target: (R,), the label of the image that it is mixed with.
        lam: (R,), λ in [0, 1], the weight of ``target``; 1 − λ is that of ``partner_target``.
    """

    target: Tensor
    partner_target: Tensor
    lam: Tensor

    @property
    def dominant(self) -> Tensor:
        """(R,), the label with the larger weight, against which an accuracy of mixtures is measured."""
        return torch.where(self.lam >= 0.5, self.target, self.partner_target)
