"""AB (Heo et al. 2019): knowledge transfer via distillation of activation boundaries.

    first    L = w·mean_i Σ_k 2^(k − K + 1)·0.003·Σ_cyx h(r_k(f_ik)_cyx, F_ikcyx)
    then     L = w_CE·CE
    h(s, F) = max(μ − s, 0)² where F > 0, else max(μ + s, 0)²

f and F are the maps of stage k of K before the ReLU, and h is the alternative loss of equation 6 with the margin μ. The
factors of the stages, and 0.003, are those of the authors' code and RepDistiller. r is the identity for maps of equal
shape, and otherwise a convolution with batch norm: 1×1, or one that changes the size as RepDistiller's does.

The first stage trains the stages of the student and r, and leaves the classifier as it is. RepDistiller keeps the
student's batch norm in eval mode there, and so its initial statistics; the authors' code and this one do not. Both have
the first stage before the epochs of the training, with a learning rate of its own. The second stage of published tables
is CE alone, and that of the authors' code KD alone at T = 3: ``ce_weight: 0`` and ``with: [kd]``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.catalog.methods.ab import ABParams
from core.distill.features.adapters import Layers, resizing_convolution
from core.distill.features.batch_norm import BatchNorm
from core.distill.features.common import (
    map_pairs,
    mean_over_rows,
    only_part,
    present_pairs,
    sum_of_parts,
)
from core.distill.objective import ObjectiveError, Setting, Step, TwoStageObjective
from core.distill.terms import LossTerms, autocast_disabled

_SCALE = 0.003


class AB(TwoStageObjective):
    """The cost of activation boundaries in a first stage, then CE."""

    scope = "batch"  # for the batch norm

    def __init__(self, params: ABParams, setting: Setting) -> None:
        super().__init__(params.init_epochs, "some")
        assert setting.teacher is not None
        self._params, self._pairs = params, map_pairs(setting)
        self.connectors = nn.ModuleList()
        for student, teacher in self._pairs:
            own, other = setting.student.taps[student], setting.teacher.taps[teacher]
            try:
                layers = [] if own == other else [resizing_convolution(own, other), BatchNorm(other[0])]
            except ObjectiveError as error:
                raise ObjectiveError(f"student_taps {student!r} and teacher_taps {teacher!r}: {error}") from None
            self.connectors.append(Layers(*layers))

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            if not self.in_first_stage(step.epoch):
                return sum_of_parts(rows, params.ce_weight, {})
            costs = []
            for number, (student, teacher) in enumerate(present_pairs(step, self._pairs)):
                mapped = self.connectors[number](student, rows.share)
                cost = boundary_cost(mapped, teacher, params.margin).flatten(1).sum(1)
                costs.append(cost * _SCALE * 2.0 ** (number - len(self._pairs) + 1))
            return only_part("ab", params.weight, mean_over_rows(rows, torch.stack(costs).sum(0)))


def boundary_cost(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Return h of each element of maps (B, C, H, W)."""
    sign = torch.where(teacher > 0, 1.0, -1.0).to(student.dtype)
    return (margin - sign * student).clamp_min(0).square()
