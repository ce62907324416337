"""The alignment term of DKD-Align for any two terms of a loss: the distance A of their gradients, subtracted from it.

a_i and b_i are the gradients of the two terms of row i with respect to its logits, (C,) each, and S_i = ‖a_i − b_i‖².
The gradient of S_i is 2·(H_a − H_b)·(a_i − b_i), where H_a and H_b are the Hessians of the terms. So a term needs the
product of its Hessian with a vector, which is a closed form too, and no second backward pass (docs/method.md,
"Other members of the family").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.catalog.methods.alignment import AlignmentParams
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, compose

Reduction = Literal["batch", "sample", "log"]

MIN_DISTANCE = 1e-30
"""A_sample below this counts as zero distance: its logarithm is clamped here, where its gradient is zero anyway."""

Weighted = dict[str, tuple[float | Tensor, Term]]
"""The terms of a loss with their weights, by name."""


@dataclass(frozen=True)
class RowTerm:
    """A loss of each row by itself, whose gradient can be differentiated again.

    Attributes:
        values: (R,).
        directions: (R, C); times ``scale`` they are the gradients of each row's loss with respect to its own logits of
            the student.
        curvature: maps directions (R, C) to the product of each row's Hessian with its direction.
        scale: see there.
    """

    values: Tensor
    directions: Tensor
    curvature: Callable[[Tensor], Tensor]
    scale: float = 1.0

    @property
    def gradients(self) -> Tensor:
        """(R, C), of each row's loss."""
        return self.directions * self.scale

    def mean(self, batch: Rows) -> Term:
        """Return the mean over the rows."""
        return Term(batch.weigh(self.values).mean(), batch.weigh(self.directions), self.scale / len(self.values))

    def scaled(self, factor: float) -> RowTerm:
        """Return the term times a number."""
        return RowTerm(
            self.values * factor,
            self.directions,
            lambda directions: self.curvature(directions) * factor,
            self.scale * factor,
        )

    def __add__(self, other: RowTerm) -> RowTerm:
        return RowTerm(
            self.values + other.values,
            self.gradients + other.gradients,
            lambda directions: self.curvature(directions) + other.curvature(directions),
        )


def alignment(batch: Rows, first: RowTerm, second: RowTerm, reduction: Reduction, log_floor: float = 0.0) -> Term:
    """Return A, the mean squared difference of the gradients of two terms.

    Args:
        batch: the rows.
        first: one term, without its weight.
        second: the other term, without its weight.
        reduction: ``sample`` is Σ ω_i·S_i/C; ``batch`` Σ ω_i³·S_i/C; ``log`` the logarithm of ``sample`` +
            ``log_floor``/Σ ω_i³.
        log_floor: see there.

    Raises:
        ValueError: The reduction is unknown.
    """
    difference = first.gradients - second.gradients
    power, scale = row_power(reduction), 1 / difference.numel()
    value = torch.dot(batch.weigh(difference, power).view(-1), difference.view(-1)).mul_(scale)
    direction = batch.weigh(first.curvature(difference) - second.curvature(difference), power)
    return reduced(batch, value, direction, 2 * scale, reduction, log_floor)


def row_power(reduction: Reduction) -> int:
    """Return the power of a row's share: a share contains 1/R, and ``batch`` is divided by R² afterwards."""
    return 3 if reduction == "batch" else 1


def reduced(
    batch: Rows, value: Tensor, direction: Tensor, factor: float, reduction: Reduction, log_floor: float
) -> Term:
    """Return A in its reduction.

    Args:
        batch: the rows.
        value: the mean over rows of S_i/C, weighted by ``row_power``; it is changed in place.
        direction: (R, C); times ``factor`` it is the gradient of ``value``.
        factor: see there.
        reduction: the reduction.
        log_floor: added to A_batch inside the logarithm.

    Raises:
        ValueError: The reduction is unknown.
    """
    size = direction.shape[0]
    if reduction == "sample":
        return Term(value, direction, factor)
    if reduction == "batch":
        return Term(value / size**2, direction, factor / size**2)
    if reduction == "log":
        if log_floor:
            value += log_floor * _sample_over_batch(batch, size)
        value.clamp_min_(MIN_DISTANCE)
        return Term(batch.unless_weightless(value.log()), direction, factor / value)
    raise ValueError(f"unknown reduction {reduction!r}; it is batch, sample or log")


def _sample_over_batch(batch: Rows, size: int) -> float | Tensor:
    """Return 1/Σ ω_i³, which is A_sample/A_batch if S_i is the same in all rows: R² without weights."""
    return size**2 if batch.share is None else 1 / batch.share.pow(3).sum()


def subtract(
    weighted: Weighted,
    term: Term,
    *,
    epsilon: float | None,
    epsilon_share: float | None,
    decay: float,
    ramp: float,
    added: bool = False,
) -> Tensor:
    """Add the alignment term to the terms of a loss, with the weight −ε; return ε.

    Args:
        weighted: the other terms with their weights in this epoch, the ramp included.
        term: A.
        epsilon: ε before decay; None if a share is given.
        epsilon_share: the term's share of the summed gradient norms before decay; None if ε is given.
        decay: the factor of ε in this epoch.
        ramp: the factor of the distillation terms in this epoch.
        added: whether the weight is ε instead.
    """
    weight: float | Tensor
    if epsilon_share is not None:
        # The product ε·r(e) that gives the requested share; the norms of the other terms contain the ramp already.
        share = decay * share_weight(epsilon_share, weighted.values(), term)
        if ramp == 0:  # an epoch of cross-entropy alone, in which no ε gives the term a share
            share = torch.zeros_like(share)
        number, weight = share / (ramp or 1.0), share
    else:
        number, weight = torch.full_like(term.value, decay * (epsilon or 0.0)), ramp * (decay * (epsilon or 0.0))
    weighted["align"] = (weight if added else -weight, term)
    return number


def with_alignment(
    batch: Rows,
    weighted: Weighted,
    params: AlignmentParams,
    epoch: int | None,
    pair: Callable[[], tuple[RowTerm, RowTerm]],
    ramp: float = 1.0,
    pull_back: Callable[[Term], Term] | None = None,
) -> LossTerms:
    """Return the loss of weighted terms, minus the alignment term if the parameters ask for it, with its diagnostics.

    - ``grad/similarity``: mean over rows of the cosine between the gradients of the two terms.
    - What ``align_diagnostics`` returns.

    Args:
        batch: the rows.
        weighted: the terms with their weights in this epoch, cross-entropy first; the others distil.
        params: the parameters.
        epoch: counted from 0; None means no decay.
        pair: returns the two terms whose gradients are compared, without weights. It is called only if they are.
        ramp: the factor of the distillation terms in this epoch.
        pull_back: maps a term to the same term with its gradient at the raw logits.
    """
    if params.align == "off":
        return compose(batch, {}, weighted)
    _, *rest = weighted
    first, second = pair()
    term = alignment(batch, first, second, params.align, params.align_log_floor)
    epsilon = subtract(
        weighted,
        pull_back(term) if pull_back else term,
        epsilon=params.align_epsilon,
        epsilon_share=params.align_epsilon_share,
        decay=params.align_decay ** (epoch or 0),
        ramp=ramp,
    )

    def measure(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"grad/similarity": similarity(batch, first, second)} | align_diagnostics(gradients, rest)

    return compose(batch, {"epsilon": epsilon}, weighted, measure)


def share_weight(share: float, others: Iterable[tuple[float | Tensor, Term]], term: Term) -> Tensor:
    """Return the weight that gives a term a share of the summed gradient norms; 0 if its gradient is zero.

    share = w‖g_A‖ / (Σ‖g‖ + w‖g_A‖), Frobenius over (R, C), so w = share/(1−share)·Σ‖g‖/‖g_A‖.

    Args:
        share: between 0 and 1.
        others: the other terms with their weights.
        term: the term that is to be weighted.
    """
    norm = _norm(1.0, term)
    total = torch.stack([_norm(weight, other) for weight, other in others]).sum()
    weight = share / (1 - share) * total / norm
    return torch.where(norm > 0, weight, torch.zeros_like(weight))


def _norm(weight: float | Tensor, term: Term) -> Tensor:
    norm: Tensor = (term.direction.norm() * (weight * term.scale)).abs_()
    return norm


def similarity(batch: Rows, first: RowTerm, second: RowTerm) -> Tensor:
    """Return the mean over rows of the cosine between the gradients of two terms.

    Rows with a zero gradient are skipped; the result is NaN if all are, or if all rows that are not have the weight 0.
    """
    a, b = first.gradients, second.gradients
    norms = a.norm(dim=1) * b.norm(dim=1)
    defined = norms > 0
    cosine = (a * b).sum(1) / norms.where(defined, 1.0)
    share = torch.full_like(norms, 1 / len(norms)) if batch.share is None else batch.share
    mean: Tensor = (share * cosine.where(defined, 0.0)).sum() / (share * defined).sum()
    return mean


def align_diagnostics(gradients: Mapping[str, Tensor], rest: Iterable[str]) -> dict[str, Tensor]:
    """Return diagnostics of the alignment term from the weighted gradients (R, C).

    - ``grad/align_share``: ‖g_A‖ / Σ‖g‖ over all terms, Frobenius over (R, C), in %.
    - ``grad/align_cosine``: cos(g_A, sum of the rest); −1 means that the term is directly opposed to distillation.

    Args:
        gradients: of all terms.
        rest: the names of the terms that distil.
    """
    first, *others = (gradients[name] for name in rest)
    aligned, pull = gradients["align"], first
    for other in others:
        pull = pull + other
    norms = {name: gradient.norm() for name, gradient in gradients.items()}
    return {
        "grad/align_share": 100 * norms["align"] / torch.stack(list(norms.values())).sum(),
        "grad/align_cosine": (aligned * pull).sum() / (norms["align"] * pull.norm()),
    }
