"""The optimisers: their parameters and usual values. The code is torch's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from core.catalog.registry import Entry, Params, Registry

LR, WEIGHT_DECAY = 0.05, 5e-4
"""Learning rate and weight decay of a spec that names neither an optimiser nor these values."""


class OptimizerParams(Params):
    """Base of the parameters that only one optimiser has."""

    def arguments(self) -> dict[str, Any]:
        """Return the parameters as keywords of the optimiser's class."""
        return self.model_dump()


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry(Entry):
    """An optimiser. ``target`` is a class of ``torch.optim``, or one that is called in the same way.

    Attributes:
        lr: Learning rate of a spec that leaves it out.
        weight_decay: Weight decay of a spec that leaves it out.
        sgd_momentum: Whether it reads the fields ``momentum`` and ``nesterov``.
        fused: Whether one kernel can update all parameters. Only then a step can be recorded as a CUDA graph.
    """

    params: type[OptimizerParams] = OptimizerParams
    lr: float = LR
    weight_decay: float = WEIGHT_DECAY
    sgd_momentum: bool = False
    fused: bool = False

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "sgd_momentum": self.sgd_momentum,
        }


OPTIMIZERS: Registry[OptimizerEntry] = Registry("optimizer")


class MomentParams(OptimizerParams):
    """Parameters of the optimisers that average the gradient and its square."""

    beta1: float = Field(0.9, ge=0, lt=1, description="β₁, the decay of the average of the gradient.")
    beta2: float = Field(0.999, ge=0, lt=1, description="β₂, the decay of the average of its square.")
    eps: float = Field(1e-8, gt=0, le=1, description="ε, which is added to the root in the denominator.")

    def arguments(self) -> dict[str, Any]:
        rest = self.model_dump(exclude={"beta1", "beta2"})
        return rest | {"betas": (self.beta1, self.beta2)}


class AdamParams(MomentParams):
    """Parameters of Adam and AdamW."""

    amsgrad: bool = Field(False, description="Use the greatest average of the square so far (AMSGrad).")


class DecoupledMomentParams(MomentParams):
    """Parameters of RAdam."""

    decoupled_weight_decay: bool = Field(
        False, description="Shrink the weights directly, as AdamW does, and not through the gradient."
    )


class NAdamParams(DecoupledMomentParams):
    """Parameters of NAdam."""

    momentum_decay: float = Field(0.004, ge=0, le=1, description="ψ, the decay of the momentum's schedule.")


class RMSpropParams(OptimizerParams):
    """Parameters of RMSprop."""

    alpha: float = Field(0.99, ge=0, lt=1, description="α, the decay of the average of the squared gradient.")
    eps: float = Field(1e-8, gt=0, le=1, description="ε, which is added to the root in the denominator.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of the scaled gradient.")
    centered: bool = Field(False, description="Divide by the standard deviation, not by the root mean square.")


class AdagradParams(OptimizerParams):
    """Parameters of Adagrad."""

    lr_decay: float = Field(0.0, ge=0, description="The learning rate is divided by 1 + lr_decay·(step − 1).")
    initial_accumulator_value: float = Field(0.0, ge=0, description="Initial sum of the squared gradients.")
    eps: float = Field(1e-10, gt=0, le=1, description="ε, which is added to the root in the denominator.")


class AdafactorParams(OptimizerParams):
    """Parameters of Adafactor."""

    beta2_decay: float = Field(-0.8, ge=-1, lt=0, description="β₂ of step t is 1 − t^beta2_decay.")
    d: float = Field(1.0, gt=0, description="Clipping threshold of an update's root mean square.")


OPTIMIZERS.add(
    OptimizerEntry(
        name="sgd",
        title="SGD",
        summary="Gradient descent with momentum, with or without Nesterov's correction.",
        target="torch.optim:SGD",
        aliases=("momentum", "nesterov"),
        sgd_momentum=True,
        fused=True,
    )
)
OPTIMIZERS.add(
    OptimizerEntry(
        name="adam",
        title="Adam",
        summary="Steps scaled by running averages of the gradient and its square; weight decay is an L2 penalty.",
        target="torch.optim:Adam",
        params=AdamParams,
        source="Kingma and Ba 2015, arXiv 1412.6980",
        lr=1e-3,
        weight_decay=0.0,
        fused=True,
    )
)
OPTIMIZERS.add(
    OptimizerEntry(
        name="adamw",
        title="AdamW",
        summary="Adam with weight decay that shrinks the weights directly.",
        target="torch.optim:AdamW",
        params=AdamParams,
        source="Loshchilov and Hutter 2019, arXiv 1711.05101",
        fused=True,
    )
)
OPTIMIZERS.add(
    OptimizerEntry(
        name="nadam",
        title="NAdam",
        summary="Adam with Nesterov's momentum.",
        target="torch.optim:NAdam",
        params=NAdamParams,
        source="Dozat 2016, ICLR workshop",
        lr=2e-3,
        weight_decay=0.0,
    )
)
OPTIMIZERS.add(
    OptimizerEntry(
        name="radam",
        title="RAdam",
        summary="Adam whose first steps are scaled by the variance of its averages, in place of a warm-up.",
        target="torch.optim:RAdam",
        params=DecoupledMomentParams,
        source="Liu et al. 2020, arXiv 1908.03265",
        lr=1e-3,
        weight_decay=0.0,
    )
)
OPTIMIZERS.add(
    OptimizerEntry(
        name="rmsprop",
        title="RMSprop",
        summary="Steps divided by the root of a running average of the squared gradient.",
        target="torch.optim:RMSprop",
        params=RMSpropParams,
        source="Tieleman and Hinton 2012, lecture 6.5",
        lr=1e-2,
        weight_decay=0.0,
    )
)
OPTIMIZERS.add(
    OptimizerEntry(
        name="adagrad",
        title="Adagrad",
        summary="Steps divided by the root of the sum of all squared gradients.",
        target="torch.optim:Adagrad",
        params=AdagradParams,
        source="Duchi et al. 2011, JMLR 12",
        lr=1e-2,
        weight_decay=0.0,
    )
)
# Muon is not here: torch's version refuses parameters that are not matrices, and most of ours are convolutions.
OPTIMIZERS.add(
    OptimizerEntry(
        name="adafactor",
        title="Adafactor",
        summary="Adam without momentum, whose average of the square is kept as one row and one column per matrix.",
        target="torch.optim:Adafactor",
        params=AdafactorParams,
        source="Shazeer and Stern 2018, arXiv 1804.04235",
        lr=1e-2,
        weight_decay=0.0,
    )
)
