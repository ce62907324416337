"""CC: correlation congruence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import FeaturesParams, features_of
from core.catalog.metric import Metric

_WEIGHTS = {"paper": 100.0, "public_code": 0.02}
"""100 is the weight of Knowledge-Distillation-Zoo for the kernel's matrices, 0.02 that of RepDistiller for its loss."""


class CCParams(FeaturesParams):
    """Parameters of CC."""

    weight: float | None = Field(
        None,
        ge=0,
        description="Weight of the distance. The default depends on variant: 100 for paper, as in "
        "Knowledge-Distillation-Zoo; 0.02 for public_code, as in RepDistiller.",
    )
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: the mean squared difference of kernel matrices over all pairs of samples. public_code: "
        "RepDistiller's product of the differences of neighbouring samples, after a linear layer for each network.",
    )
    gamma: float = Field(
        0.4,
        gt=0,
        le=100,
        description="γ of the kernel exp(−γ·‖x − y‖²). public_code does not use it.",
    )
    order: int = Field(
        2,
        ge=1,
        le=32,
        description="P, the order of the kernel's Taylor series. public_code does not use it.",
    )
    width: int = Field(
        128,
        ge=1,
        le=65536,
        description="Outputs of the linear layers of public_code. paper does not use it.",
    )

    @property
    def strength(self) -> float:
        """The weight of the distance."""
        return _WEIGHTS[self.variant] if self.weight is None else self.weight


METHODS.add(
    MethodEntry(
        name="cc",
        title="CC",
        family="relations",
        summary="Gaussian kernels between the features of all pairs of samples.",
        target="core.distill.features.cc:CC",
        params=CCParams,
        source="Peng et al., ICCV 2019, arXiv 1904.01802",
        taps=features_of,
        weight_params={"ce": "ce_weight", "cc": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/cc", "Distance of the correlations, unweighted", panel="Terms of CC", from_zero=True),
        ),
        cost="The features of the teacher, which are cached, and the cosines of all pairs of images. No parameters; "
        "public_code has a linear layer to 128 for each network.",
    )
)
