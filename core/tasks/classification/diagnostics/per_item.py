"""What each test image got from a network and from its teacher, as compact columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from core.items.table import ITEM
from core.tasks.classification.diagnostics.accuracy import top_hits
from core.tasks.classification.diagnostics.fidelity import divergences

_LARGEST = torch.finfo(torch.float16).max


def item_columns(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> dict[str, NDArray[Any]]:
    """Return one value per image and column, (N,), in the smallest types that hold them.

    - ``item``, ``target``, ``predicted``, ``teacher_predicted``: numbers of images and classes.
    - ``top5``: whether the target has one of the five largest logits.
    - ``probability``, ``teacher_probability``: of the target at T = 1, in float16.
    - ``confidence``, ``teacher_confidence``: the largest probability, that of the predicted class, in float16.
    - ``nll``: −log of the student's probability, and ``kl``: KL(teacher ‖ student), in nats and float16. Values above
      65,504, the largest number in float16, are stored as that number.

    Args:
        logits: (N, C).
        labels: (N,).
        teacher_logits: (N, C); None for a network without a teacher, which has no columns of one.
    """
    num_classes = logits.shape[1]
    hits = top_hits(logits, labels)
    nll = F.cross_entropy(logits.float(), labels, reduction="none")
    predicted = logits.argmax(1)
    columns = {
        ITEM: _integers(torch.arange(len(labels)), len(labels)),
        "target": _integers(labels, num_classes),
        "predicted": _integers(predicted, num_classes),
        "probability": _half(torch.exp(-nll)),
        "confidence": _half(_probability(logits, predicted)),
        "nll": _half(nll),
        "top5": hits["top5"].cpu().numpy(),
    }
    if teacher_logits is None:
        return columns
    teacher_predicted = teacher_logits.argmax(1)
    return columns | {
        "teacher_predicted": _integers(teacher_predicted, num_classes),
        "teacher_probability": _half(_probability(teacher_logits, labels)),
        "teacher_confidence": _half(_probability(teacher_logits, teacher_predicted)),
        "kl": _half(divergences(logits, teacher_logits)),
    }


def _probability(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the probability of one class per image at T = 1, (N,)."""
    return torch.exp(-F.cross_entropy(logits.float(), classes, reduction="none"))


def _integers(values: Tensor, count: int) -> NDArray[Any]:
    """Return values of [0, count) in the smallest unsigned type."""
    return values.cpu().numpy().astype(np.min_scalar_type(max(count - 1, 0)))


def _half(values: Tensor) -> NDArray[Any]:
    half: NDArray[Any] = values.clamp(max=_LARGEST).half().cpu().numpy()
    return half
