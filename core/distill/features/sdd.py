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

The alignment term A is of the regions as rows with the weights ω_i·c_in, and multiplied as each L_k is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from core.catalog.methods.alignment import AlignmentParams
from core.catalog.methods.sdd import RegionParams, SDDKDParams, SDKDParams, SDNKDParams
from core.catalog.methods.shared import ramp
from core.catalog.taps import regions_tap
from core.distill.logits.alignment import RowTerm, Weighted, align_diagnostics, alignment, similarity, subtract
from core.distill.logits.decoupled import Decoupled
from core.distill.logits.kd import softened_divergence
from core.distill.logits.nkd import non_target, pair_of, soft_target, soft_target_of
from core.distill.logits.partition import Partition, within_members
from core.distill.objective import Objective, Setting, Step
from core.distill.rows import Rows, to_loss_dtype
from core.distill.terms import LossTerms, Term, autocast_disabled, label_term, with_gradient

_Diagnostics = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


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
        self._ramp_epochs: int = getattr(params, "ramp_epochs", 0)  # KD has no ramp
        self._align = params if isinstance(params, AlignmentParams) and params.align != "off" else None
        if self._align:
            self.scope = "batch"  # A is no mean over rows

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
            weighted: Weighted = dict(self.terms(regions, step.epoch))
            diagnostics = None
            if self._align:
                epsilon, diagnostics = self._subtract(self._align, weighted, ce, regions, scale, step.epoch)
                values["epsilon"] = epsilon
            for name, (part_weight, term) in weighted.items():
                values[name], factor = scale * term.value, part_weight * scale
                gradient = (factor * term.gradient).view_as(student)
                parts[name] = with_gradient(student, factor * term.value, gradient)
            return LossTerms(torch.stack(list(parts.values())).sum(), values, diagnostics=diagnostics, parts=parts)

    def _subtract(
        self, params: AlignmentParams, weighted: Weighted, ce: Term, regions: Rows, scale: Tensor, epoch: int | None
    ) -> tuple[Tensor, _Diagnostics]:
        """Add the alignment term to the terms of the regions.

        Args:
            params: The parameters.
            weighted: The terms of the regions with their weights in this epoch.
            ce: The cross-entropy.
            regions: The regions as rows.
            scale: The factor of every term of the regions.
            epoch: Counted from 0; None means no decay.

        Returns:
            ε; and the diagnostics of the term.
        """
        assert params.align != "off"
        names = list(weighted)
        first, second = self.pair(regions)
        term = alignment(regions, first, second, params.align, params.align_log_floor)
        every: Weighted = {"ce": (self.ce_weight, ce)}
        every |= {name: (weight, _times(each, scale)) for name, (weight, each) in weighted.items()}
        epsilon = subtract(
            every,
            _times(term, scale),
            epsilon=params.align_epsilon,
            epsilon_share=params.align_epsilon_share,
            decay=params.align_decay ** (epoch or 0),
            ramp=self.ramp(epoch),
        )
        weighted["align"] = every["align"][0], term

        def measure(_: Mapping[str, Tensor]) -> dict[str, Tensor]:
            gradients = {name: weight * each.gradient for name, (weight, each) in every.items()}
            return {"grad/similarity": similarity(regions, first, second)} | align_diagnostics(gradients, names)

        return epsilon, measure

    @property
    @abstractmethod
    def ce_weight(self) -> float:
        """The weight of the cross-entropy."""

    @abstractmethod
    def terms(self, regions: Rows, epoch: int | None) -> Mapping[str, tuple[float, Term]]:
        """Return the terms of the regions, each with its weight in an epoch."""

    def ramp(self, epoch: int | None) -> float:
        """Return the factor of the terms of the regions in an epoch: min(e / ramp_epochs, 1), e counted from 1."""
        return 1.0 if epoch is None else ramp(epoch, self._ramp_epochs, 1)

    def pair(self, regions: Rows) -> tuple[RowTerm, RowTerm]:
        """Return the two terms of each region whose gradients the alignment term compares.

        Raises:
            NotImplementedError: The method has one term.
        """
        raise NotImplementedError

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
        """Return TCKD and NCKD of the regions, with their weights."""
        parts, r = Decoupled(regions, self._params.temperature), self.ramp(epoch)
        return {"tckd": (r * self._params.alpha, parts.tckd()), "nckd": (r * self._params.beta, parts.nckd())}

    def pair(self, regions: Rows) -> tuple[RowTerm, RowTerm]:
        """Return TCKD and NCKD of each region."""
        partition = Partition(regions, self._params.temperature, (regions.label.unsqueeze(1),))
        return partition.between(), partition.within(1)


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
        params, r = self._params, self.ramp(epoch)
        compute = non_target if params.variant == "paper" else _all_classes
        return {
            "target": (r * params.target_weight, soft_target(regions)),
            "non_target": (r * params.gamma, compute(regions, params.temperature)),
        }

    def pair(self, regions: Rows) -> tuple[RowTerm, RowTerm]:
        """Return both terms of each region."""
        temperature = self._params.temperature
        if self._params.variant == "paper":
            return pair_of(regions, temperature)
        every = torch.ones_like(regions.student32, dtype=torch.bool)
        return soft_target_of(regions), within_members(regions, temperature, every)


def _all_classes(regions: Rows, temperature: float) -> Term:
    """Return T²·CE(q, p) over all classes: KD plus the teacher's entropy, a constant."""
    term = softened_divergence(regions, temperature)
    log_q = torch.log_softmax(regions.teacher32 / temperature, 1)
    entropy = -regions.weigh((log_q.exp() * log_q).sum(1)).mean()
    return Term(term.value + temperature**2 * entropy, term.direction, term.scale)


def _times(term: Term, factor: Tensor) -> Term:
    return replace(term, value=factor * term.value, scale=factor * term.scale)
