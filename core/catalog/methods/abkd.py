"""ABKD: the α-β divergence, of which KL and reverse KL are limits."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM, STANDARDISE
from core.catalog.metric import Metric
from core.catalog.registry import Params

_ROUNDING = 1e-9
_LEAST = 1e-3  # nearer to 0, the differences in the divergence have no digits left


def is_zero(exponent: float) -> bool:
    """Return whether an exponent means the limit at 0; 1.1 − 0.8 − 0.3 is not exactly 0."""
    return abs(exponent) < _ROUNDING


class ABKDParams(Params):
    """Parameters of ABKD."""

    alpha: float = Field(
        0.8,
        ge=-2,
        le=3,
        description="α: the smaller α is, the more weight the classes with large errors have. 1 with β = 0 is "
        "KL(teacher ‖ student).",
    )
    beta: float = Field(
        0.3,
        ge=-2,
        le=3,
        description="β: the larger β is, the more weight the classes have of which the student is sure. 1 with α = 0 "
        "is KL(student ‖ teacher).",
    )
    temperature: float = Field(4.0, gt=0, le=100, description="T, the temperature of both softened distributions.")
    kd_weight: float = Field(32.0, ge=0, description="λ, the weight of the divergence, which has no factor T².")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    standardise: bool = Field(
        False, description=STANDARDISE + " The authors of ABKD take T = 2, ce_weight = 0.1, kd_weight = 36 = 9·T²."
    )
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: if α, β or α + β is 0, the divergence is its limit. public_code: the code then divides by "
        "the remaining exponent and not by its square. KL and reverse KL are the same in both.",
    )

    @model_validator(mode="after")
    def _away_from_the_limits(self) -> Self:
        for name, exponent in (("alpha", self.alpha), ("beta", self.beta), ("alpha + beta", self.alpha + self.beta)):
            if not is_zero(exponent) and abs(exponent) < _LEAST:
                raise ValueError(f"{name} is {exponent:g}; give 0 for the limit, or at least {_LEAST:g} away from it")
        return self


METHODS.add(
    MethodEntry(
        name="abkd",
        title="ABKD",
        aliases=("alpha_beta_divergence",),
        summary="The α-β divergence of student and teacher, which contains KL, reverse KL, Hellinger and Euclidean "
        "distance.",
        target="core.distill.logits.abkd:abkd_loss",
        reads_rows_alone=True,
        params=ABKDParams,
        source="Wang et al., ICML 2025, arXiv 2505.04560",
        weight_params={"ce": "ce_weight", "alpha_beta": "kd_weight"},
        metrics=(
            CE_TERM,
            Metric("train/alpha_beta", "α-β divergence, unweighted", panel="Term of ABKD", from_zero=True),
        ),
        cost="The teacher's logits, two softmax over the batch's logits and their powers.",
    )
)
