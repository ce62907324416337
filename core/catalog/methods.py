"""The distillation methods: their parameters and limits. The code is in ``core.methods``, one file each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from core.catalog.registry import Entry, Params, Registry
from core.catalog.taps import Taps


@dataclass(frozen=True, kw_only=True)
class MethodEntry(Entry):
    """A method.

    ``target`` is a callable ``(Rows, params, epoch) -> LossTerms``, or a class with the interface of
    ``core.distill.objective.Objective``.

    Attributes:
        needs_teacher: Whether the loss reads a teacher's logits.
        taps: Returns the layers that the method reads with given parameters; None if it reads logits alone.
        min_classes: The least number of classes. NCKD compares the non-target classes, so it needs at least two.
    """

    needs_teacher: bool = True
    min_classes: int = 2
    taps: Callable[[Any], Taps] | None = None

    def taps_of(self, params: Any) -> Taps:
        """Return the layers that the method reads with given parameters."""
        return self.taps(params) if self.taps else Taps()

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"needs_teacher": self.needs_teacher, "min_classes": self.min_classes}


METHODS: Registry[MethodEntry] = Registry("method")


_STANDARDISE = "Standardise each row of logits before distillation to mean 0, standard deviation 1 (arXiv 2403.01427)."


class KDParams(Params):
    """Parameters of KD."""

    temperature: float = Field(4.0, gt=0, le=100, description="Temperature of both softened distributions.")
    ce_weight: float = Field(0.1, ge=0, description="Weight of the cross-entropy with the labels.")
    kd_weight: float = Field(0.9, ge=0, description="Weight of T²·KL(teacher ‖ student).")
    standardise: bool = Field(False, description=_STANDARDISE + " That paper uses T = 2, kd_weight = 9.")


class DecoupledParams(Params):
    """Parameters that DKD and the methods derived from it share."""

    alpha: float = Field(1.0, ge=0, description="α, the weight of TCKD (the target class against the others).")
    beta: float = Field(8.0, ge=0, description="β, the weight of NCKD (the non-target classes among themselves).")
    temperature: float = Field(4.0, gt=0, le=100, description="T, the temperature of both softened distributions.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    ramp_epochs: int = Field(
        20, ge=0, description="Epochs over which the distillation terms grow linearly: min(e / ramp, 1). 0: no ramp."
    )
    ramp_start: Literal[0, 1] = Field(
        1,
        description="Number of the first epoch in the ramp: 1 in mdistiller; 0, which is CE alone, in the code of "
        "Decoupled Gradient KD.",
    )


class DKDParams(DecoupledParams):
    """Parameters of DKD."""

    standardise: bool = Field(False, description=_STANDARDISE + " That paper uses T = 2, and α and β times 9.")


class DKDDivergenceParams(DecoupledParams):
    """Parameters of DKD-Divergence."""

    mu: float = Field(8.0, ge=0, description="μ, the weight of MSE(p_t, q_t).")
    epsilon: float = Field(6.0, ge=0, description="ε, the weight of MSE(p − p_t, q − q_t) over all classes.")


class DISTParams(Params):
    """Parameters of DIST."""

    temperature: float = Field(4.0, gt=0, le=100, description="τ, the temperature of both softened distributions.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    beta: float = Field(2.0, ge=0, description="β, the weight of 1 − Pearson over the classes of a sample.")
    gamma: float = Field(2.0, ge=0, description="γ, the weight of 1 − Pearson over the samples of a class.")


class NKDParams(Params):
    """Parameters of NKD."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    gamma: float = Field(1.5, ge=0, description="γ, the weight of the non-target part.")
    temperature: float = Field(1.0, gt=0, le=100, description="Temperature of the non-target distributions.")


class RLDParams(Params):
    """Parameters of RLD."""

    alpha: float = Field(1.0, ge=0, description="α, the weight of sample confidence distillation.")
    beta: float = Field(8.0, ge=0, description="β, the weight of masked correlation distillation.")
    temperature: float = Field(4.0, gt=0, le=100, description="T of the masked correlation.")
    confidence_temperature: float = Field(4.0, gt=0, le=100, description="T of the sample confidence.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    ramp_epochs: int = Field(20, ge=0, description="As for dkd: the distillation terms grow over these epochs.")
    standardise: bool = Field(False, description=_STANDARDISE)


class DKDAlignParams(DKDParams):
    """Parameters of DKD-Align."""

    reduction: Literal["batch", "sample", "log"] = Field(
        description="Gradients that are compared. batch: those of the batch means, as the formula is written. "
        "sample: those of each sample's loss. log: the logarithm of the latter, which does not depend on scale.",
        examples=["sample"],
    )
    epsilon: float | None = Field(
        None, ge=0, description="ε, the weight of the alignment term A, which is subtracted.", examples=[6.0]
    )
    epsilon_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Instead of ε: share of the summed gradient norms that the term gets at every step.",
        examples=[0.1],
    )
    decay: float = Field(1.0, gt=0, le=1, description="ε is multiplied by decay^e, e counted from 0. 1: no decay.")
    log_floor: float = Field(
        0.0,
        ge=0,
        description="For log: added to A in the denominator, in units of the batch reduction; 1e-8 in the code of "
        "Decoupled Gradient KD (2026).",
    )

    @model_validator(mode="after")
    def _one_weight(self) -> Self:
        if (self.epsilon is None) == (self.epsilon_share is None):
            raise ValueError("give exactly one of epsilon and epsilon_share")
        if self.log_floor and self.reduction != "log":
            raise ValueError("log_floor has an effect only with reduction log")
        return self


METHODS.add(
    MethodEntry(
        name="ce",
        title="CE",
        aliases=("cross_entropy", "vanilla", "scratch", "baseline"),
        summary="Cross-entropy with the labels only, without a teacher.",
        target="core.distill.logits.ce:ce_loss",
        needs_teacher=False,
    )
)
METHODS.add(
    MethodEntry(
        name="kd",
        title="KD",
        aliases=("hinton", "vanilla_kd", "soft_target", "logits"),
        summary="The teacher's softened distribution is the target.",
        target="core.distill.logits.kd:kd_loss",
        params=KDParams,
        source="Hinton et al. 2015, arXiv 1503.02531",
    )
)
METHODS.add(
    MethodEntry(
        name="dkd",
        title="DKD",
        aliases=("decoupled_kd",),
        summary="KD split into a target part (TCKD) and a non-target part (NCKD) with separate weights.",
        target="core.distill.logits.dkd:dkd_loss",
        params=DKDParams,
        source="Zhao et al., CVPR 2022, arXiv 2203.08679",
        min_classes=3,
    )
)
METHODS.add(
    MethodEntry(
        name="dkd_align",
        title="DKD-Align",
        summary="DKD minus ε times the distance between the gradients of its two parts, in closed form.",
        target="core.distill.logits.dkd_align:dkd_align_loss",
        params=DKDAlignParams,
        source="Decoupled Gradient Knowledge Distillation",
        min_classes=3,
    )
)
METHODS.add(
    MethodEntry(
        name="dkd_divergence",
        title="DKD-Divergence",
        summary="DKD plus squared differences of the target probabilities and of the distances to them.",
        target="core.distill.logits.dkd_divergence:dkd_divergence_loss",
        params=DKDDivergenceParams,
        source="Decoupled Gradient Knowledge Distillation",
        min_classes=3,
    )
)
METHODS.add(
    MethodEntry(
        name="dist",
        title="DIST",
        summary="Pearson correlation with the teacher, over the classes of a sample and over the samples of a class.",
        target="core.distill.logits.dist:dist_loss",
        params=DISTParams,
        source="Huang et al., NeurIPS 2022, arXiv 2205.10536",
    )
)
METHODS.add(
    MethodEntry(
        name="nkd",
        title="NKD",
        summary="The teacher's target probability as a soft label, and the normalised non-target distributions.",
        target="core.distill.logits.nkd:nkd_loss",
        params=NKDParams,
        source="Yang et al., ICCV 2023, arXiv 2303.13005",
        min_classes=3,
    )
)
METHODS.add(
    MethodEntry(
        name="rld",
        title="RLD",
        summary="The teacher's confidence for the true class, and its ranking of the classes below the true one.",
        target="core.distill.logits.rld:rld_loss",
        params=RLDParams,
        source="Sun et al. 2024, arXiv 2408.07703",
        min_classes=3,
    )
)
