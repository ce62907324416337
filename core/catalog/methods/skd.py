"""SKD: KD, and the directions of a batch's logits relative to each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM
from core.catalog.metric import Metric
from core.catalog.registry import Params


class SKDParams(Params):
    """Parameters of SKD."""

    instance_weight: float = Field(1.0, ge=0, description="Weight of KL(teacher ‖ student), which has no factor T².")
    direction_weight: float = Field(1.0, ge=0, description="Weight of the distance of the Gram matrices.")
    temperature: float = Field(4.0, gt=0, le=100, description="Temperature of both softened distributions.")
    tikhonov: float = Field(
        0.1, gt=0, description="λ, which is added to the diagonal of the covariance before it is inverted."
    )
    ce_weight: float = Field(
        0.0, ge=0, description="Weight of the cross-entropy with the labels; the paper's loss has none."
    )
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: KL without a factor T², and Gram matrices as they are. public_code: KL times T², Gram "
        "matrices divided by the number of classes, and both terms times about 1/2, the share of samples (of classes) "
        "on which the teacher is less sure than on the median one. Its weights are ce_weight 0.1, and 0.9 for both "
        "terms.",
    )


def _warnings(params: SKDParams, context: MethodContext) -> Iterator[SpecWarning]:
    if params.variant == "paper" and not params.ce_weight:
        # Measured on digits, 40 epochs: at chance, where KD and public_code with its weights have 81 %.
        text = "without cross-entropy, and with KL not multiplied by T², the student may stay at chance for long"
        yield SpecWarning("params.ce_weight", text)


_PANEL = "Terms of SKD"

METHODS.add(
    MethodEntry(
        name="skd",
        title="SKD",
        aliases=("streamlined_kd",),
        summary="KD, and the Mahalanobis distance between the cosines of all pairs of a batch's logits.",
        family="relations",
        target="core.distill.logits.skd:skd_loss",
        reads_rows_alone=True,
        params=SKDParams,
        source="Jeong et al., CVPR 2026",
        weight_params={"ce": "ce_weight", "instance": "instance_weight", "direction": "direction_weight"},
        metrics=(
            CE_TERM,
            Metric("train/instance", "SKD's instance term, unweighted", "nats", panel=_PANEL, from_zero=True),
            Metric("train/direction", "SKD's direction term, unweighted", panel=_PANEL, from_zero=True),
        ),
        warnings=_warnings,
        cost="The teacher's logits, two softmax over the batch's logits, and the Cholesky decomposition of a B × B "
        "matrix, whose time grows with B³.",
    )
)
