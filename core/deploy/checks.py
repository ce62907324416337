"""Checks of an exported network: its logits against PyTorch's, and its accuracy on the test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from core.deploy.formats import Runner
from core.deploy.network import RunNetwork
from core.settings import TrainingSettings
from core.tasks.classification import data
from core.tasks.classification.data import Dataset, DatasetError

CHECKED_BATCHES = (1, 7)
TOLERANCE = 1e-4
"""Largest difference of a logit from PyTorch's, as a share of the largest logit. Rounding gives about 1e-6."""
_BATCH = 64


@dataclass(frozen=True)
class Difference:
    """How far logits are from those of PyTorch in float32, over batches of random images.

    Attributes:
        largest: The largest absolute difference.
        relative: The same as a share of the largest logit.
        passed: Whether it is at most ``TOLERANCE``, and all logits are finite.
    """

    largest: float
    relative: float
    passed: bool

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {**asdict(self), "batches": list(CHECKED_BATCHES), "tolerance": TOLERANCE}


def compare(run: RunNetwork, runner: Runner) -> Difference:
    """Compare the logits of an exported network with PyTorch's."""
    largest = scale = 0.0
    finite = True
    with torch.inference_mode():
        for seed, count in enumerate(CHECKED_BATCHES):
            images = run.images(count, seed)
            expected, actual = run.deployed()(images), runner(images)
            if actual.shape != expected.shape:
                return Difference(float("inf"), float("inf"), passed=False)
            finite = finite and bool(actual.isfinite().all())
            largest = max(largest, float((actual - expected).abs().max()))
            scale = max(scale, float(expected.abs().max()))
    relative = largest / scale if scale else largest
    return Difference(largest, relative, passed=finite and relative <= TOLERANCE)


@dataclass(frozen=True)
class Accuracy:
    """Accuracies on the test images.

    Attributes:
        images: Number of test images.
        top1: Accuracy in % by name of the network.
        agreement: Share of images in % for which a network and PyTorch choose the same class, by name.
    """

    images: int
    top1: Mapping[str, float]
    agreement: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {"images": self.images, "top1": dict(self.top1), "agreement": dict(self.agreement)}


def measure_accuracy(run: RunNetwork, runners: Mapping[str, Runner], settings: TrainingSettings) -> Accuracy | str:
    """Measure the accuracy of networks on the run's test images.

    Args:
        run: The run.
        runners: The networks by name; the one named ``pytorch`` is the reference.
        settings: The folders of this machine.

    Returns:
        The accuracies; or the reason why they were not measured.
    """
    try:
        dataset = data.load(run.spec.dataset, settings)
    except DatasetError as error:
        return str(error)
    chosen: dict[str, list[Tensor]] = {name: [] for name in runners}
    for images in _test_images(run, dataset):
        for name, runner in runners.items():
            chosen[name].append(runner(images).argmax(1))
    classes = {name: torch.cat(parts) for name, parts in chosen.items()}
    labels, reference = dataset.test.labels, classes["pytorch"]
    return Accuracy(
        images=len(labels),
        top1={name: _percent(values == labels) for name, values in classes.items()},
        agreement={name: _percent(values == reference) for name, values in classes.items() if name != "pytorch"},
    )


def _test_images(run: RunNetwork, dataset: Dataset) -> Iterator[Tensor]:
    """Yield the test images, scaled to 0–1 and to the size that the network expects."""
    size = run.expected.image_size
    for images in dataset.test.chunks(_BATCH):
        scaled = images.to(torch.float32) / 255
        yield scaled if scaled.shape[-1] == size else F.interpolate(scaled, size=size, mode="bilinear")


def _percent(hits: Tensor) -> float:
    return 100 * float(hits.double().mean())
