"""GDKD: KD split by the teacher's top classes."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from core.catalog.methods.alignment import (
    ALIGN_METRICS,
    ALIGN_SHARE,
    ALIGN_SWITCH,
    ALIGN_WEIGHT,
    AlignmentParams,
    alignment_warnings,
)
from core.catalog.methods.entry import METHODS, ClassesNeeded, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM, SIMILARITY, STANDARDISE, unfinished_ramp
from core.catalog.metric import Metric


class GDKDParams(AlignmentParams):
    """Parameters of GDKD."""

    w0: float = Field(1.0, ge=0, description="w₀, the weight of the divergence between the groups of classes.")
    w1: float = Field(1.0, ge=0, description="w₁, the weight of the divergence within the teacher's top classes.")
    w2: float = Field(8.0, ge=0, description="w₂, the weight of the divergence within the rest.")
    k: int = Field(5, ge=1, description="k, the number of the teacher's top classes.")
    temperature: float = Field(4.0, gt=0, le=100, description="T, the temperature of both softened distributions.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    ramp_epochs: int = Field(20, ge=0, description="As for dkd: the distillation terms grow over these epochs.")
    standardise: bool = Field(False, description=STANDARDISE + " The authors of GDKD combine both.")

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """The sizes of the groups of top classes, from the top."""
        return (self.k,)


def gdkd_classes(params: GDKDParams) -> ClassesNeeded:
    """Return the least number of classes, with which the rest is not empty."""
    return ClassesNeeded(params.k + 1, f"compares the classes outside the teacher's top {params.k}", field="k")


def gdkd_warnings(params: GDKDParams, context: MethodContext) -> Iterator[SpecWarning]:
    """Yield the warnings of GDKD and GDKD3."""
    yield from unfinished_ramp(params.ramp_epochs, 1, context)
    # A group of a single class has no distribution within it, and its weight decides nothing.
    weights = [params.w0, params.w2, *((params.w1,) if params.group_sizes[-1] > 1 else ())]
    yield from alignment_warnings(
        params,
        context,
        parts="the weighted sum of the divergences",
        least_weight=min(weights),
        ramp_epochs=params.ramp_epochs,
    )


PANEL = "Divergences by groups of classes"
TOP = Metric("train/top", "Divergence within the top classes, unweighted", "nats", panel=PANEL)
REST = Metric("train/rest", "Divergence within the rest of the classes, unweighted", "nats", panel=PANEL)
GDKD_METRICS = (
    CE_TERM,
    Metric("train/between", "Divergence between the groups of classes, unweighted", "nats", panel=PANEL),
    TOP,
    REST,
    SIMILARITY,
    *ALIGN_METRICS,
)
GDKD_WEIGHTS = {"ce": "ce_weight", "between": "w0", "top": "w1", "rest": "w2"} | ALIGN_WEIGHT

METHODS.add(
    MethodEntry(
        name="gdkd",
        title="GDKD",
        aliases=("generalized_dkd",),
        summary="KD split into three parts by the teacher's top k classes: between top and rest, within the top, and "
        "within the rest.",
        family="decoupled",
        target="core.distill.logits.gdkd:gdkd_loss",
        reads_rows_alone=True,
        params=GDKDParams,
        source="Zheng and Cheng, TNNLS 2025, arXiv 2512.04625",
        min_classes=3,
        classes_needed=gdkd_classes,
        weight_params=GDKD_WEIGHTS,
        share_params=ALIGN_SHARE,
        switches=ALIGN_SWITCH,
        metrics=GDKD_METRICS,
        warnings=gdkd_warnings,
        cost="The teacher's logits and their top k, and one pass over the batch's logits for each group of classes.",
    )
)
