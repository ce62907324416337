"""FT (Kim et al. 2018): paraphrasing complex network, network compression via factor transfer.

    first    L = mean_i mean (F_i − D(E(F_i)))²
    then     L = w_CE·CE + β·mean_i mean |n(T(f_i)) − n(E(F_i))|^p

The paraphraser has two parts. The encoder E has three 3×3 convolutions; its output is the factor, which has k times the
channels of the teacher's map F. The decoder D has three transposed convolutions. The translator T, which reads the
student's map f, is built like E. All have leaky ReLU of slope 0.1. n(x) = x/‖x‖₂, over the whole factor (equations 1
and 4). The mean over the elements, and with it β = 500, are those of the authors' code. If two maps differ in size, the
larger factor is averaged to the size of the smaller.

The first stage trains E and D, with the student in eval mode and unchanged; the second trains the student and T. The
authors' code trains the paraphraser for 6 epochs, with the absolute error in place of the paper's squared one, and
RepDistiller for 30 with the squared one, both before the epochs of the training.

``public_code``: in RepDistiller n(x) = y/‖y‖₂ with y the mean over the channels of x², as in AT, T has batch norm, and
β is 200.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from core.catalog.methods.ft import FTParams
from core.distill.features.adapters import Layers
from core.distill.features.batch_norm import BatchNorm
from core.distill.features.common import (
    matched,
    mean_over_rows,
    only_part,
    present_pairs,
    require_maps,
    sum_of_parts,
    tap_pair,
    unit,
)
from core.distill.objective import Setting, Step, TwoStageObjective
from core.distill.terms import LossTerms, autocast_disabled

_SLOPE = 0.1


class FT(TwoStageObjective):
    """The paraphraser's reconstruction in a first stage, then CE plus the weighted distance of the factors."""

    def __init__(self, params: FTParams, setting: Setting) -> None:
        super().__init__(params.init_epochs, "none")
        assert setting.teacher is not None
        self._params, self._pair = params, tap_pair(setting)
        require_maps(setting.student.taps, "student_tap")
        require_maps(setting.teacher.taps, "teacher_tap")
        width, channels = setting.student.taps[self._pair[0]][0], setting.teacher.taps[self._pair[1]][0]
        factors = max(int(channels * params.rate), 1)
        self.encoder = _convolutions(nn.Conv2d, (channels, channels, factors, factors))
        self.decoder = _convolutions(nn.ConvTranspose2d, (factors, factors, channels, channels))
        self._public = params.variant == "public_code"
        self.translator = _convolutions(nn.Conv2d, (width, width, factors, factors), normalised=self._public)
        if self._public:
            self.scope = "batch"  # for the batch norm

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            ((student, teacher),) = present_pairs(step, [self._pair])
            if self.in_first_stage(step.epoch):
                error = (self.decoder(self.encoder(teacher)) - teacher).square()
                return only_part("reconstruction", 1.0, mean_over_rows(rows, error.flatten(1).mean(1)))
            with torch.no_grad():  # so that the optimiser leaves the paraphraser as it is
                factor = self.encoder(teacher)
            own, other = map(self._normalised, matched(self.translator(student, rows.share), factor))
            ft = mean_over_rows(rows, ((own - other).abs() ** params.power).mean(1))
            return sum_of_parts(rows, params.ce_weight, {"ft": (params.weight, ft)})

    def _normalised(self, factor: Tensor) -> Tensor:
        """Return n of factors (B, C, H, W) as vectors."""
        return unit((factor.square().mean(1) if self._public else factor).flatten(1))


def _convolutions(
    kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], channels: tuple[int, ...], *, normalised: bool = False
) -> Layers:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [kind(before, after, 3, padding=1), *([BatchNorm(after)] if normalised else []), nn.LeakyReLU(_SLOPE)]
    return Layers(*layers)
