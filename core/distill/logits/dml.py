"""Deep Mutual Learning (Zhang et al., CVPR 2018): two students z₁ and z₂ that teach each other.

With p = softmax(z/T), the losses are

    L₁ = ce_weight·CE(z₁) + weight·T²·KL(p₂ ‖ p₁)        L₂ = ce_weight·CE(z₂) + weight·T²·KL(p₁ ‖ p₂)

where the first distribution of a divergence is a constant. Both are minimised together: neither has a gradient with
respect to the other's network, so the sum gives each network its own. The paper has T = 1.

In Algorithm 1 of the paper the second network learns from predictions that the first one makes after its update; here
both learn from the predictions of one forward pass, as in the public implementations. The two differ by terms of the
size of the learning rate.

The second network is the method's: it has initial weights of a seed of its own, it is in the checkpoints, and it is
neither exported nor evaluated, except for its test accuracy at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.catalog.methods.dml import DMLParams
from core.distill.logits.kd import softened_divergence
from core.distill.objective import PEER, Objective, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, autocast_disabled, label_term, with_gradient
from core.specs import ModelRef


class DML(Objective):
    """DML with its second student.

    Args:
        params: The parameters.
        setting: Builds the second student.
    """

    scope = "row"

    def __init__(self, params: DMLParams, setting: Setting) -> None:
        super().__init__()
        assert setting.build_network is not None
        model = ModelRef(name=params.peer, params=params.peer_params) if params.peer else None
        self._params = params
        self._peer = setting.build_network(model)

    def peer(self) -> nn.Module:
        """Return the second student."""
        return self._peer

    def forward(self, step: Step) -> LossTerms:
        """Return the sum of both losses."""
        rows, other = step.rows, step.student.taps[PEER]
        with autocast_disabled(rows):
            student = self._terms(rows, rows.student, other)
            peer = self._terms(rows, other, rows.student)
        parts = {name: self._weighted(name, term, rows.student) for name, term in student.items()}
        parts |= {f"peer_{name}": self._weighted(name, term, other) for name, term in peer.items()}
        values = student | {f"peer_{name}": term for name, term in peer.items()}
        total = torch.stack(list(parts.values())).sum()
        return LossTerms(total, {name: term.value for name, term in values.items()}, parts=parts)

    def _terms(self, rows: Rows, logits: Tensor, other: Tensor) -> dict[str, Term]:
        """Return the terms of the network with some logits, which learns from the other's."""
        pair = Rows(logits, other.detach(), rows.target, rows.weight, rows.label_smoothing)
        return {"ce": label_term(pair), "kl": softened_divergence(pair, self._params.temperature)}

    def _weighted(self, name: str, term: Term, logits: Tensor) -> Tensor:
        weight = self._params.ce_weight if name == "ce" else self._params.weight
        return with_gradient(logits, weight * term.value, weight * term.gradient)
