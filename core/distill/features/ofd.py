"""OFD (Heo et al. 2019): a comprehensive overhaul of feature distillation.

    L = w_CE·CE + w·mean_i Σ_k 2^(k − K + 1)·Σ_cyx d(r_k(f_ik)_cyx, F_ikcyx)
    d(s, F) = 0 where s ≤ F′ ≤ 0, else (s − F′)² ,   F′ = max(F, m_c)

f and F are the maps of stage k of K before the ReLU, and r is a 1×1 convolution with batch norm (section 3). The margin
m_c < 0 of a channel is the mean of the negative part of the teacher's map. It is computed from the batch norm before
the ReLU, whose output has the mean β and the deviation |γ|: m = E[x | x < 0] of a Gaussian x, and −3·|γ| where x < 0
has at most the probability 0.001. In a residual network this is the last batch norm of the branch, before the addition,
as in the authors' code.

If two maps differ in size, the larger is averaged to the size of the smaller; mdistiller always resizes the teacher's.
The authors' code and mdistiller leave the teacher in training mode, so that its batch norm takes the statistics of the
batch; here the teacher is in eval mode, as with every method.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.catalog.methods.ofd import OFDParams
from core.distill.features.adapters import conv_bn
from core.distill.features.common import map_pairs, matched, mean_over_rows, present_pairs, sum_of_parts
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled

_LEAST_PROBABILITY = 0.001


class OFD(Objective):
    """CE plus the weighted partial distance of all stages before their ReLU."""

    scope = "batch"  # for the batch norm

    def __init__(self, params: OFDParams, setting: Setting) -> None:
        super().__init__()
        assert setting.teacher is not None
        self._params, self._pairs = params, map_pairs(setting)
        self.connectors = nn.ModuleList()
        for number, (student, teacher) in enumerate(self._pairs):
            if teacher not in setting.teacher.norm:
                raise ObjectiveError(
                    f"teacher_taps: OFD computes its margins from the batch norm before the activation, and there is "
                    f"none that it knows before {teacher!r} of the teacher"
                )
            self.connectors.append(conv_bn(setting.student.taps[student][0], setting.teacher.taps[teacher][0]))
            self.register_buffer(f"margin{number}", margins(*setting.teacher.norm[teacher]).float())

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows = step.rows
        with autocast_disabled(rows):
            distances = []
            for number, pair in enumerate(present_pairs(step, self._pairs)):
                student, teacher = matched(*pair)
                mapped = self.connectors[number](student, rows.share)
                margin = self.get_buffer(f"margin{number}").to(mapped.dtype)
                distance = partial_distance(mapped, teacher, margin).flatten(1).sum(1)
                distances.append(distance * 2.0 ** (number - len(self._pairs) + 1))
            ofd = mean_over_rows(rows, torch.stack(distances).sum(0))
            return sum_of_parts(rows, self._params.ce_weight, {"ofd": (self._params.weight, ofd)})


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Return d of each element of maps (B, C, H, W); the margins are (C,)."""
    target = torch.maximum(teacher, margin.view(1, -1, 1, 1))
    return torch.where((student > target) | (target > 0), (student - target).square(), 0.0)


def margins(weight: Tensor, bias: Tensor) -> Tensor:
    """Return the margin of each channel (C,) in float64.

    Args:
        weight: (C,), γ of the batch norm before the ReLU.
        bias: (C,), its β.
    """
    mean, deviation = bias.double(), weight.double().abs().clamp_min(1e-12)
    ratio = mean / deviation
    negative = torch.special.ndtr(-ratio)
    density = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
    expected = mean - deviation * density / negative.clamp_min(_LEAST_PROBABILITY)
    return torch.where(negative > _LEAST_PROBABILITY, expected, -3 * deviation)
