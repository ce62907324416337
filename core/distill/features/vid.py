"""VID (Ahn et al. 2019): variational information distillation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.catalog.methods.vid import VIDParams
from core.distill.features.pairing import pair_stages
from core.distill.features.steps import (
    mean_over_rows,
    pooled_to_smaller,
    require_map,
    student_taps,
    teacher_shape,
    teacher_taps,
    with_cross_entropy,
)
from core.distill.objective import Objective, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled

_LEAST_VARIANCE = 1e-5


class VID(Objective):
    """CE + weight·Σ over pairs of stages of the mean of ½·[(μ(f_s) − f_t)²/σ² + log σ²].

    μ is three 1×1 convolutions with ReLU between them, and σ²_c = log(1 + exp(ρ_c)) + 1e-5 a variance for each channel
    of the teacher (equations 4 to 6). The larger of two maps is averaged to the size of the smaller.

    The paper and CRD's benchmark train ρ. ``public_code``: mdistiller keeps its parameters ρ in a plain list, from
    which no optimiser gets them, so that every σ² stays at ``initial_variance`` and the loss is a squared distance.
    """

    def __init__(self, params: VIDParams, setting: Setting) -> None:
        super().__init__()
        student, teacher = setting.student.taps, teacher_shape(setting).taps
        self._pairs = pair_stages(student, teacher)
        self.regressors = nn.ModuleList()
        start = math.log(math.expm1(params.initial_variance - _LEAST_VARIANCE))
        for number, (name, target) in enumerate(self._pairs):
            width = require_map("student_taps", name, student[name])[0]
            channels = require_map("teacher_taps", target, teacher[target])[0]
            self.regressors.append(_regressor(width, channels))
            rho = torch.full((channels,), start)
            if params.variant == "paper":
                self.register_parameter(f"rho{number}", nn.Parameter(rho))
            else:
                self.register_buffer(f"rho{number}", rho)
        self._params = params

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, students, teachers = step.rows, student_taps(step), teacher_taps(step)
        with autocast_disabled(rows):
            terms = [
                mean_over_rows(rows, self._negative_log_likelihood(number, students[name], teachers[target]))
                for number, (name, target) in enumerate(self._pairs)
            ]
            vid = torch.stack(terms).sum()
        return with_cross_entropy(rows, self._params.ce_weight, {"vid": (self._params.weight, vid)})

    def _negative_log_likelihood(self, pair: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Return −log q(f_t | f_s) without its constant, for each element (B, C, H, W)."""
        student, teacher = pooled_to_smaller(student, teacher)
        variance = (F.softplus(getattr(self, f"rho{pair}")) + _LEAST_VARIANCE).view(1, -1, 1, 1)
        mean: Tensor = self.regressors[pair](student)
        return 0.5 * ((mean - teacher).square() / variance + variance.log())


def _regressor(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
    )
