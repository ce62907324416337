"""OFD (Heo et al. 2019): a comprehensive overhaul of feature distillation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.catalog.methods.ofd import OFDParams
from core.distill.features.adapters import conv_bn
from core.distill.features.pairing import pair_stages
from core.distill.features.steps import (
    pooled_to_smaller,
    require_map,
    student_taps,
    teacher_shape,
    teacher_taps,
    with_cross_entropy,
)
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled

_LEAST_PROBABILITY = 0.001


class OFD(Objective):
    """CE + weight·Σ_i 2^(i − L + 1)·Σ over the elements of an image's map of d(r_i(f_s), f_t), a mean over the images.

    r is a 1×1 convolution with batch norm, L the number of pairs of stages and i counts them from 0. With the target
    t = max(f_t, m), d(s, t) = 0 where s ≤ t ≤ 0, and (s − t)² elsewhere (section 3, "Distance function"). The margin
    m < 0 of a channel is the mean of the negative part of the teacher's map before the ReLU. It is computed from the
    batch norm before the ReLU, whose output has the mean β and the standard deviation |γ|: m = E[x | x < 0] for a
    Gaussian x, and −3·|γ| where x < 0 has at most the probability 0.001. In a residual network this is the last batch
    norm of the residual branch, before the addition, as in the authors' code.

    The larger of two maps is averaged to the size of the smaller. The authors' code and mdistiller leave the teacher in
    training mode, so that its batch norm takes the statistics of the batch; here the teacher is in eval mode.
    """

    scope = "batch"  # for the batch norm

    def __init__(self, params: OFDParams, setting: Setting) -> None:
        super().__init__()
        student, teacher = setting.student.taps, teacher_shape(setting)
        self._pairs = pair_stages(student, teacher.taps)
        self.connectors = nn.ModuleList()
        for number, (name, target) in enumerate(self._pairs):
            width = require_map("student_taps", name, student[name])[0]
            channels = require_map("teacher_taps", target, teacher.taps[target])[0]
            if target not in teacher.norm:
                raise ObjectiveError(
                    f"teacher_taps: the margin of OFD is computed from the batch norm before an activation, "
                    f"and none is known for the teacher's {target}"
                )
            self.connectors.append(conv_bn(width, channels))
            self.register_buffer(f"margin{number}", margins(*teacher.norm[target]).float())
        self._params = params

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, students, teachers = step.rows, student_taps(step), teacher_taps(step)
        with autocast_disabled(rows):
            total = torch.zeros_like(rows.student32[:, 0])
            for number, (name, target) in enumerate(self._pairs):
                maps, targets = pooled_to_smaller(students[name], teachers[target])
                mapped = self.connectors[number](maps, rows.share)
                margin = self.get_buffer(f"margin{number}").to(mapped.dtype)
                distance = partial_distance(mapped, targets, margin).flatten(1).sum(1)
                total = total + distance * 2.0 ** (number - len(self._pairs) + 1)
            ofd = rows.weigh(total).mean()
        return with_cross_entropy(rows, self._params.ce_weight, {"ofd": (self._params.weight, ofd)})


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Return the partial squared distance of each element (B, C, H, W); the margins are (C,)."""
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
