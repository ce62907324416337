"""VID (Ahn et al. 2019): variational information distillation.

The loss maximises a lower bound of the mutual information between a stage f of the student and a stage F of the
teacher. It is the negative log-likelihood of F under a Gaussian with the mean μ(f) and a variance σ_c² for each
channel:

    L = w_CE·CE + w·Σ_stages mean_i mean_cyx ½·[(μ(f)_cyx − F_cyx)²/σ_c² + log σ_c²] ,   σ_c² = log(1 + exp ρ_c) + 1e-5

(equations 5 and 6, with a mean over the elements, as in the code of the benchmarks, whose weight is 1). μ is three 1×1
convolutions with ReLU between them. If two maps differ in size, the larger is averaged to the size of the smaller.

The paper and RepDistiller train ρ. ``public_code``: mdistiller keeps its parameters ρ in a plain list, from which no
optimiser gets them, so that every σ² stays at its first value 5 and the loss is a squared distance.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.catalog.methods.vid import VIDParams
from core.distill.features.common import map_pairs, matched, mean_over_rows, present_pairs, sum_of_parts
from core.distill.objective import Objective, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled

_LEAST_VARIANCE = 1e-5


class VID(Objective):
    """CE plus the weighted negative log-likelihood of the teacher's stages."""

    scope = "row"

    def __init__(self, params: VIDParams, setting: Setting) -> None:
        super().__init__()
        assert setting.teacher is not None
        self._params, self._pairs = params, map_pairs(setting)
        self.regressors = nn.ModuleList()
        start = math.log(math.expm1(params.initial_variance - _LEAST_VARIANCE))
        for number, (student, teacher) in enumerate(self._pairs):
            width, channels = setting.student.taps[student][0], setting.teacher.taps[teacher][0]
            self.regressors.append(_regressor(width, channels))
            rho = torch.full((channels,), start)
            if params.variant == "paper":
                self.register_parameter(f"rho{number}", nn.Parameter(rho))
            else:
                self.register_buffer(f"rho{number}", rho)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows = step.rows
        with autocast_disabled(rows):
            pairs = present_pairs(step, self._pairs)
            costs = [self._negative_log_likelihood(number, *matched(*pair)) for number, pair in enumerate(pairs)]
            vid = mean_over_rows(rows, torch.stack(costs).sum(0))
            return sum_of_parts(rows, self._params.ce_weight, {"vid": (self._params.weight, vid)})

    def _negative_log_likelihood(self, pair: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Return −log q(F | f) without its constant (B,), a mean over the elements of maps (B, C, H, W)."""
        variance = (F.softplus(getattr(self, f"rho{pair}")) + _LEAST_VARIANCE).view(1, -1, 1, 1)
        mean: Tensor = self.regressors[pair](student)
        return 0.5 * ((mean - teacher).square() / variance + variance.log()).flatten(1).mean(1)


def _regressor(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
    )
