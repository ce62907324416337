"""A step whose batch passes through the network in micro-batches, to save memory.

The gradient is that of the loss of the whole batch. A loss that is a mean over rows is computed micro-batch by
micro-batch. Any other loss needs the outputs of all rows at once: a first pass without gradients gathers them, the loss
gives their gradients, and a second pass carries these into the network. Batch norm sees one micro-batch at a time, so a
network with it does not compute what it computes of whole batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.distill.objective import Objective, Outputs, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.tasks.task import Batch, Task
from core.train.checkpoint import RandomState
from core.train.rank_loss import StepLoss, step_loss
from core.train.ranks import Ranks


@dataclass(frozen=True)
class MicroBatches:
    """The passes of a step in micro-batches.

    Attributes:
        task: What the batches are of.
        model: The network to train.
        objective: The method.
        ranks: The processes that share each batch.
        forward: Returns the outputs of the network for a batch.
        network: What ``forward`` calls; a DistributedDataParallel exchanges gradients in the last micro-batch only.
        scaler: Scales the loss.
    """

    task: Task
    model: nn.Module
    objective: Objective
    ranks: Ranks
    forward: Callable[[Batch], Outputs]
    network: object
    scaler: torch.amp.GradScaler

    def backward(self, batch: Batch, count: int, teacher: Outputs | None, epoch: int) -> StepLoss:
        """Add the gradients of a batch to those of all parameters.

        Args:
            batch: This rank's part of the batch.
            count: The number of micro-batches, equal on all ranks.
            teacher: The teacher's outputs for the batch.
            epoch: Counted from 0.
        """
        parts = divide(batch, count)
        if self.objective.scope == "row" and self.ranks.size == 1:
            return self._mean_over_rows(batch, parts, teacher, epoch)
        return self._over_batch(batch, parts, teacher, epoch)

    def _over_batch(self, batch: Batch, parts: Sequence[slice], teacher: Outputs | None, epoch: int) -> StepLoss:
        device = batch.tensors()[0].device
        random = RandomState.now(device)
        student = rehearse(networks_of(self.model, self.objective), self.forward, batch, parts)
        step = self.task.step(student, teacher, batch, epoch, with_index=self.objective.reads_index)
        loss = step_loss(self.objective, step, batch.total, self.ranks, copies=batch.copies)
        self.scaler.scale(loss.local).backward()  # type: ignore[no-untyped-call]
        if all(tensor.grad is None for tensor in student.tensors):
            return loss
        after = RandomState.now(device)
        random.restore(device)  # the same dropout as in the first pass
        for part, is_last in marking_last(parts):
            with nullcontext() if is_last else without_exchange(self.network):
                outputs = self.forward(batch.part(part))
                pairs = [
                    (tensor, whole.grad[rows_of(part, len(tensor))])
                    for tensor, whole in zip(outputs.tensors, student.tensors, strict=True)
                    if whole.grad is not None
                ]
                torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])
        after.restore(device)
        return loss

    def _mean_over_rows(self, batch: Batch, parts: Sequence[slice], teacher: Outputs | None, epoch: int) -> StepLoss:
        shares: list[Tensor] = []
        found: list[tuple[LossTerms, Rows]] = []
        for part in parts:
            own = batch.part(part)
            teacher_part, with_index = _part_of(teacher, part, len(batch.index)), self.objective.reads_index
            step: Step = self.task.step(self.forward(own), teacher_part, own, epoch, with_index=with_index)
            terms: LossTerms = self.objective(step)
            # The sum of all weights is known only at the end, so gradients are divided by it then.
            share = step.rows.total_weight() / batch.total
            self.scaler.scale(terms.total * share).backward()  # type: ignore[no-untyped-call]
            shares.append(share)
            found.append((LossTerms(terms.total.detach(), terms.values), _detached(step.rows)))
        total = torch.stack(shares).sum()
        total = torch.where(total > 0, total, torch.ones_like(total))
        modules = (self.model, self.objective)
        gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
        torch._foreach_div_(gradients, total)
        values = {
            name: sum_of([terms.values[name] * share / total for (terms, _), share in zip(found, shares, strict=True)])
            for name in found[0][0].values
        }
        loss = sum_of([terms.total * share / total for (terms, _), share in zip(found, shares, strict=True)])
        return StepLoss(LossTerms(loss, values), _joined([rows for _, rows in found]), loss)


def divide(batch: Batch, count: int) -> list[slice]:
    """Return the samples of each of ``count`` micro-batches."""
    size = len(batch.index)
    bounds = [size * number // count for number in range(count + 1)]
    return [slice(*pair) for pair in itertools.pairwise(bounds)]


def rows_of(samples: slice, count: int) -> slice:
    """Return the rows of some samples in a tensor of the whole batch, in which each sample has equally many.

    Args:
        samples: The samples, one after the other.
        count: The number of their rows.
    """
    each = count // max(samples.stop - samples.start, 1)  # a rank may have no samples of a micro-batch
    return slice(each * samples.start, each * samples.stop)


@torch.no_grad()
def rehearse(
    networks: Sequence[nn.Module], forward: Callable[[Batch], Outputs], batch: Batch, parts: Sequence[slice]
) -> Outputs:
    """Return the student's outputs for the whole batch as leaves. The networks' buffers stay as they are."""
    with keeping_buffers(networks):
        results = [forward(batch.part(part)) for part in parts]
    taps = {name: torch.cat([result.taps[name] for result in results]) for name in results[0].taps}
    whole = Outputs(torch.cat([result.logits for result in results]), taps)
    for tensor in whole.tensors:
        tensor.requires_grad_()
    return whole


def networks_of(model: nn.Module, objective: Objective) -> list[nn.Module]:
    """Return the networks that see the batch: the student, and the method's own one if there is one."""
    return [network for network in (model, objective.peer()) if network]


@contextmanager
def keeping_buffers(networks: Sequence[nn.Module]) -> Iterator[None]:
    """A block after which the buffers of networks are as before."""
    buffers = [buffer for network in networks for buffer in network.buffers()]
    before = [buffer.clone() for buffer in buffers]
    yield
    with torch.no_grad():
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def without_exchange(network: object) -> AbstractContextManager[object]:
    """A block in which a network on several ranks does not exchange its gradients."""
    return network.no_sync() if isinstance(network, nn.parallel.DistributedDataParallel) else nullcontext()


def sum_of(scalars: Sequence[Tensor]) -> Tensor:
    """Return the sum of scalars."""
    return torch.stack(list(scalars)).sum()


def marking_last(parts: Sequence[slice]) -> Iterator[tuple[slice, bool]]:
    """Yield micro-batches, each with whether it is the last."""
    return ((part, number == len(parts)) for number, part in enumerate(parts, start=1))


def _part_of(outputs: Outputs | None, part: slice, samples: int) -> Outputs | None:
    """Return the outputs for some of a batch's samples."""
    if outputs is None:
        return None

    def chosen(whole: Tensor) -> Tensor:
        return whole[rows_of(part, len(whole) * (part.stop - part.start) // samples)]

    return Outputs(chosen(outputs.logits), {name: chosen(tap) for name, tap in outputs.taps.items()})


def _detached(rows: Rows) -> Rows:
    return Rows(rows.student.detach(), rows.teacher, rows.target, rows.weight, rows.label_smoothing)


def _joined(parts: Sequence[Rows]) -> Rows:
    first = parts[0]
    return Rows(
        torch.cat([rows.student for rows in parts]),
        None if first.teacher is None else torch.cat([rows.teacher for rows in parts if rows.teacher is not None]),
        torch.cat([rows.target for rows in parts]),
        None if first.weight is None else torch.cat([rows.weight for rows in parts if rows.weight is not None]),
        first.label_smoothing,
    )
