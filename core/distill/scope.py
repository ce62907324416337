"""The loss of a global batch whose rows are spread over several ranks.

Some losses are not a mean over rows: A in its ``batch`` and ``log`` reductions, ``epsilon_share``, DIST's correlation
over the batch. The average of the losses that the ranks compute of their own rows is then a different loss (with two
ranks ``batch`` comes out four times too large). The same is true if the rows have weights, whose sum is that of all
ranks. Logits are small, so every rank gathers those of all ranks, computes the global loss, and passes only the
gradient of its own rows back into its network: see ``core.train.rank_loss``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from core.distill.rows import Rows, to_loss_dtype
from core.distill.terms import with_gradient


def gather_rows(batch: Rows, counts: Sequence[int]) -> Rows:
    """Return the batches of all ranks as one, in the order of the ranks.

    The student's logits come in the dtype of the loss. In half precision the gradient of a global batch would be
    rounded before a loss scale could save its small numbers.

    Args:
        batch: the rows of this rank. Either every rank has weights, or none has.
        counts: number of rows of each rank, which may differ. Exchanging them would make a GPU's host wait.
    """
    return Rows(
        # Also those of rows of weight 0, whose labels may count.
        gather_tensor(to_loss_dtype(batch.student.detach()), counts).requires_grad_(),
        gather_tensor(batch.teacher, counts) if batch.teacher is not None else None,
        gather_tensor(batch.target, counts),
        gather_tensor(batch.weight32, counts) if batch.weight32 is not None else None,
        batch.label_smoothing,
        gather_tensor(batch.label_weight, counts) if batch.label_weight is not None else None,
    )


def local_part(value: Tensor, gradient: Tensor, local: Tensor, first: int, ranks: int) -> Tensor:
    """Return a scalar for ``backward``: the value of the whole batch, whose gradient reaches this rank's rows alone.

    Args:
        value: scalar, a constant.
        gradient: (N, …), of the value with respect to the rows of all ranks.
        local: (n, …), rows ``first`` onwards of the whole batch, as this rank's network returned them.
        first: index of this rank's first row in the whole batch.
        ranks: number of processes whose gradients are averaged.
    """
    return with_gradient(local, value, ranks * gradient[first : first + len(local)])


def gather_tensor(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the rows of all ranks in rank order. Padding evens out the shares of an uneven last batch in transit."""
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
