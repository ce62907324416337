"""SDD, scale decoupled distillation (Wei et al. 2024): w_CE·CE + r(e)·Σ w_k·L_k on the logits of regions.

The last map of a network is divided by grids, and each cell has logits: those of the last linear layer for the cell's
mean, see ``core.catalog.taps.regions_tap``. A term L_k of KD, DKD or NKD is computed for each region n of each image i
with the image's label, and averaged:

    L = (1/N)·Σ_i ω_i·Σ_n c_in·L_k(region n of image i)

c_in is 1 where the teacher is right both for the region and for the whole image, or wrong for both (consistent
regions). It is β where it is right for one of them only (complementary regions).

The public code (shicaiwei123/SDD-CVPR2024) pools each grid from a pooled map of 4×4 cells, which gives the same means
if 4 divides the side of the map; here they are means of the map itself. As there, a grid that is finer than the map
repeats its positions. The code's NKD leaves the target class in the non-target part (``variant: public_code``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.catalog.methods.sdd import RegionParams, SDDKDParams, SDKDParams, SDNKDParams
from core.catalog.taps import regions_tap
from core.distill.logits.decoupled import Decoupled
from core.distill.logits.kd import softened_divergence
from core.distill.logits.nkd import non_target, soft_target
from core.distill.objective import Objective, Setting, Step
from core.distill.rows import Rows, to_loss_dtype
from core.distill.terms import LossTerms, Term, autocast_disabled, label_term, with_gradient


class _OnRegions(Objective):
    """Terms of logits that are computed of regions.

    Args:
        params: The parameters.
        setting: What it is built for.
    """

    scope = "row"

    def __init__(self, params: RegionParams, setting: Setting) -> None:
        super().__init__()
        self._tap, self._complementary = regions_tap(params.grids), params.complementary

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        assert step.teacher is not None
        rows, student, teacher = step.rows, step.student.taps[self._tap], step.teacher.taps[self._tap]
        with autocast_disabled(rows):
            count = student.shape[1]
            factors = self._factors(rows, teacher)
            shares = factors if rows.weight32 is None else factors * rows.weight32.unsqueeze(1)
            regions = Rows(
                student.flatten(0, 1), teacher.flatten(0, 1), rows.target.repeat_interleave(count), shares.flatten()
            )
            # A term of rows with weights is divided by their sum, and this one by that of the images' weights.
            weight = rows.total_weight() * count
            scale = shares.sum() / torch.where(weight > 0, weight, torch.ones_like(weight))
            ce = label_term(rows)
            values = {"ce": ce.value}
            ce_weight = self.ce_weight
            parts = {"ce": with_gradient(rows.student, ce_weight * ce.value, ce_weight * ce.gradient)}
            for name, (part_weight, term) in self.terms(regions, step.epoch).items():
                values[name], factor = scale * term.value, part_weight * scale
                gradient = (factor * term.gradient).view_as(student)
                parts[name] = with_gradient(student, factor * term.value, gradient)
            return LossTerms(torch.stack(list(parts.values())).sum(), values, parts=parts)

    @property
    @abstractmethod
    def ce_weight(self) -> float:
        """The weight of the cross-entropy."""

    @abstractmethod
    def terms(self, regions: Rows, epoch: int | None) -> Mapping[str, tuple[float, Term]]:
        """Return the terms of the regions, each with its weight in an epoch."""

    def _factors(self, rows: Rows, teacher: Tensor) -> Tensor:
        """Return c (B, N): β for complementary regions, 1 for the others."""
        right = teacher.argmax(2) == rows.label.unsqueeze(1)
        whole = right[:, :1]  # the first region is the whole image
        factors = torch.ones_like(right, dtype=to_loss_dtype(rows.student.detach()).dtype)
        return torch.where(right == whole, factors, self._complementary)


class SDKD(_OnRegions):
    """KD on regions."""

    def __init__(self, params: SDKDParams, setting: Setting) -> None:
        super().__init__(params, setting)
        self._params = params

    @property
    def ce_weight(self) -> float:
        """The weight of the cross-entropy."""
        return self._params.ce_weight

    def terms(self, regions: Rows, epoch: int | None) -> dict[str, tuple[float, Term]]:
        """Return T²·KL of the regions."""
        return {"kd": (self._params.kd_weight, softened_divergence(regions, self._params.temperature))}


class SDDKD(_OnRegions):
    """DKD on regions."""

    def __init__(self, params: SDDKDParams, setting: Setting) -> None:
        super().__init__(params, setting)
        self._params = params

    @property
    def ce_weight(self) -> float:
        """The weight of the cross-entropy."""
        return self._params.ce_weight

    def terms(self, regions: Rows, epoch: int | None) -> dict[str, tuple[float, Term]]:
        """Return TCKD and NCKD of the regions."""
        parts, r = Decoupled(regions, self._params.temperature), _ramp(self._params, epoch)
        return {"tckd": (r * self._params.alpha, parts.tckd()), "nckd": (r * self._params.beta, parts.nckd())}


class SDNKD(_OnRegions):
    """NKD on regions."""

    def __init__(self, params: SDNKDParams, setting: Setting) -> None:
        super().__init__(params, setting)
        self._params = params

    @property
    def ce_weight(self) -> float:
        """The weight of the cross-entropy."""
        return self._params.ce_weight

    def terms(self, regions: Rows, epoch: int | None) -> dict[str, tuple[float, Term]]:
        """Return both terms of NKD of the regions."""
        params, r = self._params, _ramp(self._params, epoch)
        compute = non_target if params.variant == "paper" else _all_classes
        return {
            "target": (r * params.target_weight, soft_target(regions)),
            "non_target": (r * params.gamma, compute(regions, params.temperature)),
        }


def _all_classes(regions: Rows, temperature: float) -> Term:
    """Return T²·CE(q, p) over all classes: KD plus the teacher's entropy, a constant."""
    term = softened_divergence(regions, temperature)
    log_q = torch.log_softmax(regions.teacher32 / temperature, 1)
    entropy = -regions.weigh((log_q.exp() * log_q).sum(1)).mean()
    return Term(term.value + temperature**2 * entropy, term.direction, term.scale)


def _ramp(params: Any, epoch: int | None) -> float:
    """Return min(e / ramp_epochs, 1), e counted from 1."""
    return 1.0 if epoch is None or params.ramp_epochs == 0 else min((epoch + 1) / params.ramp_epochs, 1.0)
