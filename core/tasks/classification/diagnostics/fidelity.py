"""Agreement of a student with its teacher (Stanton et al. 2021, arXiv 2106.05945)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CONDITIONAL_METRICS = ("fidelity/agreement_right", "fidelity/agreement_wrong", "fidelity/kl_right", "fidelity/kl_wrong")
"""Metrics of a part of the images, which is empty if the teacher is always right or always wrong."""


def fidelity(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return detached scalars by metric name.

    - ``fidelity/agreement``: images for which both predict the same class, in %.
    - ``fidelity/kl``: KL(q ‖ p) at T = 1 with the teacher's probabilities q and the student's p; mean, in nats.
    - ``…_right``, ``…_wrong``: the same over the images on which the teacher is right, or wrong; NaN without any.
    - ``fidelity/images_right``, ``fidelity/images_wrong``: the numbers of these images. A good teacher is wrong on few
      images, and one of ten images changes a share by ten percentage points.

    Args:
        student_logits: (N, C).
        teacher_logits: (N, C).
        labels: (N,).
    """
    classes = teacher_logits.argmax(1)
    per_image = {
        "agreement": 100 * (student_logits.argmax(1) == classes).double(),
        "kl": divergences(student_logits, teacher_logits).double(),
    }
    right = classes == labels
    metrics: dict[str, Tensor] = {}
    for name, values in per_image.items():
        metrics[f"fidelity/{name}"] = values.mean()
        metrics[f"fidelity/{name}_right"] = _masked_mean(values, right)
        metrics[f"fidelity/{name}_wrong"] = _masked_mean(values, ~right)
    metrics["fidelity/images_right"], metrics["fidelity/images_wrong"] = right.sum(), (~right).sum()
    return metrics


def divergences(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return KL(q ‖ p) at T = 1 of each image, (N,), for logits (N, C) of student and teacher."""
    log_p, log_q = F.log_softmax(student_logits.float(), 1), F.log_softmax(teacher_logits.float(), 1)
    # A class with q = 0 adds nothing, whatever its p.
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the masked values, both (N,); NaN if none is. Indexing instead would synchronise the GPU."""
    return torch.where(mask, values, torch.zeros_like(values)).sum() / mask.sum()
