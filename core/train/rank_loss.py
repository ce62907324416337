"""The loss of a step whose samples are spread over several ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from core.distill.objective import Objective, Outputs, Step
from core.distill.rows import Rows
from core.distill.scope import gather_rows, gather_tensor, local_part
from core.distill.terms import LossTerms, with_gradient
from core.train.ranks import Ranks


@dataclass(frozen=True)
class StepLoss:
    """The loss of one step, as one rank sees it.

    Attributes:
        terms: The loss of the whole batch with its terms; equal on all ranks.
        rows: The rows of the whole batch.
        local: Scalar to call ``backward`` on. The average over ranks of its gradients is that of the whole batch.
    """

    terms: LossTerms
    rows: Rows
    local: Tensor


def step_loss(objective: Objective, part: Step, total: int, ranks: Ranks, *, copies: int = 1) -> StepLoss:
    """Compute the loss of the whole batch from this rank's part of it.

    Args:
        objective: The method.
        part: The step with the samples of this rank.
        total: The number of samples of all ranks.
        ranks: The processes that share the batch.
        copies: How often each sample is in ``part``.
    """
    if ranks.size == 1:
        terms: LossTerms = objective(part)
        return StepLoss(terms, part.rows, terms.total)
    counts = [copies * count for count in ranks.counts(total)]
    rows = gather_rows(part.rows, counts)
    if objective.scope == "row":
        return _mean_over_rows(objective, part, rows, ranks)
    return _over_batch(objective, part, rows, counts, ranks)


def average_gradients(objective: Objective, ranks: Ranks) -> None:
    """Average the gradients of the objective's own parameters over the ranks; DDP averages those of the student."""
    if ranks.size == 1:
        return
    for parameter in objective.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= ranks.size


def _mean_over_rows(objective: Objective, part: Step, rows: Rows, ranks: Ranks) -> StepLoss:
    """Return the loss as a weighted mean of the losses that the ranks compute of their own rows."""
    local, whole = part.rows.total_weight(), rows.total_weight()
    terms: LossTerms = objective(part)
    share = torch.where(whole > 0, local / whole, torch.zeros_like(whole))
    # A rank without rows has a mean of nothing, NaN, which a product with 0 would keep.
    sums = torch.stack([terms.total.detach(), *terms.values.values()])
    sums = torch.where(share > 0, sums * share, torch.zeros_like(sums))
    dist.all_reduce(sums)
    total, *values = sums.unbind()
    local_loss = terms.total * share * ranks.size if len(part.rows.target) else part.student.logits.sum() * 0.0
    return StepLoss(LossTerms(total, dict(zip(terms.values, values, strict=True))), rows, local_loss)


def _over_batch(objective: Objective, part: Step, rows: Rows, counts: Sequence[int], ranks: Ranks) -> StepLoss:
    """Return the loss of the gathered batch; its gradient reaches this rank's own samples alone."""
    student = {name: gather_tensor(tap, counts).requires_grad_() for name, tap in part.student.taps.items()}
    teacher = None
    if part.teacher:
        assert rows.teacher is not None
        teacher = Outputs(rows.teacher, _gathered(part.teacher.taps, counts))
    index = None if part.index is None else gather_tensor(part.index, counts)
    whole = replace(part, rows=rows, student=Outputs(rows.student, student), teacher=teacher, index=index)
    terms: LossTerms = objective(whole)
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    gathered = [rows.student, *student.values()]
    gradients = torch.autograd.grad(terms.total, [*gathered, *parameters], allow_unused=True)
    first, zero = sum(counts[: ranks.rank]), torch.zeros_like(terms.total)
    own = [part.rows.student, *part.student.taps.values()]
    values = [terms.total.detach(), *[zero] * (len(own) - 1)]
    local = torch.stack(
        [
            local_part(value, gradient, rows_of_rank, first, ranks.size)
            for value, gradient, rows_of_rank in zip(values, gradients, own, strict=False)
            if gradient is not None
        ]
    ).sum()
    for parameter, gradient in zip(parameters, gradients[len(own) :], strict=True):
        if gradient is not None:
            local = local + with_gradient(parameter, zero, gradient)
    return StepLoss(terms, rows, local)


def _gathered(taps: Mapping[str, Tensor], counts: Sequence[int]) -> dict[str, Tensor]:
    return {name: gather_tensor(tap, counts) for name, tap in taps.items()}
