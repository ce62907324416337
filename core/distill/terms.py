"""The building blocks of a loss: logits in, a scalar with its gradient out.

The losses have their gradients in closed form: value and gradient are computed together, in fp32 (fp64 for fp64
logits), whatever the autocast dtype, and the backward pass is one multiplication. The diagnostics measure the same
gradients at no further cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.distill.rows import Rows

Diagnostics = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Maps the gradients of a loss's terms by name to what the loss measures of them, by the name of the metric."""


@dataclass(frozen=True)
class LossTerms:
    """A loss and its terms.

    Attributes:
        total: scalar, to call ``backward`` on.
        values: detached scalars by name: ``epsilon``, and the terms without their weights, ``ce``, ``tckd``, ``nckd``,
            ``align``, ``kd`` ….
        gradients: (R, C) each, with respect to the student's logits, with all weights, ramp and decay. They add up to
            the gradient of ``total``. Each is computed when it is first read, because ``total`` needs only their sum.
            Empty for a loss that leaves its gradient to autograd.
        diagnostics: maps ``gradients`` to what the method measures of a step besides its terms, as detached scalars by
            the name of the metric (``grad/…``). It is computed only when it is called.
        weighted: the terms with their weights, if their gradients are known in closed form.
        parts: the terms with their weights as scalars that add up to ``total``, each with its own graph, if autograd
            computes their gradients. Only then can a term of such a loss be weighted by share.
        logits: (R, C) with graph, those of the exported network where they are not the student's, so that the
            accuracy of the training is that of the network that is evaluated. Only of a loss of the scope ``batch``.
    """

    total: Tensor
    values: dict[str, Tensor]
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    diagnostics: Diagnostics | None = None
    weighted: Mapping[str, tuple[float | Tensor, Term]] = field(default_factory=dict)
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None


@dataclass(frozen=True)
class Term:
    """One term of a loss.

    Attributes:
        value: scalar.
        direction: (R, C); times ``scale`` it is the gradient with respect to the student's logits.
        scale: a number or a detached scalar, separate from ``direction`` so that it is multiplied with the term's
            weight once and not with every element of (R, C).
    """

    value: Tensor
    direction: Tensor
    scale: float | Tensor = 1.0

    @property
    def gradient(self) -> Tensor:
        """(R, C), the gradient with respect to the student's logits."""
        return self.direction * self.scale


class LazyGradients(Mapping[str, Tensor]):
    """The gradients of weighted terms by name, each computed when it is first read."""

    def __init__(self, weighted: Mapping[str, tuple[float | Tensor, Term]]) -> None:
        self._weighted = weighted
        self._computed: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._computed:
            weight, term = self._weighted[name]
            self._computed[name] = term.direction * (weight * term.scale)
        return self._computed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weighted)

    def __len__(self) -> int:
        return len(self._weighted)


def cross_entropy(student: Tensor, target: Tensor, weight: Tensor | None = None, label_smoothing: float = 0.0) -> Term:
    """Return the mean cross-entropy with the labels: gradient (softmax(z) − t) / R, where t is onehot.

    With label smoothing s (Szegedy et al. 2016) t is (1 − s)·onehot + s/C.

    Args:
        student: (R, C), the student's logits in the dtype of the loss.
        target: (R,), class indices.
        weight: (R,), the weights of the rows; None if all are 1.
        label_smoothing: s, in [0, 1).
    """
    log_p = student.log_softmax(1)
    # A rank of several may have no rows of a small last batch, and its mean of nothing is left out.
    scale = 1 / max(target.shape[0], 1)
    if weight is None:  # a mean inside nll_loss adds up in another order than the mean of its rows
        value = F.nll_loss(log_p, target)
        if label_smoothing:
            value = (1 - label_smoothing) * value - label_smoothing * log_p.mean(1).mean()
        return Term(value, _minus_label(log_p.exp_(), target, label_smoothing), scale)
    batch = Rows(student, None, target, weight)
    value = batch.weigh(F.nll_loss(log_p, batch.label, reduction="none")).mean()
    if label_smoothing:
        value = (1 - label_smoothing) * value - label_smoothing * batch.weigh(log_p.mean(1)).mean()
    return Term(value, batch.weigh(_minus_label(log_p.exp_(), batch.label, label_smoothing)), scale)


def _minus_label(p: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """Return p (R, C) minus the smoothed label of each row, in place."""
    index = target.unsqueeze(1)
    p.scatter_(1, index, p.gather(1, index).sub_(1 - label_smoothing))
    return p.sub_(label_smoothing / p.shape[1]) if label_smoothing else p


def label_term(batch: Rows) -> Term:
    """Return the cross-entropy of a batch with its labels, its weights and its label smoothing."""
    rows = batch.for_labels
    return cross_entropy(rows.student32, rows.target, rows.weight, rows.label_smoothing)


def autograd_term(value_of: Callable[[Tensor], Tensor], student: Tensor) -> Term:
    """Return a term whose gradient autograd computes.

    Args:
        value_of: a differentiable function of the student's logits.
        student: (R, C), the student's logits.
    """
    with torch.enable_grad():
        leaf = student.detach().requires_grad_()
        value = value_of(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
    return Term(value.detach(), gradient)


def compose(
    batch: Rows,
    values: dict[str, Tensor],
    weighted: Mapping[str, tuple[float | Tensor, Term]],
    diagnostics: Diagnostics | None = None,
) -> LossTerms:
    """Return the loss that is the weighted sum of terms, with the weighted sum of their gradients as its gradient.

    Args:
        batch: the rows that the terms were computed from.
        values: scalars that the loss reports in addition to the values of its terms.
        weighted: by name, a term and its weight, which is a number or a detached scalar.
        diagnostics: as in ``LossTerms``.
    """
    (weight, term), *others = weighted.values()
    total, gradient = term.value * weight, term.direction * (weight * term.scale)
    for weight, term in others:
        _add_scaled(total, term.value, weight)
        _add_scaled(gradient, term.direction, weight * term.scale)
    return LossTerms(
        total=with_gradient(batch.student, total, gradient),
        values={name: term.value for name, (_, term) in weighted.items()} | values,
        gradients=LazyGradients(weighted),
        diagnostics=diagnostics,
        weighted=weighted,
    )


def separate(terms: LossTerms, batch: Rows) -> dict[str, Tensor]:
    """Return the terms of a loss with their weights, as scalars with a graph each that add up to the total.

    Args:
        terms: the loss.
        batch: the rows that it was computed from.

    Raises:
        ValueError: The loss has no separate terms, but is returned as one sum.
    """
    if terms.parts:
        return dict(terms.parts)
    if not terms.weighted:
        raise ValueError("it returns its loss as one sum, and not as terms that can be told apart")
    return {
        name: with_gradient(batch.student, term.value * weight, term.direction * (weight * term.scale))
        for name, (weight, term) in terms.weighted.items()
    }


def add_up(found: Sequence[LossTerms], batch: Rows) -> LossTerms:
    """Return the sum of losses whose terms have closed-form gradients, with the cross-entropy of the first loss alone.

    It measures ``grad/share_TERM``, the norm of each term's gradient in per cent of the sum of all, beside what the
    losses measure.

    Args:
        found: the losses; ``ce`` is the only term that two of them may both have.
        batch: the rows from which the losses were computed.

    Raises:
        ValueError: A loss has no separate terms, but is returned as one sum.
    """
    if not all(terms.weighted for terms in found):
        raise ValueError("one of the methods returns its loss as one sum, and not as terms that can be added")
    weighted: dict[str, tuple[float | Tensor, Term]] = {}
    values: dict[str, Tensor] = {}
    for terms in reversed(found):  # so that the cross-entropy of the first loss stays
        weighted = {**terms.weighted, **{name: pair for name, pair in weighted.items() if name != "ce"}}
        values = {**terms.values, **{name: value for name, value in values.items() if name != "ce"}}

    def measure(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        metrics = share_metrics({name: gradient.norm() for name, gradient in gradients.items()})
        for terms in found:  # if two losses report a metric, the first one's value is kept, as with cross-entropy
            metrics = (terms.diagnostics(gradients) if terms.diagnostics else {}) | metrics
        return metrics

    own = {name: value for name, value in values.items() if name not in weighted}
    return compose(batch, own, weighted, measure)


def share_metrics(norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the share of each term in the sum of the norms of all gradients, in per cent; NaN if all are zero."""
    total = torch.stack(list(norms.values())).sum()
    return {f"grad/share_{name}": 100 * norm / total for name, norm in norms.items()}


def _add_scaled(total: Tensor, part: Tensor, factor: float | Tensor) -> None:
    """``total += factor·part`` in one operation."""
    if isinstance(factor, Tensor):
        total.addcmul_(part, factor)
    else:
        total.add_(part, alpha=factor)


def autocast_disabled(batch: Rows) -> AbstractContextManager[object]:
    """Return a context without autocast, which would compute some products (``dot``, for one) in half precision."""
    device = batch.student.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def with_gradient(logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """Return ``value`` as a function of ``logits`` whose gradient is the given one.

    Args:
        logits: (R, C), any floating dtype.
        value: scalar.
        gradient: (R, C), of ``value`` with respect to ``logits``.
    """
    result: Tensor = PrecomputedGradient.apply(logits, value, gradient)
    return result


class PrecomputedGradient(torch.autograd.Function):
    """An autograd function whose backward pass multiplies a given gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (outer * gradient).to(ctx.dtype), None, None
