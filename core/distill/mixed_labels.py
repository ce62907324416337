"""Two labels a row, for images that are mixtures of two.

A loss of a mixture is λ·L(first label) + (1 − λ)·L(second label). So each row is there twice, once for each label, with
the weights λ and 1 − λ: any method can be trained with mixtures, also one that reads the target, such as DKD, whose
target class is then that of the copy. The networks compute each mixture once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.distill.objective import Outputs, Step
from core.distill.rows import Rows


@dataclass(frozen=True)
class MixedLabels:
    """The labels of mixtures.

    Attributes:
        target: (R,), the label of a row's own image.
        partner_target: (R,), the label of the image that it is mixed with.
        lam: (R,), λ in [0, 1], the weight of ``target``; 1 − λ is that of ``partner_target``.
    """

    target: Tensor
    partner_target: Tensor
    lam: Tensor

    def part(self, rows: slice) -> MixedLabels:
        """Return the labels of some rows."""
        return MixedLabels(self.target[rows], self.partner_target[rows], self.lam[rows])


def with_both_labels(step: Step, labels: MixedLabels) -> Step:
    """Return the step with every row twice: first with its own label, then with its partner's.

    Args:
        step: The step with one row per mixture, whose rows have no weights.
        labels: Both labels of each row.
    """
    rows = step.rows
    both = Rows(
        _twice(rows.student),
        None if rows.teacher is None else _twice(rows.teacher),
        torch.cat((labels.target, labels.partner_target)),
        torch.cat((labels.lam, 1 - labels.lam)),
        rows.label_smoothing,
    )
    student = Outputs(both.student, _taps_twice(step.student))
    teacher = None
    if step.teacher:
        assert both.teacher is not None
        teacher = Outputs(both.teacher, _taps_twice(step.teacher))
    index = None if step.index is None else _twice(step.index)
    return replace(step, rows=both, student=student, teacher=teacher, index=index)


def _twice(values: Tensor) -> Tensor:
    return torch.cat((values, values))


def _taps_twice(outputs: Outputs) -> dict[str, Tensor]:
    return {name: _twice(tap) for name, tap in outputs.taps.items()}
