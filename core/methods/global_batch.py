"""The loss of a batch that no single process or forward pass holds as a whole.

Some losses are not a mean over samples: A in its ``batch`` and ``log`` reductions, ``epsilon_share``, DIST's
correlation over the batch. Averaging what each rank or micro-batch computes of its own part is then another loss (with
two ranks ``batch`` comes out four times too large). But logits are small, so every rank gathers all of them, computes
the whole loss, and sends only its own rows' gradient back into its network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from core.methods.terms import LogitBatch, LossTerms, attach


def concatenated(batches: Sequence[LogitBatch]) -> LogitBatch:
    """Micro-batches as one batch of detached logits, in their order."""
    teachers = [batch.teacher for batch in batches if batch.teacher is not None]
    return LogitBatch(
        torch.cat([batch.student.detach() for batch in batches]).requires_grad_(),
        torch.cat(teachers) if teachers else None,
        torch.cat([batch.target for batch in batches]),
    )


def gathered(batch: LogitBatch, counts: Sequence[int]) -> LogitBatch:
    """The batches of all ranks as one, in the order of the ranks, the student's logits in the loss's own dtype.

    In half precision a whole batch's gradient would be rounded before a loss scale could save its small numbers.

    Args:
        counts: rows of each rank, which may differ; to exchange them would make a GPU's host wait.
    """
    return LogitBatch(
        _gather(batch.student32, counts).requires_grad_(),
        _gather(batch.teacher, counts) if batch.teacher is not None else None,
        _gather(batch.target, counts),
    )


def row_gradients(terms: LossTerms, batch: LogitBatch) -> Tensor:
    """∂total/∂logits (B, C) of a whole batch."""
    (gradient,) = torch.autograd.grad(terms.total, batch.student)
    return gradient


def own_part(whole: LossTerms, gradient: Tensor, batch: LogitBatch, first: int, ranks: int = 1) -> Tensor:
    """A scalar for ``backward``: the whole loss, its gradient reaching this part's logits only.

    Args:
        gradient: of the whole batch, from ``row_gradients``.
        batch: this part, rows ``first`` onwards of the whole.
        ranks: how many processes average their gradients; 1 for micro-batches, whose gradients add up.
    """
    rows = gradient[first : first + len(batch.target)]
    return attach(batch.student, whole.total.detach(), ranks * rows)


def _gather(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows of all ranks, in rank order, padded to one size on their way: the last batch may be shared out unevenly."""
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
