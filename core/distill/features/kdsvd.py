"""KDSVD (Lee et al. 2018): how the leading singular vectors of one stage relate to those of the next.

The map of a stage is a matrix (H·W, C). Its k leading right singular vectors v (C, k), which say which channels are
active together, are scaled by their singular values, divided by the norm of these. The student offers k + 3 vectors;
for each of the teacher it takes the one with the largest |cosine|, with the cosine's sign and the teacher's scale.
With the relation R_ab = exp(−(v_a − v′_b)²/8) of each element of a vector with each element of that of the next stage:

    L = w_CE·CE + w·Σ_pairs mean_i ‖R_i(student) − R_i(teacher)‖²_F

Student and teacher need the same numbers of channels. In ``public_code`` (mdistiller; RepDistiller is as ``paper``) the
matrix is (C·H, W): its vectors are over the columns of the image, the numbers of channels may differ, and if two maps
differ in size, the larger is averaged to the size of the smaller.

A singular vector has no sign of its own, and the relation of two stages depends on both signs; the public code takes
what the library returns. Here it is the sign with a sum that is not negative: after a ReLU all elements of the first
vector have one sign. The gradient of the public code is not finite where two singular values coincide, and is replaced
there: see ``right_singular_vectors``.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from core.catalog.methods.kdsvd import KDSVDParams
from core.distill.features.common import (
    map_pairs,
    matched,
    mean_over_rows,
    present_pairs,
    require_equal_channels,
    sum_of_parts,
)
from core.distill.features.singular_vectors import right_singular_vectors
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled

_SPARE = 3
"""The vectors that the student offers beyond those of the teacher."""


class KDSVD(Objective):
    """CE plus the weighted distance of the relations between the singular vectors of consecutive stages."""

    scope = "row"
    capturable = False  # the eigendecomposition waits for the device

    def __init__(self, params: KDSVDParams, setting: Setting) -> None:
        super().__init__()
        self._params, self._pairs = params, map_pairs(setting)
        if len(self._pairs) < 2:
            raise ObjectiveError("student_taps and teacher_taps: KDSVD compares consecutive stages, so it needs two")
        if params.variant == "paper":
            require_equal_channels(setting, self._pairs)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            vectors = [self._vectors(student, teacher) for student, teacher in present_pairs(step, self._pairs)]
            distances = [
                (_relation(s1, s2) - _relation(t1, t2)).square().sum((1, 2, 3))
                for (s1, t1), (s2, t2) in itertools.pairwise(vectors)
            ]
            term = mean_over_rows(rows, torch.stack(distances).sum(0))
            return sum_of_parts(rows, params.ce_weight, {"kdsvd": (params.weight, term)})

    def _vectors(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scaled vectors (B, N, k) of a pair of maps."""
        if self._params.variant == "public_code":
            student, teacher = (maps.flatten(1, 2) for maps in matched(student, teacher))
        else:
            student, teacher = student.flatten(2).mT, teacher.flatten(2).mT
        count = self._params.vectors
        target, values = right_singular_vectors(teacher, count)
        offered, _ = right_singular_vectors(student, count + _SPARE)
        scale = torch.nn.functional.normalize(values, dim=1).unsqueeze(1)
        return _aligned(offered, target) * scale, target * scale


def _aligned(offered: Tensor, target: Tensor) -> Tensor:
    """Return for each vector of ``target`` (B, N, k) the one of ``offered`` (B, N, m) that is most parallel to it."""
    cosine = offered.detach().mT @ target
    best = cosine.abs().argmax(1, keepdim=True)
    sign = cosine.gather(1, best).sign()
    return offered.gather(2, best.expand(-1, offered.shape[1], -1)) * sign


def _relation(first: Tensor, second: Tensor) -> Tensor:
    """Return R (B, N, N', k) of vectors (B, N, k) and (B, N', k)."""
    return torch.exp(-(first.unsqueeze(2) - second.unsqueeze(1)).square() / 8)
