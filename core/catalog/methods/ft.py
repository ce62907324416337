"""FT: the student's factors, of a translator, are the teacher's, of a paraphraser."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, FirstStage, MethodEntry
from core.catalog.methods.shared import CE_TERM, init_epochs_field
from core.catalog.methods.tapped import features_of
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import LAST_STAGE


class FTParams(Params):
    """Parameters of FT."""

    init_epochs: int = init_epochs_field("which trains the paraphraser alone and leaves the student as it is")
    weight: float = Field(
        500.0,
        ge=0,
        description="β, the weight of the distance of the factors. The authors use 500 for CIFAR-10; RepDistiller "
        "uses 200 with public_code.",
    )
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    rate: float = Field(
        0.5,
        gt=0,
        le=4,
        description="k, the channels of a factor for each channel of the teacher's map.",
    )
    power: Literal[1, 2] = Field(1, description="p, the power of the distance.")
    student_tap: str = Field(LAST_STAGE, description="Layer of the student.")
    teacher_tap: str = Field(LAST_STAGE, description="Layer of the teacher.")
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: factors are compared element by element. public_code: their attention maps, the mean of "
        "the squares over the channels, are compared, and the translator has batch norm, as in RepDistiller.",
    )


METHODS.add(
    MethodEntry(
        name="ft",
        title="FT",
        aliases=("factor_transfer", "factor"),
        summary="First a paraphraser learns to reconstruct the teacher's last map from factors, then the student is "
        "trained on the labels and to give the same factors.",
        target="core.distill.features.ft:FT",
        params=FTParams,
        source="Kim et al. 2018, arXiv 1802.04977",
        family="two_stage",
        taps=features_of,
        layers="maps",
        weight_params={"ce": "ce_weight", "ft": "weight"},
        first_stage=FirstStage("init_epochs", "reconstruction"),
        metrics=(
            CE_TERM,
            Metric(
                "train/reconstruction", "FT's reconstruction of the teacher's map", "", "lower", panel="Terms of FT"
            ),
            Metric("train/ft", "FT term (distance of the factors), unweighted", panel="Terms of FT"),
        ),
        published={"variant": "public_code", "weight": 200.0},
        cost="The teacher's forward pass in every step; six 3×3 convolutions in the first stage, without the student's "
        "backward pass, and six in the second.",
    )
)
