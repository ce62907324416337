"""MLKD, multi-level logit distillation (Jin et al. 2023): three levels, several temperatures, two views.

For one view and one temperature T, let P and Q (R, C) be the softmax of the student's and of the teacher's logits
divided by T. With ω_i the share of row i and 1/B := Σ ω_i² (1/R without weights),

    instance level   T²·Σ_i ω_i·KL(q_i ‖ p_i)
    batch level      B·Σ_ij ω_i·ω_j·(⟨p_i, p_j⟩ − ⟨q_i, q_j⟩)²             without weights ‖PPᵀ − QQᵀ‖² / R
    class level      B²·‖Σ_i ω_i·(p_i·p_iᵀ − q_i·q_iᵀ)‖² / C               without weights ‖PᵀP − QᵀQ‖² / C

Each is added up over the temperatures and the views; the cross-entropy is added up over the views. The views are the
images of the training (weak) and a second, strongly augmented one of the same samples.

The public code (Jin-Ying/Multi-Level-Logit-Distillation, and that of arXiv 2403.01427) computes these terms for both
views, but adds them up otherwise, which is ``variant: public_code``:

- batch and class level of the strong view are computed and not used;
- the strong instance level reads the weak view at the last two temperatures;
- masks select the rows whose teacher is less sure than the median, and the classes that the teacher predicts less than
  the median. They are multiplied with terms that are means already, so that they are no selection but a factor: the
  share of rows or classes that they select, about ½, for the three levels of the weak view.

``paper`` has all levels for both views without masks. It follows the paper's abstract and the terms that the code
computes; the weights are those of the code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods.mlkd import MLKDParams
from core.catalog.taps import STRONG_LOGITS
from core.distill.logits.standardisation import StandardisedLogits
from core.distill.objective import Objective, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, autocast_disabled, label_term, with_gradient

LEVELS = ("instance_level", "batch_level", "class_level")


class MLKD(Objective):
    """The three levels of one view or of two.

    Args:
        params: The parameters.
        setting: What it is built for.
    """

    scope = "batch"
    _temperatures: Tensor

    def __init__(self, params: MLKDParams, setting: Setting) -> None:
        super().__init__()
        self._params = params
        self.register_buffer("_temperatures", torch.tensor(params.temperatures), persistent=False)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        weak, params = step.rows, self._params
        views = [weak]
        if params.strong_view:
            assert step.teacher is not None
            student, teacher = step.student.taps[STRONG_LOGITS], step.teacher.taps[STRONG_LOGITS]
            views.append(Rows(student, teacher, weak.target, weak.weight, weak.label_smoothing))
        with autocast_disabled(weak):
            shared = self._factors(weak)
            found = [self._terms(view, factors) for view, factors in zip(views, shared, strict=False)]
            weights = {"ce": params.ce_weight, "instance_level": params.instance_weight}
            weights |= {"batch_level": params.batch_weight, "class_level": params.class_weight}
            values = {name: torch.stack([terms[name].value for terms in found]).sum() for name in weights}
            parts = {
                name: weight
                * torch.stack(
                    [
                        with_gradient(view.student, terms[name].value, terms[name].gradient)
                        for view, terms in zip(views, found, strict=True)
                    ]
                ).sum()
                for name, weight in weights.items()
            }
            return LossTerms(torch.stack(list(parts.values())).sum(), values, parts=parts)

    def _factors(self, weak: Rows) -> list[dict[str, Tensor]]:
        """Return by level the factor of each temperature (K,) for the weak view and for the strong one."""
        ones = torch.ones(len(self._params.temperatures), device=weak.target.device, dtype=weak.student32.dtype)
        if self._params.variant == "paper":
            return [dict.fromkeys(LEVELS, ones)] * 2
        rows, classes = (share * ones for share in _masked_shares(weak))
        strong, again = ones.clone(), torch.zeros_like(ones)
        if self._params.strong_view:
            strong[-2:], again[-2:] = 0.0, 1.0
        return [
            {"instance_level": rows + again, "batch_level": rows, "class_level": classes},
            {"instance_level": strong},
        ]

    def _terms(self, view: Rows, factors: dict[str, Tensor]) -> dict[str, Term]:
        """Return the cross-entropy and the levels of a view, each level added up over the temperatures."""
        temperatures = self._temperatures.to(view.student32.dtype)
        levels = Levels(view, temperatures)
        terms = {"ce": label_term(view)} | {name: _nothing(view) for name in LEVELS}
        for name, factor in factors.items():
            if name == "instance_level" and self._params.standardise:
                standardised = StandardisedLogits(view)
                term = Levels(standardised.batch, temperatures).level(name, factor)
                terms[name] = standardised.pull_back(term)
            else:
                terms[name] = levels.level(name, factor)
        return terms


class Levels:
    """The levels of one view at K temperatures.

    Args:
        view: The logits of the view, with its weights.
        temperatures: (K,), in the dtype of the loss.
    """

    def __init__(self, view: Rows, temperatures: Tensor) -> None:
        self._t = temperatures.view(-1, 1, 1)
        self._log_p, self._log_q = (F.log_softmax(logits / self._t, 2) for logits in (view.student32, view.teacher32))
        self._p, self._q = self._log_p.exp(), self._log_q.exp()
        count = len(view.target)
        share = torch.full_like(view.student32[:, 0], 1 / max(count, 1)) if view.share is None else view.share
        self._share = share.unsqueeze(1)
        squares = share.square().sum()
        self._rows = 1 / torch.where(squares > 0, squares, 1.0)

    def level(self, name: str, factors: Tensor) -> Term:
        """Return a level, added up over the temperatures with a factor for each.

        Args:
            name: One of ``LEVELS``.
            factors: (K,).
        """
        compute = {"instance_level": self._instance, "batch_level": self._batch, "class_level": self._class}
        values, gradient = compute[name]()
        return Term((factors * values).sum(), (factors.view(-1, 1, 1) * gradient).sum(0))

    def _instance(self) -> tuple[Tensor, Tensor]:
        divergence = (self._q * (self._log_q - self._log_p)).sum(2, keepdim=True)
        values = (self._t.square() * self._share * divergence).sum((1, 2))
        return values, self._t * self._share * (self._p - self._q)

    def _batch(self) -> tuple[Tensor, Tensor]:
        distance = self._p @ self._p.mT - self._q @ self._q.mT
        weighted = self._rows * self._share * distance * self._share.T
        return (weighted * distance).sum((1, 2)), self._through_softmax(4 * weighted @ self._p)

    def _class(self) -> tuple[Tensor, Tensor]:
        share = self._rows * self._share
        distance = self._p.mT @ (share * self._p) - self._q.mT @ (share * self._q)
        classes = distance.shape[-1]
        values = distance.square().sum((1, 2)) / classes
        return values, self._through_softmax(4 / classes * share * (self._p @ distance))

    def _through_softmax(self, gradient: Tensor) -> Tensor:
        """Return a gradient with respect to P (K, R, C) as one with respect to the logits."""
        along = (self._p * gradient).sum(2, keepdim=True)
        return self._p * (gradient - along) / self._t


def _masked_shares(weak: Rows) -> tuple[Tensor, Tensor]:
    """Return the shares of the rows and of the classes that the masks of the public code select."""
    q = F.softmax(weak.teacher32, 1)
    count = len(q)
    share = torch.full_like(q[:, 0], 1 / max(count, 1)) if weak.share is None else weak.share
    classes = (share.unsqueeze(1) * q).sum(0)
    return _share_upto_median(q.amax(1), share), _share_upto_median(classes, torch.full_like(classes, 1 / len(classes)))


def _share_upto_median(values: Tensor, share: Tensor) -> Tensor:
    """Return the summed share of the values that are not above their median (N,), of which the median is one.

    The code's median lies between the two middle values if their number is even, which selects the same ones.
    """
    order = values.argsort()
    reached = share[order].cumsum(0) >= 0.5 * share.sum() - 1e-6  # which rounding must not miss
    median = torch.where(reached, values[order], torch.inf).amin()
    return torch.where(values <= median, share, 0.0).sum()


def _nothing(view: Rows) -> Term:
    return Term(torch.zeros_like(view.student32[:, 0].sum()), torch.zeros_like(view.student32))
