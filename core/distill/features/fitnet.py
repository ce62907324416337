"""FitNet (Romero et al. 2015): the student's map at one layer, through a regressor r, is the teacher's.

    L = w_CE·CE + w·mean_i mean (r(f_i) − F_i)²        r = ReLU(conv(·))          (``paper``)
                                                       r = ReLU(BN(conv(·)))      (``public_code``)

The paper (equation 3) trains the layers up to the student's by ½‖r(f) − F‖² alone, and then the whole student by KD:
this is ``hint_epochs`` > 0 with ``with: [kd]``. Its sum over the elements is a mean here, as in all code since,
which changes the weight by a constant. Published tables have the hint beside the cross-entropy in every epoch.

The paper's r is a convolution without padding, whose kernel is 1 + the difference of the sizes (section 2.2), and the
teacher's non-linearity. RepDistiller and mdistiller have batch norm between the two, a 3×3 convolution of stride 2 if
the student's map is twice as large, and a transposed 4×4 one of stride 2 if it is half as large.
"""

from __future__ import annotations

from torch import nn

from core.catalog.methods.fitnet import FitNetParams
from core.distill.features.adapters import Layers, resizing_convolution, valid_convolution
from core.distill.features.batch_norm import BatchNorm
from core.distill.features.common import (
    mean_over_rows,
    only_part,
    present_pairs,
    require_maps,
    sum_of_parts,
    tap_pair,
)
from core.distill.objective import ObjectiveError, Setting, Step, TwoStageObjective
from core.distill.terms import LossTerms, autocast_disabled


class FitNet(TwoStageObjective):
    """CE plus the weighted hint, or the hint in a first stage and CE after it."""

    def __init__(self, params: FitNetParams, setting: Setting) -> None:
        super().__init__(params.hint_epochs, "some")
        assert setting.teacher is not None
        self._params, self._pair = params, tap_pair(setting)
        student, teacher = setting.student.taps[self._pair[0]], setting.teacher.taps[self._pair[1]]
        require_maps(setting.student.taps, "student_tap")
        require_maps(setting.teacher.taps, "teacher_tap")
        public = params.variant == "public_code"
        try:
            convolution = (resizing_convolution if public else valid_convolution)(student, teacher)
        except ObjectiveError as error:
            more = "" if public else "; variant public_code also joins maps of half the size"
            text = f"student_tap {self._pair[0]!r} and teacher_tap {self._pair[1]!r}: {error}{more}"
            raise ObjectiveError(text) from None
        self.regressor = Layers(convolution, *([BatchNorm(teacher[0])] if public else []), nn.ReLU())
        if public:
            self.scope = "batch"  # for the batch norm

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            if params.hint_epochs and not self.in_first_stage(step.epoch):
                return sum_of_parts(rows, params.ce_weight, {})
            ((student, teacher),) = present_pairs(step, [self._pair])
            squares = (self.regressor(student, rows.share) - teacher).square()
            hint = mean_over_rows(rows, squares.flatten(1).mean(1))
            if params.hint_epochs:
                return only_part("fitnet", params.weight, hint)
            return sum_of_parts(rows, params.ce_weight, {"fitnet": (params.weight, hint)})
