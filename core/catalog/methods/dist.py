"""DIST: correlation with the teacher instead of equality."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.metric import Metric
from core.catalog.registry import Params


class DISTParams(Params):
    """Parameters of DIST."""

    temperature: float = Field(4.0, gt=0, le=100, description="τ, the temperature of both softened distributions.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    beta: float = Field(2.0, ge=0, description="β, the weight of 1 − Pearson over the classes of a sample.")
    gamma: float = Field(2.0, ge=0, description="γ, the weight of 1 − Pearson over the samples of a class.")


_PANEL = "Terms of DIST"

METHODS.add(
    MethodEntry(
        name="dist",
        title="DIST",
        summary="Pearson correlation with the teacher, over the classes of a sample and over the samples of a class.",
        target="core.distill.logits.dist:dist_loss",
        reads_rows_alone=True,
        params=DISTParams,
        source="Huang et al., NeurIPS 2022, arXiv 2205.10536",
        weight_params={"ce": "ce_weight", "inter": "beta", "intra": "gamma"},
        metrics=(
            CE_TERM,
            Metric(
                "train/inter",
                "DIST's distance over the classes (inter-class), unweighted",
                panel=_PANEL,
                from_zero=True,
            ),
            Metric(
                "train/intra", "DIST's distance over the batch (intra-class), unweighted", panel=_PANEL, from_zero=True
            ),
        ),
        cost="The teacher's logits, and two correlations of the batch's logits, whose gradients autograd computes.",
    )
)
