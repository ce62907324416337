"""AB (Heo et al. 2019): knowledge transfer via distillation of activation boundaries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.catalog.methods.ab import ABParams
from core.distill.features.adapters import BatchNorm, Layers, resizing_convolution
from core.distill.features.pairing import pair_stages
from core.distill.features.steps import (
    kd_term,
    require_map,
    student_taps,
    teacher_shape,
    teacher_taps,
    weighted_sum,
    with_cross_entropy,
)
from core.distill.objective import ObjectiveError, Setting, Step, TwoStageObjective
from core.distill.terms import LossTerms, autocast_disabled

_SCALE = 3 / 1000
"""By which the authors' code, and CRD's benchmark, multiply the sum over an image's elements."""


class AB(TwoStageObjective):
    """First weight·Σ_i 2^(i − L + 1)·3/1000·Σ over the elements of an image's map of h(r_i(f_s), f_t), then CE.

    h is the alternative loss of equation 6: (s + μ)² where f_t ≤ 0 and s > −μ, (s − μ)² where f_t > 0 and s ≤ μ, and 0
    elsewhere. It is a mean over the images; L is the number of pairs of stages, and i counts them from 0. r is the
    identity for maps of equal shape, else a convolution with batch norm: 1×1, or with a stride if one map is twice the
    other, as in CRD's benchmark.

    The first stage trains the student's stages and r, and leaves the classifier as it is. CRD's benchmark puts the
    student's batch norm into eval mode for it; the authors' code does not, and neither does this. The paper's second
    stage is KD (``kd_weight``); that of published tables is cross-entropy.
    """

    scope = "batch"  # for the batch norm

    def __init__(self, params: ABParams, setting: Setting) -> None:
        super().__init__(params.init_epochs, "some")
        student, teacher = setting.student.taps, teacher_shape(setting).taps
        self._pairs = pair_stages(student, teacher)
        self.connectors = nn.ModuleList()
        for name, target in self._pairs:
            own = require_map("student_taps", name, student[name])
            other = require_map("teacher_taps", target, teacher[target])
            try:
                layers = [] if own == other else [resizing_convolution(own, other), BatchNorm(other[0])]
            except ObjectiveError as error:
                raise ObjectiveError(f"student_taps, teacher_taps: {name} and {target}: {error}") from None
            self.connectors.append(Layers(*layers))
        self._params = params

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        if not self.in_first_stage(step.epoch):
            kd = {"kd": (params.kd_weight, kd_term(rows, params.temperature))} if params.kd_weight else {}
            return with_cross_entropy(rows, params.ce_weight, kd)
        students, teachers = student_taps(step), teacher_taps(step)
        with autocast_disabled(rows):
            total = torch.zeros_like(rows.student32[:, 0])
            for number, (connector, (name, target)) in enumerate(zip(self.connectors, self._pairs, strict=True)):
                mapped = connector(students[name], rows.share)
                costs = boundary_cost(mapped, teachers[target], params.margin).flatten(1).sum(1)
                total = total + costs * _SCALE * 2.0 ** (number - len(self._pairs) + 1)
            ab = rows.weigh(total).mean()
        return weighted_sum({"ab": (params.weight, ab)})


def boundary_cost(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Return what each of the student's elements (B, C, H, W) costs on the wrong side of the boundary, or near it."""
    sign = torch.where(teacher > 0, 1.0, -1.0).to(student.dtype)
    return (margin - sign * student).clamp_min(0).square()
