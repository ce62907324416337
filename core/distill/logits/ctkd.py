"""CTKD, curriculum temperature (Li et al. 2023): w_CE·CE + w_KD·T²·KL(q ‖ p), where T is learnt against the student.

T = τ_init + τ_range·σ(θ). θ is a parameter (``global``, 1 at the start), or the output of two layers that read the
logits of both networks (``instance``). Its gradient is multiplied by −λ: the student lowers the loss, and the
temperature raises it, the more the later. λ(e) = λ_min + (λ_max − λ_min)·(1 − cos(π·min(e, E)/E))/2, e counted from 1.
The factor T² belongs to the loss, also for the gradient of T.

As in the public code (zhengli97/CTKD), the optimiser treats θ as any other parameter, its weight decay included. The
code of ``instance`` is not in that repository. Here its layers have a ReLU between them and read the logits as
constants, so that no reversed gradient reaches the student.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.catalog.methods.ctkd import CTKDParams
from core.distill.logits.standardisation import StandardisedLogits
from core.distill.objective import Objective, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, autocast_disabled, label_term, with_gradient


class CTKD(Objective):
    """KD with a learnt temperature.

    Args:
        params: The parameters.
        setting: What it is built for.
    """

    scope = "row"

    def __init__(self, params: CTKDParams, setting: Setting) -> None:
        super().__init__()
        self._params = params
        if params.module == "global":
            self.theta = nn.Parameter(torch.ones(()))
        else:
            inputs = 2 * setting.student.num_classes
            self.layers = nn.Sequential(nn.Linear(inputs, params.hidden), nn.ReLU(), nn.Linear(params.hidden, 1))

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            standardised = StandardisedLogits(rows) if params.standardise else None
            temperature = self._temperature(rows, params.reversal(step.epoch))
            inputs = standardised.batch if standardised else rows
            divergence, slope = softened_divergence(inputs, temperature.detach())
            if standardised:
                divergence = standardised.pull_back(divergence)
            ce, nothing = label_term(rows), torch.zeros_like(divergence.value)
            kd = with_gradient(rows.student, divergence.value, divergence.gradient)
            kd = kd + with_gradient(temperature, nothing, slope)
            parts = {
                "ce": with_gradient(rows.student, params.ce_weight * ce.value, params.ce_weight * ce.gradient),
                "kd": params.kd_weight * kd,
            }
            mean = rows.weigh(temperature.detach()).mean()
            values = {"ce": ce.value, "kd": divergence.value, "temperature": mean}
            return LossTerms(parts["ce"] + parts["kd"], values, parts=parts)

    def _temperature(self, rows: Rows, reversal: float) -> Tensor:
        """Return T of each row (R,), with a gradient for the module that is multiplied by −``reversal``."""
        if self._params.module == "global":
            theta = self.theta.expand(len(rows.target))
        else:
            theta = self.layers(torch.cat((rows.teacher32, rows.student32), 1)).squeeze(1)
        # The value of θ with −λ times its gradient.
        reversed_theta = theta.detach() - reversal * (theta - theta.detach())
        return self._params.initial_temperature + self._params.temperature_range * reversed_theta.sigmoid()


def softened_divergence(batch: Rows, temperature: Tensor) -> tuple[Term, Tensor]:
    """Return T²·KL(q ‖ p), averaged over the rows, and its gradient with respect to each row's T.

    Args:
        batch: The logits.
        temperature: (R,), T of each row.

    Returns:
        The term; and (R,), its derivatives by the temperatures.
    """
    t = temperature.unsqueeze(1)
    z, v = batch.student32 / t, batch.teacher32 / t
    log_p, log_q = F.log_softmax(z, 1), F.log_softmax(v, 1)
    p, q = log_p.exp(), log_q.exp()
    distance = log_q - log_p
    divergence = (q * distance).sum(1)
    count = len(t)
    value = batch.weigh(temperature.square() * divergence).sum() / count
    # T·∂KL/∂T = Σ(q − p)·z − Cov_q(v, log q − log p), because ∂log q/∂T = −(v − E_q v)/T, and likewise for p.
    covariance = (q * v * distance).sum(1) - (q * v).sum(1) * divergence
    slope = temperature * (2 * divergence + ((q - p) * z).sum(1) - covariance)
    return Term(value, batch.weigh(t * (p - q)), 1 / count), batch.weigh(slope) / count
