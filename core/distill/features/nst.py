"""NST (Huang and Wang 2017): the maps of the channels as samples of a distribution.

Each channel's map is a vector of norm 1 over the H·W positions. The distance of the student's channels from the
teacher's is the squared maximum mean discrepancy with the kernel k(a, b) = ⟨a, b⟩², summed over the stages:

    L = w_CE·CE + w·Σ_stages mean_i [ k̄(s, s) + k̄(t, t) − 2·k̄(s, t) ] ,   k̄ = mean over all pairs of channels

The number of channels may differ. As Σ⟨a, b⟩² = ⟨AᵀA, BᵀB⟩ for matrices A, B with the channels as rows, the bracket is
also ‖AᵀA/C_s − BᵀB/C_t‖² with matrices over positions, which is used where positions are fewer. If two maps differ in
size, the larger is averaged to the size of the smaller.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.catalog.methods.nst import NSTParams
from core.distill.features.common import (
    inner_products,
    map_pairs,
    matched,
    mean_over_rows,
    present_pairs,
    sum_of_parts,
    unit,
)
from core.distill.objective import Objective, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled


class NST(Objective):
    """CE plus the weighted discrepancy of the channels of all stages."""

    scope = "row"

    def __init__(self, params: NSTParams, setting: Setting) -> None:
        super().__init__()
        self._params, self._pairs = params, map_pairs(setting)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        with autocast_disabled(step.rows):
            distances = [discrepancy(*matched(*pair)) for pair in present_pairs(step, self._pairs)]
            term = mean_over_rows(step.rows, torch.stack(distances).sum(0))
            return sum_of_parts(step.rows, self._params.ce_weight, {"nst": (self._params.weight, term)})


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Return MMD² (B,) of the channels of maps (B, C_s, H, W) and (B, C_t, H, W)."""
    s, t = unit(student.flatten(2)), unit(teacher.flatten(2))
    own, other, positions = s.shape[1], t.shape[1], s.shape[2]
    if positions * (own + other) <= own * own + other * other + own * other:
        return (inner_products(s.mT) / own - inner_products(t.mT) / other).square().sum((1, 2))
    within, beside, between = inner_products(s), inner_products(t), s @ t.mT
    return within.square().mean((1, 2)) + beside.square().mean((1, 2)) - 2 * between.square().mean((1, 2))
