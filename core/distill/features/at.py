"""AT (Zagoruyko and Komodakis 2017): where in the image a stage is active.

With A_j (C, H, W) the maps of stage j, the attention is Q_j = Σ_c |A_jc|^p, and q_j = Q_j / ‖Q_j‖₂. The loss is

    L = w_CE·CE + β·Σ_j a_j ,   a_j = ½·mean_i ‖q_ij(student) − q_ij(teacher)‖₂ / (H·W)        (``paper``)
                                a_j =   mean_i ‖q_ij(student) − q_ij(teacher)‖₂² / (H·W)       (``public_code``)

``paper`` is equation 2, whose β the paper sets to 10³ divided by the positions of a map and the images of a batch. The
code of its authors, and RepDistiller and mdistiller after it, have the square of the norm and not the factor ½: the
gradient then vanishes with the distance, and is smaller than in ``paper`` where ‖·‖ < ¼. Published figures are of the
code. If two maps differ in size, the larger is averaged to the size of the smaller.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.catalog.methods.at import ATParams
from core.distill.features.common import (
    map_pairs,
    matched,
    mean_over_rows,
    present_pairs,
    squared_norms,
    sum_of_parts,
    unit,
)
from core.distill.objective import Objective, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled


class AT(Objective):
    """CE plus the weighted distance of the attention maps of all stages."""

    scope = "row"

    def __init__(self, params: ATParams, setting: Setting) -> None:
        super().__init__()
        self._params, self._pairs = params, map_pairs(setting)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        with autocast_disabled(step.rows):
            distances = [self._distance(*matched(*pair)) for pair in present_pairs(step, self._pairs)]
            term = mean_over_rows(step.rows, torch.stack(distances).sum(0))
            return sum_of_parts(step.rows, self._params.ce_weight, {"at": (self._params.weight, term)})

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        difference = self._attention(student) - self._attention(teacher)
        if self._params.variant == "public_code":
            return difference.square().mean(1)
        distance: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return distance / (2 * difference.shape[1])

    def _attention(self, maps: Tensor) -> Tensor:
        """Return the attention (B, H·W) of maps (B, C, H, W), each map of norm 1."""
        power = self._params.power
        strength = squared_norms(maps, 1) if power == 2 else maps.abs().pow(power).sum(1)
        return unit(strength.flatten(1))
