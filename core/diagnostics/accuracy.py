"""Top-1 and top-5 accuracy."""

from __future__ import annotations

from torch import Tensor

TOP = 5


def top_accuracies(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """``top1`` and ``top5``, %: images whose class is the largest logit, or among the min(5, C) largest.

    With five classes or fewer ``top5`` is 100 by definition.

    Args:
        logits: (N, C).
        labels: (N,).
    """
    hit = logits.topk(min(TOP, logits.shape[1]), 1).indices == labels.unsqueeze(1)
    # Top-1 is by argmax, as everywhere else: of equal logits the first, where top-k may take any.
    return {"top1": 100 * (logits.argmax(1) == labels).double().mean(), "top5": 100 * hit.any(1).double().mean()}
