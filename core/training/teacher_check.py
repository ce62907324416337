"""Whether a teacher that was given is any good on the images of its students: said before they learn from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.data import Dataset
from core.data.hashing import permutation
from core.diagnostics.inference import predict_logits
from core.diagnostics.report import subset
from core.training.errors import TrainingError

_IMAGES = 2000
_ERRORS = 3.0  # standard errors of an accuracy
_FAR_BELOW = 5.0  # percentage points below what a file claims
_BETTER = 15.0  # percentage points that another order of the classes has to gain


@dataclass(frozen=True)
class SampleLogits:
    """Of a teacher to at most 2,000 test images in a random order: logits (N, C) and labels (N,)."""

    logits: Tensor
    labels: Tensor


def sample_test_logits(network: nn.Module, dataset: Dataset) -> SampleLogits:
    """The teacher's answers to the same images each time."""
    rows = torch.from_numpy(permutation(len(dataset.test), seed=0, epoch=0)[:_IMAGES])
    shown = subset(dataset.test, rows)
    return SampleLogits(predict_logits(network, dataset, shown).cpu(), shown.labels.cpu())


def teacher_warnings(answers: SampleLogits, dataset: Dataset, top1: float, claimed: float | None) -> list[str]:
    """What is suspicious of a given teacher, a sentence each; none of one that is as good as it should be.

    Args:
        top1: its accuracy on all test images, %.
        claimed: what its file says, %; None where that says nothing.

    Raises TrainingError where its answers are not finite or the same for every image.
    """
    logits = answers.logits
    if not logits.isfinite().all():
        raise TrainingError("spec", "the teacher's weights: its logits of the test images are not finite")
    if len(logits) > 1 and bool((logits == logits[0]).all()):
        text = "it gives every image the same logits, so that nothing can be learnt from it"
        raise TrainingError("spec", f"the teacher's weights: {text}")
    found: list[str] = []
    count = len(dataset.test)
    chance = 100 * torch.bincount(dataset.test.labels.cpu()).max().item() / count
    # Where a few images say little, half of what chance leaves is not called chance.
    at_chance = min(chance + _ERRORS * _standard_error(chance, count), (chance + 100) / 2)
    if top1 <= at_chance:
        found.append(f"the given teacher is right on {top1:.1f} % of the test images, which is chance ({chance:.1f} %)")
    if claimed is not None and claimed - top1 > _FAR_BELOW + _ERRORS * _standard_error(claimed, count):
        found.append(
            f"the given teacher is right on {top1:.1f} % of the test images, and its file claims {claimed:.1f} %"
        )
    as_given, reordered = _in_another_order(answers, dataset.num_classes)
    if reordered - as_given > _BETTER + _ERRORS * _standard_error(reordered, len(logits) // 2):
        found.append(
            f"with its classes in another order the given teacher would be right on {reordered:.0f} % of the images "
            f"(as it is: {as_given:.0f} %): its logits seem to be of the same classes under other numbers"
        )
    if found:
        found[-1] += (
            ". Look at its classes, its mean and std, and the file, before you trust what students learn from it"
        )
    return found


def _standard_error(percent: float, count: int) -> float:
    return math.sqrt(max(percent * (100 - percent), 0.0) / max(count, 1))


def _in_another_order(answers: SampleLogits, classes: int) -> tuple[float, float]:
    """Accuracy, %, on half of the images: as it is, and in the order of classes that suits the other half best."""
    predicted, labels = answers.logits.argmax(1), answers.labels
    half = len(labels) // 2
    if not half:
        return 0.0, 0.0
    counts = torch.bincount(predicted[:half] * classes + labels[:half], minlength=classes**2)
    cells = counts.nonzero().flatten()
    order = torch.full((classes,), -1)
    taken: set[int] = set()
    for cell in cells[counts[cells].argsort(descending=True, stable=True)].tolist():
        said, meant = divmod(cell, classes)
        if order[said] < 0 and meant not in taken:
            order[said] = meant
            taken.add(meant)
    rest, truth = predicted[half:], labels[half:]
    rates = [100 * (found == truth).double().mean().item() for found in (rest, order[rest])]
    return rates[0], rates[1]
