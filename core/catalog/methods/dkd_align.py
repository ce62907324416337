"""DKD-Align: DKD minus the distance between the gradients of its two parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from core.catalog.methods.alignment import (
    ALIGN_METRICS,
    instability_warnings,
    repulsion_warnings,
    schedule_warnings,
    stable_epsilon,
)
from core.catalog.methods.dkd import DKDParams
from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import DECOUPLED_METRICS, SIMILARITY, decoupled_warnings

_SHARE_THAT_ACTS = 0.005  # of the gradient


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
    sign: Literal["subtracted", "added"] = Field(
        "subtracted",
        description="Whether ε·A is subtracted from the loss, as DKD-Align is defined, or added, as a control that "
        "moves the two gradients together instead of apart.",
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

    @model_serializer(mode="wrap")
    def _without_the_usual_sign(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A spec from before there was a choice has the same fingerprint as one that chooses the usual sign.
        values: dict[str, Any] = serialise(self)
        if self.sign == "subtracted":
            values.pop("sign", None)
        return values


def _warnings(params: DKDAlignParams, context: MethodContext) -> Iterator[SpecWarning]:
    yield from decoupled_warnings(params, context)
    yield from schedule_warnings(
        context,
        decay=params.decay,
        share=params.epsilon_share is not None,
        ramp_epochs=params.ramp_epochs,
        ramp_start=params.ramp_start,
        field="decay",
    )
    if not params.epsilon:
        return
    if params.sign == "added":  # matching the teacher is an optimum for every ε
        if params.reduction == "log":
            text = "log has no lower bound: added with a fixed ε, its pull grows without limit near the teacher"
            yield SpecWarning("params.epsilon", f"{text}; consider epsilon_share")
        return
    if params.reduction == "log":
        yield from _log(params, params.epsilon, context)
        return
    bound = stable_epsilon(context, min(params.alpha, params.beta), params.reduction)
    formula = "C·min(α, β)·B²" if params.reduction == "batch" else "C·min(α, β)"
    if unstable := list(instability_warnings(params.epsilon, bound, formula, "epsilon")):
        yield from unstable
    else:
        yield from _too_small(params, params.epsilon, context)


def _log(params: DKDAlignParams, epsilon: float, context: MethodContext) -> Iterator[SpecWarning]:
    """Yield a warning if the log reduction keeps the student away from the teacher."""
    last = epsilon * params.decay ** (context.epochs - 1)
    # With a floor the term near the teacher is ε/(floor·B²) times ``sample``, which has its own stability bound.
    weight = min(params.alpha, params.beta)
    harmless = (context.num_classes or 0) * weight * params.log_floor * context.batch_size**2
    yield from repulsion_warnings(last, harmless, bool(params.log_floor), "α·TCKD + β·NCKD", "epsilon")


def _too_small(params: DKDAlignParams, epsilon: float, context: MethodContext) -> Iterator[SpecWarning]:
    """Yield a warning if ε is too small to have an effect."""
    literal, rows = params.reduction == "batch", context.batch_size
    if literal and context.rows_vary:
        text = "batch is smaller than sample by the square of the number of boxes in a step, of which there are many"
        yield SpecWarning("params.reduction", f"{text}: consider log with epsilon_share")
        return
    scale = rows**2 if literal else 1
    if context.num_classes is None:
        if literal:
            yield SpecWarning("params.reduction", f"batch is {scale} times smaller than sample at this batch size")
        return
    # Near p = q = 1/C both of A's parts have 2/C² of TCKD's and NCKD's gradients. Measured on random logits it is that
    # or less while the student is far from the teacher; near a very sure one a hundred times that, yet below 2 %.
    share = 2 * epsilon / (context.num_classes**2 * min(params.alpha, params.beta) * scale)
    if share >= _SHARE_THAT_ACTS:
        return
    text = f"the term is about {100 * share:.2g} % of the gradient while probabilities are soft: consider epsilon_share"
    if literal:
        text = f"batch is {scale} times smaller than sample at this batch size: {text}"
        yield SpecWarning("params.reduction", text)
    else:
        yield SpecWarning("params.epsilon", f"with {context.num_classes} classes {text}")


METHODS.add(
    MethodEntry(
        name="dkd_align",
        title="DKD-Align",
        summary="DKD minus ε times the distance between the gradients of its two parts, in closed form.",
        family="decoupled",
        target="core.distill.logits.dkd_align:dkd_align_loss",
        reads_rows_alone=True,
        params=DKDAlignParams,
        # Those of DKD: there is no published experiment on detection.
        task_params={"detection": {"beta": 0.25, "temperature": 1.0, "ramp_epochs": 0}},
        source="Decoupled Gradient Knowledge Distillation",
        min_classes=3,
        weight_params={"ce": "ce_weight", "tckd": "alpha", "nckd": "beta", "align": "epsilon"},
        metrics=(
            *DECOUPLED_METRICS,
            *ALIGN_METRICS,
        ),
        share_params={"align": "epsilon_share"},
        companion=SIMILARITY.name,
        warnings=_warnings,
        color="#D55E00",
        label_colors={
            "dkd_align (sample)": "#D55E00",
            "dkd_align (log)": "#009E73",
            "dkd_align (batch)": "#E69F00",
        },
        published={
            "temperature": 4.0,
            "alpha": 1.0,
            "beta": 1.0,
            "ramp_epochs": 20,
            "ramp_start": 0,
            "reduction": "log",
            "epsilon": 6.0,
            "log_floor": 1e-8,
        },
        cost="What DKD costs, and a few sums over the batch's logits: the term is in closed form, without a second "
        "backward pass.",
    )
)
