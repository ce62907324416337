"""A step whose terms pass back through the network one by one.

Three things need this: terms that are weighted by their share of the gradient, terms that have a momentum of their own,
and the measurement of each term's share. The loss is computed of the network's outputs, and each term has gradients at
these. From there each goes back: to the first tapped layer, for its norm, or to all weights.

A tap has a value for each sample. The squared norms of a gradient there add up over micro-batches and over ranks, so
that a share is that of the whole batch, however the batch is divided. Batch norm sees one micro-batch at a time, so a
network with it has other gradients in micro-batches than in one batch, and the shares are of those that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.catalog.taps import STRONG_LOGITS, is_logits
from core.distill.objective import Objective, Outputs
from core.distill.shares import share_factors
from core.distill.terms import share_metrics
from core.tasks.task import Batch, Task
from core.train.accumulation import (
    divide,
    keeping_buffers,
    marking_last,
    networks_of,
    rehearse,
    rows_of,
    without_exchange,
)
from core.train.checkpoint import RandomState
from core.train.rank_loss import StepLoss, step_loss
from core.train.ranks import Ranks

Gradients = list[Tensor | None]
"""The gradients at several tensors; None where there is none."""


@dataclass(frozen=True)
class TermwiseStep:
    """What a step gives besides the gradients of the parameters.

    Attributes:
        loss: The loss, with the terms weighted by their shares.
        metrics: The share of each term, if it was measured.
        gradients: By the name of a group of terms, the gradients of all parameters; empty unless groups were asked for.
    """

    loss: StepLoss
    metrics: Mapping[str, Tensor]
    gradients: Mapping[str, Gradients]


@dataclass(frozen=True)
class Termwise:
    """The backward passes of single terms.

    Attributes:
        task: What the batches are of.
        model: The network to train.
        objective: The method. Its own parameters are trained too.
        ranks: The processes that share each batch.
        forward: Returns the outputs of the network for a batch, with the first tap. It is not compiled, because a
            compiled network has no inner tensors.
        network: What ``forward`` calls.
        scaler: Scales the loss.
        groups: The names of the groups of terms, by the name of a term: each group has gradients of its own. Empty if
            the sum of all terms has one.
    """

    task: Task
    model: nn.Module
    objective: Objective
    ranks: Ranks
    forward: Callable[[Batch], Outputs]
    network: object
    scaler: torch.amp.GradScaler
    groups: Mapping[str, str] = field(default_factory=dict)

    def backward(self, batch: Batch, count: int, teacher: Outputs | None, epoch: int, *, measure: bool) -> TermwiseStep:
        """Compute the gradients of a batch. Those of the whole loss are added to those of all parameters.

        Args:
            batch: This rank's part of the batch.
            count: The number of micro-batches, equal on all ranks.
            teacher: The teacher's outputs for the batch.
            epoch: Counted from 0.
            measure: Whether to measure the share of each term.
        """
        device = batch.tensors()[0].device
        passes = _Passes(self, batch, count, RandomState.now(device))
        leaves = passes.leaves()
        step = self.task.step(leaves, teacher, batch, epoch, with_index=self.objective.reads_index)
        loss = step_loss(self.objective, step, batch.total, self.ranks, copies=batch.copies, by_term=True)
        after = RandomState.now(device)
        heads = {name: self._heads(local, leaves) for name, (_, local) in loss.parts.items()}
        shares = {name: share for name, share in self.objective.shares.items() if name in heads}
        norms = self._norms(passes, heads) if measure or shares else {}
        factors = share_factors(norms, shares) if shares else {}
        heads = {name: _scaled(parts, factors[name]) if name in factors else parts for name, parts in heads.items()}
        norms = {name: norm * factors[name] if name in factors else norm for name, norm in norms.items()}
        gradients = self._separately(passes, heads) if self.groups else {}
        if not self.groups:
            self._together(passes, heads)
        after.restore(device)
        return TermwiseStep(_weighted(loss, factors), share_metrics(norms) if measure else {}, gradients)

    def _heads(self, local: Tensor, leaves: Outputs) -> Gradients:
        """Return the gradients of a term at the outputs of the network, and at the parameters that the loss reads."""
        inputs = [*leaves.tensors, *self._read]
        if not local.requires_grad:
            return [None] * len(inputs)
        scaled = self.scaler.scale(local)
        found: Gradients = list(torch.autograd.grad(scaled, inputs, allow_unused=True, retain_graph=True))
        if self.ranks.size > 1:  # all ranks go through the same layers, which exchange sums
            return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
        return found

    @property
    def networks(self) -> list[nn.Module]:
        """The networks that see the batch."""
        return networks_of(self.model, self.objective)

    @property
    def _own(self) -> list[Tensor]:
        return [parameter for parameter in self.objective.parameters() if parameter.requires_grad]

    @property
    def _read(self) -> list[Tensor]:
        """The parameters that the loss reads itself: the method's, and those of the student that it uses."""
        return [*self._own, *self.objective.student_parameters()]

    def _norms(self, passes: _Passes, heads: Mapping[str, Gradients]) -> dict[str, Tensor]:
        """Return the norm of the gradient of each term over the whole batch, at the first tap or at the logits."""
        names = self.objective.taps.student
        sums: dict[str, Tensor | float] = dict.fromkeys(heads, 0.0)
        has_layers = not all(is_logits(name) for name in names)
        # No layer of the first view leads to the logits of another view, and every first tap leads to those of regions.
        apart = [place for place, name in enumerate(names) if name == STRONG_LOGITS or not has_layers]
        for name, (_, *at_taps) in heads.items():
            sums[name] = sum((_square(at_taps[place]) for place in apart), start=sums[name])
        if not has_layers:
            for name, (at_logits, *_) in heads.items():
                sums[name] = sums[name] + _square(at_logits)
        else:
            for outputs, part, _ in passes.rehearsals():
                assert outputs.first_tap is not None
                for name, parts in heads.items():
                    sums[name] = sums[name] + _square(*_back(outputs, parts, part, [outputs.first_tap]))
        found = torch.stack([torch.as_tensor(value, device=self.task.device).double() for value in sums.values()])
        if self.ranks.size > 1:
            dist.all_reduce(found)
        # The part of a rank is the gradient times their number, because an exchange averages.
        return dict(zip(sums, (found.sqrt() / self.ranks.size).unbind(), strict=True))

    def _together(self, passes: _Passes, heads: Mapping[str, Gradients]) -> None:
        """Add the gradients of the sum of all terms to those of the parameters."""
        total = sum_gradients(list(heads.values()))
        for outputs, part, is_last in passes.finals():
            with nullcontext() if is_last else without_exchange(self.network):
                tensors, gradients = _sources(outputs, total, part)
                torch.autograd.backward(tensors, gradients)
        read = self._averaged(total[len(passes.leaves().tensors) :])
        for parameter, gradient in zip(self._read, read, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _separately(self, passes: _Passes, heads: Mapping[str, Gradients]) -> dict[str, Gradients]:
        """Return the gradients of each group of terms at all parameters, averaged over the ranks."""
        by_group = {
            group: sum_gradients(
                [parts for name, parts in heads.items() if self.groups[name] == group] or [_nothing(heads)]
            )
            for group in dict.fromkeys(self.groups.values())
        }
        # The method's own parameters too, because a network of its own is among the outputs.
        weights = [*(parameter for parameter in self.model.parameters() if parameter.requires_grad), *self._own]
        places = {id(parameter): place for place, parameter in enumerate(weights)}
        count = len(passes.leaves().tensors)
        found: dict[str, Gradients] = {}
        for group, parts in by_group.items():
            found[group] = [None] * len(weights)
            for parameter, gradient in zip(self._read, parts[count:], strict=True):
                found[group][places[id(parameter)]] = gradient
        for outputs, part, _ in passes.finals(exchange=False):
            for group, parts in by_group.items():
                found[group] = sum_gradients([found[group], _back(outputs, parts, part, weights)])
        return {group: self._averaged(gradients) for group, gradients in found.items()}

    def _averaged(self, gradients: Gradients) -> Gradients:
        """Return the averages over the ranks, on all of which the same gradients are there."""
        if self.ranks.size == 1 or all(gradient is None for gradient in gradients):
            return gradients
        flat = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
        dist.all_reduce(flat)
        flat /= self.ranks.size
        sizes = [0 if gradient is None else gradient.numel() for gradient in gradients]
        return [
            None if gradient is None else part.view(gradient.shape)
            for gradient, part in zip(gradients, torch.split(flat, sizes), strict=True)
        ]


class _Passes:
    """The forward passes of a step: one for a whole batch, several of each micro-batch."""

    def __init__(self, step: Termwise, batch: Batch, count: int, random: RandomState) -> None:
        self._step, self._batch, self._random = step, batch, random
        self._parts = divide(batch, count) if count > 1 else [slice(None)]
        self._device = batch.tensors()[0].device
        self._outputs: Outputs | None = None
        if count == 1:
            with without_exchange(step.network) if step.groups else nullcontext():
                self._outputs = step.forward(batch)
            self._leaves = _as_leaves(self._outputs)
        else:
            self._leaves = rehearse(step.networks, step.forward, batch, self._parts)

    def leaves(self) -> Outputs:
        """Return the outputs for the whole batch, of which the loss is computed."""
        return self._leaves

    def rehearsals(self) -> Iterator[tuple[Outputs, slice, bool]]:
        """Yield the outputs of each micro-batch with its samples; the network's buffers stay as they are."""
        if self._outputs:
            yield self._outputs, self._parts[0], True
            return
        self._random.restore(self._device)
        with keeping_buffers(self._step.networks), without_exchange(self._step.network):
            for part, is_last in marking_last(self._parts):
                yield self._step.forward(self._batch.part(part)), part, is_last

    def finals(self, *, exchange: bool = True) -> Iterator[tuple[Outputs, slice, bool]]:
        """Yield the outputs of each micro-batch with its samples, for the passes back to the weights."""
        if self._outputs:
            yield self._outputs, self._parts[0], True
            return
        self._random.restore(self._device)  # the same dropout as in the first pass
        for part, is_last in marking_last(self._parts):
            with nullcontext() if is_last and exchange else without_exchange(self._step.network):
                outputs = self._step.forward(self._batch.part(part))
            yield outputs, part, is_last


def _as_leaves(outputs: Outputs) -> Outputs:
    return outputs.with_tensors([tensor.detach().requires_grad_() for tensor in outputs.tensors])


def _sources(outputs: Outputs, heads: Gradients, part: slice) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs of a micro-batch that have a gradient, and the gradients."""
    pairs = [
        (tensor, gradient if part == slice(None) else gradient[rows_of(part, len(tensor))])
        for tensor, gradient in zip(outputs.tensors, heads, strict=False)
        if gradient is not None and tensor.requires_grad
    ]
    return [tensor for tensor, _ in pairs], [gradient for _, gradient in pairs]


def _back(outputs: Outputs, heads: Gradients, part: slice, inputs: Sequence[object]) -> Gradients:
    """Return the gradients at ``inputs`` that follow from those at the outputs of a micro-batch."""
    tensors, gradients = _sources(outputs, heads, part)
    if not tensors:
        return [None] * len(inputs)
    return list(torch.autograd.grad(tensors, inputs, gradients, allow_unused=True, retain_graph=True))  # type: ignore[arg-type]


def _square(gradient: Tensor | None) -> Tensor | float:
    """Return the squared norm of a gradient."""
    if gradient is None:
        return 0.0
    dtype = torch.float64 if gradient.dtype == torch.float64 else torch.float32
    norm: Tensor = torch.linalg.vector_norm(gradient.detach(), dtype=dtype)
    return norm.double().square()


def _scaled(gradients: Gradients, factor: Tensor) -> Gradients:
    return [None if gradient is None else gradient * factor.to(gradient.dtype) for gradient in gradients]


def sum_gradients(several: Sequence[Gradients]) -> Gradients:
    """Return the sums of gradients at the same tensors; None where there is none."""
    total: Gradients = list(several[0])
    for gradients in several[1:]:
        for index, gradient in enumerate(gradients):
            before = total[index]
            if gradient is not None:
                total[index] = gradient if before is None else before + gradient
    return total


def _nothing(heads: Mapping[str, Gradients]) -> Gradients:
    return [None] * len(next(iter(heads.values())))


def _weighted(loss: StepLoss, factors: Mapping[str, Tensor]) -> StepLoss:
    """Return the loss with some terms multiplied by factors, which are reported."""
    if not factors:
        return loss
    values = [
        value * factors[name].to(value.dtype) if name in factors else value for name, (value, _) in loss.parts.items()
    ]
    reported = {f"weight_{name}": factor for name, factor in factors.items()}
    terms = replace(loss.terms, total=torch.stack(values).sum(), values={**loss.terms.values, **reported})
    return replace(loss, terms=terms)
