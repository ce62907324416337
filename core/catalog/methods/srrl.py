"""SRRL: the teacher's classifier must see in the student's features what it sees in the teacher's."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import FEATURES, LAST_MAP, Taps


class SRRLParams(Params):
    """Parameters of SRRL."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    feature_weight: float = Field(1.0, ge=0, description="α, the weight of the difference of the pooled features.")
    logit_weight: float = Field(
        1.0, ge=0, description="β, the weight of the difference of the logits that the teacher's classifier returns."
    )
    student_tap: str = Field(
        LAST_MAP,
        description="Layer of the student that the connector reads. features: the connector reads the pooled vector, "
        "as in SimKD's toolbox, which also adds KD with the weight 1.",
    )


def _taps(params: Any) -> Taps:
    return Taps((params.student_tap,), (FEATURES,))


_PANEL = "Terms of SRRL"

METHODS.add(
    MethodEntry(
        name="srrl",
        title="SRRL",
        family="features",
        summary="Difference of the pooled features after a connector, and of the logits that the teacher's classifier "
        "returns for them.",
        target="core.distill.features.srrl:SRRL",
        params=SRRLParams,
        taps=_taps,
        source="Yang et al., ICLR 2021, openreview ZzwDy_wiWv",
        weight_params={"ce": "ce_weight", "srrl_features": "feature_weight", "srrl_logits": "logit_weight"},
        metrics=(
            CE_TERM,
            Metric(
                "train/srrl_features",
                "Squared difference of the pooled features, unweighted",
                better="lower",
                panel=_PANEL,
                from_zero=True,
            ),
            Metric(
                "train/srrl_logits",
                "Squared difference of the logits of the teacher's classifier, unweighted",
                better="lower",
                panel=_PANEL,
                from_zero=True,
            ),
        ),
        cost="The teacher's logits and features, which are kept; a 1×1 convolution with batch norm at the last map.",
    )
)
