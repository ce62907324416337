"""SP (Tung and Mori 2019): images that activate the teacher alike activate the student alike.

With F (B, C·H·W) the activations of a layer and G = FFᵀ, each row of G divided by its norm over the batch:

    L = w_CE·CE + γ·‖G̃_s − G̃_t‖²_F / B² ,   G̃_ij = G_ij / √(Σ_k G_ik²)

Student and teacher may have any shapes, because only pairs of images are compared. With weights ω_i of the rows, the
norm is √(Σ_k ω_k·G_ik²), 1/B² is ω_i·ω_j, and the 1/B by which that norm is larger is Σ ω_i².
"""

from __future__ import annotations

from torch import Tensor

from core.catalog.methods.sp import SPParams
from core.distill.features.common import (
    concentration,
    inner_products,
    inverse_root,
    mean_over_pairs,
    present_vectors,
    shares,
    sum_of_parts,
    tap_pair,
)
from core.distill.objective import Objective, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms, autocast_disabled


class SP(Objective):
    """CE plus the weighted distance of the similarities of all pairs of images."""

    scope = "batch"

    def __init__(self, params: SPParams, setting: Setting) -> None:
        super().__init__()
        self._params, self._pair = params, tap_pair(setting)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            student, teacher = present_vectors(step, self._pair)
            difference = _similarities(rows, student) - _similarities(rows, teacher)
            term = concentration(rows) * mean_over_pairs(rows, difference.square())
            return sum_of_parts(rows, params.ce_weight, {"sp": (params.weight, term)})


def _similarities(rows: Rows, vectors: Tensor) -> Tensor:
    """Return the inner products (B, B) of vectors (B, D), each row with the weighted mean square 1."""
    products = inner_products(vectors)
    return products * inverse_root(products.square() @ shares(rows)).unsqueeze(1)
