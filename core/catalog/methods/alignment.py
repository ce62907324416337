"""DKD-Align's term as a part of other methods: parameters, metrics and warnings that they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.config import JsonDict

from core.catalog.methods.entry import MethodContext, SpecWarning
from core.catalog.methods.shared import SIMILARITY, ramp
from core.catalog.metric import Metric
from core.catalog.registry import Params

# The alignment term has no effect if its greatest factor, ramp times decay, stays below this: with the ramp of 20
# epochs and the decay of 0.3 of Decoupled Gradient KD the factor peaks at 0.015.
_PEAK_THAT_ACTS = 0.05
_FLOOR_THAT_MATTERS = 0.01  # nats of distillation loss left at the end

PANEL = "Alignment term"

ALIGN_METRICS = (
    Metric("grad/align_cosine", "Cosine of the alignment gradient with the rest", panel=SIMILARITY.panel),
    Metric("grad/align_share", "Alignment term's share of the gradient", "%", panel=PANEL, from_zero=True),
    Metric("train/align", "Alignment term A, unweighted", panel=PANEL),
    Metric("train/epsilon", "ε after decay", drawn=False),
)
"""Metrics of the term, wherever it is."""

_OFF = "off"
_ONLY_IF_ON: JsonDict = {"x-only-for": {"field": "align", "values": ["batch", "sample", "log"]}}


class AlignmentParams(Params):
    """Parameters of DKD-Align's term in a method that has two gradients to compare.

    They are left out of a spec while the term is off, so that trainings without it keep their fingerprints.
    """

    align: Literal["off", "batch", "sample", "log"] = Field(
        "off",
        description="Whether ε times the distance between the gradients of the method's two parts is subtracted, as by "
        "dkd_align, and which gradients are compared, as by its reduction.",
    )
    align_epsilon: float | None = Field(
        None,
        ge=0,
        description="ε, the weight of the alignment term, which is subtracted.",
        json_schema_extra=_ONLY_IF_ON,
    )
    align_epsilon_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Instead of ε: share of the summed gradient norms that the term gets at every step.",
        json_schema_extra=_ONLY_IF_ON,
    )
    align_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="ε is multiplied by decay^e, e counted from 0. 1: no decay.",
        json_schema_extra=_ONLY_IF_ON,
    )
    align_log_floor: float = Field(
        0.0,
        ge=0,
        description="For log: added to A in the denominator, in units of the batch reduction.",
        json_schema_extra={"x-only-for": {"field": "align", "values": ["log"]}},
    )

    @model_validator(mode="after")
    def _one_alignment_weight(self) -> Self:
        if self.align == _OFF:
            if set_ones := [
                name for name in _DEPENDENT if getattr(self, name) != type(self).model_fields[name].default
            ]:
                raise ValueError(f"{set_ones[0]} has no effect while align is off")
        elif (self.align_epsilon is None) == (self.align_epsilon_share is None):
            raise ValueError("give exactly one of align_epsilon and align_epsilon_share")
        elif self.align_log_floor and self.align != "log":
            raise ValueError("align_log_floor has an effect only with align: log")
        return self

    @model_serializer(mode="wrap")
    def _without_a_term_that_is_off(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        if self.align == _OFF:
            for name in ("align", *_DEPENDENT):
                values.pop(name, None)
        return values


_DEPENDENT = ("align_epsilon", "align_epsilon_share", "align_decay", "align_log_floor")

ALIGN_WEIGHT = {"align": "align_epsilon"}
ALIGN_SHARE = {"align": "align_epsilon_share"}
ALIGN_SWITCH = {"align": "align"}


def schedule_warnings(
    context: MethodContext, *, decay: float, share: bool, ramp_epochs: int, ramp_start: int, field: str
) -> Iterator[SpecWarning]:
    """Yield a warning if ramp and decay together leave nothing of the term.

    Args:
        context: The spec.
        decay: The factor of ε after each epoch.
        share: Whether the term has a share. It is relative to the other terms, so the ramp does not reduce it.
        ramp_epochs: Epochs of the ramp; 0 for none.
        ramp_start: Number of the first epoch in the ramp.
        field: The name of the parameter ``decay``.
    """
    ramps = [ramp(e, ramp_epochs, ramp_start) for e in range(min(context.epochs, 1000))]
    peak = max((bool(r) if share else r) * decay**e for e, r in enumerate(ramps))
    if peak < _PEAK_THAT_ACTS:
        text = f"ramp × decay never exceeds {peak:.2g}: the alignment term does not act in any epoch"
        yield SpecWarning(f"params.{field}", text)


def repulsion_warnings(last: float, harmless: float, floored: bool, parts: str, field: str) -> Iterator[SpecWarning]:
    """Yield a warning if the log reduction keeps the student away from the teacher.

    Args:
        last: ε in the last epoch.
        harmless: ε up to which the floor keeps the teacher an optimum.
        floored: Whether there is a floor.
        parts: The sum of the weighted parts, in words.
        field: The name of the parameter ε.
    """
    if last > max(harmless, _FLOOR_THAT_MATTERS):
        upto = "up to" if floored else "about a third of it up to"
        text = f"log repels ever harder near the teacher: {parts} settles above 0, at {upto} ε = {last:.3g}"
        yield SpecWarning(f"params.{field}", text)


def stable_epsilon(context: MethodContext, least_weight: float, reduction: str) -> float | None:
    """Return ε up to which matching the teacher is an optimum for every teacher: C·min(w), times B² for ``batch``.

    To second order around z = v the loss is a minimum there exactly while this holds: no eigenvalue of diag(q̂) − q̂q̂ᵀ
    exceeds 1/2, and that of the target part is 1/4 at most (docs/method.md). Weights of rows do not change it, so that
    it holds for each group of rows with parameters of its own.

    Args:
        context: The spec.
        least_weight: The smallest weight of a part.
        reduction: How A is reduced: ``sample`` or ``batch``.

    Returns:
        The bound; None if the number of classes or of rows is not known.
    """
    if context.num_classes is None or (reduction == "batch" and context.rows_vary):
        return None
    return context.num_classes * least_weight * (context.batch_size**2 if reduction == "batch" else 1)


def instability_warnings(epsilon: float, bound: float | None, formula: str, field: str) -> Iterator[SpecWarning]:
    """Yield a warning if ε is too large for the teacher to be an optimum.

    Args:
        epsilon: ε.
        bound: That of ``stable_epsilon``.
        formula: The bound in symbols, before its value; may be empty.
        field: The name of the parameter ε.
    """
    if bound is not None and epsilon > bound:
        named = f"{formula} = {bound:g}" if formula else f"{bound:g}"
        text = f"ε is beyond the stability bound {named}: matching the teacher is no optimum"
        yield SpecWarning(f"params.{field}", text)


def alignment_warnings(
    params: AlignmentParams,
    context: MethodContext,
    *,
    parts: str = "",
    least_weight: float | None = None,
    ramp_epochs: int = 0,
    ramp_start: int = 1,
) -> Iterator[SpecWarning]:
    """Yield the warnings about the alignment term of a method.

    Args:
        params: The parameters of the method.
        context: The spec.
        parts: The sum of the weighted parts, in words; needed with ``least_weight``.
        least_weight: The smallest weight of a part, which bounds ε (docs/method.md). None for a method whose parts are
            not divergences of the student from the teacher over groups of classes.
        ramp_epochs: Epochs of the ramp of the parts; 0 for none.
        ramp_start: Number of the first epoch in the ramp.
    """
    if params.align == _OFF:
        return
    yield from schedule_warnings(
        context,
        decay=params.align_decay,
        share=params.align_epsilon_share is not None,
        ramp_epochs=ramp_epochs,
        ramp_start=ramp_start,
        field="align_decay",
    )
    if not params.align_epsilon or least_weight is None:
        return
    if params.align == "log":
        last = params.align_epsilon * params.align_decay ** (context.epochs - 1)
        harmless = (context.num_classes or 0) * least_weight * params.align_log_floor * context.batch_size**2
        yield from repulsion_warnings(last, harmless, bool(params.align_log_floor), parts, "align_epsilon")
    else:
        bound = stable_epsilon(context, least_weight, params.align)
        yield from instability_warnings(params.align_epsilon, bound, "", "align_epsilon")
