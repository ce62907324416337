"""The loss of a step whose samples are spread over several ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.distill.objective import Objective, Objects, Outputs, OwnTerm, Step
from core.distill.rows import Rows
from core.distill.scope import gather_rows, gather_tensor, local_part
from core.distill.terms import LossTerms, separate, with_gradient
from core.train.ranks import Ranks


@dataclass(frozen=True)
class StepLoss:
    """The loss of one step, as one rank sees it.

    Attributes:
        terms: The loss of the whole batch with its terms; equal on all ranks.
        rows: The rows of the whole batch.
        local: Scalar to call ``backward`` on. The average over ranks of its gradients is that of the whole batch.
        parts: By the name of a term, its weighted value over the whole batch and its part of ``local``; empty unless
            the terms were asked for.
    """

    terms: LossTerms
    rows: Rows
    local: Tensor
    parts: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def step_loss(
    objective: Objective, part: Step, total: int, ranks: Ranks, *, copies: int = 1, by_term: bool = False
) -> StepLoss:
    """Compute the loss of the whole batch from this rank's part of it.

    Args:
        objective: The method.
        part: The step with the samples of this rank.
        total: The number of samples of all ranks.
        ranks: The processes that share the batch.
        copies: How often each sample is in ``part``.
        by_term: Whether to return ``StepLoss.parts``.

    Raises:
        ValueError: The method returns its loss as one sum, and the terms are asked for.
    """
    if ranks.size == 1:
        terms: LossTerms = objective(part)
        parts = separate(terms, part.rows) if by_term else {}
        named = {name: (value.detach(), value) for name, value in parts.items()}
        return _with_own_terms(StepLoss(terms, part.rows, terms.total, named), part.student.own_terms, ranks)
    samples = [copies * count for count in ranks.counts(total)]
    counts = samples if part.sample_rows else ranks.exchange_counts(len(part.rows.target), part.rows.target.device)
    rows = gather_rows(part.rows, counts)
    if objective.scope == "row" and part.sample_rows:
        loss = _mean_over_rows(objective, part, rows, ranks, by_term=by_term)
    else:
        loss = _over_batch(objective, part, rows, counts, samples, ranks, by_term=by_term)
    return _with_own_terms(loss, part.student.own_terms, ranks)


def _with_own_terms(loss: StepLoss, own: Mapping[str, OwnTerm], ranks: Ranks) -> StepLoss:
    """Return the loss of a step with the terms of the task's own loss added, each a mean over all ranks."""
    if not own:
        return loss
    totals = torch.stack([term.total.detach().float() for term in own.values()])
    counts = torch.stack([term.count.float() for term in own.values()])
    if ranks.size > 1:
        for sums in (totals, counts):
            dist.all_reduce(sums)
    divisors = torch.where(counts > 0, counts, torch.inf)
    values = dict(zip(own, (totals / divisors).unbind(), strict=True))
    of_rank = {name: term.total * ranks.size / n for (name, term), n in zip(own.items(), divisors, strict=True)}
    total = torch.stack([loss.terms.total.detach(), *values.values()]).sum()
    terms = replace(loss.terms, total=total, values={**loss.terms.values, **values})
    local = torch.stack([loss.local, *of_rank.values()]).sum()
    parts = {name: (values[name], term) for name, term in of_rank.items()} if loss.parts else {}
    return replace(loss, terms=terms, local=local, parts={**loss.parts, **parts})


def average_gradients(module: nn.Module, ranks: Ranks) -> None:
    """Average the gradients of a module's parameters over the ranks, for those that DDP does not average."""
    if ranks.size == 1:
        return
    for parameter in module.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= ranks.size


def _mean_over_rows(objective: Objective, part: Step, rows: Rows, ranks: Ranks, *, by_term: bool) -> StepLoss:
    """Return the loss as a weighted mean of the losses that the ranks compute of their own rows."""
    if not len(part.rows.target):
        part = _weightless_row(part)
    local, whole = part.rows.total_weight(), rows.total_weight()
    terms: LossTerms = objective(part)
    parts = separate(terms, part.rows) if by_term else {}
    share = torch.where(whole > 0, local / whole, torch.zeros_like(whole))
    # A value that a method defines as something else than 0 for no rows is not added.
    sums = torch.stack([scalar.detach() for scalar in (terms.total, *terms.values.values(), *parts.values())])
    sums = torch.where(share > 0, sums * share, torch.zeros_like(sums))
    dist.all_reduce(sums)
    total, *values = sums.unbind()
    local_loss = terms.total * share * ranks.size
    whole_parts = zip(parts.items(), values[len(terms.values) :], strict=True)
    return StepLoss(
        LossTerms(total, dict(zip(terms.values, values, strict=False))),
        rows,
        local_loss,
        {name: (value, part_of_rank * share * ranks.size) for (name, part_of_rank), value in whole_parts},
    )


def _weightless_row(part: Step) -> Step:
    """Return a part without rows with one row of weight 0.

    Without it, the loss would be the mean of no rows. With it, the loss is 0, and so is the gradient of every parameter
    that has a gradient on the other ranks, so that all ranks exchange the same gradients.
    """

    def row(values: Tensor) -> Tensor:
        zeros = values.new_zeros((1, *values.shape[1:]))
        return zeros + values.sum() if values.is_floating_point() else zeros

    def outputs(given: Outputs) -> Outputs:
        return Outputs(row(given.logits), {name: row(tap) for name, tap in given.taps.items()})

    student = outputs(part.student)
    teacher = outputs(part.teacher) if part.teacher else None
    rows = replace(
        part.rows,
        student=student.logits,
        teacher=teacher.logits if teacher else None,
        target=row(part.rows.target),
        weight=student.logits.new_zeros(1),
    )
    return replace(
        part,
        rows=rows,
        student=student,
        teacher=teacher,
        index=None if part.index is None else row(part.index),
    )


def _over_batch(
    objective: Objective,
    part: Step,
    rows: Rows,
    counts: Sequence[int],
    samples: Sequence[int],
    ranks: Ranks,
    *,
    by_term: bool,
) -> StepLoss:
    """Return the loss of the gathered batch; its gradient reaches this rank's own samples alone.

    Args:
        objective: The method.
        part: The step with the samples of this rank.
        rows: The rows of all ranks.
        counts: The number of rows of each rank.
        samples: The number of samples of each rank.
        ranks: The processes that share the batch.
        by_term: Whether to return the terms one by one.
    """
    student = {name: gather_tensor(tap, samples).requires_grad_() for name, tap in part.student.taps.items()}
    offsets = None
    if part.student.offsets is not None:
        offsets = gather_tensor(part.student.offsets.detach(), counts).requires_grad_()
    teacher = None
    if part.teacher:
        assert rows.teacher is not None
        taps = {name: gather_tensor(tap, samples) for name, tap in part.teacher.taps.items()}
        teacher = replace(part.teacher, logits=rows.teacher, taps=taps, offsets=_gathered(part.teacher.offsets, counts))
    whole = replace(
        part,
        rows=rows,
        student=replace(part.student, logits=rows.student, taps=student, offsets=offsets, first_tap=None),
        teacher=teacher,
        index=_gathered(part.index, samples),
        objects=_gathered_objects(part.objects, samples, ranks),
        offset_target=_gathered(part.offset_target, counts),
    )
    terms: LossTerms = objective(whole)
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    parameters = [*trained, *objective.student_parameters()]
    gathered = [rows.student, *student.values(), *([] if offsets is None else [offsets])]
    first_row, first_sample = sum(counts[: ranks.rank]), sum(samples[: ranks.rank])
    own = [part.rows.student, *part.student.taps.values()]
    firsts = [first_row, *[first_sample] * len(student)]
    if part.student.offsets is not None:
        own.append(part.student.offsets)
        firsts.append(first_row)

    def of_this_rank(scalar: Tensor) -> Tensor:
        """Return a scalar of the whole batch as one whose gradient reaches the rows of this rank."""
        zero = torch.zeros_like(scalar)
        if not scalar.requires_grad:
            return zero
        gradients = torch.autograd.grad(scalar, [*gathered, *parameters], allow_unused=True, retain_graph=by_term)
        values = [scalar.detach(), *[zero] * (len(own) - 1)]
        of_rows = [
            local_part(value, gradient, rows_of_rank, first, ranks.size)
            for value, gradient, rows_of_rank, first in zip(values, gradients, own, firsts, strict=False)
            if gradient is not None
        ]
        local = torch.stack(of_rows).sum() if of_rows else zero
        for parameter, gradient in zip(parameters, gradients[len(own) :], strict=True):
            if gradient is not None:
                local = local + with_gradient(parameter, zero, gradient)
        return local

    if not by_term:
        return StepLoss(terms, rows, of_this_rank(terms.total))
    parts = {name: (value.detach(), of_this_rank(value)) for name, value in separate(terms, rows).items()}
    return StepLoss(terms, rows, torch.stack([local for _, local in parts.values()]).sum(), parts)


def _gathered(values: Tensor | None, counts: Sequence[int]) -> Tensor | None:
    return None if values is None else gather_tensor(values, counts)


def _gathered_objects(objects: Objects | None, samples: Sequence[int], ranks: Ranks) -> Objects | None:
    """Return the objects of all ranks, with the numbers that their images have in the whole batch."""
    if objects is None:
        return None
    counts = ranks.exchange_counts(len(objects.label), objects.label.device)
    image = objects.image + sum(samples[: ranks.rank])
    return Objects(*(gather_tensor(values, counts) for values in (image, objects.boxes, objects.label)))
