"""Checks of a supplied teacher on the test images of its students, before they learn from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.errors import TrainingError
from core.tasks.classification.data import Dataset
from core.tasks.classification.diagnostics.inference import predict_logits
from core.tasks.classification.diagnostics.report import subset
from core.tasks.hashing import permutation

_SAMPLE_SIZE = 2000
_TOLERANCE = 3.0  # standard errors of an accuracy
_MIN_DEFICIT = 5.0  # percentage points below the accuracy that a file claims
_MIN_GAIN = 15.0  # percentage points that another order of the classes must gain


@dataclass(frozen=True)
class SampleLogits:
    """A teacher's logits of at most 2,000 test images in a random order.

    Attributes:
        logits: (N, C) on the CPU.
        labels: (N,) on the CPU.
    """

    logits: Tensor
    labels: Tensor


def sample_test_logits(network: nn.Module, dataset: Dataset) -> SampleLogits:
    """Return the teacher's logits of a random sample of the test images, the same sample each time."""
    rows = torch.from_numpy(permutation(len(dataset.test), seed=0, epoch=0)[:_SAMPLE_SIZE])
    sample = subset(dataset.test, rows)
    return SampleLogits(predict_logits(network, dataset, sample).cpu(), sample.labels.cpu())


def teacher_warnings(sample: SampleLogits, dataset: Dataset, top1: float, claimed: float | None) -> list[str]:
    """Return the suspicious properties of a supplied teacher, one sentence each; an empty list for a good teacher.

    Args:
        sample: Its logits of test images.
        dataset: The data set.
        top1: Its accuracy on all test images, %.
        claimed: The accuracy that its file claims, %; None if the file claims none.

    Raises:
        TrainingError: The logits are not finite, or the same for every image.
    """
    logits = sample.logits
    if not logits.isfinite().all():
        raise TrainingError("spec", "the teacher's weights: its logits of the test images are not finite")
    if len(logits) > 1 and bool((logits == logits[0]).all()):
        text = "it gives every image the same logits, so that nothing can be learnt from it"
        raise TrainingError("spec", f"the teacher's weights: {text}")
    warnings: list[str] = []
    count = len(dataset.test)
    chance = 100 * torch.bincount(dataset.test.labels.cpu()).max().item() / count
    # A few images allow a wide interval; an accuracy more than halfway between chance and 100 % is never called chance.
    max_chance = min(chance + _TOLERANCE * _standard_error(chance, count), (chance + 100) / 2)
    if top1 <= max_chance:
        warnings.append(
            f"the given teacher is right on {top1:.1f} % of the test images, which is chance ({chance:.1f} %)"
        )
    if claimed is not None and claimed - top1 > _MIN_DEFICIT + _TOLERANCE * _standard_error(claimed, count):
        warnings.append(
            f"the given teacher is right on {top1:.1f} % of the test images, and its file claims {claimed:.1f} %"
        )
    given, reordered = _accuracy_reordered(sample, dataset.num_classes)
    if reordered - given > _MIN_GAIN + _TOLERANCE * _standard_error(reordered, len(logits) // 2):
        warnings.append(
            f"with its classes in another order the given teacher would be right on {reordered:.0f} % of the images "
            f"(as it is: {given:.0f} %): its logits seem to be of the same classes under other numbers"
        )
    if warnings:
        warnings[-1] += ". Check its classes, its mean and std, and the file, before you trust what students learn"
    return warnings


def _standard_error(percent: float, count: int) -> float:
    return math.sqrt(max(percent * (100 - percent), 0.0) / max(count, 1))


def _accuracy_reordered(sample: SampleLogits, classes: int) -> tuple[float, float]:
    """Return the accuracy, %, on half of the images: as given, and in the order of classes best for the other half."""
    predicted, labels = sample.logits.argmax(1), sample.labels
    half = len(labels) // 2
    if not half:
        return 0.0, 0.0
    counts = torch.bincount(predicted[:half] * classes + labels[:half], minlength=classes**2)
    cells = counts.nonzero().flatten()
    order = torch.full((classes,), -1)
    assigned: set[int] = set()
    for cell in cells[counts[cells].argsort(descending=True, stable=True)].tolist():
        prediction, label = divmod(cell, classes)
        if order[prediction] < 0 and label not in assigned:
            order[prediction] = label
            assigned.add(label)
    rest, truth = predicted[half:], labels[half:]
    given, reordered = (100 * (classified == truth).double().mean().item() for classified in (rest, order[rest]))
    return given, reordered
