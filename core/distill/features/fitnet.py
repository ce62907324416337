"""FitNet (Romero et al. 2015): the target of the student's map at a layer, after a regressor r, is the teacher's map.

    L = w_CE·CE + w·Σ_l mean_i mean (r_l(f_li) − F_li)²        r = ReLU(conv(·))          (``paper``)
                                                               r = ReLU(BN(conv(·)))      (``public_code``)

The paper has one layer l; the levels of a detector's pyramid are several, each with a regressor of its own. The paper
(equation 3) trains the layers up to the student's by ½‖r(f) − F‖² alone, and then the whole student by KD: this is
``hint_epochs`` > 0 with ``with: [kd]``. Its sum over the elements is a mean here, as in all code since, which changes
the weight by a constant. Published tables have the hint beside the cross-entropy in every epoch.

The paper's r is a convolution without padding, whose kernel is 1 + the difference of the sizes (section 2.2), and the
teacher's non-linearity. RepDistiller and mdistiller have batch norm between the two. Their convolution is 3×3 with
stride 2 if the student's map is twice as large, and a transposed 4×4 one with stride 2 if it is half as large. If sizes
vary from batch to batch, as those of a detector's pyramid do, only maps of one size are compared: the kernel is then
1×1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.catalog.methods.fitnet import FitNetParams
from core.distill.features.adapters import Layers, resizing_convolution, valid_convolution
from core.distill.features.batch_norm import BatchNorm
from core.distill.features.common import (
    map_pairs,
    mean_over_rows,
    only_part,
    present_pairs,
    require_equal_sizes,
    sum_of_parts,
)
from core.distill.objective import ObjectiveError, Setting, Step, TwoStageObjective
from core.distill.terms import LossTerms, autocast_disabled


class FitNet(TwoStageObjective):
    """CE plus the weighted hints, or the hints in a first stage and CE after it."""

    def __init__(self, params: FitNetParams, setting: Setting) -> None:
        super().__init__(params.hint_epochs, "some")
        assert setting.teacher is not None
        self._params, self._pairs = params, map_pairs(setting, "tap")
        if setting.student.sizes_vary or setting.teacher.sizes_vary:
            require_equal_sizes(setting, self._pairs, "FitNet with images of several sizes", "tap")
        public = params.variant == "public_code"
        self.regressors = nn.ModuleList()
        for student, teacher in self._pairs:
            own, other = setting.student.taps[student], setting.teacher.taps[teacher]
            try:
                convolution = (resizing_convolution if public else valid_convolution)(own, other)
            except ObjectiveError as error:
                more = "" if public else "; variant public_code also joins maps of half the size"
                text = f"student_tap {student!r} and teacher_tap {teacher!r}: {error}{more}"
                raise ObjectiveError(text) from None
            self.regressors.append(Layers(convolution, *([BatchNorm(other[0])] if public else []), nn.ReLU()))
        if public:
            self.scope = "batch"  # for the batch norm
        self.register_load_state_dict_pre_hook(_as_list)  # type: ignore[no-untyped-call]

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            if params.hint_epochs and not self.in_first_stage(step.epoch):
                return sum_of_parts(rows, params.ce_weight, {})
            hints = [
                mean_over_rows(rows, (regressor(student, rows.share) - teacher).square().flatten(1).mean(1))
                for regressor, (student, teacher) in zip(self.regressors, present_pairs(step, self._pairs), strict=True)
            ]
            hint = torch.stack(hints).sum()
            if params.hint_epochs:
                return only_part("fitnet", params.weight, hint)
            return sum_of_parts(rows, params.ce_weight, {"fitnet": (params.weight, hint)})


def _as_list(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Rename the regressor of a checkpoint from before there could be several."""
    old = f"{prefix}regressor."
    for key in [key for key in state if key.startswith(old)]:
        state[f"{prefix}regressors.0.{key.removeprefix(old)}"] = state.pop(key)
