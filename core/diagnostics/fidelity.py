"""How closely a student follows its teacher, whether the teacher is right or not (Stanton et al. 2021, 2106.05945)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CONDITIONAL_METRICS = ("fidelity/agreement_right", "fidelity/agreement_wrong", "fidelity/kl_right", "fidelity/kl_wrong")
"""Measured on a part of the images, which may be empty: a teacher that is never wrong has no wrong answers."""


def fidelity(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Detached scalars by metric name.

    - ``fidelity/agreement``: images that both put in the same class, %.
    - ``fidelity/kl``: KL(q ‖ p) at T = 1, q the teacher's probabilities and p the student's, mean over images, nats.
    - ``…_right``, ``…_wrong``: the same over the images on which the teacher is right, or wrong; NaN without any.
    - ``fidelity/images_right``, ``fidelity/images_wrong``: how many these are. A good teacher is wrong on few, and a
      share of ten images moves by ten points with one of them.

    Args:
        student_logits, teacher_logits: (N, C).
        labels: (N,).
    """
    log_p, log_q = F.log_softmax(student_logits.float(), 1), F.log_softmax(teacher_logits.float(), 1)
    classes = teacher_logits.argmax(1)
    per_image = {
        "agreement": 100 * (student_logits.argmax(1) == classes).double(),
        # Where q is 0 the class adds nothing, whatever the student says of it.
        "kl": F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1).double(),
    }
    right = classes == labels
    found: dict[str, Tensor] = {}
    for name, values in per_image.items():
        found[f"fidelity/{name}"] = values.mean()
        found[f"fidelity/{name}_right"] = _mean_of(values, right)
        found[f"fidelity/{name}_wrong"] = _mean_of(values, ~right)
    found["fidelity/images_right"], found["fidelity/images_wrong"] = right.sum(), (~right).sum()
    return found


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values, both (N,); NaN where none is. By a sum, since picking them would wait for the GPU."""
    return torch.where(chosen, values, torch.zeros_like(values)).sum() / chosen.sum()
