"""PCD: groups of classes, ranked by how far the student's logits are from the teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM, STANDARDISE, unfinished_ramp
from core.catalog.metric import Metric
from core.catalog.registry import Params


class PCDParams(Params):
    """Parameters of PCD."""

    alpha: float = Field(1.0, ge=0, description="α, the weight of the stages of both directions.")
    stages: int = Field(
        3,
        ge=1,
        le=50,
        description="S, the number of stages: in stage s the ranked classes are divided into s groups. The paper uses "
        "3 if the networks are of one family, otherwise 5.",
    )
    temperature: float = Field(4.0, gt=0, le=100, description="T, the temperature of both softened distributions.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    ramp_epochs: int = Field(20, ge=0, description="As for dkd: the distillation term grows over these epochs.")
    standardise: bool = Field(False, description=STANDARDISE)
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: the classes are ranked and divided into groups, each with a divergence of its own. "
        "public_code: the authors' code neither ranks nor divides the classes: it multiplies one divergence over all "
        "classes by the mean of 1 − cosine.",
    )


def _warnings(params: PCDParams, context: MethodContext) -> Iterator[SpecWarning]:
    yield from unfinished_ramp(params.ramp_epochs, 1, context)
    if params.variant == "paper" and context.num_classes and context.num_classes < 2 * params.stages:
        text = f"{context.num_classes} classes in {params.stages} groups leave groups of one class"
        yield SpecWarning("params.stages", f"{text}, which have nothing to compare")


def _problems(params: PCDParams, context: MethodContext) -> Iterator[SpecWarning]:
    if params.variant == "paper" and context.num_classes and context.num_classes < params.stages:
        text = f"{context.num_classes} classes cannot be divided into {params.stages} groups"
        yield SpecWarning("params.stages", text)


METHODS.add(
    MethodEntry(
        name="pcd",
        title="PCD",
        aliases=("progressive_class_level_distillation",),
        summary="Divergences within groups of classes, which are ranked by the distance of the logits; each stage has "
        "more groups.",
        family="decoupled",
        target="core.distill.logits.pcd:pcd_loss",
        reads_rows_alone=True,
        params=PCDParams,
        source="Li et al. 2025, arXiv 2505.24310",
        weight_params={"ce": "ce_weight", "pcd": "alpha"},
        metrics=(
            CE_TERM,
            Metric("train/pcd", "PCD's term, unweighted", "nats", panel="Terms of PCD", from_zero=True),
        ),
        warnings=_warnings,
        problems=_problems,
        cost="The teacher's logits, one sort of the batch's logits, and a softmax for each of the S·(S+1)/2 groups.",
    )
)
