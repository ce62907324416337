"""Penultimate features of a fixed part of the test images, taken from a pass that is made anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.items.features import MOST_CLASSES, MOST_IMAGES, MOST_VALUES, FeatureImages, Snapshot
from core.tasks.classification.diagnostics.collapse import Features, neural_collapse
from core.tasks.classification.diagnostics.inference import to_floats
from core.tasks.classification.models import Network
from core.tasks.classification.teacher_input import InputAdapter
from core.tasks.hashing import permutation

_MEASURED_VALUES = 1 << 24
"""Features that are measured at once; in float32 they take 64 MB. All 10,000 test images of CIFAR are measured up to a
length of 1,677, and 8,192 images at a length of 2,048."""
_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class ChosenImages:
    """Which test images are looked at.

    Attributes:
        images: Those whose features are kept.
        captured: (M,), positions of all of them in the test split, in increasing order.
        kept: (n,), which of ``captured`` are kept, in the order of ``images``.
        measured: (m,), which of ``captured`` are measured.
    """

    images: FeatureImages
    captured: NDArray[np.int64]
    kept: NDArray[np.int64]
    measured: NDArray[np.int64]


def choose_images(labels: NDArray[np.int64], length: int, snapshots: int) -> ChosenImages:
    """Return which test images are looked at: the same in every run on this data set with features of this length.

    Args:
        labels: (N,), the classes of the test images.
        length: D, of the features.
        snapshots: How often features are kept.
    """
    ranked = _by_class_in_turn(labels)
    present = np.unique(labels)
    shown = np.sort(present[permutation(len(present), seed=0, epoch=0)[:MOST_CLASSES]])
    measured = ranked[: max(len(present), measured_images(len(labels), length))]
    count = min(MOST_IMAGES, max(len(shown), MOST_VALUES // (length * snapshots)))
    kept = ranked[np.isin(labels[ranked], shown)][:count]
    captured = np.union1d(measured, kept)
    return ChosenImages(
        FeatureImages(kept, labels[kept], shown, len(measured), len(np.unique(labels[measured]))),
        captured,
        np.searchsorted(captured, kept),
        np.searchsorted(captured, np.sort(measured)),
    )


def measured_images(count: int, length: int) -> int:
    """Return how many of ``count`` test images are measured, if their features have a length."""
    return min(count, _MEASURED_VALUES // length)


def _by_class_in_turn(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return all images (N,): one of each class, then a second one of each, and so on, each by its hash."""
    order = permutation(len(labels), seed=0, epoch=0)
    order = order[np.argsort(labels[order], kind="stable")]
    by_class = labels[order]
    rank = np.arange(len(order)) - np.searchsorted(by_class, by_class)
    ranked: NDArray[np.int64] = order[np.lexsort((by_class, rank))]
    return ranked


def last_layer(network: nn.Module) -> nn.Linear | None:
    """Return the last linear layer of a network, behind a change of its images or not; None if it is not known."""
    inner = network.network if isinstance(network, InputAdapter) else network
    return inner.linear if isinstance(inner, Network) else None


class Capture:
    """Takes the input of a layer for some of the images that pass through it, in their order.

    Args:
        layer: The layer.
        captured: (M,), positions of the images, in increasing order.
    """

    def __init__(self, layer: nn.Module, captured: NDArray[np.int64]) -> None:
        self._layer, self._captured = layer, captured
        self._seen = 0
        self._parts: list[Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take the features of what passes within the context. The layer has no hook afterwards."""
        hook = self._layer.register_forward_pre_hook(self._take)
        try:
            yield
        finally:
            hook.remove()

    def _take(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        features = inputs[0]
        first, last = np.searchsorted(self._captured, (self._seen, self._seen + len(features)))
        rows = torch.from_numpy(self._captured[first:last] - self._seen)
        self._seen += len(features)
        self._parts.append(features.detach()[rows.to(features.device)].float())

    def features(self) -> Tensor | None:
        """Return the features (M, D); None if the layer did not get one vector for each image."""
        if not self._parts or any(part.ndim != 2 for part in self._parts):
            return None
        features = torch.cat(self._parts)
        return features if len(features) == len(self._captured) else None


def take_snapshot(features: Tensor, chosen: ChosenImages, labels: Tensor, logits: Tensor, weight: Tensor) -> Snapshot:
    """Return what is kept of a network.

    Args:
        features: (M, D), of the captured images.
        chosen: The images.
        labels: (N,), the classes of all test images.
        logits: (N, C), of all test images.
        weight: (C, D), of the last layer.
    """
    device = features.device
    measured, kept = (torch.from_numpy(rows).to(device) for rows in (chosen.measured, chosen.kept))
    positions = torch.from_numpy(chosen.captured).to(device)[measured]
    found = Features(features[measured], logits.argmax(1)[positions], labels[positions])
    means, present = class_means(found.values.double(), found.labels, len(weight))
    cosines = mean_cosines(means)
    row_of = present.cumsum(0) - 1
    shown = row_of[torch.from_numpy(chosen.images.classes).to(device)]
    rows, columns = torch.triu_indices(len(shown), len(shown), 1)
    measures = {name.removeprefix("collapse/"): value for name, value in neural_collapse(found, weight).items()}
    return Snapshot(
        features[kept].clamp(-_LARGEST, _LARGEST).half().cpu().numpy(),
        cosines[shown][:, shown].cpu()[rows, columns].half().numpy(),
        to_floats(measures | _angles(cosines)),
    )


def class_means(values: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the means of the classes that have images, (k, D), and which these are, (classes,) bool."""
    counts = torch.bincount(labels, minlength=classes)
    sums = torch.zeros(classes, values.shape[1], dtype=values.dtype, device=values.device)
    sums.index_add_(0, labels, values)
    present = counts > 0
    return sums[present] / counts[present].unsqueeze(1), present


def mean_cosines(means: Tensor) -> Tensor:
    """Return the cosines (k, k) of the angles between class means (k, D), seen from the mean of all of them."""
    centred = means - means.mean(0)
    units = centred / centred.norm(dim=1, keepdim=True)
    cosines: Tensor = (units @ units.T).clamp(-1, 1)
    return cosines


def _angles(cosines: Tensor) -> dict[str, Tensor]:
    """Return mean and least angle between two class means, in degrees; NaN below two classes."""
    rows, columns = torch.triu_indices(len(cosines), len(cosines), 1, device=cosines.device)
    angles = torch.rad2deg(torch.acos(cosines[rows, columns]))
    least = angles.min() if len(angles) else angles.mean()
    return {"angle_mean": angles.mean(), "angle_least": least}
