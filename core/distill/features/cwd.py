"""CWD (Shu et al. 2021): channel-wise distillation.

    L = w_CE·CE + w·Σ_l mean_i mean_c τ²·KL(φ(F_lic) ‖ φ(f_lic)) ,   φ(x) = softmax over positions of x / τ

The channels of an image are distributions over its positions (equations 3 and 4), so that a number that is added to a
channel does not matter. The weight belongs to each level; mmrazor trains Faster R-CNN with τ 1 and the weight 10 on
five levels of the pyramid. If the numbers of channels differ, a 1×1 convolution maps the student's (``adapter``), as in
the authors' code. If two maps differ in size, for which the paper has no rule, the larger is averaged to the size of
the smaller.

For maps of one shape it is equal to the loss of mmrazor to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.catalog.methods.cwd import CWDParams
from core.distill.features.adapters import channel_adapters
from core.distill.features.common import (
    map_pairs,
    matched,
    mean_over_rows,
    present_pairs,
    require_equal_channels,
    sum_of_parts,
)
from core.distill.objective import Objective, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled


class CWD(Objective):
    """CE plus the weighted divergence of the channels of all levels."""

    scope = "row"

    def __init__(self, params: CWDParams, setting: Setting) -> None:
        super().__init__()
        self._params, self._pairs = params, map_pairs(setting)
        if not params.adapter:
            require_equal_channels(setting, self._pairs)
        self.adapters = channel_adapters(setting, self._pairs)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            divergences = []
            for adapter, pair in zip(self.adapters, present_pairs(step, self._pairs), strict=True):
                student, teacher = matched(*pair)
                divergences.append(channel_divergence(adapter(student), teacher, params.temperature))
            cwd = mean_over_rows(rows, torch.stack(divergences).sum(0))
            return sum_of_parts(rows, params.ce_weight, {"cwd": (params.weight, cwd)})


def channel_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the mean over channels of τ²·KL (B,) of maps (B, C, H, W)."""
    log_p = (student.flatten(2) / temperature).log_softmax(2)
    log_q = (teacher.flatten(2) / temperature).log_softmax(2)
    divergence: Tensor = torch.linalg.vecdot(log_q.exp(), log_q - log_p)
    return temperature**2 * divergence.mean(1)
