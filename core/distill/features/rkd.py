"""RKD (Park et al. 2019): distances between two samples and angles between three.

With d_ij = ‖f_i − f_j‖, d̄ the mean of all distances that are not 0, and h the Huber loss (δ = 1):

    L = w_CE·CE + λ_D·mean_ij h( d_ij/d̄ of the student − d_ij/d̄ of the teacher )
                + λ_A·mean_ijk h( cos_ijk of the student − cos_ijk of the teacher )

cos_ijk is the cosine of the angle at sample j between samples i and k, 0 if one of them coincides with j. The paper
writes sums over distinct samples; its authors' code, which the published weights are of, and all others have means over
all B² pairs and all B³ triples, as here.

By the law of cosines, cos_ijk = (d_ij² + d_kj² − d_ik²) / (2·d_ij·d_kj), so all angles are a function of the squared
distances D. The gradient is taken to D (B, B), in closed form, for some vertices j at a time: with the triples' slopes
s_ijk = ω_i·ω_j·ω_k·h′ and a = 1/d,

    ∂/∂D_ji  =  a_ij·Σ_k s_ijk·a_kj − a_ij²·Σ_k s_ijk·cos_ijk        (the sides at the vertex)
    ∂/∂D_ik  =  −½·Σ_j s_ijk·a_ij·a_kj                               (the opposite side)

The squared distances are computed in float64 from centred features, because differences of squares lose digits; the
angles are computed in the dtype of the loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods.rkd import RKDParams
from core.distill.features.common import (
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
from core.distill.terms import LossTerms, autocast_disabled, with_gradient

_TRIPLES_AT_ONCE = {True: 2**16, False: 2**24}
"""What fits into a cache of a CPU; on a GPU, fewer launches."""
_SAME = 1e-13
"""A squared distance below this part of the squared norms is rounding; it is 0."""


class RKD(Objective):
    """CE plus the weighted differences of distances and of angles."""

    scope = "batch"

    def __init__(self, params: RKDParams, setting: Setting) -> None:
        super().__init__()
        self._params, self._pair = params, tap_pair(setting)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            student, teacher = (squared_distances(rows, vectors) for vectors in present_vectors(step, self._pair))
            terms = {
                "rkd_distance": (params.distance_weight, distance_term(rows, student, teacher)),
                "rkd_angle": (params.angle_weight, angle_term(rows, student, teacher)),
            }
            return sum_of_parts(rows, params.ce_weight, terms)


def squared_distances(rows: Rows, vectors: Tensor) -> Tensor:
    """Return the squared distances (B, B) of all pairs of vectors (B, D), divided by their mean."""
    share, wide = shares(rows).double(), vectors.double()
    products = inner_products(wide - share @ wide.detach())
    squares = products.diagonal()
    sums = squares.unsqueeze(1) + squares
    squared = sums - 2 * products
    squared = torch.where(squared > _SAME * sums, squared, 0.0)
    mean = share @ squared.detach() @ share  # neither term depends on the scale
    return (squared / torch.where(mean > 0, mean, 1.0)).to(vectors.dtype)


def distance_term(rows: Rows, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean Huber loss between the distances, each divided by their mean.

    Args:
        rows: The rows of the batch.
        student: (B, B), squared distances.
        teacher: (B, B), squared distances.
    """
    return mean_over_pairs(rows, F.smooth_l1_loss(_relative(rows, student), _relative(rows, teacher), reduction="none"))


def _relative(rows: Rows, squared: Tensor) -> Tensor:
    """Return distances (B, B), divided by the mean of those that are not 0."""
    distances = squared * inverse_root(squared)
    count = mean_over_pairs(rows, (squared > 0).to(squared.dtype))
    mean = mean_over_pairs(rows, distances) / torch.where(count > 0, count, 1.0)
    return distances / torch.where(count > 0, mean, 1.0)


def angle_term(rows: Rows, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean Huber loss between the cosines of the angles of all triples.

    Args:
        rows: The rows of the batch.
        student: (B, B), squared distances.
        teacher: (B, B), squared distances.
    """
    with torch.no_grad():
        share, count = shares(rows), len(student)
        inverse, teacher_inverse = inverse_root(student), inverse_root(teacher)
        value, gradient = student.new_zeros(()), torch.zeros_like(student)
        triples = _TRIPLES_AT_ONCE[student.device.type == "cpu"]
        at_once = max(1, triples // max(1, student.numel()))
        for first in range(0, count, at_once):
            vertices = slice(first, first + at_once)
            cosine, inverse_sides = _cosines(student, inverse, vertices), inverse[vertices]
            difference = cosine - _cosines(teacher, teacher_inverse, vertices)
            slope = difference.clamp(-1, 1)
            if rows.weight is None:
                weighted = slope / count**3
            else:
                weighted = slope * share[vertices].view(-1, 1, 1) * share.unsqueeze(1) * share
            value += (weighted * difference.sub_(slope, alpha=0.5)).sum()
            side_terms = (weighted @ inverse_sides.unsqueeze(2)).squeeze(2) * inverse_sides
            gradient[vertices] += side_terms - torch.linalg.vecdot(weighted, cosine) * inverse_sides.square()
            gradient.sub_((weighted * inverse_sides.unsqueeze(2) * inverse_sides.unsqueeze(1)).sum(0), alpha=0.5)
    return with_gradient(student, value, gradient)


def _cosines(squared: Tensor, inverse: Tensor, vertices: slice) -> Tensor:
    """Return the cosines (V, B, B) of the angles at some vertices between all pairs of samples.

    Args:
        squared: (B, B), squared distances.
        inverse: (B, B), the inverse distances; 0 where a distance is 0.
        vertices: The samples at the vertex.
    """
    # The law of cosines at vertex v: cos(i, v, j) = (d_vi² + d_vj² − d_ij²) / (2·d_vi·d_vj).
    sides, inverse_sides = squared[vertices], inverse[vertices]
    numerator = sides.unsqueeze(2) - squared + sides.unsqueeze(1)
    return numerator.mul_(inverse_sides.unsqueeze(2)).mul_(0.5 * inverse_sides.unsqueeze(1))
