"""WKD-L: the Wasserstein distance of the non-target distributions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM
from core.catalog.metric import Metric
from core.catalog.registry import Params


class WKDLParams(Params):
    """Parameters of WKD-L."""

    transport_weight: float = Field(600.0, ge=0, description="λ, the weight of the Wasserstein distance.")
    temperature: float = Field(8.0, gt=0, le=100, description="T, the temperature of the non-target distributions.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    cost: Literal["features", "logits", "classifier"] = Field(
        "features",
        description="What the cost of moving probability between two classes is computed from. features, logits: 1 − "
        "linear CKA of the teacher's penultimate features or logits of the training samples of both classes. "
        "classifier: 1 − cosine of the weights of the teacher's last layer.",
    )
    cost_samples: int = Field(
        500,
        ge=2,
        description="Training samples of each class from which CKA is computed, the first ones; 500 are all of "
        "CIFAR-100.",
    )
    sharpness: float = Field(1.0, gt=0, description="κ: the cost is 1 − exp(−κ·(1 − similarity)).")
    entropy: float = Field(0.05, ge=0.01, description="η, the weight of the entropy in Sinkhorn's algorithm.")
    iterations: int = Field(10, ge=1, le=1000, description="Iterations of Sinkhorn's algorithm.")
    decay_start: int = Field(
        150, ge=0, description="The last epoch, counted from 1, in which the distance has its whole weight."
    )
    decay_end: int = Field(
        240, ge=0, description="The epoch in which a cosine brings the weight of the distance to 0; 0: never."
    )

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if self.decay_end and self.decay_end <= self.decay_start:
            raise ValueError(f"decay_end {self.decay_end} is not after decay_start {self.decay_start}")
        return self


def _warnings(params: WKDLParams, context: MethodContext) -> Iterator[SpecWarning]:
    if 0 < params.decay_end < context.epochs:
        left = context.epochs - params.decay_end
        text = f"the Wasserstein distance has no weight in the last {left} of {context.epochs} epochs"
        yield SpecWarning("params.decay_end", text)


_PANEL = "Terms of WKD-L"

METHODS.add(
    MethodEntry(
        name="wkd_l",
        title="WKD-L",
        aliases=("wkd", "wasserstein_kd"),
        summary="The target's soft label, and the Wasserstein distance of the other classes, whose costs come from the "
        "teacher.",
        target="core.distill.logits.wkd_l:WKDL",
        params=WKDLParams,
        source="Lv et al., NeurIPS 2024, arXiv 2412.08139",
        min_classes=3,
        weight_params={"ce": "ce_weight", "transport": "transport_weight"},
        metrics=(
            CE_TERM,
            Metric("train/soft_target", "Cross-entropy with the teacher's target probability", "nats", panel=_PANEL),
            Metric("train/transport", "Wasserstein distance, unweighted", panel=_PANEL, from_zero=True),
        ),
        warnings=_warnings,
        cost="The teacher's logits, and two products with a C × C matrix for each of 10 iterations, forwards and "
        "backwards. Before the training the teacher sees up to 500 training samples of each class once.",
    )
)
