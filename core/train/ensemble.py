"""Several teachers as one: an average of their logits.

An average of logits is, at every temperature, the geometric mean of the teachers' distributions (Hinton et al. 2015,
section 2), so that any method that reads a teacher's logits can read those of several. The weights are equal, given, or
different for each image: with ``confidence`` teacher k has the weight of CA-MKD (Zhang, Chen and Wang, ICASSP 2022,
arXiv 2201.00007, equation 2),

    w_k = (1 − exp(L_k) / Σ_j exp(L_j)) / (K − 1),

where L_k is the cross-entropy of its distribution with the label; a mixture of two images has the mixture of both
cross-entropies. CA-MKD takes the mean of the divergences with these weights, that is, the arithmetic mean of the
distributions. Where there is no label, as for the reports on test images, the weights are equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.distill.objective import Outputs
from core.distill.rows import to_loss_dtype
from core.specs import Ensemble
from core.tasks.task import Batch, Task
from core.train.teacher import Teacher


class EnsembleNetwork(nn.Module):
    """Networks whose logits are averaged, for inputs without labels.

    Args:
        members: The networks, in eval mode.
        ensemble: How they are combined.
    """

    weights: Tensor

    def __init__(self, members: Sequence[nn.Module], ensemble: Ensemble) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        device = next(members[0].parameters()).device
        self.register_buffer("weights", fixed_weights(ensemble, len(members)).to(device))
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the average of the logits (B, C)."""
        return torch.stack([w * member(inputs) for w, member in zip(self.weights, self.members, strict=True)]).sum(0)


class EnsembleTeacher:
    """The outputs of several teachers as those of one.

    Args:
        teachers: Their sources, each of which may keep the logits on disk.
        ensemble: How they are combined.
        task: What the batches are of.
    """

    def __init__(self, teachers: Sequence[Teacher], ensemble: Ensemble, task: Task) -> None:
        self._teachers, self._ensemble, self._task = teachers, ensemble, task
        self._fixed: Tensor | None = None

    @torch.no_grad()
    def outputs(self, batch: Batch, epoch: int) -> Outputs:
        """Return the averaged logits (B, C) on the batch's device, as constants."""
        logits = torch.stack([to_loss_dtype(teacher.outputs(batch, epoch).logits) for teacher in self._teachers])
        if self._ensemble.by == "confidence":
            entropies = torch.stack([self._cross_entropy(of_one, batch, epoch) for of_one in logits])
            return Outputs((confidence_weights(entropies).unsqueeze(2) * logits).sum(0))
        if self._fixed is None:  # once: a copy to the device makes the host wait
            self._fixed = fixed_weights(self._ensemble, len(self._teachers)).to(logits)
        return Outputs((self._fixed.view(-1, 1, 1) * logits).sum(0))

    def end_epoch(self) -> dict[str, float]:
        """Return the means of the teachers' metrics."""
        by_teacher = [teacher.end_epoch() for teacher in self._teachers]
        return {name: sum(values[name] for values in by_teacher) / len(by_teacher) for name in by_teacher[0]}

    def finish(self) -> None:
        """Tell all teachers that the last epoch is done."""
        for teacher in self._teachers:
            teacher.finish()

    def _cross_entropy(self, logits: Tensor, batch: Batch, epoch: int) -> Tensor:
        """Return the cross-entropy (B,) of a teacher's logits with the labels."""
        rows = self._task.step(Outputs(logits), None, batch, epoch).rows
        loss = F.cross_entropy(rows.student, rows.target, reduction="none")
        weighted = loss if rows.weight is None else loss * rows.weight
        return weighted.view(batch.copies, -1).sum(0)


def fixed_weights(ensemble: Ensemble, count: int) -> Tensor:
    """Return the weights (K,) of the teachers without labels; their sum is 1."""
    weights = torch.tensor(ensemble.weights or [1.0] * count, dtype=torch.float64)
    return (weights / weights.sum()).float()


def confidence_weights(cross_entropies: Tensor) -> Tensor:
    """Return the weights of CA-MKD (K, B), whose sum over the teachers is 1, from cross-entropies (K, B)."""
    return (1 - cross_entropies.softmax(0)) / (len(cross_entropies) - 1)
