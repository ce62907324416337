"""DOT: KD whose two gradients have momenta of their own."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry, Momenta
from core.catalog.methods.kd import KDParams
from core.catalog.methods.shared import CE_TERM, KD_TERM


class DOTParams(KDParams):
    """Parameters of DOT on KD. On another method, that method is added and ``kd_weight`` is 0."""

    delta: float = Field(
        0.075,
        ge=0,
        lt=1,
        description="Δ: with the optimiser's momentum μ, the gradient of cross-entropy has μ − Δ, and that of "
        "distillation μ + Δ. The authors use 0.075 on CIFAR-100 and 0.09 on ImageNet.",
    )


def _momenta(params: DOTParams, momentum: float) -> Momenta:
    distillation = momentum + params.delta
    of_terms = {"ce": momentum - params.delta, "kd": distillation}
    return Momenta(of_terms, distillation, dict.fromkeys(of_terms, "delta"))


METHODS.add(
    MethodEntry(
        name="dot",
        title="DOT",
        aliases=("distillation_oriented_trainer",),
        summary="KD whose gradient has a larger momentum than that of the cross-entropy.",
        target="core.distill.logits.kd:kd_loss",
        reads_rows_alone=True,
        params=DOTParams,
        source="Zhao, Song and Liang, ICCV 2023, arXiv 2307.08436",
        weight_params={"ce": "ce_weight", "kd": "kd_weight"},
        metrics=(CE_TERM, KD_TERM),
        momenta=_momenta,
        cost="What KD costs, a second backward pass through the student, and a second momentum for each weight.",
    )
)
