"""Comparisons of optimisers with a momentum for each term: the weights after some steps with the same gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.parity.checkout import Checkout, running_public_code
from benchmarks.parity.comparison import Measured, difference
from core.catalog import METHODS
from core.train.term_momentum import TermMomentum

STEPS, RATE, MOMENTUM, DECAY = 10, 0.05, 0.9, 5e-4

Gradients = Mapping[str, Sequence[Tensor]]
"""By the name of a term, its gradient for each weight."""
Stepper = Callable[[Gradients], None]
"""Takes one step with the public optimiser."""
PublicOptimiser = Callable[[Checkout, list[Tensor], Mapping[str, float]], Stepper]
"""Builds a public optimiser of some weights, with the momentum of each term."""


@dataclass(frozen=True)
class UpdateComparison:
    """An optimiser beside that of one repository.

    Attributes:
        method: The method that it belongs to.
        repository: The name of the option of ``REPOSITORIES``.
        optimiser: Builds the public optimiser.
        params: Parameters of the method.
        reason: Why the results differ by more than rounding.
        part: What is compared.
    """

    method: str
    repository: str
    optimiser: PublicOptimiser
    params: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    part: str = f"weights after {STEPS} steps"

    def measure(self, checkout: Checkout) -> Measured:
        """Return the norms of the weights, their relative difference, and that of the way that they went."""
        entry = METHODS[self.method]
        assert entry.momenta is not None
        momenta = entry.momenta(entry.params.model_validate(dict(self.params)), MOMENTUM).of_terms
        generator = torch.Generator().manual_seed(0)
        start = [torch.randn(size, generator=generator, dtype=torch.float64) for size in (200, 50)]
        public, own = ([weights.clone().requires_grad_() for weights in start] for _ in range(2))
        optimiser = TermMomentum(own, RATE, momenta, weight_decay=DECAY)
        with running_public_code(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step = self.optimiser(checkout, public, momenta)
            for _ in range(STEPS):
                gradients = {
                    name: [torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in start]
                    for name in momenta
                }
                step(gradients)
                optimiser.step(gradients)
        before, theirs, ours = (torch.cat([one.detach() for one in side]) for side in (start, public, own))
        weights = difference(theirs.norm(), ours.norm())
        return Measured(float(theirs.norm()), float(ours.norm()), weights, difference(theirs - before, ours - before))


def _given(weights: list[Tensor], gradients: Sequence[Tensor]) -> None:
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.clone()


def dot(checkout: Checkout, weights: list[Tensor], momenta: Mapping[str, float]) -> Stepper:
    """Return the step of DOT's optimiser."""
    kind = checkout.module("mdistiller.engine.dot").DistillationOrientedTrainer
    optimiser = kind(weights, lr=RATE, momentum=momenta["ce"], momentum_kd=momenta["kd"], weight_decay=DECAY)

    def step(gradients: Gradients) -> None:
        _given(weights, gradients["kd"])
        optimiser.step_kd()
        _given(weights, gradients["ce"])
        optimiser.step()

    return step


def deepkd(checkout: Checkout, weights: list[Tensor], momenta: Mapping[str, float]) -> Stepper:
    """Return the step of DeepKD's optimiser, with the task's momentum that its configurations give."""
    kind = checkout.module("mdistiller.engine.deepkd").DEEPKDTrainer
    of_terms = {"momentum_tog": 0.975, "momentum_tcg": momenta["tckd"], "momentum_ncg": momenta["nckd"]}
    optimiser = kind(weights, lr=RATE, weight_decay=DECAY, **of_terms)

    def step(gradients: Gradients) -> None:
        _given(weights, gradients["nckd"])
        optimiser.step_ncg()
        _given(weights, gradients["tckd"])
        optimiser.step_tcg()
        _given(weights, gradients["ce"])
        optimiser.step()

    return step


_DECAY = "they compute the weight decay of weights that the other two gradients have moved in the same step"

COMPARISONS = (
    UpdateComparison("dot", "mdistiller", dot),
    UpdateComparison("deepkd", "deepkd", deepkd, {"variant": "public_code"}, reason=_DECAY),
)
