"""When a run keeps penultimate features, and those that it has kept so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from core.items.features import FINAL, MEASURES, MOST_EPOCHS, FeatureImages, NetworkFeatures, Snapshot
from core.specs import Training
from core.tasks.task import Task

USUAL_EPOCHS = 20
"""Times at which features are kept by default."""
LEAST_IMAGES = 2_000
"""Training images between two of these times by default. A time takes as long as training on about 15 images of digits,
with 901 test images and 10 classes: 3 ms."""
LEAST_TRAINED = 20_000
"""Training images of all epochs together below which nothing is kept by default: the file takes 0.06 s."""
MOST_SHARE = 0.02
"""Multiplications for the features by default, relative to those of the training since the last time."""
_PASSES = 3
"""Multiplications of a training step relative to those of its forward pass."""


class Schedule:
    """After which epochs features are kept.

    Args:
        training: Sets the distance; by default it is chosen, or nothing is kept where that would cost too much.
        samples: Number of training images.
        cost: Multiplications for the features at one time; None if the task keeps none.
        parameters: Number of the network's parameters: its forward pass has at least as many multiplications.

    Attributes:
        every: Epochs between two times.
        on: Whether any features are kept.
    """

    def __init__(self, training: Training, samples: int, cost: float | None, parameters: int) -> None:
        epochs, chosen = training.epochs, training.features_every
        usual = max(math.ceil(epochs / USUAL_EPOCHS), math.ceil(LEAST_IMAGES / max(samples, 1)))
        # A longer distance than was asked for, rather than a file without a bound.
        self.every = max(usual if chosen is None else chosen, math.ceil(epochs / MOST_EPOCHS))
        self._epochs, self._tested_every = epochs, training.evaluate_every
        trained = _PASSES * samples * self.every * parameters
        cheap = cost is not None and epochs * samples >= LEAST_TRAINED and cost <= MOST_SHARE * trained
        self.on = cost is not None and (cheap if chosen is None else chosen > 0)

    @property
    def count(self) -> int:
        """Number of times, or one more; 0 if nothing is kept."""
        return self._epochs // self.every + 2 if self.on else 0

    def keeps(self, done: int) -> bool:
        """Return whether features are kept after a number of epochs, among those after which the network is tested.

        They are kept after the first test, after the last one, and where ``every`` epochs have passed.
        """
        before = done - self._tested_every
        return self.on and (done == self._epochs or before <= 0 or done // self.every != before // self.every)


class FeatureLog:
    """The features that a run has kept.

    Args:
        schedule: When they are kept.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._images: FeatureImages | None = None
        self._snapshots: dict[int, Snapshot] = {}

    @classmethod
    def of(cls, task: Task, network: nn.Module, training: Training, *, is_main: bool) -> FeatureLog:
        """Return the empty log of a training; only the first rank evaluates, and keeps features."""
        cost = task.feature_cost(network) if is_main else None
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return cls(Schedule(training, task.train_size, cost, parameters))

    def report(self, task: Task, network: nn.Module, done: int) -> dict[str, float]:
        """Return the epoch report of a network after a number of epochs, and keep its features where it is time."""
        if not self.schedule.keeps(done):
            return task.epoch_report(network)
        found = task.feature_report(network, self.schedule.count)
        if found.images is not None and found.snapshot is not None:
            if self._images is not None and not np.array_equal(self._images.items, found.images.items):
                self._snapshots.clear()  # the images are others than those of an earlier attempt
            self._images = found.images
            self._snapshots[done] = found.snapshot
        return found.values

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs to continue; empty without features."""
        if self._images is None:
            return {}
        images = {name: torch.from_numpy(getattr(self._images, name)) for name in ("items", "labels", "classes")}
        counts = {"measured": self._images.measured, "measured_classes": self._images.measured_classes}
        snapshots = {
            epoch: {
                "values": torch.from_numpy(kept.values),
                "cosines": torch.from_numpy(kept.cosines),
                "measures": torch.tensor([kept.measures[name] for name in MEASURES], dtype=torch.float64),
            }
            for epoch, kept in self._snapshots.items()
        }
        return {"images": images | counts, "snapshots": snapshots}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue with the features of an earlier attempt."""
        if not state:
            return
        items, labels, classes = (state["images"][name].numpy() for name in ("items", "labels", "classes"))
        measured, measured_classes = (state["images"][name] for name in ("measured", "measured_classes"))
        self._images = FeatureImages(items, labels, classes, measured, measured_classes)
        for epoch, kept in state["snapshots"].items():
            measures = dict(zip(MEASURES, kept["measures"].tolist(), strict=True))
            self._snapshots[epoch] = Snapshot(kept["values"].numpy(), kept["cosines"].numpy(), measures)

    def found(self) -> NetworkFeatures | None:
        """Return all features; None without any."""
        return NetworkFeatures(self._images, self._snapshots) if self._images else None


def report_unchanged(
    task: Task, network: nn.Module, training: Training
) -> tuple[dict[str, float], NetworkFeatures | None]:
    """Return the epoch report of a network that is not trained, and its features unless they are switched off."""
    if training.features_every == 0:
        return task.epoch_report(network), None
    found = task.feature_report(network, 1)
    if found.images is None or found.snapshot is None:
        return found.values, None
    return found.values, NetworkFeatures(found.images, {FINAL: found.snapshot})
