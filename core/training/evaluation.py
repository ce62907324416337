"""How good a network is on the test images, and on those held out for validation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data import Dataset, Split
from core.training.means import Means

_BATCH = 1024  # no gradients are kept, so this fits wherever the training does


@torch.no_grad()
def logits_of(model: nn.Module, dataset: Dataset, split: Split | None = None) -> Tensor:
    """Logits of every image of a split (N, C), the network in eval mode and back in its own mode after.

    Args:
        split: of this data set; the test split where none is given.
    """
    before = model.training
    model.eval()
    try:
        return torch.cat([model(dataset.normalise(images)) for images in (split or dataset.test).parts(_BATCH)])
    finally:
        model.train(before)


def evaluate(model: nn.Module, dataset: Dataset, teacher_classes: Tensor | None) -> dict[str, float]:
    """``test/top1`` (%), ``test/loss`` (nats), and with the teacher's classes (N,) ``fidelity/agreement`` (%).

    ``val/top1`` and ``val/loss`` too where the data set holds a validation split out.
    """
    logits = logits_of(model, dataset).float()
    classes = logits.argmax(1)
    labels = dataset.test.labels
    values = {
        "test/top1": 100 * (classes == labels).double().mean(),
        "test/loss": F.cross_entropy(logits, labels),
    }
    if teacher_classes is not None:
        values["fidelity/agreement"] = 100 * (classes == teacher_classes).double().mean()
    if dataset.val:
        logits = logits_of(model, dataset, dataset.val).float()
        values["val/top1"] = 100 * (logits.argmax(1) == dataset.val.labels).double().mean()
        values["val/loss"] = F.cross_entropy(logits, dataset.val.labels)
    means = Means()
    means.add(values, 1.0)
    return means.read()
