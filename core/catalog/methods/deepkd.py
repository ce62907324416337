"""DeepKD: DKD whose three gradients have momenta of their own, and a mask that grows over the classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from core.catalog.methods.alignment import (
    ALIGN_METRICS,
    ALIGN_SHARE,
    ALIGN_SWITCH,
    ALIGN_WEIGHT,
    AlignmentParams,
    alignment_warnings,
)
from core.catalog.methods.dkd import DKDParams
from core.catalog.methods.entry import METHODS, ClassesNeeded, MethodContext, MethodEntry, Momenta, SpecWarning
from core.catalog.methods.shared import CE_TERM, NCKD_TERM, SIMILARITY, TCKD_TERM, decoupled_warnings

TASK_DELTA = 0.075
START, TOP = 0.05, 0.55


class DeepKDParams(DKDParams, AlignmentParams):
    """Parameters of DeepKD on DKD. The alignment term has the optimiser's momentum."""

    task_delta: float = Field(
        TASK_DELTA, gt=-1, lt=1, description="Added to the optimiser's momentum for the gradient of cross-entropy."
    )
    target_delta: float = Field(
        -0.075, gt=-1, lt=1, description="Added to the optimiser's momentum for the gradient of TCKD."
    )
    non_target_delta: float = Field(
        0.05,
        gt=-1,
        lt=1,
        description="Added to the optimiser's momentum for the gradient of NCKD. Most configurations of the authors "
        "use 0.05.",
    )
    mask: Literal["dynamic", "static", "off"] | None = Field(
        None,
        description="Which non-target classes NCKD compares: those with the teacher's largest logits, a number that "
        "grows (dynamic) or not (static), or all (off). By default dynamic for paper, and off for public_code.",
        examples=["dynamic"],
    )
    start: float = Field(START, gt=0, le=1, description="For dynamic: the share of the classes in the first epoch.")
    top: float = Field(
        TOP,
        gt=0,
        le=1,
        description="The share of the classes for static, and for dynamic between its two growing phases.",
    )
    mask_epochs: tuple[int, int, int] = Field(
        (80, 160, 240),
        description="For dynamic: the epochs at which the share has grown to top, starts to grow again, and reaches 1.",
    )
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: the gradient of cross-entropy has a momentum of its own. public_code: it has the momentum "
        "of TCKD's, as in the authors' code, which never reads the one that its configurations give; static counts the "
        "target among the classes before it is left out.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if list(self.mask_epochs) != sorted(self.mask_epochs) or self.mask_epochs[0] < 0:
            raise ValueError("mask_epochs do not grow")
        if self.variant == "public_code" and self.task_delta != TASK_DELTA:
            raise ValueError("task_delta has no effect with variant: public_code")
        if self.start > self.top and self.kind == "dynamic":
            raise ValueError("start is above top, and the mask only grows")
        return self

    @property
    def kind(self) -> str:
        """The kind of mask."""
        return self.mask or ("dynamic" if self.variant == "paper" else "off")

    def share_of_classes(self, epoch: int | None) -> float:
        """Return the share of the classes that an epoch, counted from 0, compares; None is after every schedule."""
        if self.kind == "off" or (self.kind == "dynamic" and epoch is None):
            return 1.0
        if self.kind == "static" or epoch is None:
            return self.top
        grown, grows_on, full = self.mask_epochs
        if epoch < grown:
            return self.start + (self.top - self.start) * epoch / grown
        if epoch < grows_on:
            return self.top
        return self.top + (1 - self.top) * (epoch - grows_on) / (full - grows_on) if epoch < full else 1.0


def _momenta(params: DeepKDParams, momentum: float) -> Momenta:
    target, task = momentum + params.target_delta, momentum + params.task_delta
    # In the authors' code the weight decay is a part of TCKD's gradient.
    of_terms = {
        "tckd": target,
        "ce": target if params.variant == "public_code" else task,
        "nckd": momentum + params.non_target_delta,
    }
    names = {"tckd": "target_delta", "ce": "task_delta", "nckd": "non_target_delta"}
    return Momenta(of_terms, momentum, names)


def _warnings(params: DeepKDParams, context: MethodContext) -> Iterator[SpecWarning]:
    yield from decoupled_warnings(params, context)
    yield from alignment_warnings(
        params,
        context,
        parts="α·TCKD + β·NCKD",
        least_weight=min(params.alpha, params.beta),  # with fewer classes in NCKD too: docs/method.md
        ramp_epochs=params.ramp_epochs,
        ramp_start=params.ramp_start,
    )
    if (last := params.share_of_classes(context.epochs - 1)) < 1 and params.kind == "dynamic":
        text = f"the mask does not open within the training: at the end it has {100 * last:.3g} % of the classes"
        yield SpecWarning("params.mask_epochs", text)


def _classes_needed(params: Any) -> ClassesNeeded:
    if params.align != "off":
        return ClassesNeeded(3, "compares the gradients of two parts, of which NCKD is one", field="align")
    return METHODS["dkd"].classes_needed_by(params)


METHODS.add(
    MethodEntry(
        name="deepkd",
        title="DeepKD",
        summary="DKD whose three gradients have momenta of their own, with NCKD over a growing number of classes.",
        family="decoupled",
        target="core.distill.logits.deepkd:deepkd_loss",
        reads_rows_alone=True,
        params=DeepKDParams,
        source="Huang et al., NeurIPS 2025, arXiv 2505.15133",
        min_classes=3,
        classes_needed=_classes_needed,
        weight_params={"ce": "ce_weight", "tckd": "alpha", "nckd": "beta"} | ALIGN_WEIGHT,
        share_params=ALIGN_SHARE,
        switches=ALIGN_SWITCH,
        metrics=(CE_TERM, TCKD_TERM, NCKD_TERM, SIMILARITY, *ALIGN_METRICS),
        momenta=_momenta,
        warnings=_warnings,
        published={"variant": "public_code"},
        cost="What DKD costs, two more backward passes through the student, and two more momenta for each weight.",
    )
)
