"""Top-1 and top-5 accuracy."""

from __future__ import annotations

from torch import Tensor

TOP_K = 5


def top_accuracies(logits: Tensor, labels: Tensor, relative_weight: Tensor | None = None) -> dict[str, Tensor]:
    """Return ``top1`` and ``top5`` in %: images whose class has the largest, or one of the min(5, C) largest logits.

    With five classes or fewer ``top5`` is 100 by definition.

    Args:
        logits: (N, C).
        labels: (N,).
        relative_weight: (N,), weights whose mean is 1; None if all are 1.
    """
    hits = top_hits(logits, labels)
    if relative_weight is None:
        return {name: 100 * hit.double().mean() for name, hit in hits.items()}
    return {name: 100 * (hit * relative_weight.double()).mean() for name, hit in hits.items()}


def top_hits(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return for each image whether it counts for ``top1`` and for ``top5``, (N,) bool."""
    top5 = logits.topk(min(TOP_K, logits.shape[1]), 1).indices == labels.unsqueeze(1)
    # Top-1 uses argmax, as in the rest of the program: of equal logits it takes the first, while topk may take any.
    return {"top1": logits.argmax(1) == labels, "top5": top5.any(1)}
