"""The loss of a global batch whose rows are spread over several ranks.

Some losses are not a mean over rows: A in its ``batch`` and ``log`` reductions, ``epsilon_share``, DIST's correlation
over the batch. The average of the losses that the ranks compute of their own rows is then a different loss (with two
ranks ``batch`` comes out four times too large). So it is if the rows have weights, whose sum is that of all ranks.
Logits are small, so every rank gathers those of all ranks, computes the global loss, and passes only the gradient of
its own rows back into its network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from core.distill.rows import Rows
from core.distill.terms import LossTerms, with_gradient


def gather_ranks(batch: Rows, counts: Sequence[int]) -> Rows:
    """Return the batches of all ranks as one, in the order of the ranks.

    The student's logits come in the dtype of the loss. In half precision the gradient of a global batch would be
    rounded before a loss scale could save its small numbers.

    Args:
        batch: the rows of this rank. Either every rank has weights, or none has.
        counts: number of rows of each rank, which may differ. Exchanging them would make a GPU's host wait.
    """
    return Rows(
        _all_gather(batch.student32, counts).requires_grad_(),
        _all_gather(batch.teacher, counts) if batch.teacher is not None else None,
        _all_gather(batch.target, counts),
        _all_gather(batch.weight32, counts) if batch.weight32 is not None else None,
    )


def row_gradients(terms: LossTerms, batch: Rows) -> Tensor:
    """Return ∂total/∂logits (R, C) of a global batch."""
    (gradient,) = torch.autograd.grad(terms.total, batch.student)
    return gradient


def local_part(global_terms: LossTerms, gradient: Tensor, batch: Rows, first: int, ranks: int) -> Tensor:
    """Return a scalar for ``backward``: the global loss, whose gradient reaches the logits of this rank only.

    Args:
        global_terms: the loss of the global batch.
        gradient: of the global batch (R, C), from ``row_gradients``.
        batch: the rows of this rank, from row ``first`` of the global batch onwards.
        first: index of this rank's first row in the global batch.
        ranks: number of processes whose gradients are averaged.
    """
    rows = gradient[first : first + len(batch.target)]
    return with_gradient(batch.student, global_terms.total.detach(), ranks * rows)


def _all_gather(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the rows of all ranks in rank order. Padding evens out the shares of an uneven last batch in transit."""
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
