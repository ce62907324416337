"""FitNet (Romero et al. 2015): the student's map, through a regressor, is the teacher's."""

from __future__ import annotations

from torch import nn

from core.catalog.methods.fitnet import FitNetParams
from core.distill.features.adapters import BatchNorm, Layers, resizing_convolution, valid_convolution
from core.distill.features.steps import (
    kd_term,
    mean_over_rows,
    require_map,
    student_taps,
    teacher_shape,
    teacher_taps,
    weighted_sum,
    with_cross_entropy,
)
from core.distill.objective import Setting, Step, TwoStageObjective
from core.distill.terms import LossTerms, autocast_disabled


class FitNet(TwoStageObjective):
    """CE + weight·mean (r(f_s) − f_t)², with the regressor r = ReLU(conv(·)).

    The paper (section 2.2) trains the guided layers by ½‖r(f_s) − f_t‖² alone, and then the whole student by KD: this
    is ``hint_epochs`` > 0 and ``kd_weight``. Its sum over the elements is a mean here, as in all code since, which
    changes the weight by a constant. Published tables have the hint beside cross-entropy in every epoch.

    ``public_code``: r = ReLU(BN(conv(·))), where the convolution has a stride of 2 if the student's map is twice as
    large, and is transposed if it is half as large. The paper has no batch norm in r.
    """

    def __init__(self, params: FitNetParams, setting: Setting) -> None:
        super().__init__(params.hint_epochs, "some")
        student = require_map("student_tap", params.student_tap, setting.student.taps[params.student_tap])
        teacher = require_map("teacher_tap", params.teacher_tap, teacher_shape(setting).taps[params.teacher_tap])
        if params.variant == "paper":
            self.regressor = Layers(valid_convolution(student, teacher), nn.ReLU())
        else:
            self.regressor = Layers(resizing_convolution(student, teacher), BatchNorm(teacher[0]), nn.ReLU())
            self.scope = "batch"  # for the batch norm
        self._params = params

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        others = {"kd": (params.kd_weight, kd_term(rows, params.temperature))} if params.kd_weight else {}
        if params.hint_epochs and not self.in_first_stage(step.epoch):
            return with_cross_entropy(rows, params.ce_weight, others)
        with autocast_disabled(rows):
            guided = self.regressor(student_taps(step)[params.student_tap], rows.share)
            hint = mean_over_rows(rows, (guided - teacher_taps(step)[params.teacher_tap]).square())
        if params.hint_epochs:
            return weighted_sum({"hint": (params.weight, hint)})
        return with_cross_entropy(rows, params.ce_weight, {"hint": (params.weight, hint)} | others)
