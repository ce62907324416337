"""CTKD: KD whose temperature is learnt against the student, more and more over the epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM, STANDARDISE
from core.catalog.metric import LOSS_PANEL, Metric
from core.catalog.registry import Params


class CTKDParams(Params):
    """Parameters of CTKD."""

    module: Literal["global", "instance"] = Field(
        "global",
        description="global: one temperature for all samples. instance: one for each sample, from two layers that read "
        "the logits of both networks.",
    )
    initial_temperature: float = Field(1.0, gt=0, le=100, description="τ_init, the lowest temperature.")
    temperature_range: float = Field(
        20.0, ge=0, le=1000, description="τ_range: the temperature is τ_init + τ_range·σ(θ), where θ is learnt."
    )
    curriculum_epochs: int = Field(
        10, ge=0, description="E: over these epochs λ grows from λ_min to λ_max along a cosine. 0: it is λ_max."
    )
    lambda_min: float = Field(0.0, ge=0, le=100, description="λ_min, the factor of the reversed gradient at the start.")
    lambda_max: float = Field(1.0, ge=0, le=100, description="λ_max, the factor of the reversed gradient at the end.")
    hidden: int = Field(128, ge=1, le=65_536, description="For instance: the width of the layer between the two.")
    ce_weight: float = Field(0.1, ge=0, description="Weight of the cross-entropy with the labels.")
    kd_weight: float = Field(0.9, ge=0, description="Weight of T²·KL(teacher ‖ student).")
    standardise: bool = Field(False, description=STANDARDISE + " That paper uses kd_weight = 9.")

    def reversal(self, epoch: int | None) -> float:
        """Return λ, by which the gradient of the temperature is multiplied with its sign turned.

        Args:
            epoch: Counted from 0; the first epoch is number 1 of the curriculum. None: full strength.
        """
        if epoch is None or self.curriculum_epochs == 0:
            return self.lambda_max
        done = min(epoch + 1, self.curriculum_epochs) / self.curriculum_epochs
        return self.lambda_min + (self.lambda_max - self.lambda_min) * (1 - math.cos(math.pi * done)) / 2


def _warnings(params: CTKDParams, context: MethodContext) -> Iterator[SpecWarning]:
    if context.epochs < params.curriculum_epochs:
        top = params.reversal(context.epochs - 1)
        text = f"the curriculum does not end within the training: λ reaches {top:.3g}"
        yield SpecWarning("params.curriculum_epochs", text)
    if params.lambda_max == params.lambda_min == 0:
        yield SpecWarning("params.lambda_max", "λ is 0 in every epoch, so that the temperature is not learnt")


METHODS.add(
    MethodEntry(
        name="ctkd",
        title="CTKD",
        aliases=("curriculum_temperature", "curriculum_kd"),
        summary="KD with a temperature that is learnt to increase the loss, with a strength that grows over epochs.",
        target="core.distill.logits.ctkd:CTKD",
        reads_rows_alone=True,
        params=CTKDParams,
        source="Li et al., AAAI 2023, arXiv 2211.16231",
        weight_params={"ce": "ce_weight", "kd": "kd_weight"},
        metrics=(
            CE_TERM,
            Metric("train/kd", "KD term, unweighted", "nats", panel=LOSS_PANEL),
            Metric("train/temperature", "Temperature, mean over the samples", panel="Temperature of CTKD"),
        ),
        measured=("temperature",),
        warnings=_warnings,
        cost="The teacher's logits, two softmax over the batch's logits, and one parameter; for instance, 2·C·hidden "
        "more.",
    )
)
