"""CC (Peng et al. 2019): the correlation of samples is that of the teacher.

``paper``: with features x of norm 1, exp(−γ·‖x − y‖²) = e^−2γ·e^(2γ·⟨x, y⟩), and the Taylor series of order P gives

    L = w_CE·CE + w·mean_ij (κ_ij(student) − κ_ij(teacher))² ,   κ_ij = e^−2γ·Σ_{p≤P} (2γ)^p/p!·⟨x_i, x_j⟩^p

The paper adds it to KD and draws batches by class; here batches are those of the experiment.

``public_code``: RepDistiller computes another thing, and the figures that tables call CC are of it. With the difference
δ_i = E_s·f_i(student) − E_t·f_i(teacher) of two linear layers, both trained, and |·| of each element:

    L = w_CE·CE + w·mean_i ⟨|δ_i|, |δ_i+1|⟩

over neighbours in the batch, so that it depends on the order of the samples. The two layers can make it 0 by
themselves. With weights ω_i of the rows, a pair of neighbours has the weight ω_i·ω_i+1; a row of weight 0 is passed
over.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.catalog.methods.cc import CCParams
from core.distill.features.common import cosines, mean_over_pairs, present_vectors, shares, sum_of_parts, tap_pair
from core.distill.objective import Objective, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms, autocast_disabled


class CC(Objective):
    """CE plus the weighted distance of the correlations."""

    scope = "batch"

    def __init__(self, params: CCParams, setting: Setting) -> None:
        super().__init__()
        assert setting.teacher is not None
        self._params, self._pair = params, tap_pair(setting)
        if params.variant == "public_code":
            student, teacher = setting.student.taps[self._pair[0]], setting.teacher.taps[self._pair[1]]
            self.student_layer = nn.Linear(student.numel(), params.width)
            self.teacher_layer = nn.Linear(teacher.numel(), params.width)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            student, teacher = present_vectors(step, self._pair)
            if params.variant == "public_code":
                term = _neighbours(rows, self.student_layer(student) - self.teacher_layer(teacher))
            else:
                term = mean_over_pairs(rows, (self._kernel(student) - self._kernel(teacher)).square())
            return sum_of_parts(rows, params.ce_weight, {"cc": (params.strength, term)})

    def _kernel(self, vectors: Tensor) -> Tensor:
        """Return κ (B, B) of vectors (B, D)."""
        correlation, doubled = cosines(vectors), 2 * self._params.gamma
        kernel = torch.ones_like(correlation)
        for power in range(self._params.order, 0, -1):  # Horner's rule
            kernel = 1 + doubled / power * correlation * kernel
        return math.exp(-doubled) * kernel


def _neighbours(rows: Rows, difference: Tensor) -> Tensor:
    """Return the weighted mean of ⟨|δ_i|, |δ_j|⟩ over rows i and the next rows j of a weight above 0.

    Args:
        rows: The rows of the batch.
        difference: (B, D), δ.
    """
    share, count = shares(rows), len(difference)
    if count < 2:
        return difference.sum() * 0.0
    number = torch.arange(count, device=difference.device)
    later = torch.where(share > 0, number, count)[1:].flip(0).cummin(0).values.flip(0)
    has_next = later < count
    following = later.clamp(max=count - 1)
    weight = torch.where(has_next, share[:-1] * share[following], 0.0)
    size = difference.abs()
    products = (size[:-1] * size[following]).sum(1)
    total = weight.sum()
    return (weight * products).sum() / torch.where(total > 0, total, 1.0)
