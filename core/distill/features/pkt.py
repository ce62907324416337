"""PKT (Passalis and Tefas 2018): the probability that a sample has another one as its neighbour.

With K_ij = (cos(f_i, f_j) + 1)/2 and P_ij = K_ij / Σ_k K_ik:

    L = w_CE·CE + w·Σ_i Σ_{j≠i} P_ij(teacher)·log( P_ij(teacher) / P_ij(student) ),   Σ over k ≠ i     (``paper``)
    L = w_CE·CE + w·mean_ij     P_ij(teacher)·log( P_ij(teacher) / P_ij(student) ),   Σ over all k     (``public_code``)

The code of the authors, RepDistiller and mdistiller have the mean over the B² pairs, which includes each sample as its
own neighbour. For the same weight that is B² times smaller than ``paper``; the default weight of ``paper`` is therefore
30000/64², the strength of the published 30000 in batches of 64. A constant of 1e-7 is added to both probabilities in
the logarithm, as in their code, because a probability of the student may be 0.

If the rows have weights ω_i, neighbour j has the factor ω_j in the sums over k and j. The sum over i becomes the
weighted mean divided by Σ ω_i², which is 1/B without weights. The constant is the same part of Σ ω_i² as of 1/B.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.catalog.methods.pkt import PKTParams
from core.distill.features.common import cosines, present_vectors, shares, sum_of_parts, tap_pair
from core.distill.objective import Objective, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms, autocast_disabled

_EPSILON = 1e-7


class PKT(Objective):
    """CE plus the weighted divergence of the student's neighbourhoods from the teacher's."""

    scope = "batch"

    def __init__(self, params: PKTParams, setting: Setting) -> None:
        super().__init__()
        self._params, self._pair = params, tap_pair(setting)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        with autocast_disabled(step.rows):
            student, teacher = present_vectors(step, self._pair)
            # Of two neighbourhoods that are alike, the logarithms cancel.
            own = self._params.variant == "public_code"
            term = divergence(step.rows, student.double(), teacher.double(), own=own).to(student.dtype)
            return sum_of_parts(step.rows, self._params.ce_weight, {"pkt": (self._params.strength, term)})


def divergence(rows: Rows, student: Tensor, teacher: Tensor, *, own: bool) -> Tensor:
    """Return the divergence of the neighbourhoods of vectors (B, D): the mean over pairs if ``own``, else their sum.

    Args:
        rows: The rows of the batch.
        student: The student's vectors.
        teacher: The teacher's vectors.
        own: Whether a sample is a neighbour of itself.
    """
    share = shares(rows).to(student.dtype)
    part = share.square().sum()
    part = torch.where(part > 0, part, 1.0)
    neighbours = share.expand(len(share), -1)
    if not own:
        neighbours = neighbours.clone().fill_diagonal_(0)
    p, q = _density(student, neighbours), _density(teacher, neighbours)
    epsilon = _EPSILON / part
    logarithm = (q + epsilon).log() - (p + epsilon).log()
    by_rows = share @ (neighbours * q * logarithm).sum(1)
    return by_rows * part if own else by_rows / part


def _density(vectors: Tensor, neighbours: Tensor) -> Tensor:
    """Return P_ij (B, B) divided by the weight of neighbour j."""
    kernel = (cosines(vectors) + 1) / 2
    total = (neighbours * kernel).sum(1, keepdim=True)
    return kernel / torch.where(total > 0, total, 1.0)
