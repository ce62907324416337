"""Makes public code take this package's choices where any is as good: signs of singular vectors, CRD's negatives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.parity.inputs import Inputs, step_of
from benchmarks.public_code import NEGATIVES
from core.specs import MethodRef


@contextmanager
def signs_of_positive_sums() -> Iterator[None]:
    """A block in which ``torch.svd`` returns right singular vectors whose sums are not negative."""
    library = torch.svd

    def svd(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, s, v = library(matrices)
        sign = torch.where(v.sum(1, keepdim=True) < 0, -1.0, 1.0).to(v.dtype)
        return u * sign, s, v * sign

    with mock.patch.object(torch, "svd", svd):
        yield


def negatives_of_two_steps(contrast: Any, inputs: Inputs, ours: Any) -> tuple[Tensor, Tensor]:
    """Give public memories this package's vectors, and let this package's objective do its first step.

    Args:
        contrast: The public ``ContrastMemory``.
        inputs: The batch.
        ours: This package's objective.

    Returns:
        The indices of each sample and of its negatives (B, K + 1), in the first step and in the second.
    """
    contrast.memory_v1.copy_(ours.student_memory)
    contrast.memory_v2.copy_(ours.teacher_memory)
    first = _negatives(inputs, ours)
    method = MethodRef.model_validate({"name": "crd", "params": {"negatives": NEGATIVES}})
    with torch.no_grad():
        ours(step_of(method, inputs, None))
    return first, _negatives(inputs, ours)


def _negatives(inputs: Inputs, ours: Any) -> Tensor:
    order = ours._candidates()
    rows = [order[inputs.labels[order] != label][:NEGATIVES] for label in inputs.target]
    return torch.cat((inputs.index.unsqueeze(1), torch.stack(rows)), 1)
