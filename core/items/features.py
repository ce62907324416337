"""Penultimate features of some test images over the epochs of a run, in memory.

The penultimate features are the input of the last linear layer. A file contains those of at most ``MOST_IMAGES`` images
of at most ``MOST_CLASSES`` classes; the measures of neural collapse are of more images, whose features are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FEATURES_NAME = "features.parquet"

MOST_IMAGES = 500
"""Test images whose features are kept."""
MOST_CLASSES = 20
"""Classes of these images: more colours cannot be told apart."""
MOST_EPOCHS = 100
"""Epochs of which features are kept."""
MOST_VALUES = 1 << 23
"""Numbers that all kept features have together; in float16 they take 16 MB. Longer features are of fewer images."""

FINAL = 0
"""The epoch under which the features of a teacher, or of weights that are not trained, are kept."""

MEASURES = (
    *("nc1", "nc2_norms", "nc2_angles", "nc2_weight_norms", "nc2_weight_angles", "nc3", "nc4"),
    *("angle_mean", "angle_least"),
)
"""Names of the measures: neural collapse, see ``core.tasks.classification.diagnostics.collapse``, without the prefix;
and mean and least angle between two class means, in degrees."""


@dataclass(frozen=True)
class Snapshot:
    """The features of one network at one time.

    Attributes:
        values: (n, D) float16.
        cosines: (k·(k−1)/2,) float16, of the angles between the means of the k classes, seen from the mean of all class
            means: the part above the diagonal, row by row. NaN where a mean coincides with it.
        measures: Numbers by name, see ``MEASURES``; NaN where one is not defined.
    """

    values: NDArray[np.float16]
    cosines: NDArray[np.float16]
    measures: Mapping[str, float]


@dataclass(frozen=True)
class FeatureImages:
    """The test images whose features are kept; they depend on the data set and on the length of the features alone.

    Attributes:
        items: (n,), their positions in the test split, class by class in turn, so that fewer images are the first ones.
        labels: (n,), their classes.
        classes: (k,), the classes that they are of, in increasing order.
        measured: Number of images that the measures are of.
        measured_classes: Number of classes that these are of.
    """

    items: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: NDArray[np.int64]
    measured: int
    measured_classes: int


@dataclass(frozen=True)
class NetworkFeatures:
    """The features of one network over the epochs.

    Attributes:
        images: The images.
        snapshots: By number of epochs done; ``FINAL`` for a network that is not trained.
    """

    images: FeatureImages
    snapshots: Mapping[int, Snapshot]


@dataclass(frozen=True)
class RunFeatures:
    """The features that one run kept.

    Attributes:
        networks: By network, ``student`` and ``teacher``.
        data: What identifies the data, see ``core.events.IMAGES_KEY``.
        fingerprint: Fingerprint of the run's spec.
        classes: Class names in the order of the class numbers; empty if they are unknown.
    """

    networks: Mapping[str, NetworkFeatures]
    data: str = ""
    fingerprint: str = ""
    classes: tuple[str, ...] = field(default=())

    @property
    def nbytes(self) -> int:
        """Bytes of all features."""
        return sum(kept.values.nbytes for network in self.networks.values() for kept in network.snapshots.values())
